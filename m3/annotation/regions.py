"""Rotated rectangles of a frame, and the pictures in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Region:
    """A rectangle of a frame, turned clockwise on the screen.

    x, y: its center, continuous pixels.
    width, height: its sides, pixels.
    angle: radians; 0 is upright.
    """

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0

    @property
    def axes(self) -> np.ndarray:
        """(2, 2): its whole width as a vector of the frame, and its whole height."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos * self.width, sin * self.width], [-sin * self.height, cos * self.height]])

    def to_frame(self, uv: np.ndarray) -> np.ndarray:
        """(…, 2) places in the region, 0 … 1 from its left top corner → (…, 2) pixels of the frame."""
        return (uv - 0.5) @ self.axes + (self.x, self.y)

    def is_finite(self) -> bool:
        """False for what a network may give for a picture that shows nobody."""
        return all(map(math.isfinite, (self.x, self.y, self.width, self.height, self.angle)))

    def crop(self, frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(H, W, 3) uint8 frame → (height, width, 3) uint8 of `size`; what is outside the frame repeats its border."""
        height, width = size
        corners = self.to_frame(np.array([[0.0, 0.0], [1, 0], [0, 1], [1, 1]]))
        step = max(1, int(min(self.width / width, self.height / height)))  # blocks to average first
        low = np.floor(corners.min(0)).astype(int) - step
        high = np.ceil(corners.max(0)).astype(int) + step
        bounds = np.array(frame.shape[1::-1])
        inner_low, inner_high = low.clip(0, bounds - 1), high.clip(1, bounds)
        inner_high = np.maximum(inner_high, inner_low + 1)
        part = frame[inner_low[1] : inner_high[1], inner_low[0] : inner_high[0]]
        picture = Image.fromarray(np.ascontiguousarray(part))
        if step > 1:
            picture = picture.reduce(step)
        # Pixels of `picture` as a function of those of the crop: an affine map.
        along_u, along_v = self.axes / (np.array([[width], [height]]) * step)
        start = (self.to_frame(np.zeros(2)) - inner_low) / step
        outside = (low < inner_low) | (high > inner_high)
        if outside.any():
            picture, margin = _repeated(
                np.asarray(picture), -(-(inner_low - low) // step), -(-(high - inner_high) // step)
            )
            start = start + margin
        matrix = (along_u[0], along_v[0], start[0], along_u[1], along_v[1], start[1])
        cropped = picture.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(cropped)


def _repeated(picture: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """The picture with its border repeated by (x, y) pixels, and the shift of its origin."""
    height, width = picture.shape[:2]
    columns = np.arange(-max(before[0], 0), width + max(after[0], 0)).clip(0, width - 1)
    rows = np.arange(-max(before[1], 0), height + max(after[1], 0)).clip(0, height - 1)
    return Image.fromarray(picture.take(rows, axis=0).take(columns, axis=1)), before.clip(0)
