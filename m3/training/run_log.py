"""What a run folder tells about its sessions: `train.log`, one log of all of them, and `run.json`, their circumstances.

A session is one process that trains in the folder: the first one, and each that continues it.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from m3.core.files import write_text_atomic
from m3.core.reading import parse_json, read_file
from m3.core.signals import Interrupted
from m3.core.terminal import printable

LOG, RECORD = "train.log", "run.json"

_MAX_RECORD_BYTES = 2**24
_PACKAGES = ("m3-motion", "torch", "pytorch-lightning", "hydra-core", "omegaconf", "numpy")

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)
_log.propagate = False  # what `say` and `note` get is on the terminal already, or not meant for it


def say(line: str) -> None:
    """Prints a line, and writes it to the log of the run that is open."""
    print(line, flush=True)
    note(line)


def note(line: str) -> None:
    """Writes a line to the log of the run that is open; does nothing without one."""
    _log.info("%s", line)


class _LogFile(logging.FileHandler):
    """Appends to a file, with the time in front; a full disk does not stop the run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a", encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def open_log(folder: Path) -> Iterator[None]:
    """In the block `say`, `note` and the warnings of all modules are appended to `folder`/train.log.

    Raises OSError where the file cannot be opened.
    """
    file, loggers = _LogFile(folder / LOG), (_log, logging.getLogger())
    for logger in loggers:
        logger.addHandler(file)
    try:
        note(f"--- {shlex.join(sys.orig_argv)}")
        yield
    except BaseException as error:
        note(f"ended by {_name_of(error)}")
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(file)
        file.close()


@contextmanager
def recorded_session(folder: Path, facts: dict[str, Any], step: Callable[[], int]) -> Iterator[None]:
    """Adds this session to `folder`/run.json at the start of the block, and its duration and end after it.

    A session that is killed has the end null. A damaged file is replaced.

    facts: of the run, for the record, such as its device and first step.
    step: returns the number of optimizer steps so far.
    """
    start = time.monotonic()
    session = {
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(sys.orig_argv),
        "folder": os.getcwd(),
        "host": platform.node(),
        "system": platform.platform(),
        "git": _git(),
        "versions": {"python": platform.python_version(), **_versions()},
        "cpu_threads": torch.get_num_threads(),
        **facts,
        "last_step": None,
        "duration_s": None,
        "end": None,
    }
    sessions = [*read_sessions(folder), session]
    _write(folder, sessions)
    try:
        yield
        session["end"] = "finished"
    except BaseException as error:
        session["end"] = _name_of(error)
        raise
    finally:
        session["last_step"], session["duration_s"] = step(), round(time.monotonic() - start, 3)
        with suppress(OSError):  # the run's own error says more
            _write(folder, sessions)


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """The sessions of a run folder; empty without a readable `run.json`."""
    try:
        content = parse_json(read_file(folder / RECORD, _MAX_RECORD_BYTES), str(folder / RECORD))
    except (OSError, ValueError):
        return []
    sessions = content.get("sessions") if isinstance(content, dict) else None
    return [each for each in sessions if isinstance(each, dict)] if isinstance(sessions, list) else []


def _write(folder: Path, sessions: list[dict[str, Any]]) -> None:
    write_text_atomic(folder / RECORD, json.dumps({"sessions": sessions}, indent=1) + "\n")


def _name_of(error: BaseException) -> str:
    return error.signal.name if isinstance(error, Interrupted) else type(error).__name__


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git() -> dict[str, Any] | None:
    """The commit of the checkout that this code is in, and whether files of it were changed; None without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "is_changed": bool(changes.stdout.strip())}
