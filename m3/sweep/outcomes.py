"""The outcome of a trial: its record, from the exit code, the result file and the output of its process."""

from __future__ import annotations

import json
import math
import re
import signal
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Literal

from m3.core.jobs import PREEMPTION
from m3.sweep.records import Trial, write_json

RESULT = "result.json"
"""File that the command of a trial writes into its folder: {"value": …}."""

RESUME = "resume=auto"


def advice(can_resume: bool) -> str:
    """How to finish a trial that was stopped."""
    return f"{RESUME} continues it" if can_resume else "the same command runs it again"


def write_result(folder: Path, value: float) -> None:
    """Writes the result of a run: the number that a sweep optimizes."""
    write_json(folder / RESULT, {"value": value})


def outcome(
    trial: Trial, code: int, asked: signal.Signals | None, folder: Path, output: Path, can_resume: bool
) -> Trial:
    """The record of a trial whose process has ended.

    Args:
        code: its exit code, or minus the number of the signal that killed it.
        asked: the signal at which the sweep stopped the trial, None if it did not.
        output: file with the output of the process.
        can_resume: whether its command supports resume=auto.
    """
    if code == 0:
        try:
            value = float(json.loads((folder / RESULT).read_text())["value"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return replace(trial, status="failed", reason=f"it left no {RESULT} ({error})")
        if math.isfinite(value):
            return replace(trial, status="done", value=value)
        return replace(trial, status="diverged", reason=f"its result is {value}")
    number = signal.Signals(-code) if code < 0 else None
    if asked is not None or code in [128 + each for each in (*PREEMPTION, signal.SIGINT)]:
        return replace(trial, status="interrupted", reason=advice(can_resume))
    if number is not None:
        hint = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        return replace(trial, status="killed", reason=f"{number.name}{hint}")
    return replace(trial, status="failed", reason=_last_words(output))


def record_lost(folder: Path, trial: Trial, reason: str) -> Trial:
    """The record of a trial whose job ended without a result; a final record by the job itself is kept.

    trial: with the id of the job.
    """
    past = Trial.read(folder)
    if past is not None and past.job == trial.job and past.status not in ("running", "interrupted"):
        return past
    lost = replace(trial, status="killed", reason=reason)
    folder.mkdir(parents=True, exist_ok=True)
    lost.write(folder)
    return lost


def value_of(trial: Trial, direction: Literal["minimize", "maximize"]) -> float:
    """The number for the sweeper: the value, or inf (minimize) and −inf (maximize) for a trial without one."""
    return {"minimize": math.inf, "maximize": -math.inf}[direction] if trial.value is None else trial.value


def _last_words(output: Path) -> str:
    """The line of an output that best explains the end of the process."""
    with open(output, errors="replace") as file:
        lines = [line.strip() for line in deque(file, maxlen=200)]
    while lines and (not lines[-1] or lines[-1].startswith("Set the environment variable HYDRA_FULL_ERROR=1")):
        lines.pop()
    if not lines:
        return "no output"
    errors = [line for line in lines if re.match(r"(error: |[\w.]*(Error|Exception|Interrupt)\b)", line)]
    paragraph = lines[max((n + 1 for n, line in enumerate(lines) if not line), default=0) :]
    return (errors[-1] if errors else paragraph[0]).removeprefix("error: ")[:500]
