"""Verification finds each kind of damage, names its file, and goes on to the next."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from support.tiny_shards import small_manifest, tokenized_pair

from m3.core.types import TokenizedPair
from m3.shards.manifest import Manifest, pair_modalities
from m3.shards.verify import verify_dataset
from m3.shards.writer import write_shards


def write_data(root: Path, **splits: list[TokenizedPair]) -> None:
    shards = {split: write_shards(root, split, splits.get(split, []), 3) for split in ("train", "eval", "test")}
    num_clips = {split: len({pair.meta["clip"] for pair in splits.get(split, [])}) for split in shards}
    replace(small_manifest(), shards=shards, num_clips=num_clips).save(root)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(
        tmp_path,
        train=[tokenized_pair(number) for number in range(7)],
        eval=[tokenized_pair(number, "0002") for number in range(2)],
    )
    return tmp_path


def test_a_good_data_set_has_no_faults(data: Path):
    manifest, faults = verify_dataset(data)
    assert faults == [] and manifest == Manifest.load(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2048])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(("damage", "reason"), [
    (truncate, "000001.tar: sha256 .* damaged or was replaced"),
    (flip_a_bit, "000001.tar: sha256 .* damaged or was replaced"),
    (Path.unlink, "000001.tar: no such shard"),
])  # fmt: skip
def test_a_damaged_shard_is_named_and_the_others_still_checked(data: Path, damage: Callable[[Path], None], reason: str):
    damage(data / "train/000001.tar")
    flip_a_bit(data / "eval/000000.tar")
    (data / "test/000009.tar").write_bytes(b"")
    faults = verify_dataset(data)[1]
    assert len(faults) == 3
    assert re.search(reason, faults[0])
    assert "eval/000000.tar: sha256" in faults[1]
    assert faults[2].endswith("test/000009.tar: a shard that the manifest does not list")


def changed(number: int, **meta: object) -> TokenizedPair:
    pair = tokenized_pair(number)
    return replace(pair, meta={**pair.meta, **meta})


def lacking(number: int, name: str) -> TokenizedPair:
    pair = tokenized_pair(number)
    return replace(pair, tokens={key: ids for key, ids in pair.tokens.items() if key != name})


@pytest.mark.parametrize(("train", "reason"), [
    ([tokenized_pair(1), tokenized_pair(2), tokenized_pair(1)], "0001-000001: the same key is in train already"),
    ([changed(1, reference=2)], "0001-000001: meta.json is of clip 0001, reference frame 2"),
    ([replace(tokenized_pair(1), meta={"clip": "0001"})], "meta.json lacks reference, successor, ssim"),
    ([tokenized_pair(1, "0002")], "clip 0002 is in eval and train"),
    ([changed(1, ssim=None)], "0001-000001: meta.json has ssim of type NoneType, need float"),
    ([changed(1, fps=25)], "0001-000001: meta.json has fps of type int, need float"),
    ([changed(1, action=None)], "0001-000001: meta.json has action of type NoneType, need str"),
    ([changed(1, action="jump")], "0001-000001: action 'jump' is not among the manifest's"),
    ([changed(1, previous=1)], "meta.json has previous frame 1, which is not before reference 1"),
    ([changed(1, previous="0")], "meta.json has previous '0', need a whole number from -1 on"),
    ([replace(tokenized_pair(1), captions=("a", 2))], "0001-000001: captions.json is no list of texts"),
    ([lacking(1, "coords_next")], "0001-000001: no member coords_next.npy"),
    ([replace(tokenized_pair(1), tokens={**tokenized_pair(1).tokens, "tok_rgb": np.full((2, 3), 64_000, np.uint16)})],
     "tok_rgb.npy has id 64000, legal are 0 … 63999"),
])  # fmt: skip
def test_a_wrong_sample_is_named(tmp_path: Path, train: list[TokenizedPair], reason: str):
    write_data(tmp_path, train=train, eval=[tokenized_pair(5, "0002")])
    faults = verify_dataset(tmp_path)[1]
    assert len(faults) == 1 and reason in faults[0]


def test_previous_frames_are_where_meta_json_names_them(tmp_path: Path):
    def pair(number: int, previous: int, has_member: bool) -> TokenizedPair:
        made = changed(number, previous=previous)
        tokens = {"coords_prev": made.tokens["coords"]} if has_member else {}
        return replace(made, tokens={**made.tokens, **tokens})

    train = [pair(1, -1, False), pair(2, 1, True), pair(3, -1, True), pair(4, 3, False)]
    names = ("tok_rgb", "coords", "tok_rgb_next", "coords_next", "coords_prev")
    shards = {"train": write_shards(tmp_path, "train", train, 9), "eval": (), "test": ()}
    num_clips = {"train": 1, "eval": 0, "test": 0}
    replace(small_manifest(), modalities=pair_modalities((2, 3), names), shards=shards, num_clips=num_clips).save(
        tmp_path
    )
    faults = verify_dataset(tmp_path)[1]
    assert len(faults) == 2 and "0001-000003: a member coords_prev.npy, though" in faults[0]
    assert "0001-000004: no member coords_prev.npy" in faults[1]


def test_counts_and_text_tokenizer(data: Path):
    manifest = Manifest.load(data)
    (data / "text_tokenizer.json").write_text("{}")
    stored = {"file": "text_tokenizer.json", "sha256": sha256(b"{}").hexdigest(), "num_ids": 1}
    replace(manifest, text_tokenizer=stored, num_clips={**manifest.num_clips, "train": 2}).save(data)
    assert verify_dataset(data)[1] == ["train holds pairs of 1 clips, but 2 in the manifest"]
    (data / "text_tokenizer.json").write_text(json.dumps({"other": 1}))
    assert "not the text tokenizer that the manifest lists" in verify_dataset(data)[1][1]


def test_no_data_set(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="dataset.json"):
        verify_dataset(tmp_path)
