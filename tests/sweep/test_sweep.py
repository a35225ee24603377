"""Sweeps of a small application through every launcher: what failed, killed and interrupted trials come to."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from support.sweeps import ROOT, assert_only_the_first_was_killed, has_ended, pids, start, starts, wait_for
from support.train_runs import TINY, assert_same_training_state, state_of, write_data

from m3.checkpoint import newest_checkpoint
from m3.sweep import trial as sweep_trial
from m3.sweep.outcomes import RESUME, outcome
from m3.sweep.records import Trial, best_of, read_sweep, swept_settings
from m3.sweep.report import table_of, write_csv, write_plot
from m3.sweep.stopping import SweepStop


def sweep(folder: Path, *overrides: str, returns: int = 0, path: str = "") -> tuple[str, list[Trial]]:
    process = start(folder, *overrides, path=path)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == returns, said
    return said, read_sweep(folder / "sweep")


JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
LAUNCHERS = [
    pytest.param([], id="basic"),
    pytest.param(JOBLIB, id="joblib"),
    pytest.param(["hydra/launcher=submitit_local"], id="submitit_local", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_failed_and_killed_trials_do_not_lose_the_others(tmp_path, launcher) -> None:
    said, trials = sweep(tmp_path, "x=fail,kill,refuse,nan,1,5", *launcher, returns=1)
    assert [trial.status for trial in trials] == ["failed", "killed", "failed", "diverged", "done", "done"]
    assert [trial.value for trial in trials] == [None, None, None, None, 4.0, 4.0]
    assert trials[0].reason == "ValueError: x=fail: cannot be" and trials[2].reason == "x=refuse: choose another"
    assert "SIGKILL" in trials[1].reason
    with open(tmp_path / "sweep/sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["x"] for row in rows] == ["fail", "kill", "refuse", "nan", "1", "5"]
    assert [row["loss"] for row in rows] == ["", "", "", "", "4.0", "4.0"]
    assert "Warning" not in said and "★ best" in said and "killed SIGKILL" in said
    assert Image.open(tmp_path / "sweep/sweep.png").size[0] > 500


def test_a_sweep_without_any_result_fails(tmp_path) -> None:
    said, trials = sweep(tmp_path, "x=fail", returns=1)
    assert "failed" in said and trials[0].status == "failed"


def test_optuna_minimizes_and_a_killed_sweep_continues(tmp_path) -> None:
    """Optuna's own result beside the records."""
    optuna = ["sweep=optuna", "x=interval(-10,10)", "hydra.sweeper.params=null", "hydra.sweeper.n_trials=3"]
    process = start(tmp_path, *optuna)
    wait_for(tmp_path / "sweep/1/starts", process)
    process.kill()
    process.communicate()
    said, trials = sweep(tmp_path, *optuna, "resume=auto")
    values = [trial.value for trial in trials]
    assert len(trials) == 3 and all(trial.status == "done" for trial in trials)
    best = OmegaConf.load(tmp_path / "sweep/optimization_results.yaml")
    assert best["best_value"] == min(values) == best_of(trials, "minimize").value
    assert [len(starts(tmp_path, number)) for number in (0, 2)] == [1, 1]
    assert len(starts(tmp_path, 1)) <= 2 and "#0: done already" in said and "alembic" not in said
    xs = [float(trial.overrides[0].split("=")[1]) for trial in trials]
    assert values == pytest.approx([(x - 3) ** 2 for x in xs]) and len(set(xs)) == 3


def test_another_sweep_in_the_folder_is_refused(tmp_path) -> None:
    folder = tmp_path / "sweep/0"
    folder.mkdir(parents=True)
    Trial(0, ("x=7",), "done", 16.0).write(folder)
    said, trials = sweep(tmp_path, "x=1", returns=1)
    assert "holds another trial (x=7): give the sweep another name" in said and trials[0].value == 16.0


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_preempted_job_of_submitit_requeues_and_continues(tmp_path, number) -> None:
    process = start(tmp_path, "hydra/launcher=submitit_local", "x=sleep")
    wait_for(tmp_path / "sweep/0/is_asleep", process)
    os.kill(int(starts(tmp_path, 0)[0].split()[0]), number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert [line.split()[2] for line in starts(tmp_path, 0)] == ["None", "auto"]
    assert read_sweep(tmp_path / "sweep")[0].value == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["job", "executor"])
def test_a_killed_job_of_submitit_is_one_killed_trial(tmp_path, victim) -> None:
    """The job's process, and the one by which submitit's local executor waits for it."""
    process = start(tmp_path, "hydra/launcher=submitit_local", "x=sleep,1,5")
    wait_for(tmp_path / "sweep/0/is_asleep", process)
    job, trial = pids(tmp_path, 0)
    executor = int(Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(job if victim == "job" else executor, signal.SIGKILL)
    assert has_ended(trial) and has_ended(job)
    assert "has saved" in (tmp_path / "sweep/0/output.txt").read_text()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert_only_the_first_was_killed(tmp_path, said, [None, 4.0, 4.0])
    _, trials = sweep(tmp_path, "hydra/launcher=submitit_local", "x=sleep,1,5", "resume=auto")
    assert [trial.value for trial in trials] == [0.5, 4.0, 4.0]
    assert [len(starts(tmp_path, number)) for number in range(3)] == [2, 1, 1]


def test_joblib_has_no_process_to_be_killed_but_the_trials(tmp_path) -> None:
    process = start(tmp_path, *JOBLIB, "x=sleep,1,5")
    wait_for(tmp_path / "sweep/0/is_asleep", process)
    wait_for(tmp_path / "sweep/1/result.json", process)
    job, trial = pids(tmp_path, 0)
    assert job == process.pid == pids(tmp_path, 1)[0]
    os.kill(trial, signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1, said
    trials = read_sweep(tmp_path / "sweep")
    assert [trial.status for trial in trials] == ["killed", "done", "done"] and "killed SIGKILL" in said
    assert [trial.value for trial in trials] == [None, 4.0, 4.0] and (tmp_path / "sweep/sweep.png").exists()


def test_joblib_without_trials_is_hydra_s_own(tmp_path) -> None:
    """As for preprocess.py, whose jobs are their own work: processes."""
    process = start(tmp_path, *JOBLIB, "x=1,5", "~hydra.callbacks.sweep")
    assert process.wait(timeout=60) == 0, process.communicate()[0]
    assert process.pid not in [pids(tmp_path, number)[0] for number in (0, 1)]
    assert [trial.value for trial in read_sweep(tmp_path / "sweep")] == [4.0, 4.0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_sweep_of_joblib_stops_all_its_trials_and_it_goes_on(tmp_path, number) -> None:
    sweep_of = [*JOBLIB, "x=sleep,sleep,1"]
    process = start(tmp_path, *sweep_of)
    for trial in (0, 1):
        wait_for(tmp_path / f"sweep/{trial}/is_asleep", process)
        pid = pids(tmp_path, trial)[1]
        assert os.getsid(pid) == pid  # out of reach for a terminal's Ctrl-C
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number and "Traceback" not in said, said
    trials = read_sweep(tmp_path / "sweep")
    assert [trial.status for trial in trials] == ["interrupted", "interrupted"] and said.count("interrupted") >= 4
    _, trials = sweep(tmp_path, *sweep_of, "resume=auto")
    assert [trial.value for trial in trials] == [0.5, 0.5, 4.0]


def test_the_same_signal_once_more_ends_trials_at_once() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGUSR1, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    with SweepStop() as request:
        request.add(process)
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):  # as SLURM warns, and then asks
            os.kill(os.getpid(), number)
        assert not has_ended(process.pid, seconds=0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert request.number == signal.SIGUSR1


@pytest.mark.parametrize("can_resume", [True, False])
def test_a_job_that_starts_again_resumes_what_can_be_resumed(tmp_path, monkeypatch, can_resume) -> None:
    runtime = SimpleNamespace(output_dir=str(tmp_path), config_sources=[])
    facts = SimpleNamespace(num=0, name="app", config_name="app")
    job = SimpleNamespace(runtime=runtime, overrides=SimpleNamespace(task=["x=1"]), job=facts)
    monkeypatch.setattr(sweep_trial.HydraConfig, "get", lambda: job)
    monkeypatch.setattr(sweep_trial, "job_id", lambda: "7")
    Trial(0, ("x=1",), status="interrupted", job="7").write(tmp_path)
    with sweep_trial.later():
        ready = sweep_trial.run_trial(Path("app.py"), "out", "minimize", can_resume)
    assert (RESUME in ready.command) == can_resume and "x=1" in ready.command
    stopped = outcome(ready.trial, 128 + signal.SIGTERM, None, tmp_path, tmp_path / "output.txt", can_resume)
    assert stopped.status == "interrupted" and (RESUME in stopped.reason) == can_resume


@pytest.mark.parametrize("launcher", LAUNCHERS[:2])
def test_trials_stop_with_the_sweep_that_started_them(tmp_path, launcher) -> None:
    process = start(tmp_path, *launcher, "x=sleep,1")
    wait_for(tmp_path / "sweep/0/is_asleep", process)
    process.kill()
    process.communicate()
    assert has_ended(pids(tmp_path, 0)[1])
    assert "has saved" in (tmp_path / "sweep/0/output.txt").read_text()


def test_nothing_is_running_at_the_end_of_a_sweep(tmp_path) -> None:
    folder = tmp_path / "sweep/1"
    folder.mkdir(parents=True)
    Trial(1, ("x=7",)).write(folder)
    said, trials = sweep(tmp_path, "x=1", returns=1)  # the killed one is in its table
    assert [trial.status for trial in trials] == ["done", "killed"] and "killed its job ended" in said


@pytest.mark.slow
def test_optuna_draws_the_same_trials_through_every_launcher(tmp_path) -> None:
    """Some of which fail."""
    optuna = ["sweep=optuna", "x=choice(kill,1,5,fail)", "y=interval(0,1)", "hydra.sweeper.params=null",
              "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2"]  # fmt: skip
    found = []
    for name, launcher in (("basic", []), ("joblib", JOBLIB), ("submitit", ["hydra/launcher=submitit_local"])):
        said, trials = sweep(tmp_path / name, *optuna, *launcher)
        assert len(trials) == 6 and "★ best" in said and (tmp_path / name / "sweep/sweep.png").exists()
        best = OmegaConf.load(tmp_path / name / "sweep/optimization_results.yaml")
        assert best["best_value"] == 4.0 and {"done", "failed"} <= {trial.status for trial in trials}
        found.append([(trial.overrides, trial.status, trial.value) for trial in trials])
    assert found[0] == found[1] == found[2]


# ── records and report ─────────────────────────────────────────────────────────────────────────────────────────────

TRIALS = [
    Trial(0, ("optim.lr=0.001", "model=tiny", "seed=0"), "done", 2.0, 65.0),
    Trial(1, ("optim.lr=0.0123456789", "model=tiny", "seed=0"), "done", 1.5, 61.0),
    Trial(2, ("optim.lr=0.1", "model=[a]", "seed=0"), "killed", None, 3.0, "SIGKILL"),
    Trial(3, ("optim.lr=0.01", "seed=0"), "done", 1.5, 60.0),
]


def test_a_renamed_key_has_one_column() -> None:
    """Trials of a sweep that began under the old name, and that goes on under the new one."""
    trials = [dataclasses.replace(TRIALS[0], overrides=(override,)) for override in
              ("loss.average=present", "loss.average=all", "loss.reduction=token")]  # fmt: skip
    assert swept_settings(trials) == {"loss.reduction": ["present", "all", "token"]}


def test_swept_settings_are_those_that_differ() -> None:
    assert swept_settings(TRIALS) == {
        "optim.lr": ["0.001", "0.0123456789", "0.1", "0.01"],
        "model": ["tiny", "tiny", "[a]", None],
    }


def test_the_best_trial() -> None:
    assert best_of(TRIALS, "minimize") is TRIALS[1] and best_of(TRIALS, "maximize") is TRIALS[0]
    assert best_of(TRIALS[2:3], "minimize") is None
    assert best_of([Trial(0, (), "done", math.inf)], "minimize") is None


def test_a_damaged_record_is_as_good_as_none(tmp_path) -> None:
    for number, content in enumerate(["{", "{}", '{"number": 1, "overrides": [], "more": 1}']):
        (tmp_path / str(number)).mkdir()
        (tmp_path / f"{number}/trial.json").write_text(content)
    (tmp_path / "10").mkdir()
    (tmp_path / "9").mkdir()
    Trial(10, ("a=1",)).write(tmp_path / "10")
    Trial(9, ("a=2",), "done", 1.0, 2.0, "r", "77").write(tmp_path / "9")
    assert read_sweep(tmp_path) == [Trial(9, ("a=2",), "done", 1.0, 2.0, "r", "77"), Trial(10, ("a=1",))]


def test_table_csv_and_plot(tmp_path) -> None:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))
    console.print(table_of(TRIALS, "eval loss", "minimize"))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["1", "0.01235", "tiny", "1.5000", "61", "s", "done", "★", "best"] in lines
    assert ["2", "0.1", "[a]", "–", "3", "s", "killed", "SIGKILL"] in lines
    with open(write_csv(tmp_path / "a.csv", TRIALS, "eval loss")) as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["optim.lr"] == "0.0123456789" and rows[3]["model"] == "" and rows[1]["eval loss"] == "1.5"
    plot = Image.open(write_plot(tmp_path / "a.png", TRIALS, "eval loss", "minimize")).convert("RGB")
    orange = (255, 127, 14)
    assert sum(count for count, color in plot.getcolors(1 << 20) if color == orange) > 100  # stars
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.png"]


# ── the application itself ─────────────────────────────────────────────────────────────────────────────────────────


def test_sweep_optuna_composes_to_a_search_of_the_recipe() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["sweep=optuna"], return_hydra_config=True)
    sweeper = cfg.hydra.sweeper
    assert sweeper._target_.endswith("OptunaSweeper") and sweeper.sampler._target_.endswith("TPESampler")
    assert (sweeper.direction, sweeper.storage, sweeper.sampler.seed) == ("minimize", None, 0)
    assert "sweep" not in cfg


@pytest.mark.slow
def test_a_real_sweep_survives_a_killed_training(tmp_path) -> None:
    write_data(tmp_path / "data", {"train": 30, "eval": 13, "test": 2})
    command = [sys.executable, "train.py", "-m", *TINY, f"data.root={tmp_path}/data", f"run_dir={tmp_path}/sweep",
               *JOBLIB, "optim.lr=1e-3,2e-3,-1,5e-3"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    trials = read_sweep(tmp_path / "sweep")
    assert [trial.status for trial in trials] == ["done", "done", "failed", "done"]
    assert trials[2].reason == "optim.lr=-1: need at least 0"
    # a trial is the command that it stands for
    alone = subprocess.run(
        [*command[:2], *TINY, f"data.root={tmp_path}/data", f"run_dir={tmp_path}/alone", "optim.lr=2e-3"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert f"→ {trials[1].value:.3f}; checkpoint" in alone.stdout


@pytest.mark.slow
def test_a_training_whose_sweep_was_killed_saves_and_continues_to_the_bit(tmp_path) -> None:
    write_data(tmp_path / "data", {"train": 30, "eval": 13, "test": 2})
    common = [*TINY, f"data.root={tmp_path}/data", "optim.total_tokens=0.12288", "trainer.eval_every_tokens=1"]
    command = [sys.executable, "train.py", "-m", *common, f"run_dir={tmp_path}/sweep", *JOBLIB, "optim.lr=1e-3,2e-3"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        deadline = time.monotonic() + 120
        folders = [tmp_path / f"sweep/{number}" for number in (0, 1)]
        while time.monotonic() < deadline and not all(newest_checkpoint(folder) for folder in folders):
            time.sleep(0.01)
        process.kill()
        process.wait()
    for folder in folders:
        while time.monotonic() < deadline and "resume=auto continues" not in (folder / "output.txt").read_text():
            time.sleep(0.05)
        output = (folder / "output.txt").read_text()
        assert "the process that started this trial is gone" in output and "SIGUSR1: stopped after step" in output
        assert 5 <= state_of(folder)["global_step"] < 120
    done = subprocess.run([*command, "resume=auto"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial.status for trial in read_sweep(tmp_path / "sweep")] == ["done", "done"]
    alone = [sys.executable, "train.py", *common, f"run_dir={tmp_path}/alone", "optim.lr=2e-3"]
    subprocess.run(alone, cwd=ROOT, check=True, capture_output=True, timeout=100)
    assert_same_training_state(state_of(folders[1]), state_of(tmp_path / "alone"))
