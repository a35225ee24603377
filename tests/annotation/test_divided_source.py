"""Videos divided into scenes and people: which clips there are, where their joints come from, and what is kept."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.annotators import SHAPE, square_annotator, square_video
from support.tiny_videos import write_joints, write_video

from m3.annotation.divided_source import DividedSource
from m3.clips.base import ClipError, VideoSource
from m3.clips.frame_folders import FrameFolders
from m3.clips.video_files import VideoFiles
from m3.core.types import Clip, Rejection


def divided(root: Path, folder: Path, cuts: bool = True, fps: float | None = None, **changes: Any) -> DividedSource:
    source = DividedSource(VideoFiles(root, fps, cuts), square_annotator(**changes), folder)
    for clip_id in source.not_surveyed():
        source.add(source.surveyor(clip_id))
    return source


def middles(clip: Clip) -> np.ndarray:
    assert clip.joints is not None
    return clip.joints.xy.mean(1) - SHAPE.mean(0)  # (T, 2)


def test_joints_of_a_video_without_any_are_found(tmp_path: Path):
    square_video(tmp_path / "v" / "walk.mp4")
    source = divided(tmp_path / "v", tmp_path / "a")
    assert source.clip_ids() == ["walk"] and len(source) == 1
    clip = source.read("walk")
    assert (clip.id, clip.video, len(clip.frames)) == ("walk", "walk", 20) and clip.notes == ()
    assert np.abs(middles(clip) - [(18 + 3 * t, 16) for t in range(20)]).max() < 1
    assert clip.joints is not None and clip.joints.is_visible.all()


def test_a_joint_file_beside_the_video_is_never_replaced(tmp_path: Path):
    square_video(tmp_path / "v" / "walk.mp4")
    write_joints(tmp_path / "v" / "walk.csv", 20)
    content = (tmp_path / "v" / "walk.csv").read_bytes()
    source = divided(tmp_path / "v", tmp_path / "a")
    beside = VideoFiles(tmp_path / "v").read("walk").joints
    found = source.read("walk").joints
    assert beside is not None and found is not None and (found.xy == beside.xy).all()
    assert (tmp_path / "v" / "walk.csv").read_bytes() == content
    assert [path.suffix for path in source.folder.iterdir()] == [".json"]


def test_a_video_without_people_gives_no_clip_and_says_why(tmp_path: Path):
    square_video(tmp_path / "v" / "empty.mp4", num_squares=0)
    square_video(tmp_path / "v" / "short.mp4")
    source = divided(tmp_path / "v", tmp_path / "a", min_seconds=1.2)
    assert source.clip_ids() == ["empty", "short"] and source.parts_in_order() == []
    with pytest.raises(ClipError, match="nobody found in its 20 frames$"):
        source.read("empty")
    with pytest.raises(ClipError, match="20 frames; a track of frames 0 … 19: seen for 0.80 s, need 1.2 s"):
        source.read("short")


def test_scenes_and_people_become_clips(tmp_path: Path):
    square_video(tmp_path / "v" / "two.mp4", num_squares=2, has_cut=True)
    every = divided(tmp_path / "v", tmp_path / "a", person="every")
    assert every.clip_ids() == ["two-s1-p1", "two-s1-p2", "two-s2-p1", "two-s2-p2"]
    assert {every.read(clip_id).video for clip_id in every.clip_ids()} == {"two"}
    later = every.read("two-s2-p2")
    assert len(later.frames) == 10 and np.abs(middles(later) - [(48 + 3 * t, 46) for t in range(10)]).max() < 1
    whole = VideoFiles(tmp_path / "v").read("two")
    assert all((later.frames[t] == whole.frames[10 + t]).all() for t in range(10))
    largest = divided(tmp_path / "v", tmp_path / "a")
    assert largest.clip_ids() == ["two-s1", "two-s2"]
    assert largest.folder == every.folder  # who is kept does not change what is found
    assert divided(tmp_path / "v", tmp_path / "a", cuts=False).clip_ids() == ["two"]


def test_a_part_at_another_rate_is_the_same_part(tmp_path: Path):
    square_video(tmp_path / "v" / "two.mp4", has_cut=True)  # 25 frames/s
    source = divided(tmp_path / "v", tmp_path / "a", fps=12.5)
    clip = source.read("two-s2")
    assert len(clip.frames) == 5 and clip.fps == 12.5
    assert np.abs(middles(clip) - [(48 + 6 * t, 16) for t in range(5)]).max() < 1


def test_surveys_are_kept_and_used_again(tmp_path: Path):
    square_video(tmp_path / "v" / "walk.mp4")
    first = divided(tmp_path / "v", tmp_path / "a")
    again = DividedSource(VideoFiles(tmp_path / "v", cuts=True), square_annotator(), tmp_path / "a")
    assert again.not_surveyed() == [] and again.clip_ids() == ["walk"]
    assert again.fingerprint() == first.fingerprint() == VideoFiles(tmp_path / "v").fingerprint()
    other = DividedSource(VideoFiles(tmp_path / "v", cuts=True), square_annotator(visibility=0.6), tmp_path / "a")
    assert other.not_surveyed() == ["walk"] and other.folder != first.folder
    square_video(tmp_path / "v" / "walk.mp4", seed=1)
    changed = DividedSource(VideoFiles(tmp_path / "v", cuts=True), square_annotator(), tmp_path / "a")
    assert changed.not_surveyed() == ["walk"]


def test_a_mended_joint_file_is_used_and_makes_another_data_set(tmp_path: Path):
    square_video(tmp_path / "v" / "walk.mp4")
    source = divided(tmp_path / "v", tmp_path / "a")
    before = source.fingerprint()
    (path,) = source.folder.glob("*.csv")
    header, first, *rest = path.read_text().splitlines()
    cells = first.split(",")
    cells[1:4] = ["50.5", "60.5", "1"]
    path.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
    mended = divided(tmp_path / "v", tmp_path / "a")
    joints = mended.read("walk").joints
    assert joints is not None and joints.xy[0, 0].tolist() == [50.5, 60.5]
    assert mended.fingerprint() != before
    for survey in source.folder.glob("*.json"):
        survey.unlink()
    again = divided(tmp_path / "v", tmp_path / "a")  # surveyed again: the mended file stays
    assert path.read_text().splitlines()[1].startswith("0,50.5,60.5,1") and again.fingerprint() == mended.fingerprint()


def test_the_found_joint_file_is_one_for_the_video(tmp_path: Path):
    """A person may move it beside the video."""
    square_video(tmp_path / "v" / "two.mp4", has_cut=True)
    source = divided(tmp_path / "v", tmp_path / "a")
    found = source.read("two-s2").joints
    (_, second) = sorted(source.folder.glob("*.csv"))
    second.rename(tmp_path / "v" / "two.csv")
    moved = VideoFiles(tmp_path / "v").read("two").joints
    assert found is not None and moved is not None
    assert (moved.xy[10:] == found.xy).all() and moved.is_visible[10:].all() and not moved.is_visible[:10].any()


def test_a_video_that_cannot_be_read_is_rejected_with_its_reason(tmp_path: Path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "bad.mp4").write_bytes(b"no video")
    square_video(tmp_path / "v" / "walk.mp4")
    source = divided(tmp_path / "v", tmp_path / "a")
    assert source.clip_ids() == ["bad", "walk"]
    with pytest.raises(ClipError, match="bad.mp4: not a readable video"):
        source.read("bad")
    assert DividedSource(source.source, source.annotator, tmp_path / "a").not_surveyed() == ["bad"]  # tried again
    assert isinstance(source.surveyor("bad"), Rejection)


def test_folders_of_pictures_are_annotated_too(tmp_path: Path):
    square_video(tmp_path / "walk.mp4", 8)
    clip = VideoFiles(tmp_path).read("walk")
    (tmp_path / "f" / "walk").mkdir(parents=True)
    for t in range(8):
        Image.fromarray(clip.frames[t]).save(tmp_path / "f" / "walk" / f"{t}.png")
    folders = FrameFolders(tmp_path / "f")
    assert isinstance(folders, VideoSource)
    source = DividedSource(folders, square_annotator(), tmp_path / "a")
    source.survey("walk")
    assert (
        source.clip_ids() == ["walk"] and np.abs(middles(source.read("walk"))[:, 0] - 18 - 3 * np.arange(8)).max() < 1
    )


def test_without_an_annotator_only_scenes_are_told_apart(tmp_path: Path):
    square_video(tmp_path / "v" / "two.mp4", has_cut=True)
    write_video(tmp_path / "v" / "one.mp4", 8)
    source = DividedSource(VideoFiles(tmp_path / "v", cuts=True), None, tmp_path / "a")
    for clip_id in source.not_surveyed():
        source.survey(clip_id)
    assert source.clip_ids() == ["one", "two-s1", "two-s2"]
    assert source.read("two-s1").joints is None and len(source.read("two-s1").frames) == 10


def test_a_video_may_be_called_like_a_part(tmp_path: Path):
    square_video(tmp_path / "v" / "two.mp4", has_cut=True)
    square_video(tmp_path / "v" / "two-s1.mp4")
    source = divided(tmp_path / "v", tmp_path / "a")
    assert len(source.clip_ids()) == 3 and len({source.read(clip_id).id for clip_id in source.clip_ids()}) == 3


def test_nothing_is_listed_before_the_survey_and_the_source_can_be_sent_to_workers(tmp_path: Path):
    square_video(tmp_path / "v" / "walk.mp4")
    source = DividedSource(VideoFiles(tmp_path / "v", cuts=True), square_annotator(), tmp_path / "a")
    with pytest.raises(RuntimeError, match="1 clips are not surveyed yet"):
        source.clip_ids()
    survey = pickle.loads(pickle.dumps(source.surveyor))("walk")
    source.add(survey)
    assert pickle.loads(pickle.dumps(source)).read("walk").joints is not None
