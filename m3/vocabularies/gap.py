"""Frames from one frame to the next."""

from __future__ import annotations

import numpy as np

from m3.tokens.gaps import decode_gap
from m3.vocabularies.base import DecodingContext, WordsInterpreter


class GapInterpreter(WordsInterpreter):
    """Frames from one frame to the next."""

    def words(self, ids: np.ndarray, context: DecodingContext) -> str:
        num_frames = int(decode_gap(ids)[0])
        return f"{num_frames} frame" if num_frames == 1 else f"{num_frames} frames"


INTERPRETER = GapInterpreter()
