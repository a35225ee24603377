"""Atomic writes: a file appears under its final name only when it is complete.

Content goes into a temporary file `NAME.XXXXXXXX.tmp` in the same folder, which is then renamed to `NAME`. The
temporary file is removed after any failure except the death of the process.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"(\.[0-9a-f]{8})?\.tmp$")


class WriteError(OSError):
    """A file could not be written. `filename` is its final name, `errno` and `strerror` are those of the cause.

    A caller may set `remedy`, the end of the message, to something more specific.
    """

    remedy = "make room there, or choose another place"

    def __str__(self) -> str:
        return f"cannot write {self.filename} ({self.strerror}): {self.remedy}"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The path of a temporary file for the block to create, which is renamed to `path` at the end of the block.

    For libraries that want a path; those that take a binary file can use `atomic_file`.

    Raises WriteError where the file cannot be written. Errors about other files pass unchanged.
    """
    # Random: several ranks, threads or machines may write the same file at once.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and str(error.filename) != str(temporary):
            raise
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_file(path: Path, fsync: bool = False) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` at the end of the block.

    fsync: the content is on the disk before the file gets its name, so that it survives a power failure.

    Raises WriteError where the file cannot be written. Errors about other files pass unchanged.
    """
    with atomic_path(path) as temporary, open(temporary, "xb") as file:
        yield file
        if fsync:
            file.flush()
            os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` as the file `path`. Raises WriteError where that fails."""
    with atomic_file(path) as file:
        file.write(content)


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` as the UTF-8 file `path`, line ends as they are. Raises WriteError where that fails."""
    write_atomic(path, text.encode("utf-8"))


def final_name(name: str) -> str:
    """The name that a temporary file was to get; other names unchanged."""
    return _TEMPORARY.sub("", name)
