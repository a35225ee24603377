"""Several samples of one future: the mean score, the scores of the best and the median, and the diversity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from m3.core.frames import Frames
from m3.metrics.bootstrap import quotient
from m3.metrics.comparison import Comparison
from m3.metrics.measures import Ratio, squared_error


def mean_of(ratios: Sequence[Ratio]) -> Ratio:
    """The mean over the samples, of numerators and denominators."""
    return Ratio(np.mean([each.numerator for each in ratios], 0), np.mean([each.denominator for each in ratios], 0))


def best_of(ratios: Sequence[Ratio], is_error: bool) -> Ratio:
    """At each place (N, T) the sample with the best score there, chosen for this score and this horizon alone.

    is_error: the lowest is the best.
    """
    numerator, denominator, scores = _stacked(ratios)
    worst = np.inf if is_error else -np.inf
    scores = np.where(np.isnan(scores), worst, scores)
    best = (scores.argmin(0) if is_error else scores.argmax(0))[None]
    return Ratio(np.take_along_axis(numerator, best, 0)[0], np.take_along_axis(denominator, best, 0)[0])


def median_of(ratios: Sequence[Ratio]) -> Ratio:
    """At each place (N, T) the median of the scores of the samples that are scored there.

    Of an even number it is the mean of the two in the middle. The places are weighted by the mean of the samples'
    denominators: they differ where what is scored depends on the prediction, as in the F1 of visible joints.
    """
    _, denominator, scores = _stacked(ratios)
    is_scored = ~np.isnan(scores)  # (S, N, T)
    weight = denominator.sum(0) / is_scored.sum(0).clip(1)
    median = np.nanmedian(np.where(is_scored.any(0), scores, 0.0), 0)
    return Ratio(median * weight, weight)


def _stacked(ratios: Sequence[Ratio]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerators, denominators and scores of S samples, (S, N, T); the score is NaN where a sample is not scored."""
    numerator, denominator = (
        np.stack([getattr(each, part) for each in ratios]) for part in ("numerator", "denominator")
    )
    return numerator, denominator, quotient(numerator, denominator)


def joint_diversity_px(samples: Sequence[Frames], compared: Comparison) -> Ratio | None:
    """Mean distance between the joints of two samples of one reference, over joints visible in both, canvas px.

    samples: (N, T + 1) frames each. None where they have no joints. A single sample is not scored, nor a given joint.
    """
    if "coords" not in samples[0].values:
        return None
    total = _zeros(samples[0])
    for a, b in combinations([each.values["coords"] for each in samples], 2):
        is_seen = (a.is_visible & b.is_visible)[:, 1:]  # (N, T, 13)
        if compared.is_given_joint is not None:
            is_seen = is_seen & ~compared.is_given_joint[:, 1:]
        distance = np.linalg.norm(a.xy[:, 1:] - b.xy[:, 1:], axis=-1)
        total.numerator[:] += np.where(is_seen, distance, 0).sum(-1)
        total.denominator[:] += is_seen.sum(-1)
    return total


def picture_diversity(samples: Sequence[Frames], _: Comparison) -> Ratio | None:
    """Mean squared difference of the pictures of two samples of one reference; arguments as `joint_diversity_px`."""
    if "tok_rgb" not in samples[0].values:
        return None
    total = _zeros(samples[0])
    for a, b in combinations([each.values["tok_rgb"] for each in samples], 2):
        for n, k in np.ndindex(total.numerator.shape):
            total.numerator[n, k] += squared_error(a[n, k + 1], b[n, k + 1])
        total.denominator[:] += 1
    return total


def _zeros(frames: Frames) -> Ratio:
    num_samples, num_frames = frames.is_present.shape
    shape = num_samples, num_frames - 1
    return Ratio(np.zeros(shape), np.zeros(shape))
