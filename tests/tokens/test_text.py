from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3.tokens.text import END_ID, PAD_ID, TextTokenizer, is_content, train_text_tokenizer

CAPTIONS = [f"a {who} {what}" for who in ("man", "woman", "person") for what in ("doing a golf swing", "bowling")] * 3
TOKENIZER = TextTokenizer(train_text_tokenizer(CAPTIONS, 400))


@given(st.text() | st.lists(st.sampled_from(["[PAD]", "[EOS]", "a", " ", "\n", "Ġ", "é", "e\u0301"])).map("".join))
def test_any_text_comes_back(text: str):
    ids, is_content = TOKENIZER.encode(text, 4 * len(text) + 3)  # a character has at most 4 bytes
    assert TOKENIZER.decode(ids) == text
    num_content = is_content.sum()
    assert is_content[:num_content].all() and ids[num_content - 1] == END_ID
    assert (ids[: num_content - 1] > END_ID).all()  # nothing in a text is padding or an end
    assert (ids[num_content:] == PAD_ID).all() and (ids[:num_content] != PAD_ID).all()
    assert ids.dtype == np.uint16 and ids.max() < TOKENIZER.num_ids


def merged_by_hand(text: str, stored: dict) -> list[int]:
    """A second implementation for words of ASCII letters: every word alone, the earliest rule first, left to right."""
    ids = []
    for number, word in enumerate(text.split(" ")):
        parts = [*("Ġ" if number else ""), *word]
        for left, right in stored["merges"]:
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == (left, right):
                    parts[place : place + 2] = [left + right]
                place += 1
        ids += [stored["vocab"][part] for part in parts]
    return ids


@pytest.mark.parametrize("text", ["a woman bowling", "a golf person swinging women", "owl bowl", "zebra"])
def test_ids_are_those_of_the_stored_merges(text: str):
    stored = json.loads(train_text_tokenizer(CAPTIONS, 400))["model"]
    expected = merged_by_hand(text, stored)
    ids, is_content = TOKENIZER.encode(text, 40)
    assert ids[is_content].tolist() == [*expected, END_ID]


def test_frequent_words_become_one_token():
    assert TOKENIZER.encode("a person bowling", 10)[1].sum() == 3 + 1


def test_truncated_captions_and_missing_captions():
    whole = TOKENIZER.encode("a person bowling", 4)[0]
    ids, is_content = TOKENIZER.encode("a person bowling", 2)
    assert is_content.all() and (ids == whole[:2]).all() and TOKENIZER.decode(ids) == "a person"
    assert TOKENIZER.decode(TOKENIZER.encode("é", 1)[0]) == "\N{REPLACEMENT CHARACTER}"
    ids, is_content = TOKENIZER.encode(None, 5)
    assert not is_content.any() and (ids == PAD_ID).all() and TOKENIZER.decode(ids) == ""
    ids, is_content = TOKENIZER.encode("", 3)
    assert ids.tolist() == [END_ID, PAD_ID, PAD_ID] and is_content.tolist() == [True, False, False]


def test_the_order_of_the_captions_does_not_matter():
    words = [
        "run",
        "jump",
        "throw",
        "kick",
        "bowl",
        "swing",
        "a",
        "man",
        "woman",
        "ball",
        "the",
        "on",
        "grass",
        "Ωmega",
    ]
    draw = random.Random(0)
    captions = [" ".join(draw.choices(words, k=6)) for _ in range(300)]
    trained = train_text_tokenizer(captions, 600)
    for _ in range(3):
        draw.shuffle(captions)
        assert train_text_tokenizer(iter(captions), 600) == trained
    program = (
        "import sys, json; from m3.tokens.text import train_text_tokenizer as t; "
        "sys.stdout.buffer.write(t(json.load(sys.stdin), 600).encode())"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "3", "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(captions).encode(), stdout=subprocess.PIPE, check=True, env=environment,
    )  # fmt: skip
    assert other.stdout.decode() == trained


def test_sizes():
    assert TextTokenizer(train_text_tokenizer([], 300)).num_ids == 258
    assert TextTokenizer(train_text_tokenizer(CAPTIONS, 258)).num_ids == 258
    assert TextTokenizer(train_text_tokenizer(CAPTIONS, 264)).num_ids == 264
    for wrong in (257, 65_537):
        with pytest.raises(ValueError, match=f"vocab_size={wrong}"):
            train_text_tokenizer(CAPTIONS, wrong)


def test_a_copy_in_another_process_treats_brackets_alike():
    copy = pickle.loads(pickle.dumps(TOKENIZER))
    assert copy.encode("an [EOS]", 9)[0].tolist() == TOKENIZER.encode("an [EOS]", 9)[0].tolist()


def test_illegal_ids_and_foreign_files_raise():
    for wrong in (-1, TOKENIZER.num_ids):
        with pytest.raises(ValueError, match=str(wrong)):
            TOKENIZER.decode(np.array([5, wrong]))
    with pytest.raises(ValueError, match="JSON of a text tokenizer"):
        TextTokenizer("{}")
    foreign = train_text_tokenizer(CAPTIONS, 300).replace("[PAD]", "[UNK]")
    with pytest.raises(ValueError, match="PAD"):
        TextTokenizer(foreign)


def test_content_ends_with_the_first_end() -> None:
    ids = torch.tensor([[5, 6, END_ID, 7, END_ID], [5, 6, 7, 8, 9], [END_ID, 5, 6, 7, 8], [5, PAD_ID, 6, END_ID, 7]])
    wanted = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert is_content(ids).int().tolist() == wanted
