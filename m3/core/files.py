"""Atomic writes: a file appears under its final name only when it is complete.

Content goes into a temporary file `NAME.XXXXXXXX.tmp` in the same folder, which is then renamed to `NAME`. The
temporary file is removed after any failure except the death of the process.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"(\.[0-9a-f]{8})?\.tmp$")
_UNFINISHED_AGE_S = 3600.0


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
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if not _is_about(error, temporary):
            raise
        raise _write_error(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new, empty, hidden folder `.NAME.XXXXXXXX.tmp`, which is renamed to `path` at the end of the block.

    `path` must not exist, or be an empty folder. Raises WriteError where the folder or a file in it cannot be written.
    Errors about other files pass unchanged.
    """
    temporary = path.with_name(f".{_temporary_name(path)}")
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if not _is_about(error, temporary):
            raise
        raise _write_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_name(path: Path) -> str:
    """Random: several ranks, threads or machines may write the same file at once."""
    return f"{path.name}.{secrets.token_hex(4)}.tmp"


def _is_about(error: OSError, temporary: Path) -> bool:
    """Failed writes carry a number and no file name, failed system calls both; a message alone is of other code."""
    if error.filename is None:
        return error.errno is not None
    return Path(str(error.filename)).is_relative_to(temporary)


def _write_error(cause: OSError, path: Path) -> WriteError:
    return WriteError(cause.errno, cause.strerror or str(cause), str(path))


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


class Hashing:
    """A binary file that takes the sha256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def remove_unfinished(folder: Path) -> None:
    """Delete temporary files in the folder that a process left which was killed while it wrote them.

    A file that was written to within the last hour may belong to a process that goes on: it stays.
    """
    for path in folder.glob("*.tmp"):
        with suppress(OSError):  # another process deletes it too
            if _TEMPORARY.search(path.name) and time.time() - path.stat().st_mtime > _UNFINISHED_AGE_S:
                path.unlink()


def make_folder(path: Path) -> None:
    """Create a folder and those above it, unless it is there. Raises WriteError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(error, path) from error


def check_writable(key: str, path: Path) -> None:
    """Raises ValueError naming the configuration key where a folder can neither be made nor written at `path`.

    What it makes for the check goes again.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(f"{key}={path}: no folder to write to ({error.strerror}); choose another {key}=…") from error
    finally:
        remove_empty(missing)


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, each after those in it, up to the first one that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


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
