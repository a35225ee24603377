"""The one codec between displacements of joints and motion tokens: cells of a grid, small near zero, large far out."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from m3.core.modalities import MOTION_SIDE, UNSEEN_MOTION

FINENESS = 0.1
"""Displacement up to which cells are of about equal size, in sides of the pose's box; beyond they grow with it."""

REACH = 1.0
"""The farthest displacement along an axis, in the same unit; what is farther lies in the outermost cells."""

_LAST = np.arcsinh(REACH / FINENESS)


def grid_to_displacement(places: np.ndarray) -> np.ndarray:
    """Places on the axis of the cells, 0 … 33 from the first one's edge to the last one's → displacements."""
    return FINENESS * np.sinh((2 * places / MOTION_SIDE - 1) * _LAST)


def cell_centers() -> np.ndarray:
    """(33 · 33, 2) displacement of each id, x then y; that of the middle id is exactly 0."""
    line = grid_to_displacement(np.arange(MOTION_SIDE) + 0.5)
    line[MOTION_SIDE // 2] = 0.0
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def encode_motion(moved: np.ndarray, is_seen: np.ndarray) -> np.ndarray:
    """(…, 2) displacements in sides of the pose's box, (…) bool → (…) int64 ids, row after row of the grid."""
    place = (np.arcsinh(moved / FINENESS) / _LAST + 1) / 2 * MOTION_SIDE
    cell = np.clip(np.floor(place), 0, MOTION_SIDE - 1).astype(np.int64)
    return np.where(is_seen, cell[..., 1] * MOTION_SIDE + cell[..., 0], UNSEEN_MOTION)


@lru_cache(maxsize=8)
def blurred_cells(std: float) -> np.ndarray:
    """(V, V) float32: row i is what a target i is spread over, a Gaussian around the middle of its cell.

    std: in sides of the pose's box. Each row sums to 1; the id of the unseen stays alone.
    """
    centers = cell_centers()
    squares = np.square(centers[:, None] - centers).sum(-1)
    shares = np.exp(-squares / (2 * std**2))
    table = np.eye(len(centers) + 1, dtype=np.float32)
    table[:-1, :-1] = shares / shares.sum(1, keepdims=True)
    return table
