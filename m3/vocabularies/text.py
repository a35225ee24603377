"""Captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3.core.frames import Frames
from m3.metrics.comparison import Comparison
from m3.metrics.measures import Ratio
from m3.metrics.specs import MODEL_ONLY, MetricSpec
from m3.tokens.text import END_ID
from m3.vocabularies.base import DecodingContext, WordsInterpreter


class TextInterpreter(WordsInterpreter):
    """Captions."""

    def words(self, ids: np.ndarray, context: DecodingContext) -> str:
        return "" if context.text_tokenizer is None else context.text_tokenizer.decode(ids)

    def metrics(self, modality: str) -> Sequence[MetricSpec]:
        def exact(frames: Frames, compared: Comparison) -> Ratio | None:
            tokens, true = frames.tokens, compared.truth.tokens
            if tokens is None or true is None or modality not in tokens.ids or modality not in true.ids:
                return None
            is_there, is_true = (each.is_known[modality].any(-1) & each.is_present for each in (tokens, true))
            is_scored = (is_there & is_true)[:, 1:]
            # A truth without [EOS] was cut off: no text that the model can generate is as long.
            is_whole = (true.ids[modality] == END_ID).any(-1)
            is_exact = is_whole & (frames.values[modality] == compared.truth.values[modality])
            return Ratio(np.where(is_scored, is_exact[:, 1:], False).astype(float), is_scored.astype(float))

        return [
            MetricSpec(
                f"{modality}_exact", modality, exact, "share", "higher", f"{modality} exactly right",
                f"share of {modality} whose text is the truth's, to the letter",
                f"no text of {modality}: the model or the ground truth has none",
                is_percent=True, short=f"{modality} exact", series=MODEL_ONLY, is_of_tokens=True,
            )
        ]  # fmt: skip


INTERPRETER = TextInterpreter()
