"""The Fréchet distance of motion: by SciPy, by closed forms and by naive loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from support.frames import frames_of
from support.random_roll_outs import by_name, random_roll_outs

from m3.core.frames import Frames
from m3.core.joints import JOINT_NAMES
from m3.metrics import METRICS, Comparison, Score
from m3.metrics.frechet import GROUPS, MIN_SAMPLES, NUM_FEATURES, gaussian_distance, motion_features
from m3.reporting.metrics_file import metrics_record

SPEC = {"motion_frechet": METRICS["motion_frechet"]}


def by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    """Distance of two sets of features, (N, F) and (N', F)."""
    varies = np.ptp(np.concatenate([one, other]), 0) > 0  # all others are equal, and make the product singular
    one, other = one[:, varies], other[:, varies]
    covariances = [np.cov(each.T, bias=True) for each in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    squared = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(sum(covariances) - 2 * np.real(root))
    return math.sqrt(max(squared, 0))


def distance_of(one: np.ndarray, other: np.ndarray) -> float:
    return float(
        gaussian_distance(*(part for each in (one, other) for part in (each.mean(0), np.cov(each.T, bias=True))))
    )


def score_of(compared: Comparison) -> Score:
    return by_name(compared, SPEC)["motion_frechet"]


def test_the_distance_of_gaussians_by_scipy():
    rng = np.random.default_rng(0)
    for num_samples in (40, 400):
        one, other = (rng.normal(0, 1, (num_samples, 12)) @ rng.normal(0, 1, (12, 12)) for _ in range(2))
        assert distance_of(one, other + 0.3) == pytest.approx(by_scipy(one, other + 0.3), rel=1e-6)
    # Also in a stack, with leading dimensions.
    stack = rng.normal(0, 1, (3, 2, 50, 4))
    means, covariances = stack.mean(2), np.einsum("abnf,abng->abfg", stack, stack) / 50
    found = gaussian_distance(means[:, 0], covariances[:, 0], means[:, 1], covariances[:, 1])
    for k in range(3):
        one, other = ((means[k, i], covariances[k, i]) for i in range(2))
        assert found[k] == pytest.approx(gaussian_distance(*one, *other))


def test_the_distance_of_gaussians_by_hand():
    """In one dimension d² = (μ − μ')² + (σ − σ')²; the same for axes that are independent of each other."""
    deviations, others = np.array([3.0, 0.5, 0.0]), np.array([1.0, 0.5, 2.0])
    mean = np.array([1.0, -2.0, 0.0])
    found = gaussian_distance(mean, np.diag(deviations**2), np.zeros(3), np.diag(others**2))
    assert found == pytest.approx(math.sqrt(1 + 4 + (3 - 1) ** 2 + 2**2))
    # A single point on one side: the covariance is 0, and the distance is the root of the mean square.
    rng = np.random.default_rng(0)
    samples = rng.normal(0.2, 1, (50, 12))
    still = np.zeros((50, 12))
    assert distance_of(samples, still) == pytest.approx(math.sqrt(np.square(samples).sum(1).mean()))
    assert distance_of(samples, samples) == pytest.approx(0, abs=1e-6)


def test_singular_covariances_keep_the_distance_real():
    rng = np.random.default_rng(0)
    few, others = rng.normal(0, 1, (5, 12)), rng.normal(0, 1, (6, 12))
    found = distance_of(few, others)
    assert found == pytest.approx(distance_of(others, few)) and math.isfinite(found)
    # The trace of the root is the sum of the singular values of the product of the centered sets.
    centered = [(each - each.mean(0)) / math.sqrt(len(each)) for each in (few, others)]
    shared = np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    squared = np.square(few.mean(0) - others.mean(0)).sum() + sum(np.square(each).sum() for each in centered)
    assert found == pytest.approx(math.sqrt(squared - 2 * shared))


def naive_features(xy: np.ndarray, is_visible: np.ndarray, extent: float, last: int) -> list[float] | None:
    """(T + 1, 13, 2) and (T + 1, 13) → the features up to horizon `last`."""
    found = []
    for names in GROUPS.values():
        displacements, accelerations = [], []
        for name in names:
            j = JOINT_NAMES.index(name)
            for k in range(1, last + 1):
                if is_visible[k - 1, j] and is_visible[k, j]:
                    displacements.append((xy[k, j] - xy[k - 1, j]) / extent)
                if k > 1 and is_visible[k - 2, j] and is_visible[k - 1, j] and is_visible[k, j]:
                    accelerations.append((xy[k, j] - 2 * xy[k - 1, j] + xy[k - 2, j]) / extent)
        if not displacements or (last > 1 and not accelerations):
            return None
        mean = sum(displacements) / len(displacements)
        found += [*mean, math.sqrt(sum(np.square(each - mean).sum() for each in displacements) / len(displacements))]
        found.append(math.sqrt(sum(np.square(a).sum() for a in accelerations) / max(len(accelerations), 1)))
    return found


def test_the_features_by_a_naive_loop():
    rng = np.random.default_rng(0)
    xy, is_visible, extent = rng.uniform(0, 64, (30, 5, 13, 2)), rng.random((30, 5, 13)) < 0.5, rng.uniform(20, 50, 30)
    features, is_known = motion_features(xy, is_visible, extent)
    assert features.shape == (30, 4, NUM_FEATURES) and 0 < is_known.mean() < 1
    for n in range(30):
        for last in range(1, 5):
            expected = naive_features(xy[n], is_visible[n], extent[n], last)
            assert is_known[n, last - 1] == (expected is not None)
            if expected is not None:
                assert features[n, last - 1] == pytest.approx(expected)


def test_the_features_by_hand():
    """L = 100. Everything goes right by 10 px a step; the wrists also go up and down by 5."""
    xy = np.zeros((1, 4, 13, 2))
    xy[..., 0] = np.arange(4)[:, None] * 10.0
    wrists = [JOINT_NAMES.index(f"{side}_wrist") for side in ("left", "right")]
    xy[0, [1, 3], :, 1] += 5 * np.isin(np.arange(13), wrists)
    features, is_known = motion_features(xy, np.ones((1, 4, 13), bool), np.array([100.0]))
    assert is_known.all() and features[0, :, [0, 8]] == pytest.approx(0.1)
    assert features[0, :, [1, 2, 3, 9, 10, 11]] == pytest.approx(0, abs=1e-9)  # trunk and legs: a steady shift
    # Arms: elbows 0; wrists +5, −5, +5 px in y, so accelerations of −10 and +10.
    means = [0.025, 0.0, 0.025 / 3]
    squares = [0.05**2 / 2] * 3
    assert features[0, :, 5] == pytest.approx(means)
    assert features[0, :, 6] == pytest.approx([math.sqrt(s - m * m) for s, m in zip(squares, means)])
    assert features[0, :, 7] == pytest.approx([0, math.sqrt(0.1**2 / 2), math.sqrt(0.1**2 / 2)])


def naive_sets(frames: Frames, compared: Comparison, last: int, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    poses, true, extent = frames.values["coords"], compared.truth.values["coords"], compared.extent
    made, real = [], []
    for n in rows:
        if all(compared.truth.is_present[n, : last + 1]) and all(frames.is_present[n, : last + 1]):
            features = [naive_features(xy[n], true.is_visible[n], extent[n], last) for xy in (poses.xy, true.xy)]
            if features[0] is not None:
                made.append(features[0])
                real.append(features[1])
    return np.array(made), np.array(real)


def test_the_score_by_a_naive_loop_and_by_scipy():
    compared = random_roll_outs(num_samples=180)
    compared.truth.is_present[::9, 1] = False  # what comes after a gap is not counted
    score, everyone = score_of(compared), list(range(180))
    assert list(score.series) == ["model", "nothing_moves", "constant_velocity", "damped_velocity", "argmax", "sample"]
    for horizon in (1, 2, 3):
        for name, frames in (("model", compared.predicted), ("constant_velocity", compared.constant_velocity)):
            made, real = naive_sets(frames, compared, horizon, everyone)
            series = score.series[name]
            assert series.num_samples[horizon - 1] == len(made)
            if len(made) < MIN_SAMPLES:
                assert series.value[horizon - 1] is None and series.low[horizon - 1] is None
            else:
                assert series.value[horizon - 1] == pytest.approx(by_scipy(made, real), rel=1e-6), (name, horizon)
                assert series.low[horizon - 1] < series.value[horizon - 1] < series.high[horizon - 1]
        made, real = naive_sets(compared.predicted, compared, horizon, everyone)
        still = score.nothing_moves[horizon - 1]
        assert still == pytest.approx(math.sqrt(np.square(real).sum(1).mean()))
        assert score.gains["nothing_moves"].value[horizon - 1] == pytest.approx(still - score.model[horizon - 1])
        # All samples together are one set.
        sets = [naive_sets(each, compared, horizon, everyone)[0] for each in compared.samples]
        assert score.series["sample"].value[horizon - 1] == pytest.approx(
            by_scipy(np.concatenate(sets), real), rel=1e-6
        )
    assert score.series["constant_velocity"].value[0] is not None
    runs = [n for n in everyone if compared.action[n] == "run"]
    assert score.by_action["run"].model[0] == pytest.approx(
        by_scipy(*naive_sets(compared.predicted, compared, 1, runs)), rel=1e-6
    )


def test_few_roll_outs_have_no_distance():
    compared = random_roll_outs(num_samples=12)
    assert "motion_frechet" not in by_name(compared, SPEC)
    record = metrics_record([], {}, metrics=SPEC)
    assert record["absent"]["motion_frechet"].startswith(f"fewer than {MIN_SAMPLES} roll-outs")
    # Enough in all, too few of each action and at the last horizon.
    score = score_of(random_roll_outs(num_samples=54))
    assert score.model[0] is not None and score.model[2] is None and score.num_samples[2] > 0
    assert score.by_action["run"].model == [None] * 3
    unknown = replace(compared, extent=np.full(12, np.nan))
    assert "motion_frechet" not in by_name(unknown, SPEC)


def walks(num_samples: int, seed: int, jitter_px: float = 0.0) -> np.ndarray:
    """(N, 5, 13, 2): joints at a constant velocity of their own, and of the person's own."""
    rng = np.random.default_rng(seed)
    velocity = rng.normal(0, 4, (num_samples, 1, 1, 2)) + rng.normal(0, 2, (num_samples, 1, 13, 2))
    xy = 128 + np.arange(5)[:, None, None] * velocity
    return xy + jitter_px * rng.normal(0, 1, xy.shape) * (np.arange(5) > 0)[:, None, None]


def test_the_interval_is_around_the_value_even_of_equal_distributions():
    """Resamples of two small sets are farther apart than the sets: plain percentiles are all above the value."""
    is_present = np.ones((64, 5), bool)
    truth, others = (frames_of(is_present, xy=walks(64, seed)) for seed in (0, 1))
    score = score_of(Comparison(others, truth, np.full(64, 100.0)))
    for series in (score.series["model"], score.gains["nothing_moves"]):
        for value, low, high in zip(series.value, series.low, series.high):
            assert 0 < low < value < high < value + 0.05


def test_it_finds_what_is_wrong_with_motion():
    is_present = np.ones((300, 5), bool)
    truth = frames_of(is_present, xy=walks(300, 0))

    def distance(xy: np.ndarray) -> Score:
        return score_of(Comparison(frames_of(is_present, xy=xy), truth, np.full(300, 100.0)))

    others, jittering = distance(walks(300, 1)).model[-1], distance(walks(300, 0, jitter_px=2)).model[-1]
    slow, still = distance(128 + 0.5 * (walks(300, 0) - 128)).model[-1], distance(walks(300, 0)).nothing_moves[-1]
    drifting = distance(walks(300, 0) + np.arange(5)[:, None, None] * np.array([3.0, 0.0])).model[-1]
    assert 3 * others < min(slow, jittering, drifting) and slow == pytest.approx(still / 2)
    assert drifting == pytest.approx(math.sqrt(3 * 0.03**2))  # 0.03 L in x for each of the three groups
    perfect = distance(walks(300, 0))
    assert perfect.model == pytest.approx([0] * 4, abs=1e-6) and perfect.series["model"].high[0] < 1e-6
