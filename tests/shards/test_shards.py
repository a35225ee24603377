"""Split, manifest and shards: nothing lost, nothing twice, readable by webdataset alone, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_shards import small_manifest, tokenized_pair

from m3.core.types import FramePair, Rejection, TokenizedPair
from m3.preprocessing.staging import StagedClip, Staging
from m3.shards.manifest import Manifest, manifest_hash
from m3.shards.split import SPLITS, ClipPairs, OfficialSplit, RandomSplit, split_output_dataset
from m3.shards.writer import write_shards

# ── split ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_published_ratios():
    divided = split_output_dataset(range(100))
    assert {split: len(units) for split, units in divided.items()} == {"train": 80, "eval": 10, "test": 10}
    assert divided == split_output_dataset(range(100), seed=42) != split_output_dataset(range(100), seed=43)
    assert divided["train"] != sorted(divided["train"])


@given(st.integers(3, 200), st.tuples(*[st.floats(0.01, 1)] * 3), st.integers(0, 5))
def test_every_unit_once_and_no_split_empty(num_units: int, weights: tuple[float, ...], seed: int):
    ratios = [weight / sum(weights) for weight in weights]
    divided = split_output_dataset(range(num_units), ratios, seed)
    assert sorted(unit for units in divided.values() for unit in units) == list(range(num_units))
    for name, ratio in zip(SPLITS, ratios):
        assert len(divided[name]) >= 1 and len(divided[name]) <= max(1, np.ceil(ratio * num_units))


def test_too_few_units_are_an_error_that_names_the_key():
    with pytest.raises(ValueError, match=r"split.ratios=\[0.8, 0.1, 0.1\] asks for 3 splits, but there are only 2"):
        split_output_dataset(range(2))
    assert split_output_dataset(range(2), (1, 0, 0))["eval"] == []


@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.2), (0.8, 0.1), (1.2, -0.1, -0.1), (0.5, 0.1, 0.1)])
def test_impossible_ratios_name_the_key(ratios: tuple[float, ...]):
    with pytest.raises(ValueError, match="split.ratios="):
        RandomSplit("clip", ratios, 42)


CLIPS = [ClipPairs(f"{n:04d}", 1 + n % 4, n % 3 > 0) for n in range(30)]


def test_unit_clip_keeps_clips_whole():
    divided = RandomSplit("clip", (0.8, 0.1, 0.1), 42).split(CLIPS)
    assert {split: len({clip for clip, _ in samples}) for split, samples in divided.items()} == {
        "train": 24, "eval": 3, "test": 3}  # fmt: skip
    of_clip = {clip: split for split, samples in divided.items() for clip, _ in samples}
    assert len(of_clip) == 30 and all(of_clip[clip] == split for split, s in divided.items() for clip, _ in s)
    counts = Counter(clip for samples in divided.values() for clip, _ in samples)
    assert counts == {clip.clip: clip.num_pairs for clip in CLIPS}


def test_unit_pair_takes_pairs_one_by_one():
    divided = RandomSplit("pair", (0.8, 0.1, 0.1), 42).split(CLIPS)
    all_pairs = [(clip.clip, pair) for clip in CLIPS for pair in range(clip.num_pairs)]
    assert sorted(sample for samples in divided.values() for sample in samples) == sorted(all_pairs)
    assert len(divided["eval"]) == round(0.1 * len(all_pairs))
    of_clip = Counter(clip for split in SPLITS for clip in {clip for clip, _ in divided[split]})
    assert max(of_clip.values()) > 1


def test_official_follows_the_flag():
    divided = OfficialSplit(0.1, 42).split(CLIPS)
    assert {clip for clip, _ in divided["test"]} == {clip.clip for clip in CLIPS if not clip.is_train}
    trained = {clip for clip, _ in divided["train"]} | {clip for clip, _ in divided["eval"]}
    assert trained == {clip.clip for clip in CLIPS if clip.is_train}
    assert len({clip for clip, _ in divided["eval"]}) == 2
    with pytest.raises(ValueError, match="no train flag"):
        OfficialSplit(0.1, 42).split([*CLIPS, ClipPairs("x", 1, None)])
    with pytest.raises(ValueError, match="30 usable train and 0 test"):
        OfficialSplit(0.1, 42).split([ClipPairs(c.clip, 1, True) for c in CLIPS])
    with pytest.raises(ValueError, match="split.eval_ratio=1"):
        OfficialSplit(1, 42)


# ── shards ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_flip(pair: TokenizedPair) -> TokenizedPair:
    flipped = {f"{name}.flip": np.roll(ids, 1, axis=-1) for name, ids in pair.tokens.items()}
    return replace(pair, tokens=pair.tokens | flipped)


@pytest.mark.parametrize("has_flip", [False, True])
def test_webdataset_alone_reads_the_shards(tmp_path: Path, has_flip: bool):
    captions = ("eine Läuferin, “schnell”", "a second one")
    pairs = [tokenized_pair(number, captions=captions[: number % 3]) for number in range(7)]
    pairs = [with_flip(pair) for pair in pairs] if has_flip else pairs
    shards = write_shards(tmp_path, "train", pairs, pairs_per_shard=3)
    assert [(shard.name, shard.num_pairs) for shard in shards] == [
        ("train/000000.tar", 3), ("train/000001.tar", 3), ("train/000002.tar", 1)]  # fmt: skip
    urls = [str(tmp_path / shard.name) for shard in shards]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [pair.key for pair in pairs]
    for sample, pair in zip(samples, pairs):
        members = {name for name in sample if not name.startswith("__")}
        assert members == {f"{name}.npy" for name in pair.tokens} | {"captions.json", "meta.json"}
        assert len(members) == (10 if has_flip else 6)
        for name, ids in pair.tokens.items():
            assert sample[f"{name}.npy"].dtype == np.uint16 and np.array_equal(sample[f"{name}.npy"], ids)
        assert sample["captions.json"] == (list(pair.captions) or [""])
        assert sample["meta.json"] == pair.meta


def test_shards_have_the_same_bytes_each_time(tmp_path: Path):
    pairs = [tokenized_pair(number) for number in range(4)]
    once, again = write_shards(tmp_path / "a", "train", pairs, 10), write_shards(tmp_path / "b", "train", pairs, 10)
    assert once == again
    content = (tmp_path / "a/train/000000.tar").read_bytes()
    assert content == (tmp_path / "b/train/000000.tar").read_bytes()
    assert once[0].sha256 == hashlib.sha256(content).hexdigest()
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_empty_split_has_a_folder_and_no_shards(tmp_path: Path):
    assert write_shards(tmp_path, "eval", [], 10) == () and (tmp_path / "eval").is_dir()


# ── manifest ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_manifest_comes_back_as_it_was(tmp_path: Path):
    manifest = small_manifest()
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    fields = json.loads((tmp_path / "dataset.json").read_text())
    assert fields["schema_version"] == 3 and fields["num_pairs"] == {"train": 7, "eval": 1, "test": 0}
    assert manifest.num_tokens == 6 + 39 + 6 + 39
    assert manifest_hash(tmp_path) == hashlib.sha256((tmp_path / "dataset.json").read_bytes()).hexdigest()


def test_no_manifest_says_which_command_makes_data(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="python preprocess.py out="):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("content, reason", [("{", "not JSON"), ('{"schema_version": 99}', "schema version 99")])
def test_an_unreadable_manifest_is_an_error(tmp_path: Path, content: str, reason: str):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=f"dataset.json: {reason}.*overwrite=true"):
        Manifest.load(tmp_path)


# ── staging ────────────────────────────────────────────────────────────────────────────────────────────────────────


def staged_clip() -> StagedClip:
    rng = np.random.default_rng(0)
    return StagedClip(
        clip="0001", action="walk", is_train=True, notes=("odd",), has_joints=True,
        canvas={"mode": "crop", "size": 48}, pose_extent_px=33.25,
        pairs=(FramePair(0, 2, 0.5), FramePair(2, 5, 0.25, 0)), captions=("a person", None), frames=(0, 2, 5),
        tokens={"coords": rng.integers(0, 2, (3, 3, 13)).astype(np.uint16),
                "tok_rgb": rng.integers(0, 64_000, (3, 3, 3)).astype(np.uint16),
                "tok_rgb.flip": rng.integers(0, 64_000, (3, 3, 3)).astype(np.uint16)},
    )  # fmt: skip


def test_staged_clips_come_back_and_give_samples(tmp_path: Path):
    staging = Staging(tmp_path / "out.tmp", {"seed": 1})
    staging.add(staged_clip())
    staging.add(Rejection("0002", "no JPEGs"))
    again = Staging(tmp_path / "out.tmp", {"seed": 1})
    assert "0001" in again and "0002" in again and "0003" not in again
    assert again.read("0002") == Rejection("0002", "no JPEGs")
    members = ("tok_rgb", "tok_rgb_next", "coords_next", "tok_rgb_next.flip", "tok_rgb_prev", "tok_rgb_prev.flip")
    sample = again.read("0001").sample(1, members)
    assert sample.key == "0001-000002" and sample.captions == ()
    expected = {"tok_rgb": ("tok_rgb", 1), "tok_rgb_next": ("tok_rgb", 2), "coords_next": ("coords", 2),
                "tok_rgb_next.flip": ("tok_rgb.flip", 2), "tok_rgb_prev": ("tok_rgb", 0),
                "tok_rgb_prev.flip": ("tok_rgb.flip", 0)}  # fmt: skip
    assert list(sample.tokens) == list(expected)
    for member, (name, row) in expected.items():
        assert np.array_equal(sample.tokens[member], staged_clip().tokens[name][row])
    assert sample.meta == {"clip": "0001", "reference": 2, "successor": 5, "ssim": 0.25, "previous": 0,
                           "action": "walk", "canvas": {"mode": "crop", "size": 48}, "pose_extent_px": 33.25,
                           "fps": 0.0}  # fmt: skip
    first = again.read("0001").sample(0, members)
    assert list(first.tokens) == list(members[:4]) and first.meta["previous"] == -1
    without_joints = replace(staged_clip(), has_joints=False).sample(1, members)
    assert [name for name in members if name not in without_joints.tokens] == ["coords_next"]


def test_staged_clips_of_other_settings_are_not_used(tmp_path: Path):
    Staging(tmp_path / "out.tmp", {"seed": 1}).add(staged_clip())
    assert "0001" not in Staging(tmp_path / "out.tmp", {"seed": 2})
