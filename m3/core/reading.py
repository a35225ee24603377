"""Reads files that others made: regular files of bounded size, and values that are checked when they are taken.

Nothing that a file says is believed: its size is bounded before it is read, the shape of an array before it is
allocated, and every value has the type and the range that its reader asks for.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

MAX_DEPTH = 64
"""Mappings and lists inside each other in a JSON file."""

MAX_LABEL_LENGTH, MAX_CAPTION_LENGTH, MAX_CAPTIONS = 200, 10_000, 100
"""Characters of the label of an action and of a caption; captions of a sample."""

_MAX_SHOWN = 40


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file for reading; a pipe or a device is never waited for.

    Raises FileNotFoundError, OSError, and ValueError for what is no regular file.
    """
    # A named pipe without a writer would block without O_NONBLOCK, which does nothing to regular files.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise ValueError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """The content of a regular file. Raises as `open_regular`, and ValueError for more than `max_bytes`."""
    with open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size  # `read` allocates what it is asked for
        content = file.read(num_bytes + 1) if num_bytes <= max_bytes else None
    if content is None or len(content) > max_bytes:
        raise ValueError(f"{path}: more than {max_bytes:,} bytes")
    return content


def parse_json(content: bytes | str, where: str, remedy: str = "") -> Any:
    """The value of a JSON text without NaN and infinities.

    where: the file, for the error; remedy: its end.
    Raises ValueError for any other text, and for more than 64 mappings and lists inside each other.
    """
    remedy = f"; {remedy}" if remedy else ""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"{where}: not JSON (nested too deeply){remedy}") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}){remedy}") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for node in level for item in _items(node)]
        if not level:
            return value
    raise ValueError(f"{where}: not JSON (nested too deeply){remedy}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _items(node: Any) -> Sequence[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else ()


def shown(value: Any) -> str:
    """A value from a file for a message, cut short."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


class Record:
    """A mapping that was read from a file. Each method takes the value of a key, and checks it.

    content: the value that was read. where: names the file, and the place in it, in errors.
    remedy: the end of every error.

    Raises ValueError where the content is no mapping with texts as keys. The methods raise it, naming the key, where
    the key is missing or its value is not as asked.
    """

    def __init__(self, content: Any, where: str, remedy: str = "") -> None:
        self.where, self._remedy = where, f"; {remedy}" if remedy else ""
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise ValueError(f"{where} is {shown(content)}, need a mapping{self._remedy}")
        self._content = content

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def items(self) -> Iterable[tuple[str, Any]]:
        """All keys and values, which are not checked."""
        return self._content.items()

    def text(self, key: str, pattern: str | None = None, max_length: int = 1000) -> str:
        """A text of at most `max_length` characters that, as a whole, matches the pattern."""
        value = self._value(key)
        if not isinstance(value, str) or len(value) > max_length or not is_encodable(value):
            raise self.error(key, f"a text of at most {max_length} characters")
        if pattern is not None and not re.fullmatch(pattern, value):
            raise self.error(key, f"a text like {pattern}")
        return value

    def texts(self, key: str, max_length: int = 1000, max_items: int = 2**20) -> list[str]:
        """A list of texts of at most `max_length` characters each."""
        values = self._list(key, max_items)
        if not all(isinstance(value, str) and len(value) <= max_length and is_encodable(value) for value in values):
            raise self.error(key, f"a list of texts of at most {max_length} characters each")
        return values

    def count(self, key: str, low: int = 0, high: int = 2**31 - 1) -> int:
        """A whole number of low … high."""
        value = self._value(key)
        if type(value) is not int or not low <= value <= high:  # True is an int, but no number
            raise self.error(key, f"a whole number of {low} … {high}")
        return value

    def counts(self, key: str, low: int, high: int, max_items: int) -> list[int]:
        """A list of such numbers."""
        values = self._list(key, max_items)
        if not all(type(value) is int and low <= value <= high for value in values):
            raise self.error(key, f"a list of whole numbers of {low} … {high}")
        return values

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number of low … high."""
        value = self._value(key)
        if not self.is_number(key) or not low <= value <= high:
            raise self.error(key, f"a number of {low:g} … {high:g}")
        return value

    def flag(self, key: str) -> bool:
        value = self._value(key)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """A mapping whose values are not checked."""
        return self.record(key)._content

    def record(self, key: str) -> Record:
        return Record(self._value(key), f"{self.where}: {key}", self._remedy.removeprefix("; "))

    def records(self, key: str, max_items: int = 2**20) -> Iterator[Record]:
        """The mappings of a list."""
        for number, item in enumerate(self._list(key, max_items)):
            yield Record(item, f"{self.where}: {key}[{number}]", self._remedy.removeprefix("; "))

    def all_numbers(self) -> None:
        """Checks that all values are finite numbers."""
        for key in self:
            self.number(key)

    def is_number(self, key: str) -> bool:
        """Whether the value is a finite number."""
        value = self._content.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return math.isfinite(_float(value))

    def is_list(self, key: str) -> bool:
        return isinstance(self._content.get(key), list)

    def is_null(self, key: str) -> bool:
        """Whether the key is missing or null."""
        return self._content.get(key) is None

    def error(self, key: str, need: str) -> ValueError:
        """That a value is not as needed."""
        return ValueError(f"{self.where}: {key} is {shown(self._content.get(key))}, need {need}{self._remedy}")

    def _value(self, key: str) -> Any:
        if key not in self._content:
            raise ValueError(f"{self.where}: {key} is missing{self._remedy}")
        return self._content[key]

    def _list(self, key: str, max_items: int) -> list[Any]:
        value = self._value(key)
        if not isinstance(value, list) or len(value) > max_items:
            raise self.error(key, f"a list of at most {max_items:,}")
        return value


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_npy(file: IO[bytes], max_bytes: int) -> np.ndarray:
    """The array of a `.npy` file; its header is checked before the array is allocated.

    Raises ValueError for anything else, an array of objects, and an array of more than `max_bytes` bytes.
    """
    shape, is_fortran, dtype = _npy_header(file)
    num_bytes = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError("an array of objects, which needs a pickle (allow_pickle=False)")
    if len(shape) > 8 or num_bytes > max_bytes:
        raise ValueError(f"an array of {dtype} {shown(shape)}, need at most {max_bytes:,} bytes")
    content = file.read(num_bytes)
    if len(content) < num_bytes:
        raise ValueError(f"{len(content):,} bytes of numbers, {shown(shape)} of {dtype} are {num_bytes:,}")
    array = np.frombuffer(content, dtype) if num_bytes else np.zeros(0, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def read_npz(path: str | Path, max_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file, of at most `max_bytes` bytes together.

    Raises as `open_regular`, and ValueError for anything else and for a damaged file.
    """
    arrays, left = {}, max_bytes
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                with archive.open(member) as content:
                    array = read_npy(content, left)
                arrays[member.removesuffix(".npy")] = array
                left -= array.nbytes
    except OSError:
        raise
    except Exception as error:  # zip, header and memory errors of all kinds
        raise ValueError(f"{path}: not a readable .npz file ({error})") from error
    return arrays


def npy_of(content: bytes, max_bytes: int) -> np.ndarray:
    """As `read_npy`, for the content of a file."""
    return read_npy(BytesIO(content), max_bytes)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version} of the format")
    except Exception as error:  # NumPy and Python's parser raise errors of many types for damaged headers
        raise ValueError(f"no header of an .npy file ({error})") from error
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"no header of an .npy file (shape {shown(shape)})")
    return shape, is_fortran, dtype
