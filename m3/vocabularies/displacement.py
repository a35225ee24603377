"""Displacements of joints."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from m3.core.joints import JOINT_NAMES
from m3.core.palette import FAINT, INK, LEFT, MIDDLE, PAPER, RIGHT
from m3.tokens.displacement import decode_displacement
from m3.vocabularies.base import DecodingContext, Interpreter

_FIGURE = np.array([
    (0.5, 0.12), (0.62, 0.28), (0.38, 0.28), (0.72, 0.42), (0.28, 0.42), (0.78, 0.55), (0.22, 0.55),
    (0.58, 0.56), (0.42, 0.56), (0.6, 0.74), (0.4, 0.74), (0.61, 0.92), (0.39, 0.92),
])  # fmt: skip
"""(13, 2) places of the joints of a standing figure, in sides of a cell."""


class DisplacementInterpreter(Interpreter):
    """Displacements, drawn as arrows at the joints of a standing figure; joints that are not seen are crossed out."""

    def decode(
        self, ids: np.ndarray, is_known: np.ndarray, is_present: np.ndarray, context: DecodingContext
    ) -> np.ndarray:
        """(N, T + 1, 13, 2) float64 sides of the pose's box; NaN for joints that are not seen or not known."""
        moved, is_seen = decode_displacement(torch.from_numpy(ids))
        return np.where((is_seen.numpy() & is_known)[..., None], moved.numpy(), np.nan)

    def draw(self, value: np.ndarray, cell: Image.Image, canvas_size: int) -> Image.Image:
        picture = Image.new("RGB", cell.size, PAPER)
        pen, side = ImageDraw.Draw(picture), cell.width
        for name, at, moved in zip(JOINT_NAMES, _FIGURE * side, value):
            radius = side * 0.012
            if np.isnan(moved).any():
                pen.line([*(at - 2 * radius), *(at + 2 * radius)], FAINT, round(radius))
                continue
            color = {"left": LEFT, "right": RIGHT}.get(name.split("_")[0], MIDDLE)
            pen.ellipse([*(at - radius), *(at + radius)], INK)
            pen.line([*at, *(at + moved * side)], color, max(1, round(1.5 * radius)))
        return picture


INTERPRETER = DisplacementInterpreter()
