"""The canvas: the square picture that is tokenized, and the one map between source frames and it.

Pictures and joints both go through a `Window`, so they can never disagree. Both use continuous pixels: (0, 0) is
the top-left corner of a picture and the center of its first pixel is (0.5, 0.5), so the map is one factor and one
offset per axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from PIL import Image

from m3.core.joints import Joints
from m3.core.modalities import PICTURE_STRIDE


@dataclass(frozen=True)
class Window:
    """The rectangle of the source frames of one clip that becomes the whole canvas.

    source_size: (height, width) of the frames, pixels.
    left, top, width, height: the rectangle, continuous source pixels; its parts outside the frame are black.
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
            raise ValueError(f"a frame of {frame.shape} {frame.dtype}: need {(*self.source_size, 3)} uint8")
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        side, (height, width) = self.canvas_size, self.source_size
        if box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height:
            return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC, box=box))
        # The frame fills whole canvas pixels: where its edge cuts one, the frame's border pixels are repeated.
        first, last = (self.to_canvas(np.array(edge)).clip(0, side).round() for edge in ((0.0, 0.0), (width, height)))
        last = np.maximum(last, first + 1)
        corner, far_corner = self.to_source(first), self.to_source(last)
        before, after = -np.floor(np.minimum(corner, 0)), np.ceil(np.maximum(far_corner - (width, height), 0))
        margins = np.stack([before, after], axis=1).astype(int)  # along x and y
        repeated = Image.fromarray(np.pad(frame, (margins[1], margins[0], (0, 0)), mode="edge"))
        part_width, part_height = (last - first).astype(int).tolist()
        box = (*(corner + before).tolist(), *(far_corner + before).tolist())
        part = repeated.resize((part_width, part_height), Image.Resampling.BICUBIC, box=box)
        canvas = Image.new("RGB", (side, side))
        canvas.paste(part, tuple(first.astype(int).tolist()))
        return np.asarray(canvas)

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
    """Chooses the rectangle of a clip's frames that fills the canvas.

    Args:
        size: side in pixels, a multiple of 16; 256 gives 16 × 16 picture tokens.

    mode: name of the way of choosing, for the manifest.
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
        """The window of a clip, the same for all of its frames.

        Args:
            source_size: (height, width) of the frames, pixels.
            joints: joints of the clip, read by canvases that center the person.
        """


class CropCanvas(Canvas):
    """The shorter side of the frame fills the canvas, the longer one is center-cropped."""

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


class PersonCanvas(Canvas):
    """A crop as large as that of `crop`, centered on the median of the clip's visible joints and kept inside the frame.

    It is constant within a clip. A clip without visible joints is center-cropped.
    """

    mode = "person"

    def window(self, source_size: tuple[int, int], joints: Joints | None = None) -> Window:
        height, width = source_size
        side = min(height, width)
        center = np.array([width / 2, height / 2])
        if joints is not None and joints.is_visible.any():
            center = np.median(joints.xy[joints.is_visible], axis=0)
        left, top = (center - side / 2).clip(0, (width - side, height - side)).tolist()
        return Window(source_size, left, top, side, side, self.size)


class ZoomCanvas(Canvas):
    """A square around all visible joints of the clip, with a margin, so that the person fills the canvas.

    It is constant within a clip and kept inside the frame: never larger than that of `crop`, nor so small that a source
    pixel becomes more than `MAX_ENLARGEMENT` canvas pixels wide. A clip without visible joints is center-cropped.
    """

    mode = "zoom"

    MARGIN = 0.12
    """On each side, in sides of the square around the joints: flesh, head and feet reach beyond the joints."""

    MAX_ENLARGEMENT = 2.0
    """Canvas pixels per source pixel."""

    def window(self, source_size: tuple[int, int], joints: Joints | None = None) -> Window:
        height, width = source_size
        side, center = float(min(height, width)), np.array([width / 2, height / 2])
        if joints is not None and joints.is_visible.any():
            seen = joints.xy[joints.is_visible].clip(0, (width, height))  # (N, 2); a joint may lie outside the frame
            low, high = seen.min(axis=0), seen.max(axis=0)
            wanted = max((high - low).max() * (1 + 2 * self.MARGIN), self.size / self.MAX_ENLARGEMENT)
            side, center = min(side, float(wanted)), (low + high) / 2
        left, top = (center - side / 2).clip(0, (width - side, height - side)).tolist()
        return Window(source_size, left, top, side, side, self.size)


class PadCanvas(Canvas):
    """The whole frame on the canvas, at one scale, with black bars beside or above and below it."""

    mode = "pad"

    def window(self, source_size: tuple[int, int], joints: Joints | None = None) -> Window:
        height, width = source_size
        side = max(height, width)
        return Window(source_size, (width - side) / 2, (height - side) / 2, side, side, self.size)


CANVASES = {canvas.mode: canvas for canvas in (CropCanvas, StretchCanvas, PersonCanvas, ZoomCanvas, PadCanvas)}
"""Mode → class."""
