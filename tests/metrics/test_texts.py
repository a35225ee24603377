"""Scores of captions, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.random_roll_outs import by_name

from m3.core.frames import Frames, TokenFrames
from m3.core.modalities import ModalityTable
from m3.metrics import Comparison
from m3.tokens.mini import MiniTokenizer
from m3.tokens.text import TextTokenizer, train_text_tokenizer
from m3.vocabularies import DecodingContext, decode, interpreters_of, metrics_of

LENGTH = 6
TABLE = ModalityTable(("captions", "coords"), [300, 8192], (LENGTH, 39), [1, 1], [1, 1], [1, 6], [1, 6])
WORDS = ["a cat sat", "a cat", "a dog sat"]
TOKENIZER = TextTokenizer(train_text_tokenizer(WORDS * 5, 300))
METRICS = {name: spec for name, spec in metrics_of(TABLE).items() if spec.modality == "captions"}


def frames(texts: list[str | None]) -> Frames:
    """(N, 2) frames with the same caption in both; None: not known."""
    encoded = [TOKENIZER.encode(text, LENGTH) for text in texts]
    ids, is_known = (np.stack([part, part], 1) for part in (np.stack(each) for each in zip(*encoded)))
    shape = len(texts), 2
    tokens = TokenFrames({"captions": ids.astype(np.int64)}, {"captions": is_known}, np.ones(shape, bool))
    return decode(tokens, interpreters_of(TABLE), DecodingContext(MiniTokenizer(), 32, (), TOKENIZER))


def scores(predicted: list[str | None], true: list[str | None]) -> dict[str, float | None]:
    compared = Comparison(frames(predicted), frames(true), np.full(len(true), 20.0))
    return {name: score.model[0] for name, score in by_name(compared, METRICS).items()}


def test_the_texts_are_known_to_the_tokenizer() -> None:
    assert [TOKENIZER.num_tokens(text) for text in WORDS] == [4, 3, 4]  # words, and [EOS]


def test_captions_are_right_to_the_letter() -> None:
    assert scores(["a cat sat", "a cat", "a dog sat", None], ["a cat sat", "a cat sat", "a cat sat", "a cat"]) == {
        "captions_exact": pytest.approx(1 / 3),
        # of 4 tokens each: all, "a cat" of "a cat sat [EOS]", all but "dog"
        "captions_accuracy": pytest.approx((4 + 2 + 3) / 12),
    }


def test_a_sentence_that_was_cut_off_is_never_right() -> None:
    long = "a cat sat a dog sat a cat"
    assert TOKENIZER.num_tokens(long) > LENGTH
    found = scores([long, "a cat"], [long, "a cat"])
    assert found == {"captions_exact": pytest.approx(1 / 2), "captions_accuracy": 1.0}


def test_another_spelling_of_the_same_text_is_right() -> None:
    compared = Comparison(frames(["a cat"]), frames(["a cat"]), np.full(1, 20.0))
    ids = [TOKENIZER.encode(letter, 2)[0][0] for letter in ("a", " ", "c", "a", "t")]
    tokens = compared.predicted.tokens
    assert tokens is not None
    spelled = np.broadcast_to(np.array([*ids, 1]), (1, 2, LENGTH)).astype(np.int64)
    tokens = TokenFrames({"captions": spelled}, {"captions": np.ones(spelled.shape, bool)}, tokens.is_present)
    predicted = decode(tokens, interpreters_of(TABLE), DecodingContext(MiniTokenizer(), 32, (), TOKENIZER))
    assert by_name(replace(compared, predicted=predicted), METRICS)["captions_exact"].model == [1.0]


def test_they_have_no_baselines() -> None:
    compared = Comparison(frames(["a cat"] * 3), frames(WORDS), np.full(3, 20.0), samples=[frames(WORDS)] * 2)
    for score in by_name(compared, METRICS).values():
        assert set(score.series) == {"model", "sample", "best_of_n", "median_of_n"} and not score.gains
    assert by_name(compared, METRICS)["captions_exact"].series["best_of_n"].value == [1.0]
