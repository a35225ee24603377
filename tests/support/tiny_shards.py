"""Pairs of random tokens, their manifest, their modality table, and the rows of their token table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from m3.core.modalities import ModalityTable
from m3.core.types import FramePair, Rejection, TokenizedPair
from m3.shards.manifest import Manifest, Shard, pair_modalities
from m3.shards.meta import pair_meta


def tokenized_pair(number: int, clip: str = "0001", captions: tuple[str, ...] = ("a person walking",)) -> TokenizedPair:
    """Pair `number` of a clip, without a previous frame."""
    rng = np.random.default_rng(number)
    tokens = {
        "tok_rgb": rng.integers(0, 64_000, (2, 3)), "coords": rng.integers(0, 2, (3, 13)),
        "tok_rgb_next": rng.integers(0, 64_000, (2, 3)), "coords_next": rng.integers(0, 2, (3, 13)),
    }  # fmt: skip
    meta = pair_meta(FramePair(number, number + 1, 0.5), clip, "walk", {"mode": "crop", "size": 48}, 30.0, 25.0)
    return TokenizedPair(f"{clip}-{number:06d}", {k: v.astype(np.uint16) for k, v in tokens.items()}, captions, meta)


def small_manifest() -> Manifest:
    return Manifest(
        settings={"canvas": {"size": 48}},
        source={"name": "world", "fingerprint": "ab"},
        canvas={"mode": "crop", "size": 48},
        modalities=pair_modalities((2, 3)),
        has_joints=True,
        variants=(),
        captioner={"name": "none", "fingerprint": None, "settings": {}},
        text_tokenizer=None,
        tokenizer={"name": "mini", "fingerprint": "cd", "settings": {}},
        num_clips={"train": 2, "eval": 1, "test": 0},
        shards={
            "train": (Shard("train/000000.tar", 5, "00"), Shard("train/000001.tar", 2, "11")),
            "eval": (Shard("eval/000000.tar", 1, "22"),),
            "test": (),
        },  # fmt: skip
        rejected=(Rejection("0009", "no JPEGs"),),
        notes=({"clip": "0001", "note": "odd"},),
        statistics={"visible_joints": 0.5},
        actions=("run", "walk"),
    )


NAMES = ("tok_rgb", "coords", "tok_rgb_next", "coords_next")


def modality_table(names: tuple[str, ...] = NAMES, lengths: tuple[int, ...] = (6, 39, 6, 39)) -> ModalityTable:
    ones = [1] * len(names)
    return ModalityTable(names, [65536] * len(names), lengths, ones, ones, [4, 20], [4, 20])


def flippable_pair(number: int) -> TokenizedPair:
    pair = tokenized_pair(number)
    flipped = {f"{name}.flip": ids for name, ids in tokenized_pair(1000 + number).tokens.items()}
    return replace(pair, tokens={**pair.tokens, **flipped})


def row_of(number: int, names: tuple[str, ...] = NAMES) -> np.ndarray:
    tokens = tokenized_pair(number).tokens
    return np.concatenate([tokens[name].ravel() for name in names])
