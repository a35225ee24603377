"""Time from one frame to the next."""

from __future__ import annotations

import numpy as np

from m3.tokens.gaps import decode_seconds
from m3.vocabularies.base import DecodingContext, WordsInterpreter


class SecondsInterpreter(WordsInterpreter):
    """Time from one frame to the next."""

    def words(self, ids: np.ndarray, context: DecodingContext) -> str:
        return f"{decode_seconds(ids)[0]:.2g} s"


INTERPRETER = SecondsInterpreter()
