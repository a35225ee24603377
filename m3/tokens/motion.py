"""The one codec between displacements of joints and motion tokens: cells of a grid, finer near zero."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from m3.core.modalities import MOTION_SIDE, UNSEEN_MOTION

FINENESS = 0.1
"""Displacement up to which cells have about equal size, in sides of the pose's box; beyond it their size grows."""

REACH = 1.0
"""Largest displacement along an axis, in the same unit; larger ones are clipped to the outermost cells."""

_ARCSINH_OF_REACH = np.arcsinh(REACH / FINENESS)


def grid_to_displacement(position: np.ndarray) -> np.ndarray:
    """(…) positions along an axis of the grid → (…) displacements in sides of the pose's box.

    Cell i reaches from position i to i + 1; positions are 0 … 33.
    """
    return FINENESS * np.sinh((2 * position / MOTION_SIDE - 1) * _ARCSINH_OF_REACH)


def cell_centers() -> np.ndarray:
    """(33 · 33, 2) displacement of each id, x then y, in sides of the pose's box; exactly 0 for the middle id."""
    along_axis = grid_to_displacement(np.arange(MOTION_SIDE) + 0.5)
    along_axis[MOTION_SIDE // 2] = 0.0
    return np.stack(np.meshgrid(along_axis, along_axis), axis=-1).reshape(-1, 2)


def encode_motion(displacement: np.ndarray, is_visible: np.ndarray) -> np.ndarray:
    """(…, 2) displacements in sides of the pose's box, (…) bool → (…) int64 ids in row-major order of the grid.

    The id is `UNSEEN_MOTION` where is_visible is False.
    """
    position = (np.arcsinh(displacement / FINENESS) / _ARCSINH_OF_REACH + 1) / 2 * MOTION_SIDE
    cell = np.clip(np.floor(position), 0, MOTION_SIDE - 1).astype(np.int64)
    return np.where(is_visible, cell[..., 1] * MOTION_SIDE + cell[..., 0], UNSEEN_MOTION)


@lru_cache(maxsize=8)
def blurred_cells(std: float) -> np.ndarray:
    """(V, V) float32 soft targets: row i is the distribution over ids of target i, a Gaussian around its cell.

    Each row sums to 1. `UNSEEN_MOTION` keeps all of its probability.

    Args:
        std: standard deviation in sides of the pose's box.
    """
    centers = cell_centers()
    squares = np.square(centers[:, None] - centers).sum(-1)
    shares = np.exp(-squares / (2 * std**2))
    table = np.eye(len(centers) + 1, dtype=np.float32)
    table[:-1, :-1] = shares / shares.sum(1, keepdims=True)
    return table
