"""Confusion of classes: which one was predicted where another one was true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from m3.metrics.bootstrap import quotient


@dataclass(frozen=True)
class Confusion:
    """How often each of K classes was predicted for each.

    names: K labels. counts: (K, K) int64 samples; a row for each true class, a column for each predicted one.
    """

    names: Sequence[str]
    counts: np.ndarray

    @cached_property
    def num_true(self) -> np.ndarray:
        """(K,) samples of each class."""
        return self.counts.sum(1)

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float | None:
        """Share of samples whose class was predicted (top-1); None without samples."""
        return float(self.counts.trace() / self.num_samples) if self.num_samples else None

    @property
    def mean_recall(self) -> float | None:
        """Mean over the classes that occur of their share of right predictions; None without samples."""
        return float(np.nanmean(self.shares.diagonal())) if self.num_samples else None

    @cached_property
    def shares(self) -> np.ndarray:
        """(K, K) of the samples of each true class; NaN in the rows of classes without samples."""
        return quotient(self.counts, np.broadcast_to(self.num_true[:, None], self.counts.shape))

    def mistakes(self, true: int) -> list[tuple[int, int]]:
        """Wrong classes that were predicted for a class, as (class, samples), the most frequent first."""
        row = [(other, int(count)) for other, count in enumerate(self.counts[true]) if other != true and count]
        return sorted(row, key=lambda each: -each[1])


def confusion(true: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Confusion:
    """Counts N predictions.

    Args:
        true, predicted: (N,) int, indices of `names`. Samples without a known class have to be left out.
        names: K different labels.

    Raises ValueError for arrays that do not fit each other, ids that are no class, and names that occur twice.
    """
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(f"{true.shape} true and {predicted.shape} predicted classes: need (N,) of both")
    if len(set(names)) != len(names):
        raise ValueError(f"names of classes: {sorted({each for each in names if list(names).count(each) > 1})} twice")
    for which, ids in (("true", true), ("predicted", predicted)):
        is_class = (ids >= 0) & (ids < len(names))
        if not is_class.all():
            raise ValueError(f"{which} class {ids[~is_class][0]}: there are {len(names)}, from 0")
    counts = np.bincount(true * len(names) + predicted, minlength=len(names) ** 2)
    return Confusion(tuple(names), counts.reshape(len(names), len(names)))
