"""Any modality from any others, in-process and beside naive loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.random_world import completed, config, model_of, write_data, write_run
from support.tiny_world import frame

from m3.batches.table import TokenTable
from m3.commands import generate
from m3.core.frames import Frames
from m3.core.joints import JOINT_NAMES
from m3.metrics.specs import NO_TRUTH
from m3.reporting.token_files import completion_arrays
from m3.tokens.joints import JointCodec

CODEC = JointCodec(32)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_data(root / "data")
    write_run(root / "run")
    write_run(root / "poses", model_of(["coords", "coords_next"]))
    return root


def stored(world: Path, name: str) -> np.ndarray:
    """Tokens of a modality of the test split, (9, L)."""
    start = {"tok_rgb": 0, "coords": 4, "tok_rgb_next": 43, "coords_next": 47}[name]
    table = TokenTable.open(world / "data", "test")
    rows = sorted(range(9), key=lambda row: (table.pairs[row].clip, table.pairs[row].reference))
    return np.asarray(table.tokens[rows, start : start + (39 if "coords" in name else 4)])


def test_a_past_from_its_future(world):
    made = completed(world, "tok_rgb_next,coords_next", "coords,tok_rgb", f"out={world / 'past'}")
    assert sorted(path.name for path in (world / "past").iterdir()) == [
        "generated.png", "metrics.json", "report.html", "samples.npz", "tokens.npz"]  # fmt: skip
    tokens = np.load(world / "past" / "tokens.npz", allow_pickle=False)
    for name in ("tok_rgb_next", "coords_next"):
        assert (tokens[name] == stored(world, name)).all() and tokens[f"is_given_{name}"].all()
    for name in ("tok_rgb", "coords"):
        assert not tokens[f"is_given_{name}"].any() and tokens[f"is_known_{name}"].all()
        assert (tokens[f"truth_{name}"] == stored(world, name)).all()
    assert set(made.scores) == {"reference"}
    scores = {score.name: score for score in made.scores["reference"]}
    xy, is_visible = CODEC.decode(tokens["coords"].reshape(9, 3, 13))
    true_xy = CODEC.decode(stored(world, "coords").reshape(9, 3, 13))[0]
    next_xy = CODEC.decode(stored(world, "coords_next").reshape(9, 3, 13))[0]
    error = scores["joint_error"].series
    assert error["model"].value == pytest.approx([np.linalg.norm(xy - true_xy, axis=-1).mean()])
    assert error["nothing_moves"].value == pytest.approx([np.linalg.norm(next_xy - true_xy, axis=-1).mean()])
    assert scores["tok_rgb_accuracy"].num_samples == [9]
    record = json.loads((world / "past" / "metrics.json").read_text())
    assert record["frames"]["reference"]["scores"]["joint_error"]["horizons"][0]["model"] == pytest.approx(
        error["model"].value[0], abs=1e-6)  # fmt: skip


def test_given_joints_stay_and_do_not_count(world):
    half = list(JOINT_NAMES[:6])
    made = completed(world, "{coords:[" + ",".join(half) + "]}", "coords", f"out={world / 'half'}")
    arrays = completion_arrays(made.made)
    given = arrays["is_given_coords"]
    assert given.sum() == 9 * 3 * 6 and (arrays["coords"][given] == arrays["truth_coords"][given]).all()
    scores = {score.name: score for score in made.scores["reference"]}
    xy = CODEC.decode(arrays["coords"].reshape(9, 3, 13))[0]
    true_xy = CODEC.decode(arrays["truth_coords"].reshape(9, 3, 13))[0]
    wanted = np.linalg.norm(xy - true_xy, axis=-1)[:, 6:].mean()
    assert scores["joint_error"].model == pytest.approx([wanted])
    assert "coords_accuracy" not in scores and "psnr" not in scores
    f1 = scores["visibility_f1"].series
    assert f1["nothing_moves"].value == [1.0] and scores["visibility_f1"].num_samples == [9]  # all are visible


def test_pose_following(world, capsys):
    """The next picture from all else; the given pose is not scored, but it is known where to look."""
    result = generate.run(config(world, "experiment=pose_following", f"out={world / 'following'}"))
    arrays = completion_arrays(result.made)
    assert set(result.made.generated) == {"tok_rgb_next"}
    for name in ("tok_rgb", "coords", "coords_next"):
        assert arrays[f"is_given_{name}"].all() and (arrays[name] == stored(world, name)).all()
    assert not arrays["is_given_tok_rgb_next"].any() and arrays["is_known_tok_rgb_next"].all()
    scores = {score.name: score for score in result.scores["successor"]}
    assert list(scores) == [
        "psnr", "ssim", "psnr_moving", "ssim_moving", "tok_rgb_accuracy", "tok_rgb_changed_accuracy", "agreement",
        "agreement@0.05"]  # fmt: skip
    pictures, truth = (frames.values["tok_rgb"].astype(float) for frames in (result.made.predicted, result.made.truth))
    squared, still = np.square(pictures - truth)[:, 1], np.square(truth[:, 0] - truth[:, 1])
    # All joints move; L = 20, so the margin is the least, 4 px.
    places = np.stack([CODEC.decode(stored(world, name).reshape(9, 3, 13))[0] for name in ("coords", "coords_next")])
    low = np.floor(places.min((0, 2)) - 4).clip(0).astype(int)
    high = np.ceil(places.max((0, 2)) + 4).clip(max=32).astype(int)
    for name, errors in (("model", squared), ("nothing_moves", still)):
        inside = [errors[n, low[n, 1] : high[n, 1], low[n, 0] : high[n, 0]].ravel() for n in range(9)]
        wanted = 10 * np.log10(255**2 / np.concatenate(inside).mean())
        assert scores["psnr_moving"].series[name].value == pytest.approx([wanted])
    assert set(scores["agreement"].series) == {"model", "reference_joints", "truth"}
    assert scores["agreement"].num_samples == [9] and scores["agreement"].model[0] is not None
    printed = " ".join(capsys.readouterr().out.split())
    assert "box PSNR dB" in printed and "new tokens %" in printed and "agreement@0.05" in printed
    report = (world / "following" / "report.html").read_text(encoding="utf-8")
    assert "PSNR in the moving box, decoded truth (dB)" in report and "joints fit the picture to 0.05" in report


def test_a_successor_of_which_parts_are_given_is_completed(world):
    """Otherwise the same modalities are a roll-out, which can give nothing of what is to come."""
    small = ["sampling.schemes.tok_rgb_next.num_steps=2", f"out={world / 'rest'}"]
    given = "tok_rgb,coords,{coords_next:[head]}"
    made = completed(world, given, "coords_next,tok_rgb_next", *small).made
    arrays = completion_arrays(made)
    assert arrays["is_given_coords_next"].sum() == 9 * 3 and set(made.generated) == {"coords_next", "tok_rgb_next"}
    head = arrays["is_given_coords_next"]
    assert (arrays["coords_next"][head] == arrays["truth_coords_next"][head]).all()


def test_both_frames_are_scored_apart(world):
    made = completed(world, "tok_rgb,{tok_rgb_next:[0,1]}", "coords,coords_next", f"out={world / 'both'}")
    assert set(made.scores) == {"reference", "successor"}
    with Image.open(world / "both" / "generated.png") as sheet:
        assert sheet.width > 6 * 64


def test_unconditional_generation_needs_no_data(world):
    options = ["data.root=nowhere", f"out={world / 'free'}", "rollout.num_samples=3"]
    made = completed(world, "", "tok_rgb,coords", *options)
    assert made.scores == {"reference": []} and not any(
        known.any() for known in made.made.given.tokens.is_known.values()
    )
    tokens = np.load(world / "free" / "tokens.npz", allow_pickle=False)
    assert tokens["sample_coords"].shape == (3, 1, 39) and not tokens["is_truth_coords"].any()
    assert len({each.tobytes() for each in tokens["sample_coords"]}) == 3
    record = json.loads((world / "free" / "metrics.json").read_text())["frames"]["reference"]
    assert record["scores"] == {} and record["absent"]["psnr"] == record["absent"]["joint_error"] == NO_TRUTH


def test_the_pose_of_a_picture_of_ones_own(world, tmp_path):
    Image.fromarray(frame(0)).save(tmp_path / "me.jpg")
    made = completed(world, "tok_rgb", "coords", f"input={tmp_path / 'me.jpg'}", f"out={tmp_path / 'out'}")
    is_known = made.made.predicted.tokens.is_known
    assert is_known.keys() == {"tok_rgb", "coords"}
    assert all(known[:, 0].all() and not known[:, 1].any() for known in is_known.values())
    with pytest.raises(ValueError, match="me has no tok_rgb_next to give"):
        completed(world, "tok_rgb_next", "coords", f"input={tmp_path / 'me.jpg'}")


def test_a_model_of_poses_alone(world):
    made = completed(world, "coords_next", "coords", f"checkpoint={world / 'poses'}", f"out={world / 'poses_out'}")
    names = {score.name for score in made.scores["reference"]}
    assert names == {
        "pck@0.05", "pck@0.1", "joint_error", "pck_moved@0.05", "pck_both@0.05", "motion_ratio", "visibility_f1",
        "coords_accuracy"
    }  # fmt: skip


def test_samples_do_not_depend_on_their_batch(world):
    options = ["rollout.num_samples=2", f"out={world / 'batches'}"]
    whole, single = (completed(world, "coords", "tok_rgb", *options, f"rollout.batch_size={size}") for size in (32, 1))
    for one, other in zip((whole.made.predicted, *whole.made.samples), (single.made.predicted, *single.made.samples)):
        # float32: batches differ in the last digits of a logit
        assert (all_ids(one) == all_ids(other)).mean() > 0.99
    assert (all_ids(whole.made.samples[0]) != all_ids(whole.made.samples[1])).any()


def all_ids(frames: Frames) -> np.ndarray:
    """(N, T + 1, S) tokens of all modalities."""
    return np.concatenate([frames.tokens.ids[name] for name in sorted(frames.tokens.ids)], -1)
