"""Intervals by the bootstrap over clips (Efron, 1979): samples of one clip are not independent of each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from m3.core.rng import numpy_generator
from m3.metrics.measures import Measured, Ratio

NUM_RESAMPLES = 1000
LEVEL_PERCENT = 95
_SEED = 0


class ClipBootstrap:
    """One set of resamples of clips for every score, so that differences between scores are paired.

    Args:
        clip: (N,) the clip of each sample, any labels.
        num_resamples: each draws as many clips as there are, with replacement.
    """

    def __init__(self, clip: np.ndarray, num_resamples: int = NUM_RESAMPLES) -> None:
        names, self._place = np.unique(clip, return_inverse=True)
        self.num_clips = len(names)
        rng = numpy_generator(_SEED, "bootstrap")
        shares = np.full(self.num_clips, 1 / self.num_clips)
        self._times = rng.multinomial(self.num_clips, shares, size=num_resamples)  # (R, C) how often a clip is drawn

    @property
    def times(self) -> np.ndarray:
        """(R, N) how often each resample has each sample."""
        return self._times[:, self._place]

    def clips_with(self, ratio: Measured) -> np.ndarray:
        """(T,) number of clips that are scored."""
        return (self._of_clips(ratio.denominator) > 0).sum(0)

    def resampled(self, ratio: Ratio, transform: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(R, T) the score of each resample, NaN where no clip of it is scored."""
        numerator, denominator = (
            np.tensordot(self._times, self._of_clips(part), 1) for part in (ratio.numerator, ratio.denominator)
        )
        return transform(quotient(numerator, denominator))

    def _of_clips(self, values: np.ndarray) -> np.ndarray:
        """(N, …) → (C, …) sums."""
        sums = np.zeros((self.num_clips, *values.shape[1:]))
        np.add.at(sums, self._place, values)
        return sums


def interval(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, T) → (T,) and (T,): the percentiles that enclose `LEVEL_PERCENT` of the resamples; NaN without any."""
    tail = (100 - LEVEL_PERCENT) / 2
    low, high = np.full((2, resampled.shape[1]), np.nan)
    for k, column in enumerate(resampled.T):
        known = column[~np.isnan(column)]
        if len(known):
            low[k], high[k] = np.percentile(known, [tail, 100 - tail])
    return low, high


def quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0. The numerator may have one more dimension, see `Ratio`."""
    if numerator.ndim > denominator.ndim:
        denominator = np.broadcast_to(denominator[..., None], numerator.shape)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
