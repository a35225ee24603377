"""Fréchet distance between the features of two sets, of generated and of true pictures or videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 100
"""Of the bootstrap; each needs a decomposition of its own."""
MAX_RESAMPLED = 256
"""Larger sets have no interval: it would take minutes, and they need it less."""


@dataclass(frozen=True)
class FeatureSets:
    """Features of N generated and N true samples at T horizons.

    made, true: (N, T, F) float32; whatever where a sample is not counted.
    is_counted: (N, T) bool.
    """

    made: np.ndarray
    true: np.ndarray
    is_counted: np.ndarray

    @property
    def denominator(self) -> np.ndarray:
        """(N, T) float64, 1 where a sample is counted, as that of `m3.metrics.measures.Ratio`."""
        return self.is_counted.astype(float)

    def only(self, is_kept: np.ndarray) -> FeatureSets:
        """The same, not counted where `is_kept`, broadcastable to (N, T) bool, is False."""
        return FeatureSets(self.made, self.true, self.is_counted & is_kept)

    def rows(self, rows: np.ndarray) -> FeatureSets:
        """Some of the samples, by their indices."""
        return FeatureSets(self.made[rows], self.true[rows], self.is_counted[rows])

    def distances(self) -> np.ndarray:
        """(T,) float64 squared distances, NaN where fewer than two samples are counted."""
        return self._distances(np.ones(len(self.is_counted), int))

    def resampled(self, times: np.ndarray) -> np.ndarray:
        """(R, T) distances of resamples: of the first `NUM_RESAMPLES`, NaN for sets above `MAX_RESAMPLED`.

        times: (R, N) integers, how often each resample has each sample.
        """
        is_small = self.is_counted.sum(0) <= MAX_RESAMPLED
        chosen = FeatureSets(self.made, self.true, self.is_counted & is_small)
        return np.stack([chosen._distances(each) for each in times[:NUM_RESAMPLES]])

    def _distances(self, times: np.ndarray) -> np.ndarray:
        found = np.full(self.is_counted.shape[1], np.nan)
        for k, is_counted in enumerate(self.is_counted.T):
            rows = np.flatnonzero(is_counted & (times > 0))
            if times[rows].sum() > 1:
                found[k] = frechet_distance_of(self.made[rows, k], self.true[rows, k], times[rows])
        return found


def frechet_distance_of(made: np.ndarray, true: np.ndarray, times: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions with the means and covariances of two sets (Heusel, 2017).

    d² = |μ − μ'|² + tr(Σ + Σ' − 2 (Σ Σ')^½), covariances over n − 1. With the centered features as rows of A and A',
    Σ = AᵀA and Σ' = A'ᵀA' but for that factor, the trace of (Σ Σ')^½ is the sum of the singular values of A A'ᵀ: exact
    for sets smaller than their number of features too, whose covariances are singular, and no F × F matrix is made for
    them.

    Args:
        made, true: (n, F) features.
        times: (n,) positive integers, how often a set has each of its samples; 1 for a plain set.
    """
    total = times.sum()
    means = [times @ each.astype(np.float64) / total for each in (made, true)]
    centered = [np.sqrt(times)[:, None] * (each - mean) for each, mean in zip((made, true), means)]
    traces = sum(np.square(each).sum() for each in centered)
    if len(times) > made.shape[1]:
        centered = [np.asarray(np.linalg.qr(each, mode="r")) for each in centered]  # AᵀA stays as it is
    shared = np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    between = np.square(means[0] - means[1]).sum() + (traces - 2 * shared) / (total - 1)
    return max(0.0, float(between))
