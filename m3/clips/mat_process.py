"""Reads `.mat` files in a process of its own: SciPy's reader is compiled code that damaged files can crash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3.clips.reader_process import ReaderProcess, answer_requests

_reader = ReaderProcess("SciPy", "m3.clips.mat_process")


def read_mat(content: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The variables of these names that a file has: arrays of numbers or text.

    Raises ValueError with the reason where the file cannot be read.
    """
    return _reader.read(content, names)


def serve() -> None:
    """The process."""
    from m3.clips.mat_files import load_mat  # SciPy, which processes that read no labels do not need

    def load(content: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
        fields = load_mat(content, names)
        return {name: fields[name] for name in names if name in fields}

    answer_requests(load)
