"""The three commands on a quiet machine and beside other processes, by how OpenMP's threads wait for each other.

    python bench/busy.py                                    about 5 minutes
    python bench/busy.py --work train --busy 0 2 4          training alone, beside 2 and 4 processes
    python bench/busy.py --policies default ours spin=1000  others: spin=N is GOMP_SPINCOUNT=N

Policies: `default`, what OpenMP does by itself; `passive`, OMP_WAIT_POLICY=PASSIVE; `ours`, what the commands do
(`m3.core.threads`). The busy processes are endless loops, one thread each. Of training the speed between log steps is
measured, without start and evaluations: median and best of them, so that a short disturbance shows. Of the other two
commands the whole time is. "others" are the cores that all other processes used meanwhile, the busy ones included:
where it is not near 0 without them, the machine was not quiet. Rounds alternate between the policies.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKS = ("train", "generate", "preprocess")


def environment_of(policy: str) -> dict[str, str]:
    """The environment of a command whose threads wait by this policy."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    added = {"PYTHONPATH": str(ROOT)}
    if policy == "passive":
        added["OMP_WAIT_POLICY"] = "PASSIVE"
    elif policy == "default":
        added["GOMP_SPINCOUNT"] = "300000"  # its own default, which keeps the commands from changing anything
    elif policy.startswith("spin="):
        added["GOMP_SPINCOUNT"] = str(int(policy.removeprefix("spin=")))
    elif policy != "ours":
        raise SystemExit(f"--policies {policy}: choose default, passive, ours or spin=N")
    return {**kept, **added}


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for each in others:
            each.kill()
            each.wait()


def cpu_seconds() -> float:
    """Of all processes of this machine so far; 0 where it is not known."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:
        return 0.0
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def command_of(work: str, data: Path, out: Path, num_steps: int) -> list[str]:
    demo = ["source.num_clips=40", "canvas=zoom", "canvas.size=128", "augment.flip=true", "contact_sheet.num_pairs=0"]
    if work == "preprocess":
        return ["preprocess.py", *demo, f"source.root={data / 'clips'}", f"out={out}"]
    if work == "generate":
        return ["generate.py", "checkpoint=pretrained", f"data.root={data / 'pairs'}", f"out={out}", "data.split=train",
                "rollout.max_samples=32", "pictures.num_reported=0", "pictures.num_folders=0",
                "device=cpu"]  # fmt: skip
    return ["train.py", "experiment=demo", f"data.root={data / 'pairs'}", f"run_dir={out}", "resume=null",
            f"trainer.max_steps={num_steps}", "trainer.log_every_n_steps=5", "trainer.eval_every_tokens=99",
            "trainer.checkpoint_every_tokens=99", "callbacks=none", "logger=csv", "hardware=cpu"]  # fmt: skip


def measure(work: str, policy: str, num_busy: int, data: Path, num_steps: int) -> dict[str, float]:
    """One run: `value`, the seconds of the whole command or the steps/s of a training; `best`; `others`, in cores."""
    with tempfile.TemporaryDirectory(dir=data) as folder, busy_processes(num_busy):
        out = Path(folder, "out")
        start, before, own = time.perf_counter(), cpu_seconds(), os.times()
        arguments = [sys.executable, *command_of(work, data, out, num_steps)]
        arguments[1] = str(ROOT / arguments[1])
        done = subprocess.run(arguments, env=environment_of(policy), capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        elapsed, now = time.perf_counter() - start, os.times()
        used = now.children_user + now.children_system - own.children_user - own.children_system
        foreign = max((cpu_seconds() - before - used) / elapsed, 0.0)  # with the endless loops
        speeds = train_speeds(out) if work == "train" else [elapsed]
    best = max(speeds) if work == "train" else min(speeds)
    return {"value": statistics.median(speeds), "best": best, "others": foreign}


def train_speeds(run: Path) -> list[float]:
    """Steps/s between log steps, from the run's CSV log; the first ones, of a process that warms up, are left out."""
    rows = [row for path in run.glob("csv/*/metrics.csv") for row in csv.DictReader(path.open())]
    at = [(int(row["step"]), float(row["time/train_s"])) for row in rows if row.get("time/train_s")][1:]
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(at, at[1:])]


def table(results: dict[str, dict[str, list[dict[str, float]]]], policies: Sequence[str]) -> Iterator[str]:
    yield "| work | " + " | ".join(policies) + " | others, cores |"
    yield "|---|" + "---:|" * (len(policies) + 1)
    for name, by_policy in results.items():
        cells = []
        for policy in policies:
            runs = by_policy[policy]
            median, best = statistics.median(run["value"] for run in runs), [run["best"] for run in runs]
            unit = "steps/s" if name.startswith("train") else "s"
            cells.append(f"{median:.2f} (best {max(best) if unit == 'steps/s' else min(best):.2f}) {unit}")
        others = statistics.median(run["others"] for runs in by_policy.values() for run in runs)
        yield f"| {name} | " + " | ".join(cells) + f" | {others:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", default=list(WORKS), choices=WORKS)
    parser.add_argument("--policies", nargs="+", default=["default", "passive", "ours"])
    parser.add_argument("--busy", nargs="+", type=int, default=[0, os.cpu_count() or 1], help="other processes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="of a training")
    parser.add_argument("--json", type=Path, help="file for the single results")
    options = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        prepared = command_of("preprocess", data, data / "pairs", 0)
        subprocess.run([sys.executable, str(ROOT / prepared[0]), *prepared[1:]], check=True, capture_output=True,
                       env=environment_of("passive"), cwd=folder)  # fmt: skip
        for work in options.work:
            for num_busy in options.busy:
                name = f"{work}, {'quiet' if num_busy == 0 else f'beside {num_busy} busy processes'}"
                results[name] = {policy: [] for policy in options.policies}
                for _ in range(options.rounds):
                    for policy in options.policies:
                        found = measure(work, policy, num_busy, data, options.steps)
                        results[name][policy].append(found)
                        print(f"{name}: {policy}: {found['value']:.2f}, others {found['others']:.2f} cores", flush=True)
    print("\n".join(table(results, options.policies)))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
