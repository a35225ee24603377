"""A trial of a sweep: the command that it stands for, in a process of its own.

Whatever happens to that process, the launcher gets a number, so that no launcher and no sweeper loses the other
trials: inf (or −inf where more is better) for a trial that failed or was killed. A trial whose launcher is gone stops
after a checkpoint.
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
from m3.sweep.outcomes import RESULT, RESUME, outcome, value_of
from m3.sweep.records import Trial
from m3.sweep.stopping import SweepStop, end

_IS_LATER: ContextVar[bool] = ContextVar("is_later", default=False)


def ignore_sweep_warnings() -> None:
    """Of Optuna, about SQLAlchemy; of Hydra, about launcher configs named like its plugins', which complete them."""
    warnings.filterwarnings("ignore", "(?s).*(declarative_base|is validated against ConfigStore schema)")


@dataclass(frozen=True)
class ReadyTrial:
    """A trial that only has to be started, from any thread.

    folder: of the trial. command, environment: of its process. output: file for what that process says.
    direction: of the sweep. rank: of this process among those that run the trial together.
    can_resume: whether the command knows resume=auto.
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
        """Its record at the end; the trial as it is where the sweep stops before it starts."""
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
        """It is killed if the block is left while it runs."""
        with (
            open(self.output, "a") as file,
            # The end of its input says that this process is gone (`m3.core.jobs.stop_with_sweep`).
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
    """Runs `python SCRIPT OVERRIDES FOLDER_KEY=FOLDER` for the Hydra job that calls it, and records what came of it.

    With resume=auto a trial that is done is not run again, and one that was interrupted goes on where it was; a job
    that its cluster starts again has it by itself.

    Args:
        script: of the application.
        folder_key: setting that says where the application writes.
        direction: of the sweep.
        can_resume: whether the application knows resume=auto.
    Returns:
        What the command gave to `write_result`; the worst of all numbers where it gave none; in the block of `later`
        the trial itself, to be run.
    Raises:
        SystemExit at a signal, after the trial has saved what it can, and where the folder holds another trial.
    """
    job = HydraConfig.get()
    folder, trial = Path(job.runtime.output_dir), trial_of(job)
    given = [override for override in job.overrides.task if not override.startswith(("sweep=", "+sweep="))]
    past = Trial.read(folder)
    if past is not None and past.overrides != trial.overrides:
        held = " ".join(past.overrides)
        raise SystemExit(f"error: {folder} holds another trial ({held}): give the sweep another name")
    if past is not None and past.status == "done" and RESUME in given:
        print(f"#{trial.number}: done already, {past.value:.4f}", flush=True)
        return past.value
    if can_resume and past is not None and past.job == trial.job is not None and RESUME not in given:
        given.append(RESUME)
    rank = process_rank()
    command = (sys.executable, str(script), *given, f"{folder_key}={_quoted(folder)}")
    environment = {**os.environ, IN_TRIAL: "1", "PYTHONUNBUFFERED": "1"}
    output = folder / ("output.txt" if rank == 0 else f"output.rank{rank}.txt")
    ready = ReadyTrial(trial, folder, command, environment, output, direction, rank, can_resume)
    return ready if _IS_LATER.get() else _run_now(ready)


@contextmanager
def later() -> Iterator[None]:
    """In the block `run_trial` prepares trials for a launcher that runs several at once."""
    token = _IS_LATER.set(True)
    try:
        yield
    finally:
        _IS_LATER.reset(token)


def trial_of(job: HydraConf) -> Trial:
    """The trial that a job of Hydra is."""
    ignored = ("sweep=", "+sweep=", "resume=")
    overrides = (override for override in job.overrides.task if not override.startswith(ignored))
    return Trial(int(job.job.num), tuple(overrides), job=job_id())


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
    """As a value of an override."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
