"""The token table holds what the shards hold, and refuses shards that are not those of the manifest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_shards import NAMES, modality_table, small_manifest, tokenized_pair

from m3.batches.datamodule import SampleRows
from m3.batches.table import TokenTable
from m3.shards.manifest import Manifest
from m3.shards.writer import write_shards


@pytest.fixture
def data(tmp_path: Path) -> Path:
    train = [tokenized_pair(number) for number in range(7)]
    shards = {"train": write_shards(tmp_path, "train", train, 3), "eval": write_shards(tmp_path, "eval", train[:1], 3)}
    replace(small_manifest(), shards={**shards, "test": ()}).save(tmp_path)
    return tmp_path


def test_rows_are_the_samples_in_order(data: Path):
    table = TokenTable.open(data, "train")
    assert isinstance(table.tokens, np.memmap) and table.tokens.dtype == np.uint16 and not table.tokens.flags.writeable
    assert table.tokens.shape == (7, 90) and len(table) == 7
    for number, row in enumerate(table.tokens):
        pair = tokenized_pair(number)
        assert np.array_equal(row, np.concatenate([pair.tokens[name].ravel() for name in NAMES]))
        info = table.pairs[number]
        assert (info.key, info.clip, info.reference, info.successor) == (pair.key, "0001", number, number + 1)
        assert (info.action, info.pose_extent_px, info.previous, info.fps) == ("walk", 30.0, None, 25.0)
    assert len(TokenTable.open(data, "eval")) == 1 and TokenTable.open(data, "test").tokens.shape == (0, 90)


def test_a_table_is_built_once_and_again_for_another_manifest(data: Path):
    TokenTable.open(data, "train")
    built = {path: path.stat().st_mtime_ns for path in (data / ".tables").iterdir()}
    (data / "train/000000.tar").unlink()  # the table alone suffices
    TokenTable.open(data, "train")
    assert {path: path.stat().st_mtime_ns for path in (data / ".tables").iterdir()} == built
    replace(Manifest.load(data), settings={"other": 1}).save(data)
    with pytest.raises(FileNotFoundError, match="000000.tar: no such shard"):
        TokenTable.open(data, "train")


def test_columns_follow_the_run(data: Path):
    table = TokenTable.open(data, "train")
    assert np.shares_memory(table.columns(NAMES), table.tokens)
    poses = table.columns(("tok_rgb_next", "coords_next"))
    assert np.shares_memory(poses, table.tokens) and np.array_equal(poses, table.tokens[:, 45:])
    swapped = table.columns(("coords_next", "tok_rgb"))
    assert np.array_equal(swapped, np.concatenate([table.tokens[:, 51:], table.tokens[:, :6]], axis=1))
    with pytest.raises(ValueError, match="wants 256 tokens of tok_rgb, the data set has 6"):
        SampleRows(table, modality_table(NAMES, (256, 39, 256, 39)))


def test_a_changed_shard_is_refused(data: Path):
    path = data / "train/000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="000001.tar: sha256 .* damaged or was replaced"):
        TokenTable.open(data, "train")
    assert not list(data.glob(".tables/train*"))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda pairs: pairs[:-1], "2 samples, but 3 in the manifest"),
        (lambda pairs: [*pairs, tokenized_pair(99)], "4 samples, but 3 in the manifest"),
        (lambda pairs: [replace(pairs[0], tokens={**pairs[0].tokens, "coords": np.full((3, 13), 8192, np.uint16)})]
         + pairs[1:], "coords.npy has id 8192, legal are 0 … 8191"),
        (lambda pairs: [replace(pairs[0], tokens={**pairs[0].tokens, "tok_rgb": np.zeros((3, 2), np.uint16)})]
         + pairs[1:], r"tok_rgb.npy is uint16 \(3, 2\)"),
        (lambda pairs: [replace(pairs[0], tokens={"coords": pairs[0].tokens["coords"]})] + pairs[1:],
         "no member tok_rgb.npy"),
        (lambda pairs: [replace(pairs[0], tokens={**pairs[0].tokens, "coords": np.full((3, 13), 2, np.uint16)})]
         + pairs[1:], "0001-000000: coords.npy has visibility 2"),
    ],
)  # fmt: skip
def test_shards_that_contradict_the_manifest_are_refused(tmp_path: Path, change, reason: str):
    (shard,) = write_shards(tmp_path, "train", change([tokenized_pair(number) for number in range(3)]), 10)
    shards = {"train": (replace(shard, num_pairs=3),), "eval": (), "test": ()}
    replace(small_manifest(), shards=shards).save(tmp_path)
    with pytest.raises(ValueError, match=reason):
        TokenTable.open(tmp_path, "train")


def test_no_data_and_no_split(data: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="python preprocess.py out="):
        TokenTable.open(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="split 'valid' is not in"):
        TokenTable.open(data, "valid")


def test_a_folder_that_cannot_be_written_is_named(data: Path, tmp_path: Path):
    (data / ".tables").write_text("a file in the way")
    with pytest.raises(OSError, match="cannot write the token table .*writable"):
        TokenTable.open(data, "train")
    assert len(TokenTable.open(data, "train", folder=tmp_path / "elsewhere")) == 7


def files_of(data: Path, split: str = "train") -> dict[str, Path]:
    """Kind of content ("tokens", "lengths", "infos", "digests") → its file, of the one table of a split."""
    ends = {"digests": ".sha256.json", "lengths": ".lengths.npy", "infos": ".json", "tokens": ".npy"}
    found: dict[str, Path] = {}
    for path in (data / ".tables").glob(f"{split}-*"):
        found.setdefault(next(kind for kind, end in ends.items() if path.name.endswith(end)), path)
    return found


def content_of(table: TokenTable) -> tuple:
    return table.tokens.tobytes(), table.lengths.tobytes(), table.pairs, table.captions


@pytest.mark.parametrize("kind", ["tokens", "lengths", "infos", "digests"])
@pytest.mark.parametrize("has_shards", [True, False])
def test_no_changed_bit_of_a_table_is_read(data: Path, caplog, kind: str, has_shards: bool):
    """Every eighth byte with one bit flipped: the table is built again from its shards, or refused without them."""
    whole = content_of(TokenTable.open(data, "train"))
    path = files_of(data)[kind]
    content = path.read_bytes()
    if not has_shards:
        (data / "train").rename(data / "elsewhere")
    for place in range(0, len(content), max(1, len(content) // 25)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        caplog.clear()
        if has_shards:
            assert content_of(TokenTable.open(data, "train")) == whole, place
            assert "damaged" in caplog.text and "is built again" in caplog.text and path.read_bytes() == content
        else:
            with pytest.raises(ValueError, match=r"damaged.* cannot be built again: .*000000\.tar: no such shard"):
                TokenTable.open(data, "train")


@pytest.mark.parametrize("damage", [lambda content: bytes(len(content)), lambda content: content[:-1], lambda _: b""])
def test_zeroed_and_cut_tables_are_built_again(data: Path, damage):
    whole = content_of(TokenTable.open(data, "train"))
    for path in files_of(data).values():
        path.write_bytes(damage(path.read_bytes()))
        assert content_of(TokenTable.open(data, "train")) == whole


def test_a_table_without_digests_is_built_again_or_used_with_a_warning(data: Path, caplog):
    whole = content_of(TokenTable.open(data, "train"))
    files_of(data)["digests"].unlink()
    assert content_of(TokenTable.open(data, "train")) == whole and files_of(data)["digests"].is_file()
    files_of(data)["digests"].unlink()
    (data / "train").rename(data / "elsewhere")
    assert not caplog.text
    assert content_of(TokenTable.open(data, "train")) == whole
    assert caplog.text.count("without digests") == 1 and "000000.tar: no such shard" in caplog.text


def test_what_a_killed_build_left_goes_with_the_next_one(data: Path):
    folder = data / ".tables"
    folder.mkdir()
    names = ("train-1-v2.npy.0123abcd.tmp", "train-1-v2.json.4711.tmp", "fresh.npy.0123abcd.tmp")
    for name in names:
        (folder / name).write_bytes(b"half a table")
    for name in names[:2]:
        os.utime(folder / name, (0, 0))
    TokenTable.open(data, "train")
    assert [path.name for path in folder.glob("*.tmp")] == ["fresh.npy.0123abcd.tmp"]
