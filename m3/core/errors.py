"""Errors that a user can mend, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, InstantiationException
from omegaconf import MissingMandatoryValue

from m3.core.terminal import printable

USER_ERRORS = (OSError, ValueError, HydraException, MissingMandatoryValue)
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


def message_of(error: Exception) -> str:
    """The message of the error that is the origin of this one.

    A missing value is named by its key. An error that Hydra met when it built an object is that object's own. An error
    of a loader process comes without the traceback that its message has.
    """
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no default: give {error.full_key}=…"
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, OSError | ValueError):
        return str(error.__cause__)
    kind, message = type(error), str(error).strip()
    if "Original Traceback" not in message:
        return message
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return message.rpartition(f"\n{name}: ")[2]
