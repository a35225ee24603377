"""Captions."""

from __future__ import annotations

import numpy as np

from m3.vocabularies.base import DecodingContext, WordsInterpreter


class TextInterpreter(WordsInterpreter):
    """Captions."""

    def words(self, ids: np.ndarray, context: DecodingContext) -> str:
        return "" if context.text_tokenizer is None else context.text_tokenizer.decode(ids)


INTERPRETER = TextInterpreter()
