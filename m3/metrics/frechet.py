"""Fréchet distance between true and generated motion: do the roll-outs as a set move as people do?

PCK asks whether each joint is where it was; this asks whether the motions, taken together, are distributed as the true
ones: how far joints move and where to, how evenly, how smoothly. A roll-out that guesses another plausible future
loses nothing; roll-outs that hardly move, drift or tremble do.

A roll-out up to horizon k has 12 features, four for each group of joints (`GROUPS`: trunk, arms, legs), in units of L,
the larger side of the clip's pose box. A displacement is that of a joint from one frame to the next, in frames 0 … k;
an acceleration is the difference of two displacements that follow each other. Over the joints and horizons of a group:

* mean displacement in x and in y: the direction and the speed of the group as a whole;
* standard deviation of the displacements, √(mean of |displacement − mean|²): motion within the group and over time;
* root mean square of the accelerations: jerking and trembling. 0 at horizon 1, which has none.

Joints are those that the truth shows in both frames (for accelerations: all three), for true and generated motion
alike. A roll-out is counted up to horizon k if it has a truth for all horizons up to k, a known L, and such joints in
every group.

The distance is that of two normal distributions with the means and covariances of the features (Dowson & Landau, 1982):
d² = |μ − μ'|² + tr(Σ + Σ' − 2 (Σ Σ')^½). Heusel et al. (2017) report d² of features of pictures; here it is d, in L. If
nothing moves, d² is the mean squared length of the true features.

Finite sets: covariances divide by the number of roll-outs. Two sets of true motions are some way apart as well, the
farther the smaller they are, so only distances at equal numbers of roll-outs compare. In a quarter of Penn Action's
clips, 6 steps of 4 frames, true motions of different clips are 0.054 L apart as sets of 30, 0.040 L as sets of 64 and
0.023 L as sets of 256 (means of 40 draws); "nothing moves" is 0.142 L from the truth. A covariance of no more roll-outs
than features is singular: nothing is shrunk, there are few features, and fewer than `MIN_SAMPLES` roll-outs have no
distance. Resamples of a set are smaller sets, hence farther apart: the bootstrap interval is moved so that the median
of the resamples is the value (`m3.metrics.scores`).
"""

from __future__ import annotations

import numpy as np

from m3.core.joints import JOINT_NAMES
from m3.metrics.measures import Ratio

GROUPS = {
    "trunk": ("head", "left_shoulder", "right_shoulder", "left_hip", "right_hip"),
    "arms": ("left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    "legs": ("left_knee", "right_knee", "left_ankle", "right_ankle"),
}
NUM_FEATURES = 4 * len(GROUPS)
MIN_SAMPLES = 30
"""More than twice the number of features."""

_IN_GROUP = np.array([[name in group for group in GROUPS.values()] for name in JOINT_NAMES], dtype=float)  # (13, 3)
_UPPER = np.triu_indices(NUM_FEATURES)


def motion_moments(
    xy: np.ndarray, true_xy: np.ndarray, is_visible: np.ndarray, is_present: np.ndarray, extent: np.ndarray
) -> Ratio:
    """First and second moments of the features of generated and true motion, for `frechet_distance`.

    Args:
        xy, true_xy: (N, T + 1, 13, 2) canvas pixels of the roll-outs and the truth, the reference first.
        is_visible: (N, T + 1, 13) bool, of the truth.
        is_present: (N, T + 1) bool, of both.
        extent: (N,) L in canvas pixels; a sample with NaN is not counted.

    Returns: the moments, (N, T, M), over (N, T), 1 where a sample is counted and 0 elsewhere.
    """
    features, counts = zip(*(motion_features(each, is_visible, extent) for each in (xy, true_xy)))
    is_counted = np.logical_and.accumulate(is_present, 1)[:, 1:] & counts[0] & np.isfinite(extent)[:, None]
    moments = np.concatenate(
        [part for each in features for part in (each, _products(each)[..., _UPPER[0], _UPPER[1]])], -1
    )
    return Ratio(np.where(is_counted[..., None], moments, 0.0), is_counted.astype(float))


def motion_features(xy: np.ndarray, is_visible: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The features of N motions up to each horizon.

    Args:
        xy: (N, T + 1, 13, 2) canvas pixels. is_visible: (N, T + 1, 13) bool. extent: (N,) L in canvas pixels.

    Returns: (N, T, 12) in units of L: of trunk, arms and legs the mean displacement in x and y, the standard deviation
    of the displacements and the root mean square of the accelerations. (N, T) bool: whether every group has
    joints for them; the features mean nothing where it is False.
    """
    displacement = np.diff(xy, axis=1) / extent[:, None, None, None]  # (N, T, 13, 2)
    has_both = is_visible[:, 1:] & is_visible[:, :-1]
    mean, num_joints = _pooled(displacement, has_both)  # (N, T, 3, 2), (N, T, 3)
    mean_square, _ = _pooled(np.square(displacement), has_both)
    deviation = np.sqrt((mean_square - np.square(mean)).sum(-1).clip(0))
    # The first acceleration ends at horizon 2.
    acceleration = np.diff(displacement, axis=1, prepend=displacement[:, :1])
    has_all = np.concatenate([has_both[:, :1] & False, has_both[:, 1:] & has_both[:, :-1]], 1)
    mean_square, num_accelerations = _pooled(np.square(acceleration), has_all)
    shake = np.sqrt(mean_square.sum(-1))
    is_known = np.all(num_joints > 0, axis=-1)
    is_known[:, 1:] &= np.all(num_accelerations[:, 1:] > 0, axis=-1)
    features = np.concatenate([mean, deviation[..., None], shake[..., None]], -1)  # (N, T, 3, 4)
    return features.reshape(*is_known.shape, NUM_FEATURES), is_known


def frechet_distance(moments: np.ndarray) -> np.ndarray:
    """Fréchet distance of the normal distributions with these moments of generated and true features.

    moments: (…, M) means over samples of the numerators of `motion_moments`. Returns (…) in L, NaN for NaN.
    """
    is_known = ~np.any(np.isnan(moments), axis=-1)
    made, true = np.split(np.where(is_known[..., None], moments, 0.0), 2, axis=-1)
    distance = gaussian_distance(*_mean_and_covariance(made), *_mean_and_covariance(true))
    return np.where(is_known, distance, np.nan)


def gaussian_distance(
    mean: np.ndarray, covariance: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> np.ndarray:
    """Fréchet distance of normal distributions.

    The trace of (Σ Σ')^½ is that of (Σ^½ Σ' Σ^½)^½, which is symmetric: its eigenvalues are real, and those that
    rounding makes negative are 0.

    Args:
        mean, mean2: (…, F). covariance, covariance2: (…, F, F), symmetric and positive semi-definite.

    Returns: (…) float64.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariance2 @ root).clip(0)).sum(-1)
    traces = np.trace(covariance, axis1=-2, axis2=-1) + np.trace(covariance2, axis1=-2, axis2=-1)
    return np.sqrt((np.square(mean - mean2).sum(-1) + traces - 2 * shared).clip(0))


def _pooled(values: np.ndarray, is_counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the joints of each group and all horizons so far, and the number of values; 0 where there is none.

    values: (N, T, 13, 2). is_counted: (N, T, 13). Returns (N, T, 3, 2) and (N, T, 3).
    """
    sums = np.einsum("ntjc,jg->ntgc", np.where(is_counted[..., None], values, 0.0), _IN_GROUP).cumsum(1)
    number = (is_counted @ _IN_GROUP).cumsum(1)
    return sums / number[..., None].clip(1), number


def _products(features: np.ndarray) -> np.ndarray:
    """(…, F) → (…, F, F)."""
    return features[..., :, None] * features[..., None, :]


def _mean_and_covariance(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(…, F + F (F + 1) / 2) → (…, F) and (…, F, F)."""
    mean, upper = moments[..., :NUM_FEATURES], moments[..., NUM_FEATURES:]
    second = np.zeros((*mean.shape, NUM_FEATURES))
    second[..., _UPPER[0], _UPPER[1]] = second[..., _UPPER[1], _UPPER[0]] = upper
    return mean, second - _products(mean)
