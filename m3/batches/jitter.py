"""Poses at other places: mirrored, zoomed and shifted on the canvas, as a pure function of seed, epoch and sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3.clips.mirror import MIRRORED
from m3.modalities import NUM_JOINT_BINS
from m3.seeds import SampleGenerator
from m3.settings import require

_MAX_BIN = NUM_JOINT_BINS - 1


@dataclass(frozen=True)
class Jitter:
    """How far poses are moved; all of a sample's poses together, so that the motion between them stays one.

    flip: probability of the mirror image, left and right joints exchanged.
    zoom: the factor is exp(u), u uniform in ± this, about the middle of the canvas.
    shift: along x and along y, uniform in ± this, in sides of the canvas.
    """

    flip: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        for key in ("flip", "zoom", "shift"):
            require(f"data.jitter.{key}", getattr(self, key), float, low=0, high=1)

    def __call__(self, poses: np.ndarray, generator: SampleGenerator) -> np.ndarray:
        """(B, P, 3, 13) joint tokens of B samples → the same, moved; `generator` has B streams.

        A joint that leaves the canvas becomes invisible at (0, 0), and one that lies there unseen stays there: it has
        no place (`m3.tokens.joints`).
        """
        uniform = generator.uniform(4).numpy()[:, :, None, None]  # (B, 4, 1, 1)
        poses = np.where((uniform[:, 0] < self.flip)[..., None], mirrored(poses), poses)
        xy, is_visible = poses[:, :, :2], poses[:, :, 2] > 0  # (B, P, 2, 13), (B, P, 13)
        zoom = np.exp(self.zoom * (2 * uniform[:, 1:2] - 1))  # (B, 1, 1, 1)
        shift = self.shift * (2 * uniform[:, 2:4, 0] - 1)[:, None] * _MAX_BIN  # (B, 1, 2, 1)
        moved = np.round((xy - _MAX_BIN / 2) * zoom + _MAX_BIN / 2 + shift)
        is_inside = ((moved >= 0) & (moved <= _MAX_BIN)).all(2) & (is_visible | has_place(poses))  # (B, P, 13)
        moved = np.where(is_inside[:, :, None], moved, 0)
        return np.concatenate([moved, (is_visible & is_inside)[:, :, None]], axis=2).astype(np.int64)


def has_place(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens → (…, 13) bool: False for an invisible joint at (0, 0)."""
    return (poses > 0).any(axis=-2)


def mirrored(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens of poses → those of their mirror images; a joint without a place stays at (0, 0)."""
    poses = np.take(poses, MIRRORED, axis=-1).astype(np.int64)
    x = np.where(has_place(poses), _MAX_BIN - poses[..., 0, :], 0)
    return np.stack([x, poses[..., 1, :], poses[..., 2, :]], axis=-2)
