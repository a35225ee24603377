"""Reads HDF5 files in a process of its own: HDF5's library is compiled code that damaged files can crash.

Nothing outside the file is followed: links to other files, and arrays whose numbers lie in other files, are refused.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from m3.clips.reader_process import ReaderProcess, answer_requests

_MAX_BYTES = 2**28
"""Of all arrays together, as they are in memory."""

_MAX_ARRAYS, _MAX_DEPTH, _MAX_ATTRIBUTE_BYTES = 500, 6, 2**20

_reader = ReaderProcess("HDF5", "m3.clips.hdf5_files")


def read_hdf5(content: bytes) -> dict[str, np.ndarray]:
    """Path → array of all arrays of numbers or text in a file.

    The fields of a table are arrays of their own, `PATH.FIELD`; an attribute of bytes or text is `PATH@NAME`.

    Raises ValueError with the reason where the file cannot be read, and where h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ValueError("HDF5 files are read by h5py, which is not installed: pip install 'm3-motion[joints]'")
    return _reader.read(content)


def serve() -> None:
    """The process."""
    answer_requests(load_hdf5)


def load_hdf5(content: bytes, names: Sequence[str] = ()) -> dict[str, Any]:
    """As `read_hdf5`, in this process. names: not used. Raises what h5py raises for damaged files."""
    import h5py

    found: dict[str, Any] = {}
    num_bytes, num_nodes = 0, 0
    with h5py.File(io.BytesIO(content), "r") as file:
        pending: list[tuple[str, h5py.Group, int]] = [("", file, 0)]
        while pending:
            prefix, group, depth = pending.pop()
            for name in sorted(group):
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"{prefix}{name} is a link to another place; store the array itself")
                num_nodes += 1
                if num_nodes > _MAX_ARRAYS or depth > _MAX_DEPTH:
                    raise ValueError(f"more than {_MAX_ARRAYS} arrays, or groups more than {_MAX_DEPTH} deep")
                node = group[name]
                if isinstance(node, h5py.Group):
                    pending.append((f"{prefix}{name}/", node, depth + 1))
                    continue
                if not isinstance(node, h5py.Dataset):
                    continue
                if node.external or node.is_virtual:
                    raise ValueError(f"{prefix}{name} has its numbers in other files")
                num_bytes += math.prod(node.shape or ()) * node.dtype.itemsize
                if num_bytes > _MAX_BYTES:
                    raise ValueError(f"its arrays have more than {_MAX_BYTES:,} bytes")
                found.update(_arrays(f"{prefix}{name}", node))
    return found


def _arrays(path: str, node: Any) -> dict[str, Any]:
    import h5py

    found: dict[str, Any] = {}
    for key, value in node.attrs.items():
        if isinstance(value, bytes | str) and len(value) <= _MAX_ATTRIBUTE_BYTES:
            found[f"{path}@{key}"] = np.array(value.decode(errors="replace") if isinstance(value, bytes) else value)
    if node.shape is None:
        return found
    if node.dtype.names:
        table = node[()]
        found.update(
            {f"{path}.{field}": table[field] for field in node.dtype.names if table[field].dtype.kind in "iuf"}
        )
    elif h5py.check_string_dtype(node.dtype) is not None:
        text = np.asarray(node.asstr(errors="replace")[()], dtype=object)
        found[path] = np.array([str(word)[:1000] for word in text.ravel()], dtype=str).reshape(text.shape)
    elif node.dtype.kind in "iufb":
        found[path] = node[()]
    return found
