"""A trial of a sweep: its command, run in a process of its own.

Whatever happens to the process, the launcher gets a number, so that launchers and sweepers keep the other trials: inf
(−inf if the sweep maximizes) for a trial that failed or was killed. A trial whose launcher has ended stops after a
checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig

from m3.core.jobs import IN_TRIAL, job_id, process_rank, stop_with_submitit
from m3.core.renames import current_overrides
from m3.sweep.outcomes import RESULT, RESUME, outcome, value_of
from m3.sweep.records import Trial
from m3.sweep.stopping import SweepStop, end

_IS_LATER: ContextVar[bool] = ContextVar("is_later", default=False)


def ignore_sweep_warnings() -> None:
    """Of Optuna, about SQLAlchemy; of Hydra, about launcher configs named like its plugins', which complete them."""
    warnings.filterwarnings("ignore", "(?s).*(declarative_base|is validated against ConfigStore schema)")


@dataclass(frozen=True)
class ReadyTrial:
    """A prepared trial, which `run` starts from any thread.

    folder: of the trial. command, environment: of its process. output: file for the output of the process.
    direction: of the sweep. rank: of this process among those that run the trial together.
    can_resume: whether the command supports resume=auto.
    """

    trial: Trial
    folder: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]
    output: Path
    direction: Literal["minimize", "maximize"]
    rank: int
    can_resume: bool

    def run(self, request: SweepStop) -> Trial:
        """Runs the process and returns the final record; the unchanged trial if the sweep has been stopped before."""
        if request.number is not None:
            return self.trial
        if self.rank == 0:
            self.trial.write(self.folder)
            (self.folder / RESULT).unlink(missing_ok=True)
            print(f"#{self.trial.number}: {self.output}", flush=True)
        start = time.monotonic()
        with self._process(request) as process:
            code = process.wait()
        timed = replace(self.trial, seconds=round(time.monotonic() - start, 3))
        trial = outcome(timed, code, request.number, self.folder, self.output, self.can_resume)
        if self.rank == 0:
            trial.write(self.folder)
            print(f"#{trial.number}: {_in_words(trial)}", flush=True)
        return trial

    @contextmanager
    def _process(self, request: SweepStop) -> Iterator[subprocess.Popen]:
        """The running process; killed if the block ends before it."""
        with (
            open(self.output, "a") as file,
            # The trial stops when its standard input ends with this process (`m3.core.jobs.stop_with_sweep`).
            subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            ) as process,  # fmt: skip
        ):
            request.add(process)
            try:
                yield process
            finally:
                request.remove(process)
                end(process)


def run_trial(
    script: Path, folder_key: str, direction: Literal["minimize", "maximize"], can_resume: bool
) -> float | ReadyTrial:
    """Runs `python SCRIPT OVERRIDES FOLDER_KEY=FOLDER` for the Hydra job that calls it, and records the outcome.

    With resume=auto a finished trial is not run again, and an interrupted one is continued. A job that its cluster has
    requeued gets resume=auto automatically.

    Args:
        script: of the application.
        folder_key: configuration key of the application's output folder.
        direction: of the sweep.
        can_resume: whether the application supports resume=auto.
    Returns:
        The value that the command gave to `write_result`, or `value_of` a trial without one. In the block of `later`,
        the prepared trial.
    Raises:
        SystemExit at a signal, after the trial has saved a checkpoint, and if the folder holds another trial.
    """
    job = HydraConfig.get()
    folder, trial = Path(job.runtime.output_dir), trial_of(job)
    given = [override for override in job.overrides.task if not override.startswith(("sweep=", "+sweep="))]
    past = Trial.read(folder)
    if past is not None and _settings(past) != _settings(trial):
        held = " ".join(past.overrides)
        raise SystemExit(f"error: {folder} holds another trial ({held}): give the sweep another name")
    if past is not None and past.status == "done" and past.value is not None and RESUME in given:
        print(f"#{trial.number}: done already, {past.value:.4f}", flush=True)
        return past.value
    if can_resume and past is not None and past.job == trial.job is not None and RESUME not in given:
        given.append(RESUME)
    rank = process_rank()
    command = (sys.executable, str(script), *_own_configs(job), *given, f"{folder_key}={_quoted(folder)}")
    environment = {**os.environ, IN_TRIAL: "1", "PYTHONUNBUFFERED": "1"}
    output = folder / ("output.txt" if rank == 0 else f"output.rank{rank}.txt")
    ready = ReadyTrial(trial, folder, command, environment, output, direction, rank, can_resume)
    return ready if _IS_LATER.get() else _run_now(ready)


@contextmanager
def later() -> Iterator[None]:
    """In the block `run_trial` only prepares trials, for a launcher that runs several at a time."""
    token = _IS_LATER.set(True)
    try:
        yield
    finally:
        _IS_LATER.reset(token)


def trial_of(job: HydraConf) -> Trial:
    """The trial of a Hydra job."""
    ignored = ("sweep=", "+sweep=", "resume=")
    overrides = (override for override in job.overrides.task if not override.startswith(ignored))
    return Trial(int(job.job.num), tuple(overrides), job=job_id())


def _own_configs(job: HydraConf) -> list[str]:
    """The flags that name the user's folder of options and the user's main file, if there are any."""
    sources = [f"--config-dir={each.path}" for each in job.runtime.config_sources if each.provider == "command-line"]
    name = job.job.config_name
    return sources if name in (None, job.job.name) else [*sources, f"--config-name={name}"]


def _settings(trial: Trial) -> list[str]:
    """The overrides of a trial with current names of keys, whether they change a key or add it."""
    return [override.lstrip("+") for override in current_overrides(trial.overrides)]


def _run_now(ready: ReadyTrial) -> float:
    with SweepStop() as request:
        stop_with_submitit()
        trial = ready.run(request)
    if request.number is not None and trial.status != "done":
        request.leave(ready.rank)
    return value_of(trial, ready.direction)


def _in_words(trial: Trial) -> str:
    if trial.status == "done":
        return f"done, {trial.value:.4f}, {trial.seconds:.0f} s"
    return f"{trial.status} after {trial.seconds:.0f} s: {trial.reason}"


def _quoted(path: Path) -> str:
    """A path as the value of an override."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
