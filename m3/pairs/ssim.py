"""SSIM of grayscale frames: scikit-image's, and a faster one that differs from it by rounding errors only.

Sums of 8-bit numbers or of their products over a 7 × 7 window are whole numbers below 2²⁴: uint16 and float32 hold
them exactly, in any order of summation. Frames are processed in strips that fit into the processor's cache, in buffers
that are reused for the next frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

from m3.clips.base import ClipError

_WINDOW = 7
_CUT = _WINDOW - 1  # rows and columns by which a map of windows is smaller than the frame
_NUM = _WINDOW**2  # pixels of a window
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2 * (_NUM - 1) / _NUM  # scikit-image's covariances are _NUM / (_NUM - 1) times those here
_STRIP = 2**15  # pixels


def gray_picture(frame: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 RGB → (height, width) uint8, Pillow's mode `L`."""
    return np.asarray(Image.fromarray(frame).convert("L"))


def exact_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-image's SSIM of two (height, width) uint8 pictures, compared as float32 with data_range 255."""
    similarity: Any = structural_similarity(a.astype(np.float32), b.astype(np.float32), data_range=255)
    return float(similarity)


@dataclass
class Moments:
    """A grayscale frame and its window statistics.

    picture: (height, width) uint8.
    planes: (4, height · width) float32: the pixels; and at the top-left pixel of each window its mean, mean² + C1 / 2
        and variance + C2 / 2. The last 6 rows and columns of these three are undefined.
    """

    picture: np.ndarray
    planes: np.ndarray


class FastSsim:
    """A fast SSIM for frames of one size.

    Args:
        size: (height, width), pixels.

    Raises ClipError for frames smaller than a window.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size
        if min(size) < _WINDOW:
            raise ClipError(f"frames of {self.width} x {self.height} px: SSIM needs at least {_WINDOW} px a side")
        self._num_rows = self.height - _CUT
        self._strip_rows = min(max(1, _STRIP // self.width), self._num_rows)
        self._scratch = np.zeros((4, (self._strip_rows + _CUT) * self.width), np.float32)

    @property
    def bytes_per_frame(self) -> int:
        """Memory of one frame's `Moments`."""
        return 17 * self.height * self.width

    def empty(self) -> Moments:
        """Buffers for `fill`."""
        return Moments(
            np.zeros((self.height, self.width), np.uint8), np.zeros((4, self.height * self.width), np.float32)
        )

    def fill(self, moments: Moments, picture: np.ndarray) -> None:
        """Computes the statistics of a (height, width) uint8 picture into `moments`."""
        moments.picture = picture
        flat = picture.ravel()
        for pixels, windows in self._strips():
            values = moments.planes[0, pixels]
            values[:] = flat[pixels]
            means, light, contrast = moments.planes[1:, windows]
            integers = self._scratch[3].view(np.uint16)[: len(values)]
            integers[:] = flat[pixels]
            np.divide(self._window_sums(integers), _NUM, out=means, dtype=np.float32)
            squares = np.multiply(values, values, out=self._scratch[3, : len(values)])
            np.multiply(means, means, out=light)
            np.divide(self._window_sums(squares), _NUM, out=contrast)
            contrast -= light
            light += _C1 / 2
            contrast += _C2 / 2

    def __call__(self, a: Moments, b: Moments) -> float:
        """SSIM (Wang et al., 2004) with uniform windows and sample covariances."""
        total = 0.0
        for pixels, windows in self._strips():
            a_pixels, b_pixels = a.planes[0, pixels], b.planes[0, pixels]
            covariance = self._window_sums(np.multiply(a_pixels, b_pixels, out=self._scratch[3, : len(a_pixels)]))
            (a_mean, a_light, a_contrast), (b_mean, b_light, b_contrast) = a.planes[1:, windows], b.planes[1:, windows]
            light, scratch, similarity = (self._scratch[k, : len(a_mean)] for k in (3, 0, 2))
            np.multiply(a_mean, b_mean, out=light)
            covariance /= _NUM
            covariance -= light
            covariance += _C2 / 2
            light += _C1 / 2
            covariance *= light
            np.add(a_light, b_light, out=light)
            np.add(a_contrast, b_contrast, out=scratch)
            light *= scratch
            np.divide(covariance, light, out=similarity)
            rows = self._scratch[2, : len(a_mean) + _CUT].reshape(-1, self.width)
            total += float(rows[:, :-_CUT].sum(dtype=np.float64))
        return 4 * total / (self._num_rows * (self.width - _CUT))

    def _strips(self) -> Iterator[tuple[slice, slice]]:
        """Slices of a flat picture: the pixels of each strip, and the top-left pixels of its windows."""
        for first in range(0, self._num_rows, self._strip_rows):
            end = min(first + self._strip_rows, self._num_rows)
            start = first * self.width
            yield slice(start, (end + _CUT) * self.width), slice(start, end * self.width - _CUT)

    def _window_sums(self, pixels: np.ndarray) -> np.ndarray:
        """Sums over the windows of some whole rows, flat, in a buffer that the next call overwrites.

        Windows that reach beyond the right border continue in the row below, and their sums are undefined.
        """
        x, y, z = (self._scratch[k].view(pixels.dtype) for k in range(3))
        return _sums_of_seven(_sums_of_seven(pixels, self.width, x, y), 1, y, z)


def _sums_of_seven(values: np.ndarray, step: int, out: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """Element k is the sum of elements k, k + step … k + 6 · step of `values`; a view of the first part of `out`."""
    num = len(values)
    pairs, fours, sevens = out[: num - step], scratch[: num - 3 * step], out[: num - 6 * step]
    np.add(values[:-step], values[step:], out=pairs)
    np.add(pairs[: -2 * step], pairs[2 * step :], out=fours)
    np.add(fours[: -3 * step], fours[3 * step :], out=sevens)
    sevens -= values[3 * step : -3 * step]
    return sevens
