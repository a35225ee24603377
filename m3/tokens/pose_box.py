"""Poses relative to the box around them: moved to the middle of the canvas and scaled to one size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from m3.core.joints import MIRRORED
from m3.core.modalities import NUM_JOINT_BINS

FILLED = 0.9
"""Larger side of the box of a normalized pose, as a share of the canvas's side."""

SMALLEST_SIDE = 256.0
"""Least side of a box in bins (8 px of a canvas of 256), for poses whose joints all have the same place."""

_MAX_BIN = NUM_JOINT_BINS - 1


class PoseBox(NamedTuple):
    """The box around all joints of a pose that have a place, also the invisible ones.

    center: (…, 2) float64 bins of the canvas. side: (…) float64, the larger side of the box in bins.
    """

    center: np.ndarray
    side: np.ndarray

    @staticmethod
    def around(poses: np.ndarray) -> PoseBox:
        """The boxes of poses, (…, 3, 13) joint tokens; that of a pose without any placed joint is the whole canvas."""
        is_placed = has_place(poses)[..., None, :]
        xy = poses[..., :2, :].astype(np.float64)  # (…, 2, 13)
        low = np.where(is_placed, xy, np.inf).min(-1)
        high = np.where(is_placed, xy, -np.inf).max(-1)
        is_empty = ~is_placed.any(-1)
        low, high = np.where(is_empty, 0, low), np.where(is_empty, _MAX_BIN, high)
        return PoseBox((low + high) / 2, np.maximum((high - low).max(-1), SMALLEST_SIDE))

    def normalize(self, poses: np.ndarray) -> np.ndarray:
        """(…, 3, 13) joint tokens on the canvas → relative to this box; a joint without a place stays at (0, 0)."""
        moved = (poses[..., :2, :] - self.center[..., None]) / self.side[..., None, None] * FILLED + 0.5
        bins = np.clip(np.round(moved * _MAX_BIN), 0, _MAX_BIN).astype(np.int64)
        return np.concatenate([np.where(has_place(poses)[..., None, :], bins, 0), poses[..., 2:, :]], axis=-2)


def has_place(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens → (…, 13) bool: False for an invisible joint at (0, 0)."""
    return np.asarray((poses > 0).any(axis=-2))


def mirrored(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens of poses → those of their mirror images; a joint without a place stays at (0, 0)."""
    poses = np.take(poses, MIRRORED, axis=-1).astype(np.int64)
    x = np.where(has_place(poses), _MAX_BIN - poses[..., 0, :], 0)
    return np.stack([x, poses[..., 1, :], poses[..., 2, :]], axis=-2)
