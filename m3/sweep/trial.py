"""A trial of a sweep: the command that it stands for, in a process of its own.

Whatever happens to that process, the launcher gets a number, so that no launcher and no sweeper loses the other
trials: inf (or −inf where more is better) for a trial that failed or was killed.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig

from m3.cluster import IN_TRIAL, PREEMPTION, job_id, process_rank, requeue_submitit
from m3.sweep.records import Trial, write_json

RESULT = "result.json"
"""What the command of a trial leaves in its folder: {"value": …}."""

RESUME = "resume=auto"


def write_result(folder: Path, value: float) -> None:
    """Says what a run came to: the number that a sweep optimises."""
    write_json(folder / RESULT, {"value": value})


def ignore_sweep_warnings() -> None:
    """Of Optuna, about SQLAlchemy; of Hydra, about launcher configs named like its plugins', which complete them."""
    warnings.filterwarnings("ignore", "(?s).*(declarative_base|is validated against ConfigStore schema)")


def run_trial(script: Path, folder_key: str, direction: str) -> float:
    """Runs `python SCRIPT OVERRIDES FOLDER_KEY=FOLDER` for the Hydra job that calls it, and records what came of it.

    A trial that is done is not run again; one that was interrupted goes on where it was. Both need resume=auto, which
    a job that its cluster starts again has by itself.

    Args:
        script: of the application.
        folder_key: setting that says where the application writes.
        direction: minimize or maximize.
    Returns:
        What the command gave to `write_result`; the worst of all numbers where it gave none.
    Raises:
        SystemExit or KeyboardInterrupt at a signal, after the trial has saved what it can; SystemExit where the
        folder holds another trial.
    """
    job = HydraConfig.get()
    folder, number = Path(job.runtime.output_dir), int(job.job.num)
    given = [override for override in job.overrides.task if not override.startswith(("sweep=", "+sweep="))]
    trial = Trial(number, tuple(override for override in given if not override.startswith("resume=")), job=job_id())
    past = Trial.read(folder)
    if past is not None and past.overrides != trial.overrides:
        held = " ".join(past.overrides)
        raise SystemExit(f"error: {folder} holds another trial ({held}): give the sweep another name")
    if past is not None and past.status == "done" and RESUME in given:
        print(f"#{number}: done already, {past.value:.4f}", flush=True)
        return past.value
    if past is not None and past.job == trial.job is not None and RESUME not in given:
        given.append(RESUME)
    rank = process_rank()
    output = folder / ("output.txt" if rank == 0 else f"output.rank{rank}.txt")
    command = [sys.executable, str(script), *given, f"{folder_key}={_quoted(folder)}"]
    if rank == 0:
        trial.write(folder)
        (folder / RESULT).unlink(missing_ok=True)
        print(f"#{number}: {output}", flush=True)
    start = time.monotonic()
    with _process(command, output) as (process, request):
        code = process.wait()
    trial = _outcome(replace(trial, seconds=round(time.monotonic() - start, 3)), code, request.number, folder, output)
    if rank == 0:
        trial.write(folder)
        print(f"#{number}: {_in_words(trial)}", flush=True)
    if request.number is not None and trial.status != "done":
        _leave(request, rank)
    return {"minimize": math.inf, "maximize": -math.inf}[direction] if trial.value is None else trial.value


class _StopRequest:
    """Notes the first signal, and hands a signal on to a process as one that stops it after a checkpoint."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self.handlers: dict[signal.Signals, Any] = {}
        self._tell: Callable[[int], None] = lambda number: None

    def listen(self, process: subprocess.Popen) -> None:
        self._tell = process.send_signal
        if threading.current_thread() is threading.main_thread():
            self.handlers = {n: signal.signal(n, self._note) for n in (*PREEMPTION, signal.SIGINT)}

    def stop_listening(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first, self.number = self.number is None, self.number or signal.Signals(number)
        # A terminal sends Ctrl-C to the trial too, which stops at once at the second one.
        if is_first and number != signal.SIGINT:
            self._tell(signal.SIGUSR1)


@contextmanager
def _process(command: list[str], output: Path) -> Iterator[tuple[subprocess.Popen, _StopRequest]]:
    """A command that writes to a file; it is killed if the block is left while it runs."""
    request = _StopRequest()
    with open(output, "a") as file:
        environment = {**os.environ, IN_TRIAL: "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            request.listen(process)
            yield process, request
        finally:
            request.stop_listening()
            if process.poll() is None:
                process.kill()
                process.wait()


def _outcome(trial: Trial, code: int, asked: signal.Signals | None, folder: Path, output: Path) -> Trial:
    if code == 0:
        try:
            value = float(json.loads((folder / RESULT).read_text())["value"])
        except (OSError, ValueError, KeyError) as error:
            return replace(trial, status="failed", reason=f"it left no {RESULT} ({error})")
        if math.isfinite(value):
            return replace(trial, status="done", value=value)
        return replace(trial, status="diverged", reason=f"its result is {value}")
    number = signal.Signals(-code) if code < 0 else None
    if asked is not None or code in [128 + each for each in (*PREEMPTION, signal.SIGINT)]:
        return replace(trial, status="interrupted", reason=f"{RESUME} continues it")
    if number is not None:
        hint = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        return replace(trial, status="killed", reason=f"{number.name}{hint}")
    return replace(trial, status="failed", reason=_last_words(output))


def _last_words(output: Path) -> str:
    """The line of an output that says best why it ended."""
    with open(output, errors="replace") as file:
        lines = [line.strip() for line in deque(file, maxlen=200)]
    while lines and (not lines[-1] or lines[-1].startswith("Set the environment variable HYDRA_FULL_ERROR=1")):
        lines.pop()
    if not lines:
        return "it said nothing"
    errors = [line for line in lines if re.match(r"(error: |[\w.]*(Error|Exception|Interrupt)\b)", line)]
    paragraph = lines[max((n + 1 for n, line in enumerate(lines) if not line), default=0) :]
    return (errors[-1] if errors else paragraph[0]).removeprefix("error: ")[:500]


def _in_words(trial: Trial) -> str:
    if trial.status == "done":
        return f"done, {trial.value:.4f}, {trial.seconds:.0f} s"
    return f"{trial.status} after {trial.seconds:.0f} s: {trial.reason}"


def _leave(request: _StopRequest, rank: int) -> None:
    """Ends this process the way that its signal means; returns where submitit may not run the job again."""
    if request.number == signal.SIGINT:
        raise KeyboardInterrupt
    try:
        requeue_submitit(request.handlers)
    except Exception as error:  # submitit's own, which would cost the sweep its other trials
        print(error, file=sys.stderr, flush=True)
        return
    if rank:
        time.sleep(60)  # the first process of the job requeues it; were this one to end before, SLURM would end all
    raise SystemExit(128 + request.number)


def _quoted(path: Path) -> str:
    """As a value of an override."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
