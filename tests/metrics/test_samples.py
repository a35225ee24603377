"""Scores of several samples of one future, beside naive loops."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.frames import frames_of, without
from support.random_roll_outs import by_name, random_roll_outs

from m3 import metrics
from m3.metrics import Comparison
from m3.metrics.measures import Ratio
from m3.metrics.samples import best_of, joint_diversity_px, mean_of, median_of, picture_diversity
from m3.metrics.specs import NO_TRUTH
from m3.reporting import metrics_file, plots

OF_JOINTS = {
    "pck@0.05", "pck@0.1", "joint_error", "pck_moved@0.05", "pck_both@0.05", "motion_ratio", "visibility_f1",
    "coords_accuracy", "diversity_joints",
}  # fmt: skip
"""The metrics of a model of joints alone."""


def test_mean_and_best_by_hand():
    """Two samples, three roll-outs at one horizon; the third is not scored in the first sample."""
    first = Ratio(np.array([[4.0], [2.0], [0.0]]), np.array([[4.0], [4.0], [0.0]]))
    second = Ratio(np.array([[1.0], [3.0], [1.0]]), np.array([[2.0], [4.0], [2.0]]))
    mean = mean_of([first, second])
    assert mean.numerator.sum() / mean.denominator.sum() == (4 + 2 + 1 + 3 + 1) / (4 + 4 + 2 + 4 + 2)
    highest, lowest = best_of([first, second], is_error=False), best_of([first, second], is_error=True)
    assert (highest.numerator[:, 0].tolist(), highest.denominator[:, 0].tolist()) == ([4, 3, 1], [4, 4, 2])
    assert (lowest.numerator[:, 0].tolist(), lowest.denominator[:, 0].tolist()) == ([1, 2, 1], [2, 4, 2])


def test_median_by_hand():
    """Four roll-outs at one horizon: scored in all three samples, in two, in one, in none."""
    scores = [(0.2, 0.5, 0.3), (0.4, None, 0.8), (None, 0.9, None), (None, None, None)]
    counts = [(10.0, 10.0, 10.0), (4.0, 0.0, 8.0), (0.0, 2.0, 0.0), (0.0, 0.0, 0.0)]
    ratios = [
        Ratio(
            np.array([[(scores[n][s] or 0.0) * counts[n][s]] for n in range(4)]),
            np.array([[counts[n][s]] for n in range(4)]),
        )
        for s in range(3)
    ]
    median = median_of(ratios)
    assert median.denominator[:, 0].tolist() == [10, 6, 2, 0]
    assert median.numerator[:, 0] == pytest.approx([3.0, 0.6 * 6, 1.8, 0.0])


def test_argmax_and_several_samples_by_a_naive_loop():
    compared = random_roll_outs()
    scores, truth = by_name(compared), compared.truth
    true_poses, true_pictures = truth.values["coords"], truth.values["tok_rgb"]
    for horizon in (1, 2, 3):
        errors = np.full((3, 12), np.nan)  # mean error of each sample of each roll-out
        distances, counts = 0.0, 0
        best, median, best_count = 0.0, 0.0, 0
        for n in range(12):
            is_seen = true_poses.is_visible[n, horizon]
            if not truth.is_present[n, horizon] or not is_seen.any():
                continue
            for s, sample in enumerate(compared.samples):
                xy = sample.values["coords"].xy[n, horizon]
                of_joints = np.linalg.norm(xy - true_poses.xy[n, horizon], axis=-1)[is_seen]
                errors[s, n] = of_joints.mean()
                distances, counts = distances + of_joints.sum(), counts + len(of_joints)
            best, best_count = best + errors[:, n].min() * is_seen.sum(), best_count + is_seen.sum()
            median += sorted(errors[:, n])[1] * is_seen.sum()
        series = scores["joint_error"].series
        assert series["sample"].value[horizon - 1] == pytest.approx(distances / counts)
        assert series["best_of_n"].value[horizon - 1] == pytest.approx(best / best_count)
        assert series["median_of_n"].value[horizon - 1] == pytest.approx(median / best_count)
        rows = [n for n in range(12) if truth.is_present[n, horizon]]
        made = np.stack([each.values["tok_rgb"][rows, horizon].astype(float) for each in compared.samples])
        squared = np.square(made - true_pictures[rows, horizon]).mean((2, 3, 4))  # (3, rows)
        psnr = scores["psnr"].series
        assert psnr["sample"].value[horizon - 1] == pytest.approx(10 * np.log10(255**2 / squared.mean()))
        assert psnr["best_of_n"].value[horizon - 1] == pytest.approx(10 * np.log10(255**2 / squared.min(0).mean()))
        middle = np.sort(squared, 0)[1].mean()
        assert psnr["median_of_n"].value[horizon - 1] == pytest.approx(10 * np.log10(255**2 / middle))
    alone = by_name(replace(compared, predicted=compared.argmax, argmax=None, samples=()))
    for name in ("pck@0.1", "visibility_f1", "ssim", "psnr_real", "tok_rgb_accuracy", "coords_accuracy"):
        assert scores[name].series["argmax"] == alone[name].series["model"], name


def test_diversity_by_hand():
    shape = 1, 2
    pictures = [np.full((*shape, 4, 4, 3), level, np.uint8) for level in (10, 10, 16)]
    xy = [np.full((*shape, 13, 2), place, float) for place in (0, 3, 3)]
    is_visible = np.ones((*shape, 13), bool)
    is_hidden = is_visible.copy()
    is_hidden[:, :, 4:] = False
    seen = [is_visible, is_visible, is_hidden]
    samples = [frames_of(np.ones(shape, bool), *each) for each in zip(pictures, xy, seen)]
    compared = Comparison(samples[0], samples[0], np.ones(1))
    joints, levels = joint_diversity_px(samples, compared), picture_diversity(samples, compared)
    distance = 3 * 2**0.5  # of 13 joints in the first two, of 4 in the first and the last, 0 in the others
    assert joints.numerator.sum() / joints.denominator.sum() == pytest.approx(distance * 17 / (13 + 4 + 4))
    assert levels.numerator.sum() / levels.denominator.sum() == pytest.approx((0 + 36 + 36) / 3)
    same = [samples[0], samples[0]]
    for measure in (joint_diversity_px, picture_diversity):
        assert measure(same, compared).numerator.sum() == 0
    given = replace(compared, is_given_joint=np.arange(13) >= np.full((*shape, 1), 4))
    assert joint_diversity_px(samples, given).denominator.sum() == 4 + 4 + 4


def test_diversity_needs_no_truth_and_is_a_root():
    compared = random_roll_outs()
    compared.truth.is_present[:, 1:] = False
    score = by_name(compared)["diversity_pictures"]
    assert set(score.series) == {"sample"} and score.model == [None] * 3 and score.nothing_moves == [None] * 3
    a, b, c = (sample.values["tok_rgb"][:, 1].astype(float) for sample in compared.samples)
    squares = [np.square(one - other).mean() for one, other in ((a, b), (a, c), (b, c))]
    assert score.series["sample"].value[0] == pytest.approx(np.mean(squares) ** 0.5)
    assert score.num_samples == [12] * 3 and score.series["sample"].low[0] is not None


def test_what_has_no_truth_or_no_sense_is_not_scored():
    compared = random_roll_outs()
    part = by_name(replace(compared, has_joints=np.arange(12) < 6))
    assert max(part["joint_error"].num_samples) <= 6 and max(part["psnr"].num_samples) > 6
    none = by_name(replace(compared, has_joints=np.zeros(12, bool)))
    assert not {"pck@0.1", "joint_error", "visibility_f1", "coords_accuracy"} & set(none) and "psnr" in none
    blind = by_name(replace(
        compared,
        predicted=without(compared.predicted, "tok_rgb"),
        truth=without(compared.truth, "tok_rgb"),
        argmax=without(compared.argmax, "tok_rgb"),
        samples=[without(sample, "tok_rgb") for sample in compared.samples],
    ))  # fmt: skip
    assert set(blind) == OF_JOINTS
    record = metrics_file.metrics_record(list(none.values()), {})
    assert "annotated" in record["absent"]["pck@0.1"]
    assert metrics_file.metrics_record([], {}, has_truth=False)["absent"]["psnr"] == NO_TRUTH


def test_a_modality_of_the_reference_alone_is_not_scored():
    """Such successors are unknown: the same blank pictures and zeros in the roll-outs and the truth."""
    compared = random_roll_outs()
    for frames in (compared.predicted, compared.truth, compared.argmax, *compared.samples):
        frames.tokens.is_known["tok_rgb"][:, 1:] = False
        frames.tokens.ids["tok_rgb"][:, 1:] = frames.values["tok_rgb"][:, 1:] = 0
    assert set(by_name(compared)) == OF_JOINTS


def test_samples_are_in_the_record_and_in_the_plot():
    compared = random_roll_outs()
    scores = metrics.score(compared)
    record = json.loads(json.dumps(metrics_file.metrics_record(scores, {}), allow_nan=False))
    horizon = record["scores"]["pck@0.1"]["horizons"][0]
    assert {"argmax", "sample", "best_of_n", "median_of_n"} < set(record["series"])
    assert horizon["best_of_n"] > horizon["sample"] and len(horizon["sample_ci95"]) == 2
    alone = plots.scores_plot(metrics.score(replace(compared, argmax=None, samples=())), "")
    assert plots.scores_plot(scores, "").tobytes() != alone.tobytes()


def test_a_changed_comparison_keeps_no_results():
    compared = random_roll_outs()
    metrics.score(compared)
    changed = replace(compared, truth=compared.samples[0], constant_velocity=None)
    fresh = replace(random_roll_outs(), truth=compared.samples[0], constant_velocity=None)
    assert by_name(changed)["agreement"] == by_name(fresh)["agreement"]
