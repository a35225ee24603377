"""Files of the output folder, each complete under its final name or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m3.core.files import atomic_file, write_text_atomic


def write_png(path: Path, picture: Image.Image) -> None:
    with atomic_file(path) as file:
        picture.save(file, format="PNG")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Raises ValueError for a number that is not finite."""
    write_text_atomic(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError for an array that would need a pickle."""
    for name, array in arrays.items():
        if array.dtype == object:
            raise ValueError(f"{path}: {name} is an array of objects")
    with atomic_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
