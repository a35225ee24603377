"""In-painting of poses: what is hidden is not read, what is given stays, and the baselines are what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.inpainting_world import CANVAS_SIZE, run

from m3.batches.table import TokenTable
from m3.core.modalities import NUM_JOINT_BINS
from m3.generation import inpainting, rollout
from m3.tokens.joints import JointCodec


def test_what_is_written_and_scored(inpainting_world):
    result = run(inpainting_world)
    assert sorted(p.name for p in (inpainting_world / "out").iterdir()) == ["inpainting.json", "inpainting.png"]
    record = json.loads((inpainting_world / "out" / "inpainting.json").read_text())
    assert record == json.loads(json.dumps(result.record)) and record["num_poses"] == 8
    assert (result.is_hidden.sum(1) == 7).all() and len({tuple(row) for row in result.is_hidden}) > 4
    # The first pose of each of the 6 clips, then second ones.
    clips = [row // 3 for row in result.rows]
    assert set(clips[:6]) == set(range(6)) and len(set(result.rows.tolist())) == 8 and record["num_clips"] == 6
    # The scored joints are those hidden and visible; the mean by a naive loop.
    xy, is_visible = JointCodec(CANVAS_SIZE).decode(poses(inpainting_world, "test")[result.rows])
    for name, guess in result.guesses.items():
        distances = [
            np.hypot(*(guess[n, j] - xy[n, j])) for n in range(8) for j in range(13)
            if result.is_hidden[n, j] and is_visible[n, j]
        ]  # fmt: skip
        assert record["guesses"][name]["mean_error_px"] == pytest.approx(np.mean(distances))
        assert record["num_scored_joints"] == len(distances)
        low, high = record["guesses"][name]["ci95"]
        assert low < np.mean(distances) < high
        assert (guess[~result.is_hidden] == xy[~result.is_hidden]).all()
    with Image.open(inpainting_world / "out" / "inpainting.png") as picture:
        assert picture.width > 6 * 168 and picture.height > 5 * 168


def poses(inpainting_world: Path, split: str) -> np.ndarray:
    return np.asarray(TokenTable.open(inpainting_world / "data", split).tokens[:, :39]).reshape(-1, 3, 13)


def test_the_model_sees_the_given_joints_and_nothing_else(inpainting_world, monkeypatch):
    """The same guesses after everything hidden and every successor is replaced; others after a given joint is."""
    first = run(inpainting_world).guesses["model"]
    seen = []
    real_generate = rollout.generate

    def spoiled(model, tokens, is_known, *rest):
        seen.append(is_known.sum(1).tolist())
        return real_generate(model, torch.where(is_known, tokens, NUM_JOINT_BINS - 1), is_known, *rest)

    monkeypatch.setattr(rollout, "generate", spoiled)
    result = run(inpainting_world)
    assert (result.guesses["model"] == first).all() and seen == [[6 * 3] * 8]
    assert (first[result.is_hidden] != result.truth[result.is_hidden]).any()

    def moved(model, tokens, is_known, *rest):
        return real_generate(model, torch.where(is_known, (tokens + 1) % 2, tokens), is_known, *rest)

    monkeypatch.setattr(rollout, "generate", moved)
    assert (run(inpainting_world).guesses["model"] != first).any()


def test_seeds_and_counts(inpainting_world):
    first, again, other = run(inpainting_world), run(inpainting_world), run(inpainting_world, "seed=1")
    assert (first.guesses["model"] == again.guesses["model"]).all() and (first.rows == again.rows).all()
    assert (first.rows != other.rows).any()
    assert (run(inpainting_world, "inpaint.num_hidden=2").is_hidden.sum(1) == 2).all()


def test_the_mean_pose_by_a_naive_loop(inpainting_world):
    xy, is_visible = JointCodec(CANVAS_SIZE).decode(poses(inpainting_world, "train"))
    mean = inpainting.mean_pose(xy, is_visible)
    for j in range(13):
        assert mean[j] == pytest.approx(np.mean([xy[n, j] for n in range(len(xy)) if is_visible[n, j]], axis=0))
    result = run(inpainting_world)
    assert (result.guesses["mean_pose"] == np.where(result.is_hidden[..., None], mean, result.truth)).all()
    with pytest.raises(ValueError, match="right_ankle is visible in no pose of train"):
        inpainting.mean_pose(xy[1::3], is_visible[1::3])


def test_the_fitted_mean_pose_by_least_squares():
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 32, (13, 2))
    is_given = rng.random((20, 13)) < 0.5
    is_given[:, :2] = True
    poses = rng.uniform(0.3, 2, (20, 1, 1)) * mean + rng.normal(0, 4, (20, 1, 2)) + rng.normal(0, 2, (20, 13, 2))
    found = inpainting.fitted(mean, poses, is_given)
    for n in range(20):
        rows = [(x, 1, 0) for x, _ in mean[is_given[n]]] + [(y, 0, 1) for _, y in mean[is_given[n]]]
        wanted = np.concatenate([poses[n, is_given[n], 0], poses[n, is_given[n], 1]])
        factor, left, top = np.linalg.lstsq(np.array(rows), wanted, rcond=None)[0]
        assert found[n] == pytest.approx(factor * mean + [left, top])
    one = np.arange(13) == 4
    assert inpainting.fitted(mean, poses[:1], one[None])[0] == pytest.approx(mean + poses[0, 4] - mean[4])


@pytest.mark.parametrize(
    "override, message",
    [
        ("inpaint.num_hidden=13", "inpaint.num_hidden=13: .* one must be given"),
        ("inpaint.num_hidden=0", "inpaint.num_hidden=0"),
        ("inpaint.num_poses=0", "inpaint.num_poses=0"),
        ("inpaint.num_poses=100", "inpaint.num_poses=100: .* has 1. poses"),
        ("inpaint.num_shown=0", "inpaint.num_shown=0"),
        ("inpaint.seed=-1", "inpaint.seed=-1"),
        ("sampling.schemes.coords=null", "sampling.schemes.coords=None: need the keys"),
        ("sampling.schemes.coords.num_steps=40", "sampling.schemes.coords.num_steps=40: coords has 39 tokens"),
        ("checkpoint=null", "checkpoint=null"),
    ],
)
def test_what_cannot_be_is_refused(inpainting_world, override, message):
    with pytest.raises(Exception) as caught:
        run(inpainting_world, override, out="nothing")
    error = caught.value.__cause__ or caught.value  # hydra wraps what a constructor raises
    assert isinstance(error, ValueError) and re.search(message, str(error))
    assert not (inpainting_world / "nothing").exists()


def test_a_model_of_another_canvas_is_refused(inpainting_world):
    with pytest.raises(ValueError, match="canvas of 32 px, the model was trained on one of 64"):
        run(inpainting_world, f"checkpoint={inpainting_world / 'other_run'}", out="nothing")


def test_the_scheme_is_used(inpainting_world):
    samples = run(inpainting_world, "sampling.schemes.coords.pick=sample", "sampling.schemes.coords.num_steps=3")
    assert (samples.guesses["model"] != run(inpainting_world).guesses["model"]).any()
    assert samples.record["scheme"]["num_steps"] == 3
    other = run(inpainting_world, "sampling=ar").record["scheme"]
    assert (other["order"], other["num_steps"]) == ("ar", 1)
