"""MATLAB files of bounded size: SciPy allocates what a file says of itself.

A variable of a `.mat` file (version 5) may be compressed a thousand times, and a header may name shapes of any size. So
variables are decompressed here, up to a bound, and their shapes are read before the arrays.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import scipy.io

_MAX_BYTES = 2**27
"""Of all variables, decompressed. Joints of 300,000 frames take 94 MB."""

_HEADER_BYTES, _TAG_BYTES, _COMPRESSED = 128, 8, 15

_CLASSES = (
    "double",
    "single",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "char",
    "logical",
)
"""MATLAB's names of arrays of numbers and text."""


def load_mat(content: bytes, names: Sequence[str]) -> dict[str, Any]:
    """The variables of these names that the file has.

    Raises ValueError where one is no array of numbers or text, or all together are too large, and whatever SciPy raises
    for damaged files.
    """
    plain = _decompressed(content)
    for name, shape, kind in scipy.io.whosmat(io.BytesIO(plain)):
        if name in names and (kind not in _CLASSES or 8 * math.prod(shape) > _MAX_BYTES):
            raise ValueError(f"{name} is {kind} {shape}, need numbers or text of at most {_MAX_BYTES:,} bytes")
    return scipy.io.loadmat(io.BytesIO(plain), variable_names=list(names))


def _decompressed(content: bytes) -> bytes:
    """The same file with variables that are not compressed. A file of version 4, which compresses nothing, as it is."""
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER_BYTES - 2 : _HEADER_BYTES])
    if order is None:
        return content
    parts, num_bytes = [content[:_HEADER_BYTES]], 0
    for kind, tag, data in _elements(content, order):
        if kind != _COMPRESSED:
            parts += [tag, data]
            continue
        plain = zlib.decompressobj().decompress(data, _MAX_BYTES - num_bytes + 1)
        num_bytes += len(plain)
        if num_bytes > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES:,} bytes when it is decompressed")
        parts.append(plain)
    return b"".join(parts)


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes, bytes]]:
    """Data type, tag and data of each element behind the file's header."""
    place = _HEADER_BYTES
    while place + _TAG_BYTES <= len(content):
        tag = content[place : place + _TAG_BYTES]
        kind, num_bytes = struct.unpack(f"{order}II", tag)
        data = content[place + _TAG_BYTES : place + _TAG_BYTES + num_bytes]
        if len(data) < num_bytes:
            raise ValueError(f"{len(data):,} bytes of an element, of which its tag promises {num_bytes:,}")
        yield kind, tag, data
        place += _TAG_BYTES + num_bytes
