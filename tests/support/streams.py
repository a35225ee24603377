"""Shards that are read as a stream, and the settings of a training on them."""

from __future__ import annotations

from pathlib import Path

from m3.batches.stream import StreamedSplit
from m3.shards.manifest import Manifest
from support.tiny_shards import modality_table

NUM_PAIRS = 50
"""Of the train split of the data set that the tests of streams read."""

STREAM = ["data.backend=stream", "data.shuffle_buffer=9"]


def split_at(root: str | Path, split: str = "train", buffer: int | None = 7, **options) -> StreamedSplit:
    return StreamedSplit(str(root), Manifest.load(str(root)), split, modality_table(), 3, buffer, **options)
