"""The frame before the reference: which one it is, and that its tokens are those of that frame."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.preprocess_runs import config, contents, samples
from support.tiny_world import write_world

from m3.batches.table import TokenTable
from m3.clips.canvas import CropCanvas
from m3.clips.penn_action import PennAction
from m3.commands import preprocess
from m3.core.types import Clip
from m3.pairs import Chain, Dense, Stride
from m3.preprocessing.prepare import ClipPreparer, PreparedClip
from m3.shards.manifest import STORED_MODALITIES, Manifest
from m3.shards.split import SPLITS
from m3.shards.verify import verify_dataset

PAIRS = {
    "chain": ("pairs=chain",),
    "dense": ("pairs=dense", "pairs.threshold=0.7"),  # below which frames differ that are two apart
    "stride": ("pairs=stride", "pairs.step=2"),
    "stride_chain": ("pairs=stride", "pairs.step=2", "pairs.starts=chain"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 5)
    return root


Frame = tuple[str, int]  # clip, frame


@pytest.fixture(scope="module")
def tokens_of_frames(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[Frame, np.ndarray]]:
    """Member ("coords.npy", "coords.flip.npy", …) → frame → tokens, of a data set that pairs each frame with the next
    and stores no history."""
    out = tmp_path_factory.mktemp("frames") / "data"
    preprocess.run(config(world, out, "pairs=stride", "pairs.step=1", "history=false", "augment.flip=true"))
    tokens: dict[str, dict[Frame, np.ndarray]] = {}
    for sample in all_samples(out):
        meta = sample["meta.json"]
        assert meta["previous"] == -1 and not any("_prev" in name for name in sample)
        for kind in ("tok_rgb", "coords"):
            for version in (".npy", ".flip.npy"):
                of_kind = tokens.setdefault(kind + version, {})
                of_kind[meta["clip"], meta["reference"]] = sample[kind + version]
                of_kind[meta["clip"], meta["successor"]] = sample[f"{kind}_next{version}"]
    return tokens


def all_samples(out: Path) -> list[dict[str, Any]]:
    return [sample for split in SPLITS for sample in samples(out, split)]


@pytest.mark.parametrize("more", [
    ("tokenizer=none", "augment.flip=true"),
    ("augment.flip=true", "split=pair"),
    ("tokenizer=none", "pairs.max_pairs_per_clip=3"),
])  # fmt: skip
@pytest.mark.parametrize("miner", PAIRS)
def test_the_previous_frame_and_its_tokens(
    world: Path, tokens_of_frames: dict, tmp_path: Path, miner: str, more: tuple[str, ...]
) -> None:
    out = tmp_path / "data"
    manifest = preprocess.run(config(world, out, *PAIRS[miner], *more))
    found = all_samples(out)
    names = [name for name in STORED_MODALITIES if "tokenizer=none" not in more or "coords" in name]
    assert [modality.name for modality in manifest.modalities] == names
    came_from = {(s["meta.json"]["clip"], s["meta.json"]["successor"]): s["meta.json"]["reference"] for s in found}
    with_previous = 0
    for sample in found:
        meta = sample["meta.json"]
        reference, gap = meta["reference"], meta["successor"] - meta["reference"]
        expected = reference - gap if reference >= gap else -1
        if miner == "chain":
            expected = came_from.get((meta["clip"], reference), -1)
        assert meta["previous"] == expected
        with_previous += expected >= 0
        for name in names:
            for version in (".npy", ".flip.npy")[: 2 if "augment.flip=true" in more else 1]:
                kind, _, which = name.removesuffix("_prev").partition("_next")
                frame = (
                    meta["previous"] if name.endswith("_prev") else meta["successor"] if "_next" in name else reference
                )
                if frame < 0:
                    assert name + version not in sample
                else:
                    truth = tokens_of_frames[kind + version][meta["clip"], frame]
                    assert np.array_equal(sample[name + version], truth), (name, meta)
    assert 0 < with_previous < len(found)
    assert verify_dataset(out)[1] == []
    for split in SPLITS:
        for info, sample in zip(TokenTable.open(out, split).pairs, samples(out, split), strict=True):
            previous = sample["meta.json"]["previous"]
            assert (info.key, info.previous) == (sample["__key__"], None if previous < 0 else previous)


def test_gaps_of_dense_pairs_differ(world: Path) -> None:
    """So that the test above would see a wrong gap."""
    clip = PennAction(world).read("0001")
    pairs = list(Dense(0.7).pairs(clip.frames))
    assert {pair.successor - pair.reference for pair in pairs} != {1}


@pytest.mark.parametrize("miner", ["dense", "stride"])
def test_workers_change_no_byte(world: Path, tmp_path: Path, miner: str) -> None:
    for workers in (0, 2):
        overrides = (*PAIRS[miner], "augment.flip=true", f"workers={workers}", "tokenizer=none")
        preprocess.run(config(world, tmp_path / str(workers), *overrides))
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_a_build_without_history_differs_in_nothing_else(world: Path, tmp_path: Path) -> None:
    without = preprocess.run(config(world, tmp_path / "without", "history=false"))
    preprocess.run(config(world, tmp_path / "with"))
    assert [modality.name for modality in without.modalities] == list(STORED_MODALITIES[:4])
    for split in SPLITS:
        for less, more in zip(samples(tmp_path / "without", split), samples(tmp_path / "with", split), strict=True):
            members = {name: value for name, value in more.items() if not name.endswith("_prev.npy")}
            assert less.keys() == members.keys()
            for name, value in less.items():
                if name == "meta.json":
                    assert value == {**members[name], "previous": -1}
                elif not name.startswith("__"):
                    assert np.array_equal(value, members[name])
    with pytest.raises(ValueError, match="settings.history is False, asked for True"):
        preprocess.run(config(world, tmp_path / "without"))
    with pytest.raises(ValueError, match="history='sometimes': choose true or false"):
        preprocess.run(config(world, tmp_path / "new", "history=sometimes"))


@pytest.mark.parametrize("miner", [Chain(0.89), Stride(2), Stride(2, "chain")])
def test_no_frame_is_tokenized_for_the_history_alone(world: Path, miner: Any) -> None:
    with_history = ClipPreparer(PennAction(world), CropCanvas(32), miner, STORED_MODALITIES)("0002")
    without = ClipPreparer(PennAction(world), CropCanvas(32), miner, STORED_MODALITIES[:4])("0002")
    assert isinstance(with_history, PreparedClip) and isinstance(without, PreparedClip)
    assert with_history.staged.frames == without.staged.frames and with_history.shown == without.shown


# ── types ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def types_of(value: Any) -> Any:
    """The types in a JSON value, as a library infers them from a sample: a list has the type of its entries."""
    if isinstance(value, dict):
        return {key: types_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        assert value, "an empty list has no type"
        (inner,) = {json.dumps(types_of(inner)) for inner in value}
        return [inner]
    return type(value).__name__


@pytest.fixture
def mixed(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of clips without action, without joints and with a rate."""
    changes = {"0001": {"action": None}, "0002": {"joints": None}, "0003": {"fps": 25}, "0004": {"action": ""}}
    read = PennAction.read
    monkeypatch.setattr(
        PennAction, "read", lambda self, clip_id: Clip(**{**vars(read(self, clip_id)), **changes.get(clip_id, {})})
    )
    preprocess.run(config(world, tmp_path / "mixed"))
    return tmp_path / "mixed"


def test_all_samples_have_the_same_types(mixed: Path) -> None:
    found = all_samples(mixed)
    for name in ("meta.json", "captions.json"):
        types = {json.dumps(types_of(sample[name])) for sample in found}
        assert len(types) == 1, types
    assert types_of(found[0]["meta.json"]) == {
        "clip": "str", "reference": "int", "successor": "int", "ssim": "float", "previous": "int", "action": "str",
        "canvas": {"mode": "str", "size": "int", "window": ['"float"']}, "pose_extent_px": "float", "fps": "float",
    }  # fmt: skip
    assert verify_dataset(mixed)[1] == []


def test_what_is_unknown_comes_back_as_none(mixed: Path) -> None:
    manifest = Manifest.load(mixed)
    assert manifest.has_joints and manifest.actions == ("bowl", "golf_swing")
    infos = {info.clip: info for split in SPLITS for info in TokenTable.open(mixed, split).pairs}
    assert {clip: (info.action, info.pose_extent_px is None, info.fps) for clip, info in infos.items()} == {
        "0001": (None, False, None), "0002": ("bowl", True, None), "0003": ("golf_swing", False, 25.0),
        "0004": (None, False, None), "0005": ("bowl", False, None),
    }  # fmt: skip
    for sample in all_samples(mixed):
        has_joints = any(name.startswith("coords") for name in sample)
        assert has_joints == (sample["meta.json"]["clip"] != "0002")
    shutil.rmtree(mixed / ".tables")
