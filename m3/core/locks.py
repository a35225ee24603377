"""Locks on folders, so that two processes do not write into the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has other locks: two runs at once are not detected there
    fcntl = None  # type: ignore[assignment]

from m3.core.files import make_folder, remove_empty


@contextmanager
def locked(folder: Path, advice: str) -> Iterator[None]:
    """Lock the folder for this process; it is made where it is missing, and goes again if it stays empty.

    The system releases the lock when the process ends, however it ends. Some file systems have no locks: nothing is
    locked there.

    advice: what else uses the folder and what to do about it, the end of the error.
    Raises ValueError where another process has locked the folder, WriteError where it cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder)
    try:
        if fcntl is None:
            yield
        else:
            with _flock(folder, advice):
                yield
    finally:
        remove_empty(missing)


@contextmanager
def _flock(folder: Path, advice: str) -> Iterator[None]:
    assert fcntl is not None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: {advice}") from error
        except OSError:  # some network file systems lock no folders
            pass
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


_held: set[int] = set()
"""Descriptors of the folders that this process has locked."""


def _let_go() -> None:
    """In a child process, which would hold the lock for as long as it lives: loader processes outlive a killed run."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
