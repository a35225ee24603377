"""What a trial's end means: from its exit code, its result and its last words to its record."""

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
"""What the command of a trial leaves in its folder: {"value": …}."""

RESUME = "resume=auto"


def advice(can_resume: bool) -> str:
    """How a trial that was stopped comes to its end."""
    return f"{RESUME} continues it" if can_resume else "the same command makes it anew"


def write_result(folder: Path, value: float) -> None:
    """Says what a run came to: the number that a sweep optimizes."""
    write_json(folder / RESULT, {"value": value})


def outcome(
    trial: Trial, code: int, asked: signal.Signals | None, folder: Path, output: Path, can_resume: bool
) -> Trial:
    """The record of a trial whose process ended.

    Args:
        code: its exit code, or minus the number of the signal that killed it.
        asked: the signal at which the sweep stopped it, if one did.
        output: what the process said.
        can_resume: whether its command knows resume=auto.
    """
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
        return replace(trial, status="interrupted", reason=advice(can_resume))
    if number is not None:
        hint = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        return replace(trial, status="killed", reason=f"{number.name}{hint}")
    return replace(trial, status="failed", reason=_last_words(output))


def record_lost(folder: Path, trial: Trial, reason: str) -> Trial:
    """The record of a trial whose job ended without a result; what that job has recorded as final stays.

    trial: with the job's id.
    """
    past = Trial.read(folder)
    if past is not None and past.job == trial.job and past.status not in ("running", "interrupted"):
        return past
    lost = replace(trial, status="killed", reason=reason)
    folder.mkdir(parents=True, exist_ok=True)
    lost.write(folder)
    return lost


def value_of(trial: Trial, direction: Literal["minimize", "maximize"]) -> float:
    """What the sweeper gets: the worst of all numbers for a trial without a value."""
    return {"minimize": math.inf, "maximize": -math.inf}[direction] if trial.value is None else trial.value


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
