"""Joint tokens."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from m3.core.frames import Poses
from m3.core.joints import JOINT_NAMES, LIMBS, NUM_JOINTS
from m3.core.palette import LEFT, MIDDLE, OUTLINE, RIGHT
from m3.vocabularies.base import DecodingContext, Interpreter

_SUPERSAMPLING = 3


class JointInterpreter(Interpreter):
    """Poses of 13 joints, drawn as skeletons onto the picture of their frame."""

    is_overlay = True

    def decode(self, ids: np.ndarray, is_known: np.ndarray, is_present: np.ndarray, context: DecodingContext) -> Poses:
        """Unknown joints are invisible."""
        known = ids * is_known
        return Poses(*context.codec.decode(known.reshape(*is_present.shape, *self.stored_shape(known.shape[-1]))))

    def draw(self, value: Poses, cell: Image.Image, canvas_size: int) -> Image.Image:
        return draw_skeleton(cell, value.xy * (cell.width / canvas_size), value.is_visible)

    def stored_shape(self, length: int) -> tuple[int, ...]:
        return length // NUM_JOINTS, NUM_JOINTS


def draw_skeleton(picture: Image.Image, xy: np.ndarray, is_visible: np.ndarray) -> Image.Image:
    """The picture with the visible joints and the limbs between them drawn on it, anti-aliased.

    Args:
        picture: RGB.
        xy: (13, 2) pixels of the picture.
        is_visible: (13,) bool; an invisible joint is not drawn, nor a limb that ends in one.
    """
    size = picture.width * _SUPERSAMPLING, picture.height * _SUPERSAMPLING
    scale = _SUPERSAMPLING * min(picture.size) / 256
    layer = Image.new("RGBA", size)
    pen = ImageDraw.Draw(layer)
    points = {name: tuple(xy[j] * _SUPERSAMPLING) for j, name in enumerate(JOINT_NAMES) if is_visible[j]}
    segments = [(points[a], points[b], _color(a, b)) for a, b in LIMBS if a in points and b in points]
    if {"head", "left_shoulder", "right_shoulder"} <= points.keys():
        neck = tuple(np.mean([points["left_shoulder"], points["right_shoulder"]], axis=0))
        segments.insert(0, (points["head"], neck, MIDDLE))
    for widening, opaque in ((2.4, False), (0.0, True)):
        for start, end, color in segments:
            width = round((3.4 + widening) * scale)
            pen.line([start, end], fill=(*color, 255) if opaque else OUTLINE, width=width)
        for name, (x, y) in points.items():
            radius = (3.0 + widening / 2) * scale
            color = (*_color(name, name), 255) if opaque else OUTLINE
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
    drawn = picture.convert("RGBA")
    drawn.alpha_composite(layer.resize(picture.size, Image.Resampling.BOX))
    return drawn.convert("RGB")


def _color(a: str, b: str) -> tuple[int, int, int]:
    sides = {name.split("_")[0] for name in (a, b)}
    return LEFT if sides == {"left"} else RIGHT if sides == {"right"} else MIDDLE


INTERPRETER = JointInterpreter()
