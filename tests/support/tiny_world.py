"""A tiny Penn Action folder: a bright square walks over a patterned ground, its joints on its outline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

ACTIONS = ("golf_swing", "squat", "bowl")


def label_fields(num_frames: int = 6, size: tuple[int, int] = (48, 64), **changes: Any) -> dict[str, Any]:
    """Fields of a label file, in Penn Action's own types."""
    middle = 12 + 5.0 * np.arange(num_frames)[:, None] + np.zeros((1, 13))
    spread = np.linspace(-8, 8, 13)[None, :]
    fields = {
        "x": middle + spread, "y": 24 + spread + 0 * middle, "visibility": np.ones((num_frames, 13), np.uint8),
        "nframes": np.array([[num_frames]], np.uint8), "dimensions": np.array([[*size, num_frames]], np.uint16),
        "action": "golf_swing", "pose": "left", "bbox": np.zeros((num_frames, 4)), "train": np.array([[1]], np.int32),
    }  # fmt: skip
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def write_label(path: Path, **arguments: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, label_fields(**arguments))
    return path


def frame(index: int, size: tuple[int, int] = (48, 64), seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8."""
    height, width = size
    rows, columns = np.indices(size)
    picture = (80 + 40 * np.sin(rows / 5 + seed) * np.cos(columns / 7))[..., None] + np.array([0, 20, 40])
    left = 4 + 5 * index
    picture[height // 4 : 3 * height // 4, left : left + 16] = (230, 200, 60 + 20 * (index % 5))
    return picture.clip(0, 255).astype(np.uint8)


def write_clip(root: Path, clip: str, num_frames: int = 6, num_pictures: int | None = None, **arguments: Any) -> None:
    size = arguments.get("size", (48, 64))
    write_label(root / "labels" / f"{clip}.mat", num_frames=num_frames, **arguments)
    folder = root / "frames" / clip
    folder.mkdir(parents=True)
    for index in range(num_frames if num_pictures is None else num_pictures):
        Image.fromarray(frame(index, size, seed=int(clip))).save(folder / f"{index + 1:06d}.jpg", quality=95)


def write_world(root: Path, num_clips: int = 6) -> None:
    for number in range(1, num_clips + 1):
        train = np.array([[-1 if number % 3 == 0 else 1]], np.int32)
        write_clip(root, f"{number:04d}", 5 + number % 3, action=ACTIONS[number % 3], train=train)
