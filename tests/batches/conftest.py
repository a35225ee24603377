from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.streams import NUM_PAIRS
from support.tiny_shards import flippable_pair, small_manifest

from m3.shards.writer import write_shards


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A data set of 4 train shards of 16, 16, 16 and 2 pairs, with mirrored versions; its parent is what is served."""
    root = tmp_path_factory.mktemp("served") / "whole"
    pairs = [flippable_pair(number) for number in range(NUM_PAIRS)]
    shards = {"train": write_shards(root, "train", pairs, 16), "eval": write_shards(root, "eval", pairs[:21], 8)}
    replace(small_manifest(), variants=("flip",), shards={**shards, "test": ()}).save(root)
    return root
