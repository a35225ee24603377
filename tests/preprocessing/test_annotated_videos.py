"""Videos without joints become data sets with joints, the same bytes however they are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from support.annotators import square_video
from support.configs import CONF
from support.preprocess_runs import contents, samples
from support.tiny_videos import write_joints

import preprocess
from m3.clips.base import ClipError
from m3.clips.video_files import VideoFiles
from m3.shards.manifest import Manifest

SQUARES = {
    "_target_": "support.annotators.SquareAnnotator", "min_seconds": 0.2, "min_mean_score": 0.5, "min_confidence": 0.4,
    "visibility": 0.5, "smoothing": 0.0,
}  # fmt: skip


def config(root: Path, out: str, *overrides: str, person: str | None = "largest") -> DictConfig:
    """person: None for no annotator."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("preprocess", [
            "source=video_files", f"source.root={root / 'videos'}", f"out={root / out}", "canvas.size=32",
            f"annotations={root / 'annotations'}", "tokenizer=none", "pairs=stride", "pairs.step=3", "workers=0",
            "contact_sheet.num_pairs=0", *overrides,
        ])  # fmt: skip
    OmegaConf.update(cfg, "annotator", person and {**SQUARES, "person": person}, force_add=True)
    return cfg


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("annotated")
    for number in range(4):
        square_video(root / "videos" / f"v{number}.mp4", seed=number, num_squares=1 + number % 2, has_cut=number > 1)
    write_joints(square_video(root / "videos" / "own.mp4", seed=9).with_suffix(".csv"), 20)
    square_video(root / "videos" / "empty.mp4", num_squares=0)
    return root


def test_clips_with_joints_and_why_others_have_none(world: Path):
    manifest = preprocess.run(config(world, "data", "split.ratios=[1,0,0]"))
    clips = {sample["meta.json"]["clip"] for sample in samples(world / "data", "train")}
    assert clips == {"v0", "v1", "v2-s1", "v2-s2", "v3-s1", "v3-s2", "own"}
    assert manifest.has_joints and [each.clip for each in manifest.rejected] == ["empty"]
    assert manifest.rejected[0].reason == "nobody found in its 20 frames"
    assert all("coords.npy" in sample for sample in samples(world / "data", "train"))
    assert manifest.settings["annotator"]["person"] == "largest"
    assert manifest.settings["annotator"]["weights"] == "none" and "annotations" not in json.dumps(manifest.settings)


def test_people_and_scenes_of_a_video_stay_in_one_split(world: Path):
    manifest = preprocess.run(config(world, "every", "split.ratios=[0.4,0.3,0.3]", person="every"))
    split_of: dict[str, set[str]] = {}
    for split in ("train", "eval", "test"):
        for sample in samples(world / "every", split):
            split_of.setdefault(sample["meta.json"]["clip"].split("-")[0], set()).add(split)
    assert len(split_of) == 5 and all(len(splits) == 1 for splits in split_of.values())
    assert (
        sum(manifest.num_clips.values()) == 10
    )  # v0, own, two people in v1, two scenes of v2, two of two people in v3


def test_the_bytes_do_not_depend_on_workers_nor_on_what_was_surveyed_before(world: Path, tmp_path: Path):
    wanted = preprocess.run(config(world, "first", person="every")) and contents(world / "first")
    for out, overrides in (("kept", ["workers=2"]), ("fresh", ["workers=2", f"annotations={tmp_path / 'a'}"])):
        preprocess.run(config(world, out, *overrides, person="every"))
        assert contents(world / out) == wanted
    joints = sorted((world / "annotations").rglob("*.csv"))
    assert [path.read_bytes() for path in joints] == [p.read_bytes() for p in sorted((tmp_path / "a").rglob("*.csv"))]


@pytest.mark.slow
def test_ray_makes_the_same_bytes(world: Path, tmp_path: Path):
    preprocess.run(config(world, "here"))
    preprocess.run(config(world, "ray", "executor=ray", "workers=2", f"annotations={tmp_path / 'a'}"))
    assert contents(world / "ray") == contents(world / "here")


def test_a_finished_data_set_is_not_surveyed_again(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    preprocess.run(config(world, "done"))

    def work(*_: Any) -> None:
        raise AssertionError("worked again")

    monkeypatch.setattr("m3.annotation.survey.Surveyor.survey", work)
    assert preprocess.run(config(world, "done", f"annotations={tmp_path / 'none'}")) == Manifest.load(world / "done")


def test_an_annotator_needs_a_source_without_joints(world: Path, tmp_path: Path):
    cfg = config(world, "wrong")
    (tmp_path / "0001.mat").write_bytes(b"")
    cfg.source = {"_target_": "m3.clips.poses.Poses", "labels": str(tmp_path), "name": "poses"}
    with pytest.raises(ValueError, match="annotator=squares: source=poses has joints of its own"):
        preprocess.run(cfg)


def test_strict_stops_at_a_video_without_people(world: Path):
    with pytest.raises(ClipError, match="clip empty: nobody found"):
        preprocess.run(config(world, "strict", "strict=true"))


def test_cuts_are_found_without_an_annotator(world: Path):
    cfg = config(world, "cuts", "tokenizer=mini", "split.ratios=[1,0,0]", person=None)
    preprocess.run(cfg)
    clips = {sample["meta.json"]["clip"] for sample in samples(world / "cuts", "train")}
    assert clips == {"v0", "v1", "v2-s1", "v2-s2", "v3-s1", "v3-s2", "own", "empty"}
    assert np.all([sample["meta.json"]["successor"] < 10 for sample in samples(world / "cuts", "train")
                   if sample["meta.json"]["clip"].startswith("v2")])  # fmt: skip


def test_previews_show_the_skeletons_of_clips(world: Path, tmp_path: Path):
    """At most as many as asked for; the frames of the clip, with joints drawn on them."""
    overrides = ["previews.num_clips=2", "previews.height_px=64", f"annotations={tmp_path}"]
    preprocess.run(config(world, "previews", *overrides))
    films = sorted((tmp_path / "previews" / "video_files").iterdir())
    assert len(films) == 2 and {film.stem for film in films} <= {"v0", "v1", "v2-s1", "v2-s2", "v3-s1", "v3-s2", "own"}
    shown = VideoFiles(tmp_path / "previews").read(VideoFiles(tmp_path / "previews").clip_ids()[0])
    assert shown.size == (64, 86) and len(shown.frames) in (10, 20) and shown.fps == 25
    before = [film.read_bytes() for film in films]
    preprocess.run(config(world, "previews", *overrides))
    assert before == [film.read_bytes() for film in films]
