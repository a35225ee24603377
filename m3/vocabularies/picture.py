"""Picture tokens."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from m3.core.modalities import PICTURE_STRIDE
from m3.core.palette import BLANK
from m3.tokens.base import to_frames
from m3.vocabularies.base import DecodingContext, Interpreter
from m3.vocabularies.lazy_pictures import MAX_BYTES, LazyPictures

_FRAMES_AT_ONCE = 64


class PictureInterpreter(Interpreter):
    """Grids of picture tokens, one for 16 × 16 pixels."""

    def decode(
        self, ids: np.ndarray, is_known: np.ndarray, is_present: np.ndarray, context: DecodingContext
    ) -> np.ndarray | LazyPictures:
        """(N, T + 1, H, W, 3) uint8 RGB: dark where a token is unknown, black where the frame is not present.

        More than `m3.vocabularies.lazy_pictures.MAX_BYTES` are decoded when they are looked at.
        """
        size, num_frames = context.canvas_size, is_present.size
        flat = ids.reshape(num_frames, -1), is_known.reshape(num_frames, -1), is_present.ravel()
        if num_frames * size**2 * 3 <= MAX_BYTES:
            return _decoded(flat[0], flat[1], flat[2], context).reshape(*is_present.shape, size, size, 3)

        def decode(frames: np.ndarray) -> np.ndarray:
            return _decoded(flat[0][frames], flat[1][frames], flat[2][frames], context)

        return LazyPictures(decode, np.arange(num_frames).reshape(is_present.shape), (size, size))

    def draw(self, value: np.ndarray, cell: Image.Image, canvas_size: int) -> Image.Image:
        picture = Image.fromarray(np.ascontiguousarray(value))
        return picture.resize(cell.size, Image.Resampling.LANCZOS)

    def stored_shape(self, length: int) -> tuple[int, ...]:
        side = round(length**0.5)
        return side, side


def _decoded(ids: np.ndarray, is_known: np.ndarray, is_present: np.ndarray, context: DecodingContext) -> np.ndarray:
    """(n, L) ids and is_known, (n,) is_present → (n, H, W, 3) uint8."""
    size, grid = context.canvas_size, context.canvas_size // PICTURE_STRIDE
    pictures = np.zeros((len(ids), size, size, 3), np.uint8)
    pictures[is_present] = BLANK
    where = np.flatnonzero(is_present & is_known.any(-1))
    for start in range(0, len(where), _FRAMES_AT_ONCE):
        rows = where[start : start + _FRAMES_AT_ONCE]
        with torch.inference_mode():
            decoded = to_frames(context.tokenizer.decode(torch.as_tensor(ids[rows]).view(-1, grid, grid)))
        is_seen = is_known[rows].reshape(-1, grid, grid, 1).repeat(PICTURE_STRIDE, 1).repeat(PICTURE_STRIDE, 2)
        pictures[rows] = np.where(is_seen, decoded, np.array(BLANK, np.uint8))
    return pictures


INTERPRETER = PictureInterpreter()
