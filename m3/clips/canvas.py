"""The canvas: the square picture that tokens are made of, and the one map between it and the source.

Pictures and joints both go through a `Window`, so they can never disagree. Both use continuous pixels: (0, 0) is
the top-left corner of a picture and the centre of its first pixel is (0.5, 0.5), so the map is one factor and one
offset per axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from PIL import Image

from m3.modalities import PICTURE_STRIDE
from m3.records import Joints


@dataclass(frozen=True)
class Window:
    """The rectangle of the source frames of one clip that becomes the whole canvas.

    source_size: (height, width) of the frames, pixels.
    left, top, width, height: the rectangle, continuous source pixels, within the frame.
    canvas_size: side of the canvas, pixels.
    """

    source_size: tuple[int, int]
    left: float
    top: float
    width: float
    height: float
    canvas_size: int

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels per source pixel, along x and y."""
        return self.canvas_size / self.width, self.canvas_size / self.height

    def picture(self, frame: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 source frame → (canvas_size, canvas_size, 3) uint8, antialiased."""
        if frame.shape != (*self.source_size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"a frame of {frame.shape} {frame.dtype} in a window for {(*self.source_size, 3)} uint8")
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        side = self.canvas_size
        return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC, box=box))

    def to_canvas(self, xy: np.ndarray) -> np.ndarray:
        """(…, 2) source pixels → (…, 2) canvas pixels, nothing clipped."""
        return (xy - (self.left, self.top)) * self.scale

    def to_source(self, xy: np.ndarray) -> np.ndarray:
        """(…, 2) canvas pixels → (…, 2) source pixels."""
        return xy / self.scale + (self.left, self.top)

    def joints(self, joints: Joints) -> Joints:
        """Joints in canvas pixels; those outside the canvas keep their coordinates and become invisible."""
        xy = self.to_canvas(joints.xy)
        is_inside = ((xy >= 0) & (xy <= self.canvas_size)).all(axis=-1)  # (T, 13)
        return Joints(xy, joints.is_visible & is_inside)


class Canvas(ABC):
    """Where on the canvas a source frame goes.

    Args:
        size: side in pixels, a multiple of 16; 256 gives 16 × 16 picture tokens.

    mode: the canvas's name, for the manifest.
    """

    mode: str

    def __init__(self, size: int) -> None:
        if not isinstance(size, int) or size < PICTURE_STRIDE or size % PICTURE_STRIDE:
            raise ValueError(f"canvas.size={size!r}: need a positive multiple of {PICTURE_STRIDE}, such as 128 or 256")
        self.size = size

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of picture tokens."""
        return self.size // PICTURE_STRIDE, self.size // PICTURE_STRIDE

    @abstractmethod
    def window(self, source_size: tuple[int, int], joints: Joints | None = None) -> Window:
        """The window for frames of (height, width); the same for all frames of a clip.

        joints: of the clip, for a canvas that follows the person.
        """


class CropCanvas(Canvas):
    """The shorter side of the frame fills the canvas, the longer one is cropped at its centre."""

    mode = "crop"

    def window(self, source_size: tuple[int, int], joints: Joints | None = None) -> Window:
        height, width = source_size
        side = min(height, width)
        return Window(source_size, (width - side) / 2, (height - side) / 2, side, side, self.size)


class StretchCanvas(Canvas):
    """The whole frame fills the canvas; its two axes are scaled independently."""

    mode = "stretch"

    def window(self, source_size: tuple[int, int], joints: Joints | None = None) -> Window:
        height, width = source_size
        return Window(source_size, 0.0, 0.0, width, height, self.size)
