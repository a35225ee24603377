"""The one codec between joints on the canvas and their tokens."""

from __future__ import annotations

import numpy as np

from m3.core.joints import NUM_JOINTS
from m3.core.modalities import NUM_JOINT_BINS

_MAX_BIN = NUM_JOINT_BINS - 1


class JointCodec:
    """Canvas pixels ↔ ids 0 … 8,191 for x and y, 0/1 for visibility.

    The round-trip error of a point on the canvas is at most half a bin: 0.0157 px on a canvas of 256 px.

    Args:
        canvas_size: side of the canvas, pixels.

    Raises ValueError for a size below 1.
    """

    def __init__(self, canvas_size: int) -> None:
        if canvas_size < 1:
            raise ValueError(f"canvas_size={canvas_size}: need a positive number of pixels")
        self.canvas_size = canvas_size

    def encode(self, xy: np.ndarray, is_visible: np.ndarray) -> np.ndarray:
        """(…, 13, 2) canvas pixels, (…, 13) bool → (…, 3, 13) uint16: rows x, y, visibility.

        x and y of an invisible joint are encoded if they are on the canvas, else they are 0.
        Raises ValueError for a visible joint outside the canvas.
        """
        xy, is_visible = np.asarray(xy, dtype=np.float64), np.asarray(is_visible)
        if xy.shape[-2:] != (NUM_JOINTS, 2) or is_visible.shape != xy.shape[:-1] or is_visible.dtype != bool:
            raise ValueError(
                f"need xy (…, {NUM_JOINTS}, 2) and is_visible (…, {NUM_JOINTS}) bool, "
                f"got {xy.shape} and {is_visible.shape} {is_visible.dtype}"
            )
        is_inside = np.all((xy >= 0) & (xy <= self.canvas_size), axis=-1)  # (…, 13); False for NaN
        if (is_visible & ~is_inside).any():
            where = xy[is_visible & ~is_inside][0].tolist()
            raise ValueError(f"visible joint at {where} is not on the canvas of {self.canvas_size} px")
        xy = np.where(is_inside[..., None], xy, 0.0)
        bins = np.clip(np.round(xy / self.canvas_size * _MAX_BIN), 0, _MAX_BIN)  # (…, 13, 2)
        return np.stack([bins[..., 0], bins[..., 1], is_visible], axis=-2).astype(np.uint16)  # (…, 3, 13)

    def decode(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(…, 3, 13) integer ids → (…, 13, 2) float64 canvas pixels, (…, 13) bool visibility.

        Raises ValueError for an illegal id.
        """
        tokens = np.asarray(tokens)
        if tokens.shape[-2:] != (3, NUM_JOINTS) or tokens.dtype.kind not in "ui":
            raise ValueError(f"need integer tokens (…, 3, {NUM_JOINTS}), got {tokens.shape} {tokens.dtype}")
        bins, visibility = tokens[..., :2, :], tokens[..., 2, :]
        if ((bins < 0) | (bins > _MAX_BIN)).any() or ((visibility < 0) | (visibility > 1)).any():
            raise ValueError(
                f"illegal joint token: x and y must be 0 … {_MAX_BIN} (found {bins.min()} … {bins.max()}), "
                f"visibility 0 or 1 (found {visibility.min()} … {visibility.max()})"
            )
        xy = np.swapaxes(bins.astype(np.float64), -1, -2) * self.canvas_size / _MAX_BIN  # (…, 13, 2)
        return xy, visibility.astype(bool)
