"""Clips of odd names and deadly labels never end a build, with worker processes and without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.preprocess_runs import config
from support.tiny_world import write_clip, write_label

import preprocess
from m3.clips.penn_action import PennAction
from m3.core.types import Clip

LONG, UNREADABLE = "0" * 250, os.fsdecode(b"000\xff5")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Three good clips, one with a name of 250 characters, one whose name is not in UTF-8, and those macOS adds."""
    root = tmp_path / "world"
    for number in (1, 2, 3):
        write_clip(root, f"{number:04d}", 6)
    (root / "frames" / "0003").rename(root / "frames" / LONG)
    (root / "labels" / "0003.mat").rename(root / "labels" / f"{LONG}.mat")
    write_clip(root, "0005", 6)
    for folder, suffix in (("frames", ""), ("labels", ".mat")):
        (root / folder / f"0005{suffix}").rename(root / folder / f"{UNREADABLE}{suffix}")
    (root / "labels" / "._0001.mat").write_bytes(b"what macOS writes beside a copied file")
    (root / "frames" / "0006").mkdir()
    write_label(root / "labels" / "0006.mat")
    return root


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_odd_names_are_used_under_plain_ids(world: Path, tmp_path: Path, workers: int):
    manifest = preprocess.run(config(world, tmp_path / "out", f"workers={workers}", "split.ratios=[1,0,0]"))
    ids = PennAction(world).clip_ids()
    assert {"0001", "0002", "0006"} < set(ids) and len(ids) == 5 and all(len(each.encode()) <= 109 for each in ids)
    assert manifest.num_clips["train"] == 4
    assert [rejection.clip for rejection in manifest.rejected] == ["0006"]


class OddSource:
    """The clips of a folder, and ids that no clip may have: they would be parts of paths and keys."""

    name = "odd"
    odd = ("../../escaped", "a.b", "", "x" * 300, UNREADABLE, "line\nbreak")

    def __init__(self, root: Path) -> None:
        self._source = PennAction(root)

    def __len__(self) -> int:
        return len(self.clip_ids())

    def clip_ids(self) -> list[str]:
        return [*self.odd[:3], *self._source.clip_ids(), *self.odd[3:]]

    def read(self, clip_id: str) -> Clip:
        return self._source.read(clip_id) if clip_id not in self.odd else self._source.read("0001")

    def fingerprint(self) -> str:
        return self._source.fingerprint()


def test_ids_that_no_clip_may_have_are_rejected_one_by_one(world: Path, tmp_path: Path):
    cfg = config(world, tmp_path / "out", "split.ratios=[1,0,0]")
    cfg.source = {"_target_": f"{__name__}.OddSource", "root": str(world)}
    manifest = preprocess.run(cfg)
    assert len(manifest.rejected) == 7 and {len(rejection.clip) for rejection in manifest.rejected} >= {0, 3, 300}
    assert all("a clip's name must be free of" in each.reason for each in manifest.rejected if each.clip != "0006")
    assert not (tmp_path / "escaped").exists() and manifest.num_clips["train"] == 4
