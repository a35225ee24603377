"""What docs/published.md shows to readers of 4M and of Hugging Face datasets, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from support.preprocess_runs import config
from support.tiny_world import write_world

import preprocess
from m3.batches.table import TokenTable
from m3.shards.manifest import Manifest

PAGE = Path(preprocess.__file__).parent / "docs/published.md"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """With previous frames, which the first pair of each clip lacks, mirror images, and clips without an action."""
    root = tmp_path_factory.mktemp("data")
    write_world(root / "world", 6)
    preprocess.run(config(root / "world", root / "out", "augment.flip=true", "split.ratios=[1,0,0]"))
    return root / "out"


def shown(number: int) -> str:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[number]


def test_readers_of_4m(data: Path) -> None:
    code = shown(0).replace("outputs/data/NAME/train/{000000..000010}.tar", str(data / "train/000000.tar"))
    space: dict = {}
    exec(code, space)
    rows, samples = TokenTable.open(data, "train"), list(space["pairs"])
    assert len(samples) == len(rows) > 6
    for row, sample in zip(rows.columns(("tok_rgb", "coords_next")), samples):
        assert np.array_equal(row, np.concatenate([sample["tok_rgb"], sample["coords_next"]]))


@pytest.mark.parametrize("is_streaming", [True, False])
def test_hugging_face_reads_every_sample(data: Path, tmp_path: Path, monkeypatch, is_streaming: bool) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    code = shown(1).replace("outputs/data/NAME", str(data)).replace("streaming=True", f"streaming={is_streaming}")
    space: dict = {}
    exec(code, space)
    samples, table = list(space["pairs"]), TokenTable.open(data, "train")
    assert len(samples) == len(table)
    for sample, info, row in zip(samples, table.pairs, table.columns(("coords",))):
        assert sample["__key__"].endswith(info.key) and sample["meta.json"]["action"] == (info.action or "")
        assert np.array_equal(np.ravel(sample["coords.npy"]), row)
        assert (sample["tok_rgb_prev.npy"] is None) == (info.previous is None)
    assert any(sample["coords_prev.npy"] is None for sample in samples)
    assert any(sample["coords_prev.flip.npy"] is not None for sample in samples)
    assert set(samples[0]) == {*space["features_of"](Manifest.load(data))}
