"""The records of the trials of a sweep: one `trial.json` in the folder of each."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m3.core.files import write_text_atomic
from m3.core.renames import current_overrides

FILE = "trial.json"

Status = Literal["running", "done", "diverged", "failed", "killed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """One trial.

    number: from 0; the name of its folder.
    overrides: of its command ("optim.lr=0.001"), the same for every attempt.
    status: done; diverged (the result is not finite); failed (an error); killed (the process or its job ended by a
        signal without warning, for example out of memory); interrupted (stopped at a signal, resume=auto continues it);
        running.
    value: the number that the sweep optimizes, None unless done.
    seconds: duration of the latest attempt.
    reason: why it is not done, in one line.
    job: id of the cluster job that ran it, None without a cluster.
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
        """The record in the folder of a trial; None if it is missing or damaged."""
        try:
            record = json.loads((folder / FILE).read_text())
            return Trial(**{**record, "overrides": tuple(record["overrides"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def read_sweep(folder: Path) -> list[Trial]:
    """All trials in the folder of a sweep, sorted by number."""
    found = (Trial.read(path.parent) for path in folder.glob(f"*/{FILE}"))
    return sorted((trial for trial in found if trial is not None), key=lambda trial: trial.number)


def settle(folder: Path) -> None:
    """At the end of a sweep, records trials that are still "running" as killed: their job was killed with them."""
    for path in folder.glob(f"*/{FILE}"):
        trial = Trial.read(path.parent)
        if trial is not None and trial.status == "running":
            dataclasses.replace(trial, status="killed", reason="its job ended without a record").write(path.parent)


def swept_settings(trials: list[Trial]) -> dict[str, list[str | None]]:
    """Key → its value in each trial, for the keys that differ between trials; None where a trial does not set it."""
    settings = [_settings(trial) for trial in trials]
    keys = dict.fromkeys(key for each in settings for key in each)  # in the order of the command
    columns = {key: [each.get(key) for each in settings] for key in keys}
    return {key: values for key, values in columns.items() if len(set(values)) > 1}


def _settings(trial: Trial) -> dict[str, str]:
    """Key → value of each override."""
    pairs = (override.lstrip("+").partition("=") for override in current_overrides(trial.overrides))
    return {key: value for key, _, value in pairs}


def best_of(trials: list[Trial], direction: str) -> Trial | None:
    """The first of the trials with the best value; None if no trial has a value."""
    values = [(trial.value, trial) for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    sign = {"minimize": 1, "maximize": -1}[direction]
    return min(values, key=lambda pair: sign * pair[0])[1] if values else None


def write_json(path: Path, record: dict) -> None:
    write_text_atomic(path, json.dumps(record, indent=1) + "\n")
