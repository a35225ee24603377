"""Several samples of one future: their mean score, the score of the best of them, and how much they differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from m3.core.frames import Frames
from m3.metrics.bootstrap import quotient
from m3.metrics.measures import Tally, squared_error


def mean_of(tallies: Sequence[Tally]) -> Tally:
    """The score that a sample has on average."""
    return Tally(
        np.mean([tally.numerator for tally in tallies], 0), np.mean([tally.denominator for tally in tallies], 0)
    )


def best_of(tallies: Sequence[Tally], is_error: bool) -> Tally:
    """At each place (N, T) the sample that scores best there, chosen for this score and this horizon alone.

    is_error: the lowest is the best.
    """
    numerator, denominator = (np.stack([getattr(t, part) for t in tallies]) for part in ("numerator", "denominator"))
    scores = quotient(numerator, denominator)  # (S, N, T)
    worst = np.inf if is_error else -np.inf
    scores = np.where(np.isnan(scores), worst, scores)
    best = (scores.argmin(0) if is_error else scores.argmax(0))[None]
    return Tally(np.take_along_axis(numerator, best, 0)[0], np.take_along_axis(denominator, best, 0)[0])


def diversity(samples: Sequence[Frames]) -> dict[str, Tally]:
    """How far two samples of one reference are apart on average; needs no truth.

    "diversity_joints": the mean distance of joints that are visible in both, canvas px. "diversity_pictures": the mean
    squared difference, whose root is the score. 0 where all samples are the same.

    samples: (N, T + 1) frames each. Of a single one nothing is said.
    """
    shape = len(samples[0].xy), samples[0].xy.shape[1] - 1
    joints, pictures = (Tally(np.zeros(shape), np.zeros(shape)) for _ in range(2))
    for a, b in combinations(samples, 2):
        is_seen = (a.is_visible & b.is_visible)[:, 1:]  # (N, T, 13)
        distance = np.linalg.norm(a.xy[:, 1:] - b.xy[:, 1:], axis=-1)
        joints.numerator[:] += np.where(is_seen, distance, 0).sum(-1)
        joints.denominator[:] += is_seen.sum(-1)
        for n, k in np.ndindex(shape):
            pictures.numerator[n, k] += squared_error(a.pictures[n, k + 1], b.pictures[n, k + 1])
        pictures.denominator[:] += 1
    return {"diversity_joints": joints, "diversity_pictures": pictures}
