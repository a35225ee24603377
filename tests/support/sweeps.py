"""A small application that is swept over, its trials and their processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import train
from m3.sweep.records import read_sweep

ROOT = Path(train.__file__).parent

APP = """
import os, signal, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from m3.core.jobs import stop_with_sweep
from m3.sweep import ignore_sweep_warnings, run_trial, write_result

SCRIPT = Path(__file__).resolve()


def stop(number, frame):
    print("has saved", flush=True)
    sys.exit(128 + number)


@hydra.main(version_base="1.3", config_path=".", config_name="app")
def main(cfg):
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_trial(SCRIPT, "out", "minimize", can_resume=True)
    stop_with_sweep()
    out = Path(cfg.out)
    with open(out / "starts", "a") as file:
        file.write(f"{os.getppid()} {os.getpid()} {cfg.resume}\\n")
    if cfg.x == "fail":
        raise ValueError("x=fail: cannot be")
    if cfg.x == "refuse":
        raise SystemExit("error: x=refuse: choose another")
    if cfg.x == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.x == "sleep" and cfg.resume is None:
        signal.signal(signal.SIGUSR1, stop)
        (out / "is_asleep").touch()
        time.sleep(60)
    write_result(out, 0.5 if cfg.x == "sleep" else (float(cfg.x) - 3) ** 2)


if __name__ == "__main__":
    ignore_sweep_warnings()
    main()
"""

CONFIG = f"""
defaults: [_self_, {{sweep: null}}]
x: null
y: null
out: null
resume: null
hydra:
  searchpath: ["file://{ROOT}/conf"]
  sweep: {{dir: sweep, subdir: "${{hydra.job.num}}"}}
  callbacks:
    sweep: {{_target_: m3.sweep.report.SweepReport, value: loss, direction: minimize}}
"""


def start(folder: Path, *overrides: str, path: str = "") -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    script = folder / "app.py"
    script.write_text(APP)
    (folder / "app.yaml").write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path + os.environ["PATH"], "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, str(script), "-m", *overrides],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def starts(folder: Path, number: int) -> list[str]:
    return (folder / f"sweep/{number}/starts").read_text().splitlines()


def pids(folder: Path, number: int) -> tuple[int, int]:
    """Of the process that started a trial, and of the trial's own."""
    job, trial = starts(folder, number)[-1].split()[:2]
    return int(job), int(trial)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), process.communicate()[0]


def has_ended(pid: int, seconds: float = 20) -> bool:
    """Whether a process ends in time; what is left of one whose parent does not ask for its end counts as none."""
    stat, deadline = Path(f"/proc/{pid}/stat"), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def assert_only_the_first_was_killed(folder: Path, said: str, values: list[float | None]) -> None:
    trials = read_sweep(folder / "sweep")
    assert [trial.status for trial in trials] == ["killed", *["done"] * (len(values) - 1)], said
    assert [trial.value for trial in trials] == values and "resume=auto continues it" in trials[0].reason
    with open(folder / "sweep/sweep.csv") as file:
        assert [row["status"] for row in csv.DictReader(file)] == [trial.status for trial in trials]
    assert (folder / "sweep/sweep.png").exists() and "★ best" in said and "Traceback" not in said
