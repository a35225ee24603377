"""Pairs: which later frame is the successor of a reference frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity

from m3.clips.base import ClipError
from m3.records import FramePair

SSIM_DIGITS = 6
"""Decimals of a stored SSIM."""

_WINDOW = 7
_BORDER = (_WINDOW - 1) // 2
_TO_SAMPLE_COVARIANCE = _WINDOW**2 / (_WINDOW**2 - 1)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class _Grey(NamedTuple):
    """A greyscale frame with the moments that every comparison with it needs.

    picture: (height, width) float32, 0 … 255.
    mean, mean_squared, variance: of the 7 × 7 window around each pixel, borders of 3 px cropped, float32.
    """

    picture: np.ndarray
    mean: np.ndarray
    mean_squared: np.ndarray
    variance: np.ndarray


def _window_mean(picture: np.ndarray) -> np.ndarray:
    return uniform_filter(picture, size=_WINDOW)[_BORDER:-_BORDER, _BORDER:-_BORDER]


def _grey(frame: np.ndarray) -> _Grey:
    picture = np.asarray(Image.fromarray(frame).convert("L")).astype(np.float32)
    if min(picture.shape) < _WINDOW:
        height, width = picture.shape
        raise ClipError(f"frames of {width} x {height} px: SSIM needs at least {_WINDOW} px a side")
    mean = _window_mean(picture)
    mean_squared = mean * mean
    variance = _TO_SAMPLE_COVARIANCE * (_window_mean(picture * picture) - mean_squared)
    return _Grey(picture, mean, mean_squared, variance)


def _fast_ssim(a: _Grey, b: _Grey) -> float:
    """SSIM (Wang et al., 2004), step by step as scikit-image takes it, with each frame's own moments computed once."""
    mean_product = a.mean * b.mean
    covariance = _TO_SAMPLE_COVARIANCE * (_window_mean(a.picture * b.picture) - mean_product)
    numerator = (2 * mean_product + _C1) * (2 * covariance + _C2)
    denominator = (a.mean_squared + b.mean_squared + _C1) * (a.variance + b.variance + _C2)
    return float((numerator / denominator).mean(dtype=np.float64))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two (height, width, 3) uint8 frames: scikit-image's of their float32 `L` pictures, data_range 255."""
    return _exact_ssim(_grey(a), _grey(b))


def _exact_ssim(a: _Grey, b: _Grey) -> float:
    return float(structural_similarity(a.picture, b.picture, data_range=255))


class Chain:
    """From a reference, the first later frame with SSIM below a threshold is its successor and the next reference.

    Args:
        threshold: SSIM below which a frame counts as different, in (0, 1].
        max_pairs_per_clip: at most that many pairs, from the clip's start; None for all.
    """

    needs_pictures = True

    tie_margin = 1e-4
    """Where the fast SSIM comes this close to the threshold, scikit-image decides."""

    def __init__(self, threshold: float, max_pairs_per_clip: int | None = None) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"pairs.threshold={threshold}: SSIM lies below 1, need 0 < threshold <= 1")
        if max_pairs_per_clip is not None and max_pairs_per_clip < 1:
            raise ValueError(f"pairs.max_pairs_per_clip={max_pairs_per_clip}: need at least 1, or null for all")
        self.threshold = threshold
        self.max_pairs_per_clip = max_pairs_per_clip

    def pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        """Pairs of a clip's frames in order, SSIM rounded to 6 digits.

        Each frame is read once, in order; when a pair comes, its successor is the frame read last.
        """
        num_pairs = 0
        reference, reference_index = _grey(frames[0]), 0
        for index in range(1, len(frames)):
            candidate = _grey(frames[index])
            similarity = self._similarity(reference, candidate)
            if similarity >= self.threshold:
                continue
            yield FramePair(reference_index, index, round(similarity, SSIM_DIGITS))
            reference, reference_index = candidate, index
            num_pairs += 1
            if num_pairs == self.max_pairs_per_clip:
                return

    def _similarity(self, a: _Grey, b: _Grey) -> float:
        similarity = _fast_ssim(a, b)
        return _exact_ssim(a, b) if abs(similarity - self.threshold) < self.tie_margin else similarity
