"""Scores of pictures where the person moves, by hand and by naive loops over pixels and tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from skimage.metrics import structural_similarity
from support.frames import frames_of, without
from support.random_roll_outs import by_name, random_roll_outs

from m3.metrics import METRICS, Comparison, measures

SIZE = 64
NAMES = ("psnr_moving", "ssim_moving", "psnr_moving_real", "ssim_moving_real")
PICTURES = {name: METRICS[name] for name in NAMES}


def box_of(places: list[tuple[int, float, float, float, float]], extent: float, visible: int = 13) -> list[int]:
    """The box of one frame of `SIZE` pixels whose joints have moved as given: (joint, from x, y, to x, y)."""
    reference = np.full((1, 1, 13, 2), 30.0)
    true = reference.copy()
    for joint, *place in places:
        reference[0, 0, joint], true[0, 0, joint] = place[:2], place[2:]
    is_visible = np.ones((1, 2, 13), bool)
    is_visible[0, 1, visible:] = False
    xy = np.concatenate([reference, true], 1)
    pictures = np.zeros((1, 2, SIZE, SIZE, 3), np.uint8)
    compared = Comparison(
        frames_of(np.ones((1, 2), bool), pictures, xy, is_visible),
        frames_of(np.ones((1, 2), bool), pictures, xy, is_visible),
        np.array([extent]),
    )
    by_name(compared, PICTURES)
    return compared.cache["boxes of the moving joints"][0, 0].tolist()


def test_the_box_by_hand():
    # L = 60: joints that move by more than 3 px, and a margin of 6 px.
    assert box_of([(0, 20, 30, 24.5, 30)], 60) == [14, 24, 31, 36]  # 20 - 6, 30 - 6, 24.5 + 6 rounded outwards
    assert box_of([(0, 20, 30, 23, 30)], 60) == [0, 0, 0, 0]  # 3 px are not more than 3 px
    assert box_of([(0, 20, 30, 24, 30), (5, 40, 50, 40, 41)], 60) == [14, 24, 46, 56]
    assert box_of([(0, 20, 30, 24, 30), (5, 40, 50, 40, 41)], 60, visible=5) == [14, 24, 30, 36]  # joint 5 is hidden
    assert box_of([(0, 2, 62, 8, 63)], 60) == [0, 56, 14, 64]  # cut to the picture
    assert box_of([(0, 20, 30, 22, 30)], 10) == [16, 26, 26, 34]  # the margin is at least 4 px
    assert box_of([(0, 20, 30, 40, 30)], np.nan) == [0, 0, 0, 0]  # L is unknown
    assert box_of([(0, -40, 30, -30, 30)], 60) == [0, 0, 0, 0]  # out of sight


def people(num_samples: int = 6, num_horizons: int = 2) -> Comparison:
    """Random pictures; two joints move, of some samples none is seen."""
    rng = np.random.default_rng(1)
    shape = num_samples, num_horizons + 1
    xy = np.repeat(rng.uniform(5, SIZE - 5, (num_samples, 1, 13, 2)), num_horizons + 1, 1)
    xy[:, 1:, :2] += rng.uniform(-14, 14, (num_samples, num_horizons, 2, 2))
    is_visible = rng.random((*shape, 13)) < 0.8
    is_visible[0] = False
    is_present = np.ones(shape, bool)
    is_present[1, 2] = False
    low = rng.integers(0, 256, (3, *shape, 16, 16, 3), np.uint8)
    pictures, true, real = low.repeat(4, -2).repeat(4, -3)
    others = rng.uniform(0, SIZE, xy.shape)
    return Comparison(
        frames_of(np.ones(shape, bool), pictures, others, is_visible[:, ::-1]),
        frames_of(is_present, true, xy, is_visible),
        rng.uniform(40, 60, num_samples),
        real=frames_of(rng.random(shape) < 0.8, real),
    )


def in_box(compared: Comparison, n: int, k: int) -> np.ndarray:
    """(H, W) bool, by a naive loop over joints and pixels."""
    poses, extent = compared.truth.values["coords"], compared.extent[n]
    places = []
    for j in range(13):
        if poses.is_visible[n, 0, j] and poses.is_visible[n, k, j]:
            start, end = poses.xy[n, 0, j], poses.xy[n, k, j]
            if math.dist(start, end) > 0.05 * extent:
                places += [start, end]
    inside = np.zeros((SIZE, SIZE), bool)
    for y in range(SIZE):
        for x in range(SIZE):  # the pixel is the square from (x, y) to (x + 1, y + 1)
            inside[y, x] = bool(places) and all(
                min(place[c] for place in places) - 0.1 * extent < at + 1
                and at < max(place[c] for place in places) + 0.1 * extent
                for c, at in ((0, x), (1, y))
            )
    return inside


@pytest.mark.parametrize("real", [False, True])
def test_the_scores_by_a_naive_loop(real: bool):
    compared = people()
    scores = by_name(compared, PICTURES)
    truth, suffix = (compared.real, "_real") if real else (compared.truth, "")
    tokenizer = {"tokenizer": compared.truth.values["tok_rgb"]} if real else {}
    still = np.repeat(compared.truth.values["tok_rgb"][:, :1], 3, 1)
    series = {"model": compared.predicted.values["tok_rgb"], "nothing_moves": still, **tokenizer}
    for k in (1, 2):
        boxes = {n: in_box(compared, n, k) for n in range(6)
                 if compared.truth.is_present[n, k] and truth.is_present[n, k]}  # fmt: skip
        for name, pictures in series.items():
            errors, similarities = [], []
            for n, inside in boxes.items():
                made, true = pictures[n, k], truth.values["tok_rgb"][n, k]
                errors += [((made.astype(float) - true) ** 2)[inside]]
                similarities += [structural_similarity(made, true, channel_axis=-1, full=True)[1][inside]]
            error, similarity = np.concatenate(errors).mean(), np.concatenate(similarities).mean()
            found = {metric: scores[f"{metric}_moving{suffix}"].series[name] for metric in ("psnr", "ssim")}
            assert found["psnr"].value[k - 1] == pytest.approx(10 * math.log10(255**2 / error))
            assert found["ssim"].value[k - 1] == pytest.approx(similarity)
            scored = sum(inside.any() for inside in boxes.values())
            assert found["psnr"].num_samples[k - 1] == scored and 0 < scored < 6


def test_a_box_is_not_the_whole_picture():
    compared = people()
    assert 0.02 < in_box(compared, 2, 1).mean() < 0.9
    compared.predicted.values["tok_rgb"][:] = compared.truth.values["tok_rgb"]
    scores = by_name(compared, PICTURES)
    assert scores["psnr_moving"].model == [100.0, 100.0] and scores["ssim_moving"].model == pytest.approx([1, 1])
    outside = np.stack([[~in_box(compared, n, k) for k in range(3)] for n in range(6)])
    compared.predicted.values["tok_rgb"][outside & (np.arange(3) > 0)[:, None, None]] = 0
    assert by_name(compared, PICTURES)["psnr_moving"].model == [100.0, 100.0]


def test_predicted_and_given_joints_do_not_change_the_box():
    compared = people()
    wanted = by_name(compared, PICTURES)["psnr_moving"].model
    others = replace(compared, predicted=without(compared.predicted, "coords"))
    given = replace(compared, is_given_joint=np.ones((6, 3, 13), bool))
    for each in (others, given):
        assert by_name(each, PICTURES)["psnr_moving"].model == wanted


def test_without_moving_joints_nothing_is_scored():
    compared = people()
    compared.truth.values["coords"].xy[:] = compared.truth.values["coords"].xy[:, :1]
    for score in by_name(compared, PICTURES).values():
        assert score.model == [None, None] and score.num_samples == [0, 0]
    assert by_name(replace(compared, has_joints=np.zeros(6, bool)), PICTURES) == {}
    assert by_name(replace(compared, truth=without(compared.truth, "coords")), PICTURES) == {}


@pytest.mark.parametrize("edge", [0, SIZE - 4])
def test_ssim_in_a_corner(edge: int):
    """The smallest box that there is: a margin of 4 px, cut to one side of a joint in the corner."""
    a, b = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    box = np.array([edge, edge, edge + 4, edge + 4])
    left, top, right, bottom = box
    wanted = structural_similarity(a, b, channel_axis=-1, full=True)[1][top:bottom, left:right].mean()
    assert measures.ssim_in(a, b, box) == pytest.approx(wanted)


def test_changed_tokens_by_a_naive_loop():
    compared = random_roll_outs()
    score = by_name(compared)["tok_rgb_changed_accuracy"]
    made, true = compared.predicted.tokens.ids["tok_rgb"], compared.truth.tokens.ids["tok_rgb"]
    for k in (1, 2, 3):
        right = count = samples = 0
        for n in range(12):
            if compared.truth.is_present[n, k]:
                has_changed = [true[n, k, i] != true[n, 0, i] for i in range(true.shape[-1])]
                right += sum(int(made[n, k, i] == true[n, k, i]) for i, changed in enumerate(has_changed) if changed)
                count += sum(has_changed)
                samples += any(has_changed)
        assert score.model[k - 1] == pytest.approx(right / count) and score.num_samples[k - 1] == samples
        assert score.nothing_moves[k - 1] == 0
