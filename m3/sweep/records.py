"""What became of the trials of a sweep: one `trial.json` in the folder of each."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m3.core.files import write_text_atomic

FILE = "trial.json"

Status = Literal["running", "done", "diverged", "failed", "killed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """One trial.

    number: from 0, the name of its folder.
    overrides: what its command changes ("optim.lr=0.001"), the same for every attempt.
    status: done; diverged (its result is not finite); failed (it ended with an error); killed (it, or the job that
        ran it, ended by a signal that nobody announced, such as that of a machine out of memory); interrupted (it
        stopped at a signal and goes on with resume=auto); running.
    value: what the sweep optimizes, None unless done.
    seconds: of the latest attempt.
    reason: why it is not done, one line.
    job: of a cluster that ran it, None without one.
    """

    number: int
    overrides: tuple[str, ...]
    status: Status = "running"
    value: float | None = None
    seconds: float | None = None
    reason: str = ""
    job: str | None = None

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, dataclasses.asdict(self))

    @staticmethod
    def read(folder: Path) -> Trial | None:
        """The record in a trial's folder, None where there is none or a damaged one."""
        try:
            record = json.loads((folder / FILE).read_text())
            return Trial(**{**record, "overrides": tuple(record["overrides"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def read_sweep(folder: Path) -> list[Trial]:
    """All trials in the folder of a sweep, by number."""
    found = (Trial.read(path.parent) for path in folder.glob(f"*/{FILE}"))
    return sorted((trial for trial in found if trial is not None), key=lambda trial: trial.number)


def settle(folder: Path) -> None:
    """At the end of a sweep: a trial that is running by its record was killed with whatever ran it."""
    for path in folder.glob(f"*/{FILE}"):
        trial = Trial.read(path.parent)
        if trial is not None and trial.status == "running":
            dataclasses.replace(trial, status="killed", reason="its job ended without a word").write(path.parent)


def swept_settings(trials: list[Trial]) -> dict[str, list[str | None]]:
    """Key → its value in each trial, for the keys that differ between trials; None where a trial does not set it."""
    settings = [dict(override.partition("=")[::2] for override in trial.overrides) for trial in trials]
    keys = dict.fromkeys(key for each in settings for key in each)  # in the order of the command
    columns = {key: [each.get(key) for each in settings] for key in keys}
    return {key: values for key, values in columns.items() if len(set(values)) > 1}


def best_of(trials: list[Trial], direction: str) -> Trial | None:
    """The first of the trials with the best value; None where none has one."""
    with_value = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    sign = {"minimize": 1, "maximize": -1}[direction]
    return min(with_value, key=lambda trial: sign * trial.value, default=None)


def write_json(path: Path, record: dict) -> None:
    write_text_atomic(path, json.dumps(record, indent=1) + "\n")
