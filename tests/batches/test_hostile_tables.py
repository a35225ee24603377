"""Token tables come with a data set that others made: what they say is checked like the shards themselves."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.fuzz import make_data
from m3.batches.table import TokenTable


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    make_data(root)
    TokenTable.open(root, "train")
    return root


def table_file(root: Path, suffix: str) -> Path:
    (path,) = (each for each in (root / ".tables").iterdir() if each.name.endswith(f"-v2{suffix}"))
    return path


def fit_digests(root: Path) -> None:
    for digests in (root / ".tables").glob("*.sha256.json"):
        files = [path for path in (root / ".tables").iterdir() if path != digests]
        digests.write_text(json.dumps({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}))


def remove_shards(root: Path) -> None:
    """Otherwise a table that is not as it should be is built again."""
    for path in root.glob("*/*.tar"):
        path.unlink()


@pytest.mark.parametrize(("key", "value"), [
    ("clip", "../../../x"), ("clip", "a/b"), ("clip", None), ("key", "../x-000000"), ("reference", -1),
    ("reference", 10**30), ("action", ["x"]), ("action", "x" * 10_000), ("pose_extent_px", "30"), ("fps", True),
])  # fmt: skip
def test_pairs_of_a_table_are_checked(data: Path, key: str, value: Any) -> None:
    path = table_file(data, ".json")
    infos = json.loads(path.read_text())
    infos[0]["pair"][key] = value
    path.write_text(json.dumps(infos))
    fit_digests(data)
    assert TokenTable.open(data, "train").pairs[0].clip == "train"  # built again
    path.write_text(json.dumps(infos))
    fit_digests(data)
    remove_shards(data)
    with pytest.raises(ValueError, match="train-.*json"):
        TokenTable.open(data, "train")


@pytest.mark.parametrize(("suffix", "value"), [(".npy", 65_535), (".lengths.npy", 65_535)])
def test_ids_and_lengths_of_a_table_are_checked(data: Path, suffix: str, value: int) -> None:
    path = table_file(data, suffix)
    values = np.load(path)
    values[0, 0] = value
    np.save(path, values)
    fit_digests(data)
    remove_shards(data)
    with pytest.raises(ValueError, match=path.name.replace("+", ".")):
        TokenTable.open(data, "train")


def test_tables_are_not_written_through_a_link_out_of_the_data_set(data: Path, tmp_path: Path) -> None:
    for path in (data / ".tables").iterdir():
        path.unlink()
    (data / ".tables").rmdir()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", data / ".tables")
    with pytest.raises(ValueError, match="a link that leads out"):
        TokenTable.open(data, "train")
    assert not list((tmp_path / "elsewhere").iterdir())
    table = TokenTable.open(data, "train", tmp_path / "elsewhere")  # as the user asks
    assert len(table) == 3 and list((tmp_path / "elsewhere").iterdir())
