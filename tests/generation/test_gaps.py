"""The gap of a roll-out: a clip's own, the one that is asked for, or the usual one of the model's data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.random_world import MODALITIES, MODEL, config, write_data, write_run
from support.tiny_videos import write_joints, write_video
from support.tiny_world import frame

import generate
from m3.checkpoint import LoadedModel, load_model

TABLE = {**MODALITIES, "modalities": ["coords", "gap_next", "motion_next"], "vocab_sizes": [8192, 64, 4226],
         "max_seq_lens": [39, 1, 13], "input_alphas": [1, 1, 0], "target_alphas": [0, 0, 1],
         "input_tokens_range": [1, 40], "target_tokens_range": [1, 13]}  # fmt: skip


TIMED = {**TABLE, "modalities": ["coords", "seconds_next", "motion_next"]}
BOTH = {**TABLE, "modalities": ["coords", "gap_next", "seconds_next", "motion_next"],
        "vocab_sizes": [8192, 64, 64, 4226], "max_seq_lens": [39, 1, 1, 13], "input_alphas": [1, 1, 1, 0],
        "target_alphas": [0, 0, 0, 1]}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose frames follow each other, a photo, a video, and models with and without the usual gap, 5 frames."""
    root = tmp_path_factory.mktemp("gaps")
    write_data(root / "data")
    write_run(root / "run", {**MODEL, "table": TABLE}, scale=1.0, median_gap=5)
    write_run(root / "old", {**MODEL, "table": TABLE}, scale=1.0)
    write_run(root / "timed", {**MODEL, "table": TIMED}, scale=1.0, median_gap_s=0.25)
    write_run(root / "both", {**MODEL, "table": BOTH}, scale=1.0, median_gap=5, median_gap_s=0.25)
    Image.fromarray(frame(0)).save(root / "photo.png")
    write_joints(root / "photo.csv", 1)
    write_video(root / "walk.mp4", num_frames=24)
    write_joints(root / "walk.csv", 24)
    return root


def rolled_out(world: Path, *overrides: str) -> generate.Result:
    return generate.run(config(world, "pictures.num_reported=0", "rollout.frames=2", *overrides))


def given_ids(made: generate.Result, name: str) -> list[int | None]:
    """The ids of the gap to the first successor, as given to the model."""
    tokens = made.made.given.tokens
    assert tokens is not None
    ids, is_known = (part[name][:, 1, 0].tolist() for part in (tokens.ids, tokens.is_known))
    return [number if known else None for number, known in zip(ids, is_known)]


def gaps_of(made: generate.Result) -> list[int | None]:
    """Frames to the first successor, as given to the model."""
    return [None if number is None else number + 1 for number in given_ids(made, "gap")]


def test_a_photo_has_the_usual_gap_of_the_model_s_data(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = f"input={world / 'photo.png'}"
    usual = rolled_out(world, photo)
    assert gaps_of(usual) == [5]
    assert "input: a photo has no gap: 5 frames, as usual in the model's data" in capsys.readouterr().out
    asked, other = (rolled_out(world, photo, f"rollout.gap={gap}") for gap in (5, 9))
    assert (gaps_of(asked), gaps_of(other)) == ([5], [9]) and "has no gap" not in capsys.readouterr().out
    moved = [result.made.predicted.values["coords"].xy for result in (usual, asked, other)]
    assert (moved[0] == moved[1]).all() and (moved[0] != moved[2]).any()


def test_a_photo_has_the_usual_seconds_too(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, number = f"input={world / 'photo.png'}", 29  # 6 · log2(0.25 · 120) = 29.4
    assert given_ids(rolled_out(world, photo, f"checkpoint={world / 'timed'}"), "seconds") == [number]
    assert "a photo has no gap: 0.25 s, as usual" in capsys.readouterr().out
    both = rolled_out(world, photo, f"checkpoint={world / 'both'}")
    assert (gaps_of(both), given_ids(both, "seconds")) == ([5], [number])
    assert "a photo has no gap: 5 frames, 0.25 s, as usual" in capsys.readouterr().out
    asked = rolled_out(world, photo, f"checkpoint={world / 'both'}", "rollout.gap=9")
    assert (gaps_of(asked), given_ids(asked, "seconds")) == ([9], [None])


def test_a_video_is_not_given_the_usual_seconds(world: Path) -> None:
    video = f"input={world / 'walk.mp4'}"
    (pair, *_) = rolled_out(world, video).made.prompts.chains[0].pairs
    own = round(6 * np.log2((pair.successor - pair.reference) / 25 * 120))  # 25 frames per second
    assert given_ids(rolled_out(world, video, f"checkpoint={world / 'timed'}"), "seconds") == [own] != [29]
    # clips without a rate have a gap in frames, and get no seconds that contradict it
    clips = rolled_out(world, f"checkpoint={world / 'both'}")
    assert (set(gaps_of(clips)), set(given_ids(clips, "seconds"))) == ({1}, {None})


def test_a_checkpoint_without_it_leaves_the_gap_out_and_says_so(world: Path, capsys) -> None:
    assert gaps_of(rolled_out(world, f"input={world / 'photo.png'}", f"checkpoint={world / 'old'}")) == [None]
    assert "the checkpoint names none of its data; rollout.gap=… asks for one" in capsys.readouterr().out


def test_videos_and_clips_keep_their_own(world: Path) -> None:
    video = rolled_out(world, f"input={world / 'walk.mp4'}")
    pair = video.made.prompts.chains[0].pairs[0]
    assert gaps_of(video) == [pair.successor - pair.reference] != [5]
    assert set(gaps_of(rolled_out(world))) == {1}


def test_a_shared_model_keeps_it(world: Path, tmp_path: Path) -> None:
    folder = load_model(world / "run").save_pretrained(tmp_path / "shared")
    assert LoadedModel.from_pretrained(folder).data["median_gap"] == 5


def test_tokens_name_no_frames_of_the_clip_under_another_gap(world: Path) -> None:
    own, other = (rolled_out(world, f"rollout.gap={gap}", f"out={world / str(gap)}").out for gap in (1, 2))
    with np.load(own / "tokens.npz") as tokens:
        assert tokens["successor_frames"][0].tolist() == [1, 2] and tokens["is_truth"][0].tolist() == [True] * 3
    with np.load(other / "tokens.npz") as tokens:
        assert (tokens["successor_frames"] == -1).all() and not tokens["is_truth"][:, 1:].any()
