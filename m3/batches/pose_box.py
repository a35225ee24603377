"""Poses in a frame of their own: the box around the pose at the middle of the canvas, at one size for all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from m3.core.joints import MIRRORED
from m3.core.modalities import NUM_JOINT_BINS

FILLED = 0.9
"""Share of the canvas's side that the larger side of a framed pose's box takes."""

SMALLEST_SIDE = 256.0
"""Bins (8 px of a canvas of 256) that a box measures at least, where all joints have fallen together."""

_MAX_BIN = NUM_JOINT_BINS - 1


class Frame(NamedTuple):
    """The box around a pose, visible or not.

    centre: (…, 2) float64 bins of the canvas. side: (…) float64, the larger side of the box, in bins.
    """

    centre: np.ndarray
    side: np.ndarray

    @staticmethod
    def of(poses: np.ndarray) -> Frame:
        """(…, 3, 13) joint tokens; joints without a place do not count."""
        is_placed = has_place(poses)[..., None, :]
        xy = poses[..., :2, :].astype(np.float64)  # (…, 2, 13)
        low = np.where(is_placed, xy, np.inf).min(-1)
        high = np.where(is_placed, xy, -np.inf).max(-1)
        is_empty = ~is_placed.any(-1)
        low, high = np.where(is_empty, 0, low), np.where(is_empty, _MAX_BIN, high)
        return Frame((low + high) / 2, np.maximum((high - low).max(-1), SMALLEST_SIDE))

    def fit(self, poses: np.ndarray) -> np.ndarray:
        """(…, 3, 13) joint tokens on the canvas → the same in this frame; a joint without a place stays at (0, 0)."""
        moved = (poses[..., :2, :] - self.centre[..., None]) / self.side[..., None, None] * FILLED + 0.5
        bins = np.clip(np.round(moved * _MAX_BIN), 0, _MAX_BIN).astype(np.int64)
        return np.concatenate([np.where(has_place(poses)[..., None, :], bins, 0), poses[..., 2:, :]], axis=-2)


def has_place(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens → (…, 13) bool: False for an invisible joint at (0, 0)."""
    return (poses > 0).any(axis=-2)


def mirrored(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens of poses → those of their mirror images; a joint without a place stays at (0, 0)."""
    poses = np.take(poses, MIRRORED, axis=-1).astype(np.int64)
    x = np.where(has_place(poses), _MAX_BIN - poses[..., 0, :], 0)
    return np.stack([x, poses[..., 1, :], poses[..., 2, :]], axis=-2)
