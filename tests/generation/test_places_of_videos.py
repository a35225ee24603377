"""Where a roll-out of a video starts: at its start, its end or a frame, in one scene, with joints that were found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image
from support.annotators import SHAPE, square_annotator, square_video
from support.joint_formats import NUM_FRAMES, TRUTH, alphapose, truth, write_json
from support.random_world import MODALITIES
from support.tiny_videos import number_in, write_joints, write_video

from m3.clips.canvas import CropCanvas
from m3.core.modalities import ModalityTable
from m3.generation.input_files import Preparation, prompts_of_files
from m3.generation.prompts import Prompts
from m3.pairs import Chain, Stride
from m3.tokens.joints import JointCodec
from m3.tokens.mini import MiniTokenizer

TABLE: ModalityTable = instantiate(MODALITIES)


def prompts(path: Path, num_frames: int = 3, with_history: bool = False, joints: Path | None = None,
            **how: Any) -> Prompts:  # fmt: skip
    usual = {"canvas": CropCanvas(32), "miner": Stride(2, "chain", num_frames), "fps": None, "origin": "here",
             "finds_cuts": False, "annotations": path.parent / "annotations"}  # fmt: skip
    preparation = Preparation(**{**usual, **how})
    return prompts_of_files([path], joints, num_frames, TABLE, MiniTokenizer(), preparation, with_history)


def shown(made: Prompts) -> list[int]:
    """Numbers in the pictures that are present."""
    assert made.real is not None
    pictures = made.real.values["tok_rgb"][0]
    present = made.tokens.is_present[0]
    return [number_in(np.asarray(Image.fromarray(p).resize((64, 64)))) for p, there in zip(pictures, present) if there]


def references(made: Prompts) -> tuple[int, list[int]]:
    pairs = made.chains[0].pairs
    return pairs[0].reference, [pair.successor for pair in pairs]


def test_the_end_of_a_video_is_a_reference_without_truth(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 13, (64, 64))
    made = prompts(tmp_path / "a.mp4", start="end")
    assert references(made) == (12, [12]) and made.tokens.is_present[0].tolist() == [True, False, False, False]
    assert shown(made) == [12] and not made.history.is_present.any()


def test_with_history_from_the_frames_before_it(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 13, (64, 64))
    write_joints(tmp_path / "a.csv", 13)
    made = prompts(tmp_path / "a.mp4", with_history=True, start="end")
    before = JointCodec(32).decode(made.history.ids["coords"].reshape(1, 1, 3, 13))[0][0, 0]
    now = JointCodec(32).decode(made.tokens.ids["coords"][:, :1].reshape(1, 1, 3, 13))[0][0, 0]
    assert made.history.is_present.all()
    seen = made.tokens.is_known["coords"][0, 0, :13] & made.history.is_known["coords"][0, 0, :13]
    assert np.allclose((now - before)[seen], (2 * 0.5, 0), atol=0.1)  # two frames, at half the size


def test_the_frame_before_is_the_last_one_that_looks_different(tmp_path: Path):
    pictures = [np.full((64, 64, 3), 10 * (t // 5), np.uint8) for t in range(15)]
    for t, picture in enumerate(pictures):
        picture[8 * (t // 5) : 8 * (t // 5) + 20, 10:50] = 255
    write_video(tmp_path / "a.mp4", 15, (64, 64), pictures=pictures)
    made = prompts(tmp_path / "a.mp4", with_history=True, start="end", miner=Chain(0.9, 3))
    assert references(made)[0] == 14 and made.history.is_present.all()


def test_a_frame_has_what_follows_as_its_truth(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 13, (64, 64))
    made = prompts(tmp_path / "a.mp4", start=5)
    assert references(made) == (5, [7, 9, 11]) and shown(made) == [5, 7, 9, 11]
    assert references(prompts(tmp_path / "a.mp4", start="start")) == (0, [2, 4, 6])
    with pytest.raises(ValueError, match="rollout.from=40: no person or no scene there; there is one in frames 0 … 12"):
        prompts(tmp_path / "a.mp4", start=40)


def test_no_roll_out_spans_a_cut(tmp_path: Path):
    square_video(tmp_path / "a.mp4", 20, has_cut=True)
    miner = Stride(3, "chain", 6)
    assert references(prompts(tmp_path / "a.mp4", 6, miner=miner)) == (0, [3, 6, 9, 12, 15, 18])
    assert references(prompts(tmp_path / "a.mp4", 6, miner=miner, finds_cuts=True)) == (0, [3, 6, 9])
    later = prompts(tmp_path / "a.mp4", 6, miner=miner, finds_cuts=True, start=12)
    assert references(later) == (2, [5, 8])  # counted in the second scene, frames 10 … 19
    last = prompts(tmp_path / "a.mp4", 6, with_history=True, miner=Stride(12, "chain", 6), finds_cuts=True, start="end")
    assert not last.history.is_present.any()


def test_joints_that_a_video_lacks_are_found(tmp_path: Path):
    square_video(tmp_path / "a.mp4", 20)
    made = prompts(tmp_path / "a.mp4", annotator=square_annotator(person="every"), start="end")
    assert made.has_joints.all() and (tmp_path / "annotations").is_dir()
    xy = JointCodec(32).decode(made.tokens.ids["coords"][:, :1].reshape(1, 1, 3, 13))[0][0, 0]
    seen = made.tokens.is_known["coords"][0, 0, :13]
    wanted = (SHAPE + (18 + 3 * 19, 16) - (16, 0)) / 3  # the middle 96 × 96 px on 32
    assert seen.any() and np.abs(xy - wanted)[seen].max() < 0.5
    assert not prompts(tmp_path / "a.mp4").has_joints.any()
    own = write_joints(tmp_path / "own.csv", 20)
    given = prompts(tmp_path / "a.mp4", joints=own, annotator=square_annotator(), start="end")
    assert (
        given.tokens.ids["coords"] == prompts(tmp_path / "a.mp4", joints=own, start="end").tokens.ids["coords"]
    ).all()


def test_a_video_without_people_is_named(tmp_path: Path):
    square_video(tmp_path / "a.mp4", num_squares=0)
    with pytest.raises(ValueError, match=r"input=.*a.mp4: nobody found in its 20 frames"):
        prompts(tmp_path / "a.mp4", annotator=square_annotator())


def test_the_joints_of_a_picture_are_found(tmp_path: Path):
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[8:24, 40:56] = 255
    Image.fromarray(frame).save(tmp_path / "a.png")
    made = prompts(tmp_path / "a.png", annotator=square_annotator())
    assert made.has_joints.all() and made.tokens.is_known["coords"][0, 0].all()
    Image.fromarray(frame * 0).save(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"input=.*empty.png: nobody found"):
        prompts(tmp_path / "empty.png", annotator=replace(square_annotator(), visibility=0.6))


def test_joints_of_another_program_beside_a_file_and_named(tmp_path: Path):
    """The same tokens as from m3's own file, whichever way the joints come; a picture takes them too."""
    for name in ("own", "beside", "named"):
        write_video(tmp_path / f"{name}.mp4", NUM_FRAMES, (64, 64))
    header = ",".join(f"{joint}_{axis}" for joint in TRUTH for axis in "xy")
    rows = [",".join(map(str, truth(t).ravel())) for t in range(NUM_FRAMES)]
    (tmp_path / "own.csv").write_text("\n".join([header, *rows]))
    write_json(tmp_path / "beside.json", alphapose())
    there = write_json(tmp_path / "labels" / "pose.json", alphapose())
    made = [
        prompts(tmp_path / "own.mp4"),
        prompts(tmp_path / "beside.mp4"),
        prompts(tmp_path / "named.mp4", joints=there),
    ]
    made += [prompts(tmp_path / "beside.mp4", start="end"), prompts(tmp_path / "own.mp4", start="end")]
    own, beside, named, end, own_end = (each.tokens.ids["coords"] for each in made)
    assert all(each.has_joints.all() for each in made)
    assert (beside == own).all() and (named == own).all() and (end == own_end).all() and (end[0, 0] != own[0, 0]).any()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    write_json(tmp_path / "photo.json", alphapose()[:1])
    photo = prompts(tmp_path / "photo.png")
    assert photo.has_joints.all() and (photo.tokens.ids["coords"][0, 0] == own[0, 0]).all()
