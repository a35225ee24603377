"""Pictures that are decoded when they are looked at: the same files and scores, and few of them in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.random_world import config

from m3.commands import generate
from m3.vocabularies import lazy_pictures, picture
from m3.vocabularies.lazy_pictures import LazyPictures


def test_scores_and_pictures_do_not_depend_on_how_many_are_in_memory(random_world: Path, tmp_path: Path, monkeypatch):
    options = ("rollout.frames=2", "rollout.num_samples=2", "pictures.num_reported=0", "pictures.cell_px=32")
    whole = generate.run(config(random_world, f"out={tmp_path}/whole", *options))
    assert isinstance(whole.made.predicted.values["tok_rgb"], np.ndarray)
    monkeypatch.setattr(picture, "MAX_BYTES", 0)
    monkeypatch.setattr(lazy_pictures, "_BLOCK", 2)
    monkeypatch.setattr(lazy_pictures, "_BLOCKS_IN_MEMORY", 1)
    lazy = generate.run(config(random_world, f"out={tmp_path}/lazy", *options))
    assert isinstance(lazy.made.predicted.values["tok_rgb"], LazyPictures)
    for name in ("metrics.json", "rollout.png", "scores.png"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "lazy"))
        assert one == other, name


def test_a_lazy_array_is_indexed_like_an_array_and_keeps_few_blocks():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 5, 4, 4, 3)).astype(np.uint8)
    flat, decoded = pictures.reshape(30, 4, 4, 3), []

    def decode(frames: np.ndarray) -> np.ndarray:
        decoded.append(len(frames))
        return flat[frames]

    lazy = LazyPictures(decode, np.arange(30).reshape(6, 5), (4, 4))
    assert lazy.shape == pictures.shape and len(lazy) == 6 and lazy.dtype == np.uint8
    for index in [(2, 3), slice(1, 4), (slice(None), 0), (slice(None), np.zeros(5, int)), np.array([5, 0]), 3]:
        assert np.array_equal(np.asarray(lazy[index]), pictures[index]), index
    assert np.array_equal(np.concatenate([lazy[:, :1], lazy[:, 1:]], 1), pictures)
    assert [np.array_equal(one, other[0]) for one, other in zip(lazy[:, 0], pictures)] == [True] * 6
    assert sum(decoded) == 30  # 30 frames fit into one block: decoded once
    with pytest.raises(IndexError):
        lazy[6]
