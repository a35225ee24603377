"""Which members a sample may lack, in data sets of schema version 3 and of version 2."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_shards import modality_table, small_manifest

from m3.batches.samples import SampleAssembler
from m3.batches.stream import StreamedSplit, StreamWorker
from m3.batches.table import TokenTable
from m3.core.modalities import ModalityTable
from m3.core.types import FramePair, PairInfo
from m3.shards.manifest import PAIR_MODALITIES, STORED_MODALITIES, Manifest, ShardError, pair_modalities, stored_for
from m3.shards.meta import captions_of, pair_info, pair_meta
from m3.shards.reader import RowReader, token_row
from m3.shards.verify import verify_dataset

GRID = (2, 3)
LENGTH = {"tok_rg": 6, "coords": 39}
MANIFEST = replace(small_manifest(), modalities=pair_modalities(GRID, STORED_MODALITIES), variants=("flip",))


def npy(ids: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, ids)
    return buffer.getvalue()


def tokens_of(name: str) -> np.ndarray:
    """Tokens that differ for each member; visibilities of 0 and 1."""
    seed = sum(map(ord, name))
    if name.startswith("tok_rgb"):
        return np.random.default_rng(seed).integers(1, 64_000, GRID).astype(np.uint16)
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.integers(1, 8_192, (2, 13)), rng.integers(0, 2, (1, 13))]).astype(np.uint16)


def sample(names: tuple[str, ...], previous: int | None = 3, **meta: Any) -> dict[str, bytes]:
    """Members of these modalities and their mirror images."""
    both = [f"{name}{version}" for name in names for version in ("", ".flip")]
    pair = FramePair(5, 7, None, previous)
    content = pair_meta(pair, "a", "walk", {"mode": "crop", "size": 48}, 30.0, None) | meta
    members = {f"{name}.npy": npy(tokens_of(name)) for name in both}
    return {**members, "captions.json": b'["", "a person"]', "meta.json": json.dumps(content).encode()}


def expected_row(present: set[str], names: tuple[str, ...] = STORED_MODALITIES, variant: str = "") -> np.ndarray:
    parts = [tokens_of(name + variant).ravel() if name in present else np.zeros(LENGTH[name[:6]]) for name in names]
    return np.concatenate(parts)


@pytest.mark.parametrize(("previous", "absent"), [
    (3, ()),
    (None, ("tok_rgb_prev", "coords_prev")),
    (3, ("coords", "coords_next", "coords_prev")),
    (None, ("coords", "coords_next", "coords_prev", "tok_rgb_prev")),
])  # fmt: skip
def test_absent_modalities_have_length_0_and_zeros(previous: int | None, absent: tuple[str, ...]):
    present = tuple(name for name in STORED_MODALITIES if name not in absent)
    members = sample(present, previous)
    row, lengths = token_row(members, MANIFEST, "x")
    assert row.dtype == lengths.dtype == np.uint16
    assert lengths.tolist() == [(name in present) * n for name, n in zip(STORED_MODALITIES, (6, 39, 6, 39, 6, 39))]
    assert np.array_equal(row, np.concatenate([expected_row(set(present), variant=v) for v in ("", ".flip")]))
    for variant in (None, "flip"):
        wanted = ("coords_prev", "tok_rgb", "coords_next")
        stored = {modality.name: modality for modality in MANIFEST.modalities}
        reader = RowReader([stored[name] for name in wanted], variant)
        read = {name: members[name] for name in reader.members if name in members}  # what a stream reads, and no more
        row, lengths = reader.read(read, "x")
        assert np.array_equal(row, expected_row(set(present), wanted, "" if variant is None else ".flip"))
        assert lengths.dtype == np.uint16
        assert lengths.tolist() == [n if name in present else 0 for name, n in zip(wanted, (39, 6, 39))]


@pytest.mark.parametrize(("previous", "change", "reason"), [
    (3, {"tok_rgb_prev.npy": None}, "no member tok_rgb_prev.npy"),
    (3, {"coords_prev.npy": None}, "no member coords_prev.npy"),
    (3, {"coords_prev.flip.npy": None}, "no member coords_prev.flip.npy"),
    (3, {"coords_next.npy": None}, "no member coords_next.npy"),
    (3, {"coords.npy": None}, "no member coords.npy"),
    (3, {"tok_rgb.npy": None}, "no member tok_rgb.npy"),
    (3, {"tok_rgb_next.flip.npy": None}, "no member tok_rgb_next.flip.npy"),
    (3, {"meta.json": None}, "no member meta.json"),
    (3, {"meta.json": b"{"}, "meta.json is not JSON"),
    (3, {"meta.json": b"[" * 100_000}, "meta.json is not JSON"),
    (3, {"meta.json": b"[1]"}, r"meta.json is \[1\], need a mapping"),
    (None, {"coords_prev.npy": npy(tokens_of("coords"))}, "a member coords_prev.npy, though"),
    (None, {"tok_rgb_prev.flip.npy": npy(tokens_of("tok_rgb"))}, "a member tok_rgb_prev.flip.npy, though"),
    (5, {}, "meta.json has previous frame 5, which is not before reference 5"),
])  # fmt: skip
def test_what_the_schema_requires_and_forbids(previous: int | None, change: dict[str, bytes | None], reason: str):
    names = STORED_MODALITIES if previous is not None else PAIR_MODALITIES
    members = sample(names, previous) | change
    members = {name: content for name, content in members.items() if content is not None}
    with pytest.raises(ShardError, match=f"shard: key: {reason}"):
        token_row(members, MANIFEST, "shard: key")
    if ".flip" not in reason:
        with pytest.raises(ShardError, match=f"shard: key: {reason}"):
            RowReader(MANIFEST.modalities).read(members, "shard: key")


def test_mirrored_joints_without_joints_are_refused():
    members = sample(("tok_rgb", "tok_rgb_next", "tok_rgb_prev")) | {"coords.flip.npy": npy(tokens_of("coords"))}
    with pytest.raises(ShardError, match="a member coords.flip.npy"):
        token_row(members, MANIFEST, "x")


def test_what_a_run_needs_of_the_stored_modalities():
    assert stored_for(PAIR_MODALITIES) == PAIR_MODALITIES
    assert stored_for(("coords_next", "tok_rgb_prev", "coords")) == ("coords", "coords_next", "tok_rgb_prev")
    assert stored_for(("motion_prev",)) == ("coords", "coords_prev")
    assert stored_for(("motion_next", "action", "gap_next", "coords")) == ("coords", "coords_next")
    assert stored_for(("motion_next", "motion_prev")) == ("coords", "coords_next", "coords_prev")
    assert stored_for(("action", "captions", "gap_prev", "gap_next", "seconds_prev", "seconds_next")) == ()
    assert stored_for(("tok_depth_next", "tok_depth", "coords")) == ("coords", "tok_depth_next", "tok_depth")


# ── meta.json ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_placeholders_and_nulls_are_none():
    meta = pair_meta(FramePair(0, 2, None), "a", None, {"mode": "crop", "size": 48}, None, None)
    assert meta == {"clip": "a", "reference": 0, "successor": 2, "ssim": -1.0, "previous": -1, "action": "",
                    "canvas": {"mode": "crop", "size": 48}, "pose_extent_px": 0.0, "fps": 0.0}  # fmt: skip
    assert pair_info("a-000000", meta) == PairInfo("a-000000", "a", 0, 2, None, None, None, None)
    old = {"clip": "a", "reference": 0, "successor": 2, "ssim": None, "action": None, "pose_extent_px": None}
    assert pair_info("a-000000", old) == PairInfo("a-000000", "a", 0, 2, None, None, None, None)
    known = pair_meta(FramePair(4, 5, 0.5, 3), "a", "run", {}, 12.5, 29.97)
    assert pair_info("a-000004", known) == PairInfo("a-000004", "a", 4, 5, "run", 12.5, 3, 29.97)


@pytest.mark.parametrize(("name", "value"), [
    ("clip", 1), ("clip", None), ("reference", -1), ("reference", "0"), ("reference", True), ("reference", 1.0),
    ("successor", None), ("previous", -2), ("previous", 0.0), ("previous", None), ("action", 3), ("action", ["x"]),
    ("pose_extent_px", "30"), ("pose_extent_px", -1.0), ("pose_extent_px", float("nan")), ("fps", float("inf")),
    ("fps", True), ("fps", [25]), ("fps", 10**400), ("reference", 10**400),
])  # fmt: skip
def test_values_of_other_types_are_refused(name: str, value: object):
    meta = pair_meta(FramePair(4, 5, 0.5, 3), "a", "run", {}, 12.5, 29.97)
    with pytest.raises(ShardError, match=f"^train/0.tar: k: meta.json has .*{name}"):
        pair_info("k", {**meta, name: value}, "train/0.tar: k")
    with pytest.raises(ShardError, match=f"^k: meta.json has .*{name}"):
        pair_info("k", {**meta, name: value})


def test_empty_captions_are_no_captions():
    assert captions_of({"captions.json": b'["", "a person", ""]'}, "x") == ("a person",)
    assert captions_of({"captions.json": b'[""]'}, "x") == () == captions_of({"captions.json": b"[]"}, "x")
    for content in (b"{", b'"a"', b"[1]", b"null"):
        with pytest.raises(ShardError, match="^x: captions.json is"):
            captions_of({"captions.json": content}, "x")


# ── version 2 ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write_version_2(root: Path, lacks: str | None = None) -> None:
    """Two pairs of a clip without joints, as version 2 has them: nulls, no captions, all tokens in each sample."""
    shards = {}
    for split, numbers in (("train", (0, 1)), ("eval", ()), ("test", ())):
        (root / split).mkdir(parents=True)
        shards[split] = []
        if not numbers:
            continue
        path = root / split / "000000.tar"
        with tarfile.open(path, "w") as tar:
            for number in numbers:
                meta = {"clip": "a", "reference": number, "successor": number + 1, "ssim": None, "action": None,
                        "canvas": {"mode": "crop", "size": 48}, "pose_extent_px": None}  # fmt: skip
                members = {f"{name}.npy": npy(old_tokens(name, number)) for name in PAIR_MODALITIES if name != lacks}
                members |= {"captions.json": b"[]", "meta.json": json.dumps(meta).encode()}
                for name, content in members.items():
                    entry = tarfile.TarInfo(f"a-{number:06d}.{name}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        shards[split] = [{"name": "train/000000.tar", "num_pairs": 2, "sha256": sha256(path.read_bytes()).hexdigest()}]
    picture, joints = {"shape": GRID, "vocabulary": "picture", "num_ids": 64_000}, {
        "shape": (3, 13), "vocabulary": "joints", "num_ids": 8_192}  # fmt: skip
    modalities = [{"name": name, **(picture if "rgb" in name else joints)} for name in PAIR_MODALITIES]
    manifest = {
        "schema_version": 2, "settings": {}, "source": {"name": "w", "fingerprint": "0"},
        "canvas": {"mode": "crop", "size": 48}, "modalities": modalities, "has_joints": False, "variants": [],
        "tokenizer": {"name": "mini", "fingerprint": "0", "settings": {}},
        "captioner": {"name": "none", "fingerprint": None, "settings": {}}, "text_tokenizer": None,
        "num_clips": {"train": 1, "eval": 0, "test": 0}, "shards": shards, "rejected": [], "notes": [],
        "statistics": {}, "num_pairs": {"train": 2, "eval": 0, "test": 0},
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(manifest))


def old_tokens(name: str, number: int) -> np.ndarray:
    return np.roll(tokens_of(name), number) if "rgb" in name else np.zeros((3, 13), np.uint16)


def test_version_2_is_read_as_before(tmp_path: Path):
    write_version_2(tmp_path)
    manifest = Manifest.load(tmp_path)
    assert (manifest.schema_version, manifest.actions) == (2, ())
    assert verify_dataset(tmp_path)[1] == []
    rows = [np.concatenate([old_tokens(name, n).ravel() for name in PAIR_MODALITIES]) for n in range(2)]
    table = TokenTable.open(tmp_path, "train")
    assert np.array_equal(table.tokens, rows)
    assert table.pairs == [PairInfo(f"a-00000{n}", "a", n, n + 1, None, None, None, None) for n in range(2)]
    assert TokenTable.open(tmp_path, "train").pairs == table.pairs  # from the file
    streamed = StreamedSplit(str(tmp_path), manifest, "train", modality_table())
    assert np.array_equal([each.stored for each in streamed.samples(StreamWorker(0, 1))], rows)


def test_version_2_has_no_labels_until_it_is_made_again(tmp_path: Path):
    write_version_2(tmp_path)
    table = ModalityTable(["coords", "action"], [8192, 8], [39, 1], [1, 0], [0, 1], [1, 39], [1, 1])
    with pytest.raises(ValueError, match="schema version 2, which lists no labels for action; make it again with"):
        SampleAssembler(Manifest.load(tmp_path), table)


@pytest.mark.parametrize("statistics, gap", [
    ({}, None), ({"frame_distance": None}, None), ({"frame_distance": {"min": 1, "median": 4, "max": 9}}, 4),
    ({"frame_distance": {"median": 2.5}}, "need int"), ({"frame_distance": {"median": 0}}, "need at least 1"),
])  # fmt: skip
def test_the_usual_gap_of_a_data_set(statistics: dict, gap: int | str | None):
    manifest = replace(small_manifest(), statistics=statistics)
    if isinstance(gap, str):
        with pytest.raises(ValueError, match=f"dataset.json: statistics.frame_distance.median=.*{gap}"):
            _ = manifest.median_gap
    else:
        assert manifest.median_gap == gap


@pytest.mark.parametrize(
    "seconds, need", [(None, ""), (0.25, ""), (1, ""), (0.0, "at least 1e-06"), (-1.0, "at least")]
)
def test_the_usual_gap_in_seconds(seconds: float | None, need: str):
    manifest = replace(
        small_manifest(), statistics={"pair_duration_s": None if seconds is None else {"median": seconds}}
    )
    if need:
        with pytest.raises(ValueError, match=f"statistics.pair_duration_s.median=.*{need}"):
            _ = manifest.median_gap_s
    else:
        assert manifest.median_gap_s == seconds


def test_version_2_has_every_member_in_every_sample(tmp_path: Path):
    write_version_2(tmp_path, lacks="coords_next")
    with pytest.raises(ShardError, match="a-000000: no member coords_next.npy"):
        TokenTable.open(tmp_path, "train")
    streamed = StreamedSplit(str(tmp_path), Manifest.load(tmp_path), "train", modality_table())
    with pytest.raises(ShardError, match="a-000000: no member coords_next.npy"):
        next(streamed.samples(StreamWorker(0, 1)))


def test_a_manifest_with_odd_actions_is_refused(tmp_path: Path):
    small_manifest().save(tmp_path)
    for actions in ("walk", [1], {"walk": 1}):
        fields = json.loads((tmp_path / "dataset.json").read_text()) | {"actions": actions}
        (tmp_path / "dataset.json").write_text(json.dumps(fields))
        with pytest.raises(ValueError, match="dataset.json: actions is .*, need a list"):
            Manifest.load(tmp_path)
