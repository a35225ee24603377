"""Errors that a user can mend, as one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, InstantiationException
from omegaconf import MissingMandatoryValue
from omegaconf.errors import OmegaConfBaseException

from m3.core.terminal import printable

USER_ERRORS = (OSError, ValueError, HydraException, OmegaConfBaseException)
"""What wrong settings, files and addresses raise, before any work."""


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """In the block an error of these kinds ends the process with the line "error: …" and status 1.

    kinds: `USER_ERRORS` where none are given. Other errors keep their traceback.
    """
    caught = kinds or USER_ERRORS
    try:
        yield
    except caught as error:
        raise SystemExit(f"error: {printable(message_of(error))}") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """In the block failed writes and reads that do not name their file are said to be of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


_REMEDIES = {
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.EROFS: "choose a place that you may write to",
    errno.EACCES: "choose a place that you may read and write",
    errno.ENOENT: "it, or a folder above it, was not made or was deleted",
}


def message_of(error: Exception) -> str:
    """The message of the error that is the origin of this one.

    A missing value is named by its key. An error that Hydra met when it built an object is that object's own. An error
    of a loader process comes without the traceback that its message has.
    """
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no default: give {error.full_key}=…"
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.errno and error.filename:
        remedy = _REMEDIES.get(error.errno)
        return f"{error.filename}: {error.strerror}" + (f"; {remedy}" if remedy else "")
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if isinstance(cause, OSError | ValueError) and not isinstance(cause, OmegaConfBaseException):
            return str(cause)
        return " ".join(line.strip() for line in str(error).splitlines())  # the target, the cause and the section
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or ''}: {next(iter(str(error).splitlines()), '')}".removeprefix(": ")
    kind, message = type(error), str(error).strip()
    if "Original Traceback" not in message:
        return message
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return message.rpartition(f"\n{name}: ")[2]
