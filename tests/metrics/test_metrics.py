"""Scores of roll-outs by hand, by naive loops, by torchmetrics and by SciPy."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from support.frames import frames_of
from support.random_roll_outs import by_name, random_roll_outs
from torchmetrics.classification import BinaryF1Score
from torchmetrics.functional.image import peak_signal_noise_ratio

from m3 import metrics
from m3.core.frames import Frames, PairChain
from m3.core.types import PairInfo
from m3.generation import prompts
from m3.metrics import METRICS, Comparison, measures
from m3.metrics.bootstrap import ClipBootstrap, interval
from m3.metrics.measures import Ratio
from m3.metrics.specs import BASELINES
from m3.reporting import metrics_file, plots
from m3.reporting.files import write_json
from m3.tokens.joints import JointCodec


def value(ratio: Ratio) -> float:
    return ratio.numerator.sum() / ratio.denominator.sum()


def test_pck_by_hand():
    true_xy = np.zeros((2, 1, 13, 2))
    xy = np.zeros((2, 1, 13, 2))
    xy[0, 0, :3] = [[6, 8], [3, 4], [0, 9.99]]  # distances 10, 5, 9.99 with L = 100
    xy[1, 0, 0] = [12, 16]  # distance 20 with L = 300
    xy[1, 0, 1] = [500, 0]  # not scored
    is_scored = np.zeros((2, 1, 13), bool)
    is_scored[0, 0, :4] = True  # 10 is not < 10, 5 is, 9.99 is, 0 is
    is_scored[1, 0, 0] = True  # 20 < 30
    extent = np.array([100.0, 300.0])
    assert value(measures.pck(xy, true_xy, is_scored, extent, 0.1)) == pytest.approx(4 / 5)
    assert value(measures.pck(xy, true_xy, is_scored, extent, 0.05)) == pytest.approx(1 / 5)
    assert value(measures.joint_error_px(xy, true_xy, is_scored)) == pytest.approx((10 + 5 + 9.99 + 0 + 20) / 5)
    without = measures.pck(xy, true_xy, is_scored, np.array([100.0, np.nan]), 0.1)
    assert without.denominator.tolist() == [[4], [0]]


def test_pck_of_moved_joints_and_motion_ratio_by_hand():
    """One roll-out at two horizons with L = 100; joints 0 … 4 are scored, the reference is at (10, 10)."""
    reference = np.full((1, 1, 13, 2), 10.0)
    true_xy, xy = np.full((2, 1, 2, 13, 2), 10.0)
    true_xy[0, 0, :6, 0] += [0, 5, 5.01, 20, 20, 90]  # 5 is not more than 0.05 L; joint 5 is not scored
    xy[0, 0, :6, 1] += [3, 0, 5.01, 0, 0, 90]
    xy[0, 0, 3:5, 0] += [20, 15.01]  # errors of the joints 2 … 4: 5.01 · √2, 0, 4.99
    is_scored = np.zeros((1, 2, 13), bool)
    is_scored[..., :5] = True
    extent = np.array([100.0])
    has_moved = measures.has_moved(true_xy, reference, extent, 0.05)
    assert has_moved[0, 0].nonzero()[0].tolist() == [2, 3, 4, 5] and not has_moved[0, 1].any()
    moved = measures.pck(xy, true_xy, is_scored & has_moved, extent, 0.05)
    assert (moved.numerator.tolist(), moved.denominator.tolist()) == ([[2, 0]], [[3, 0]])
    ratio = measures.motion_ratio(xy, true_xy, reference, is_scored)
    assert ratio.numerator == pytest.approx(np.array([[3 + 0 + 5.01 + 20 + 15.01, 0]]))
    assert ratio.denominator == pytest.approx(np.array([[0 + 5 + 5.01 + 20 + 20, 0]]))
    assert not measures.has_moved(true_xy, reference, np.array([np.nan]), 0.05).any()


def test_visibility_f1_by_hand_and_by_torchmetrics():
    truth, claim = np.zeros((2, 1, 1, 13), bool)
    truth[..., :3], claim[..., [0, 3]] = True, True
    here = np.ones((1, 1), bool)
    assert value(measures.visibility_f1(claim, truth, here)) == pytest.approx(2 * 1 / (2 + 3))
    claim, truth = np.random.default_rng(0).random((2, 5, 3, 13)) < 0.6
    is_present = np.array([[True, True, False]] * 5)
    expected = BinaryF1Score()(torch.tensor(claim[:, :2]).flatten().int(), torch.tensor(truth[:, :2]).flatten().int())
    assert value(measures.visibility_f1(claim, truth, is_present)) == pytest.approx(expected.item(), abs=1e-6)
    assert measures.visibility_f1(claim & False, truth & False, is_present).denominator.sum() == 0


def test_psnr_by_hand_and_by_torchmetrics():
    a, b = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 95, np.uint8)
    assert measures.squared_error(a, b) == measures.squared_error(b, a) == 25
    assert measures.psnr_db(np.array(25.0)) == pytest.approx(10 * np.log10(255**2 / 25))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = peak_signal_noise_ratio(torch.tensor(a).double(), torch.tensor(b).double(), data_range=255.0)
    assert measures.psnr_db(np.array(measures.squared_error(a, b))) == pytest.approx(expected.item(), abs=1e-6)
    known = measures.psnr_db(np.array([0.0, np.nan]))
    assert known[0] == pytest.approx(measures.MAX_PSNR_DB) and np.isnan(known[1])


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(60, 200, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    values = [measures.ssim(picture + rng.integers(0, top, picture.shape, np.uint8), picture) for top in (1, 10, 50)]
    assert values[0] == pytest.approx(1) and 1 > values[1] > values[2] > 0


# The bootstrap.


def ratio_data(num_clips: int, seed: int) -> tuple[np.ndarray, Ratio]:
    """Clips of 1 … 6 samples each, correct with a chance of the clip's own whose mean is 0.5."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(np.arange(num_clips), rng.integers(1, 7, num_clips))
    chance = rng.beta(2, 2, num_clips)
    denominator = np.full((len(clip), 1), 13.0)
    numerator = rng.binomial(13, chance[clip])[:, None].astype(float)
    return clip, Ratio(numerator, denominator)


def as_it_is(quotients: np.ndarray) -> np.ndarray:
    return quotients


def test_the_bootstrap_agrees_with_scipy():
    clip, ratio = ratio_data(40, seed=1)
    low, high = interval(ClipBootstrap(clip, 20_000).resampled(ratio, as_it_is))
    hits, counts = (np.bincount(clip, part[:, 0]) for part in (ratio.numerator, ratio.denominator))
    found = scipy.stats.bootstrap(
        (hits, counts), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, method="percentile",
        n_resamples=20_000, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert low[0] == pytest.approx(found.low, abs=0.004) and high[0] == pytest.approx(found.high, abs=0.004)


def test_the_interval_covers_the_truth_and_that_over_samples_does_not():
    covered = {"clips": 0, "samples": 0}
    for seed in range(200):
        clip, ratio = ratio_data(50, seed)
        for unit, labels in (("clips", clip), ("samples", np.arange(len(clip)))):
            low, high = interval(ClipBootstrap(labels, 300).resampled(ratio, as_it_is))
            covered[unit] += bool(low[0] <= 0.5 <= high[0])
    assert 0.90 <= covered["clips"] / 200 <= 0.98  # 95% aimed at; its standard error here is 1.5%
    assert covered["samples"] / 200 < 0.85


def test_the_bootstrap_by_a_naive_loop():
    clip, ratio = ratio_data(7, seed=3)
    bootstrap = ClipBootstrap(clip, 50)
    resampled = bootstrap.resampled(ratio, as_it_is)
    assert resampled.shape == (50, 1) and (bootstrap._times.sum(1) == 7).all()
    for times, found in zip(bootstrap._times, resampled[:, 0]):
        rows = [row for c in range(7) for _ in range(times[c]) for row in np.flatnonzero(clip == c)]
        assert found == pytest.approx(ratio.numerator[rows].sum() / ratio.denominator[rows].sum())
    assert (ClipBootstrap(clip, 50).resampled(ratio, as_it_is) == resampled).all()


def test_a_resample_without_any_number_is_left_out():
    ratio = Ratio(np.array([[3.0, 0.0], [0.0, 0.0]]), np.array([[4.0, 0.0], [0.0, 0.0]]))
    bootstrap = ClipBootstrap(np.array(["a", "b"]), 100)
    assert bootstrap.clips_with(ratio).tolist() == [1, 0]
    resampled = bootstrap.resampled(ratio, as_it_is)
    assert np.isnan(resampled[:, 0]).any() and np.isnan(resampled[:, 1]).all()
    low, high = interval(resampled)
    assert low[0] == high[0] == 0.75 and np.isnan([low[1], high[1]]).all()


# All scores.


def three_roll_outs() -> Comparison:
    """(N = 3, T = 2): sample 1 ends after horizon 1, sample 2 has no pose extent; joint 12 is invisible in truth."""
    shape = 3, 3
    xy = np.zeros((*shape, 13, 2))
    xy[:, 1], xy[:, 2] = 3.0, 20.0  # moves by 3·√2, then to 20·√2
    is_visible = np.ones((*shape, 13), bool)
    is_visible[..., 12] = False
    is_present = np.ones(shape, bool)
    is_present[1, 2] = False
    pictures = np.zeros((*shape, 16, 16, 3), np.uint8)
    pictures[:, 1], pictures[:, 2] = 10, 30
    truth = frames_of(is_present, pictures, xy, is_visible)
    predicted_xy = xy.copy()
    predicted_xy[:, 1:, 12] = 77
    predicted_xy[:, 2, :6] += [3, 4]
    predicted_pictures = pictures.copy()
    predicted_pictures[:, 2] += 5
    # Whatever is predicted where the truth has ended changes nothing.
    predicted_pictures[1, 2], predicted_xy[1, 2] = 255, 1000
    predicted = frames_of(np.ones(shape, bool), predicted_pictures, predicted_xy, is_visible)
    return Comparison(predicted, truth, np.array([100.0, 100.0, np.nan]))


def test_scores_per_horizon_by_hand():
    calls = []
    scores = by_name(three_roll_outs(), on_metric=lambda: calls.append(1))
    assert len(calls) == len(METRICS)
    pck = scores["pck@0.05"]
    assert (pck.num_samples, pck.model, pck.nothing_moves) == ([2, 1], [1.0, pytest.approx(6 / 12)], [1.0, 0.0])
    assert scores["pck@0.1"].model == [1.0, 1.0]
    error = scores["joint_error"]
    assert error.num_samples == [3, 2] and error.model == [0.0, pytest.approx(5 * 6 / 12)]
    assert error.nothing_moves == pytest.approx([3 * 2**0.5, 20 * 2**0.5])
    assert error.gains["nothing_moves"].value == pytest.approx([3 * 2**0.5, 20 * 2**0.5 - 2.5])  # lower is better
    psnr = scores["psnr"]
    assert psnr.num_samples == [3, 2] and psnr.model == pytest.approx([100.0, 10 * np.log10(255**2 / 25)])
    assert psnr.nothing_moves == pytest.approx([10 * np.log10(255**2 / 100), 10 * np.log10(255**2 / 900)])
    assert scores["visibility_f1"].model == [1.0, 1.0] and scores["ssim"].model[0] == pytest.approx(1)


def test_psnr_is_that_of_the_mean_error():
    """An equal picture beside one with an error of 100: their mean error is 50, whatever equal counts in dB."""
    compared = three_roll_outs()
    compared.predicted.values["tok_rgb"][0, 1] += 10
    compared.truth.is_present[2] = False
    assert by_name(compared)["psnr"].model[0] == pytest.approx(10 * math.log10(255**2 / 50))


def test_a_horizon_without_truth_scores_none():
    compared = three_roll_outs()
    compared.truth.is_present[:, 2] = False
    for score in metrics.score(compared):
        assert score.num_samples[1] == 0 and score.model[1] is None and score.nothing_moves[1] is None
        assert all(series.low[1] is None for series in score.series.values())


def test_no_visible_joint_leaves_the_pictures_scored():
    compared = three_roll_outs()
    compared.truth.values["coords"].is_visible[:] = False
    scores = by_name(compared)
    assert scores["pck@0.1"].model == [None, None] and scores["joint_error"].num_samples == [0, 0]
    assert scores["psnr"].num_samples == [3, 2] and scores["agreement"].model == [None, None]


def test_of_motion_nothing_moves_has_none_and_the_truth_all():
    compared = random_roll_outs()
    compared.predicted.values["coords"].xy[:, 1] = compared.truth.values["coords"].xy[:, 1]
    scores = by_name(compared)
    moved, ratio = scores["pck_moved@0.05"], scores["motion_ratio"]
    assert moved.nothing_moves == ratio.nothing_moves == [0, 0, 0]
    assert moved.model[0] == ratio.model[0] == 1 and moved.model[1] < 1
    assert list(moved.gains) == list(BASELINES) and moved.gains["nothing_moves"].value == moved.model
    # No amount of motion is better by itself.
    assert ratio.gains == {} and not {"best_of_n", "median_of_n"} & ratio.series.keys()
    assert METRICS["motion_ratio"].text(0.814) == "0.81"


def test_a_joint_that_the_reference_lacks_has_no_motion():
    compared = random_roll_outs()
    compared.truth.values["coords"].is_visible[:, 0] = False
    scores = by_name(compared)
    assert scores["motion_ratio"].model == scores["pck_moved@0.05"].model == [None] * 3
    compared = random_roll_outs()
    compared.truth.is_present[:, 0] = False
    assert by_name(compared)["motion_ratio"].num_samples == [0, 0, 0]


def naive_joint_scores(frames: Frames, truth: Frames, extent, horizon: int, rows: list[int]) -> dict[str, float]:
    poses, true_poses = frames.values["coords"], truth.values["coords"]
    hits5 = hits10 = count = claims = agreed = 0
    distances, moved_hits, moved_count, path, true_path = [], 0, 0, 0.0, 0.0
    for n in rows:
        if not (truth.is_present[n, horizon] and frames.is_present[n, horizon]):
            continue
        for j in range(13):
            claimed, true = poses.is_visible[n, horizon, j], true_poses.is_visible[n, horizon, j]
            claims += int(claimed) + int(true)
            agreed += int(claimed and true)
            if true:
                distance = math.dist(poses.xy[n, horizon, j], true_poses.xy[n, horizon, j])
                distances.append(distance)
                hits5 += distance < 0.05 * extent[n]
                hits10 += distance < 0.1 * extent[n]
                count += 1
                if true_poses.is_visible[n, 0, j]:
                    start = true_poses.xy[n, 0, j]
                    far = math.dist(true_poses.xy[n, horizon, j], start)
                    path, true_path = path + math.dist(poses.xy[n, horizon, j], start), true_path + far
                    moved_hits += far > 0.05 * extent[n] and distance < 0.05 * extent[n]
                    moved_count += far > 0.05 * extent[n]
    return {"pck@0.05": hits5 / count, "pck@0.1": hits10 / count, "joint_error": sum(distances) / count,
            "visibility_f1": 2 * agreed / claims, "pck_moved@0.05": moved_hits / moved_count,
            "motion_ratio": path / true_path}  # fmt: skip


def test_every_joint_score_by_a_naive_loop():
    compared = random_roll_outs()
    scores, predicted, truth, extent = by_name(compared), compared.predicted, compared.truth, compared.extent
    poses, moving, damped = truth.values["coords"], compared.constant_velocity, compared.damped_velocity
    still = frames_of(truth.is_present, xy=np.repeat(poses.xy[:, :1], 4, 1),
                      is_visible=np.repeat(poses.is_visible[:, :1], 4, 1))  # fmt: skip
    everyone = list(range(12))
    runs = [n for n in everyone if compared.action[n] == "run"]
    for horizon in (1, 2, 3):
        for series, frames in {
            "model": predicted, "nothing_moves": still, "constant_velocity": moving, "damped_velocity": damped
        }.items():  # fmt: skip
            for name, expected in naive_joint_scores(frames, truth, extent, horizon, everyone).items():
                assert scores[name].series[series].value[horizon - 1] == pytest.approx(expected), (name, series)
        for name, expected in naive_joint_scores(predicted, truth, extent, horizon, runs).items():
            assert scores[name].by_action["run"].model[horizon - 1] == pytest.approx(expected)
    assert set(scores["psnr"].by_action) == {"run", "jump"}
    # The gain is that over the samples which the baseline has too.
    has_both = [n for n in everyone if moving.is_present[n, 0]]
    ours = naive_joint_scores(predicted, truth, extent, 1, has_both)["joint_error"]
    theirs = naive_joint_scores(moving, truth, extent, 1, has_both)["joint_error"]
    assert scores["joint_error"].gains["constant_velocity"].value[0] == pytest.approx(theirs - ours)
    assert scores["joint_error"].model[0] != pytest.approx(ours)


def test_every_picture_score_by_a_naive_loop():
    compared = random_roll_outs()
    scores, is_present, is_real = by_name(compared), compared.truth.is_present, compared.real.is_present
    predicted, truth, real = (
        frames.values["tok_rgb"] for frames in (compared.predicted, compared.truth, compared.real)
    )
    for horizon in (1, 2, 3):
        rows = [n for n in range(12) if is_present[n, horizon]]
        seen = [n for n in rows if is_real[n, horizon]]
        copied = [n for n in seen if is_real[n, 0]]
        for name, series, made, true, chosen in (
            ("psnr", "model", predicted[:, horizon], truth[:, horizon], rows),
            ("psnr", "nothing_moves", truth[:, 0], truth[:, horizon], rows),
            ("psnr_real", "model", predicted[:, horizon], real[:, horizon], seen),
            ("psnr_real", "nothing_moves", truth[:, 0], real[:, horizon], seen),
            ("psnr_real", "tokenizer", truth[:, horizon], real[:, horizon], seen),
            ("psnr_real", "real_reference", real[:, 0], real[:, horizon], copied),
        ):
            errors = (made[chosen].astype(float) - true[chosen]) ** 2
            line = scores[name].series[series]
            assert line.num_samples[horizon - 1] == len(chosen)
            assert line.value[horizon - 1] == pytest.approx(10 * math.log10(255**2 / errors.mean())), (name, series)
            mean = np.mean([measures.ssim(made[n], true[n]) for n in chosen])
            name = name.replace("psnr", "ssim")
            assert scores[name].series[series].value[horizon - 1] == pytest.approx(mean)


def test_token_accuracy_by_a_naive_loop():
    compared = random_roll_outs()
    scores = by_name(compared)
    made, true, is_present = compared.predicted.tokens.ids, compared.truth.tokens.ids, compared.truth.is_present
    is_visible = compared.truth.values["coords"].is_visible
    for horizon in (1, 2, 3):
        for series, of, at in (("model", made, horizon), ("nothing_moves", true, 0)):
            right = count = pictures_right = pictures = 0
            for n in np.flatnonzero(is_present[:, horizon]):
                pictures_right += int((of["tok_rgb"][n, at] == true["tok_rgb"][n, horizon]).sum())
                pictures += 1
                for place in range(39):
                    if place >= 26 or is_visible[n, horizon, place % 13]:
                        right += of["coords"][n, at, place] == true["coords"][n, horizon, place]
                        count += 1
            k = horizon - 1
            assert scores["coords_accuracy"].series[series].value[k] == pytest.approx(right / count)
            assert scores["tok_rgb_accuracy"].series[series].value[k] == pytest.approx(pictures_right / pictures)
    assert scores["coords_accuracy"].series["constant_velocity"].value[0] is not None
    assert not {"constant_velocity", "damped_velocity"} & scores["tok_rgb_accuracy"].series.keys()


# Constant and damped velocity.


def moved_on(baseline) -> tuple[Frames, Frames]:
    """Roll-outs whose joints moved by (2, −3) to (50, 50), and their reference; sample 1 has no frame before it."""
    truth = three_roll_outs().truth
    truth.values["coords"].xy[:, 0] = 50.0
    is_visible = np.ones((3, 1, 13), bool)
    is_visible[..., 4] = False  # before; joint 12 is invisible in the reference
    has_previous = np.array([[True], [False], [True]])
    previous = frames_of(has_previous, xy=np.full((3, 1, 13, 2), [48.0, 53.0]), is_visible=is_visible)
    return baseline(truth, previous, JointCodec(256)), truth


@pytest.mark.parametrize(
    ("baseline", "places"),
    [
        (metrics.constant_velocity, [[50, 50], [52, 47], [54, 44]]),
        (metrics.damped_velocity, [[50, 50], [51.4, 47.9], [52.24, 46.64]]),  # 0.7, then 0.7 + 0.42 displacements
    ],
)
def test_velocities_by_hand(baseline, places):
    made, truth = moved_on(baseline)
    moving = made.values["coords"]
    assert moving.xy[0, :, 0] == pytest.approx(np.array(places))
    assert (moving.xy[0, :, [4, 12]] == 50).all()
    assert made.is_present.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert (moving.is_visible == truth.values["coords"].is_visible[:, :1]).all()


def test_constant_velocity_is_right_about_straight_lines_and_absent_without_a_previous_frame():
    compared = three_roll_outs()
    xy = compared.truth.values["coords"].xy
    xy[:] = np.arange(3)[:, None, None] * np.array([4.0, -1.0]) + 30
    previous = frames_of(np.ones((3, 1), bool), xy=xy[:, :1] - [4, -1])
    moving = metrics.constant_velocity(compared.truth, previous, JointCodec(256))
    scores = by_name(replace(compared, constant_velocity=moving))
    assert scores["joint_error"].series["constant_velocity"].value == pytest.approx([0, 0])
    nowhere = replace(moving, is_present=np.zeros_like(moving.is_present))
    scores = by_name(replace(compared, constant_velocity=nowhere))
    line = scores["joint_error"].series["constant_velocity"]
    assert line.value == [None, None] and line.num_samples == [0, 0]


def test_damped_velocity_ends_where_the_steps_of_a_geometric_series_end():
    truth = frames_of(np.ones((1, 41), bool), xy=np.full((1, 41, 13, 2), 100.0))
    previous = frames_of(np.ones((1, 1), bool), xy=np.full((1, 1, 13, 2), [96.0, 104.0]))
    xy = metrics.damped_velocity(truth, previous, JointCodec(256)).values["coords"].xy
    assert np.diff(xy[0, :4, 0, 0]) == pytest.approx([4 * 0.7, 4 * 0.42, 4 * 0.252])
    assert xy[0, -1, 0] == pytest.approx([100 + 4 * 1.75, 100 - 4 * 1.75])


def test_the_pair_before_a_chain():
    def pair(clip: str, reference: int, successor: int) -> PairInfo:
        return PairInfo("", clip, reference, successor, None, None)

    pairs = [pair("a", 0, 3), pair("a", 3, 5), pair("b", 1, 3), pair("a", 2, 5), pair("a", 5, 6)]
    starts = [pairs[0], pairs[1], pairs[2], pairs[4]]
    chains = [PairChain((0,), (start,)) for start in starts]
    assert prompts.previous_rows(pairs, chains).tolist() == [-1, 0, -1, 1]


# The record.


def test_metrics_json(tmp_path):
    scores = metrics.score(three_roll_outs())
    path = tmp_path / "metrics.json"
    write_json(path, metrics_file.metrics_record(scores, {"split": "test"}))
    record = json.loads(path.read_text())
    assert record["schema_version"] == 2 and record["split"] == "test"
    assert list(record["scores"]) == [
        "pck@0.05", "pck@0.1", "joint_error", "pck_moved@0.05", "pck_both@0.05", "motion_ratio", "visibility_f1",
        "psnr", "ssim", "psnr_moving", "ssim_moving", "agreement", "agreement@0.05"]  # fmt: skip
    assert list(record["absent"]) == [
        "motion_frechet", "psnr_real", "ssim_real", "psnr_moving_real", "ssim_moving_real", "tok_rgb_accuracy",
        "tok_rgb_changed_accuracy", "coords_accuracy", "diversity_joints", "diversity_pictures"]  # fmt: skip
    assert "source=" in record["absent"]["psnr_real"]
    entry = record["scores"]["joint_error"]["horizons"][1]
    low, high = entry["nothing_moves_ci95"]
    assert low == high == pytest.approx(20 * 2**0.5, abs=1e-6) and entry["model_ci95"] == [2.5, 2.5]
    assert entry["gain_over_nothing_moves"] == pytest.approx(20 * 2**0.5 - 2.5, abs=1e-6)
    known = ("horizon", "num_samples", "num_clips", "model")
    assert {key: entry[key] for key in known} == {"horizon": 2, "num_samples": 2, "num_clips": 2, "model": 2.5}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_metrics_json_of_all_that_can_be_known(tmp_path):
    record = metrics_file.metrics_record(metrics.score(random_roll_outs(num_samples=180)), {})
    write_json(tmp_path / "metrics.json", record)
    assert record["absent"] == {} and list(record["scores"]) == list(METRICS)
    assert set(record["by_action"]) == {"run", "jump"}
    for entry in record["scores"].values():
        for horizon in entry["horizons"]:
            for name in (key for key in record["series"] if key in horizon):
                low, high = horizon[f"{name}_ci95"]
                assert horizon[name] is None or low <= horizon[name] <= high
    assert {name for entry in record["scores"].values() for name in entry["horizons"][0]} >= set(record["series"])
    first = record["scores"]["joint_error"]["horizons"][0]
    assert first["constant_velocity_num_samples"] < first["num_samples"] and first["num_clips"] == 6


def test_one_clip_has_no_interval():
    error = by_name(replace(three_roll_outs(), clip=np.array(["a", "a", "a"])))["joint_error"]
    assert error.model[1] == pytest.approx(2.5)
    assert error.series["model"].low == [None, None] and error.gains["nothing_moves"].high == [None, None]


def test_metrics_json_refuses_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "metrics.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_plot_shows_what_is_known():
    whole = plots.scores_plot(metrics.score(random_roll_outs()), "all")
    assert whole.mode == "RGB" and len(whole.getcolors(2**24)) > 100
    few = plots.scores_plot(metrics.score(three_roll_outs()), "few")  # 6 panels of 12
    assert few.height < whole.height
