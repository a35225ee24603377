"""Per-sample measures as a numerator and a denominator, whose sums over samples give the score.

Every score is a ratio of sums: correct joints over scored joints, squared error over pictures. A score over any set of
samples (all, those of an action, a resample of clips) needs only sums, and unequal numbers of joints are weighted
correctly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from m3.metrics.feature_sets import FeatureSets

MAX_PSNR_DB = 100.0
"""PSNR of equal pictures, so that the score stays finite."""


MOVED = 0.05
"""A joint moves that is farther than this share of L from its place in the reference."""
BOX_MARGIN = 0.1
"""Share of L by which the box of the moving joints is larger on each side: about half the width of a head."""
MIN_BOX_MARGIN_PX = 4.0
_SSIM_RADIUS = 3
"""Half of scikit-image's window of 7 pixels."""


@dataclass(frozen=True)
class Ratio:
    """A measure of N samples at T horizons.

    numerator, denominator: (N, T) float64; the denominator is 0 where a sample is not scored. The numerator of a score
        that is not a mean over samples is (N, T, M): quantities such as moments, of whose means it is a function.
    """

    numerator: np.ndarray
    denominator: np.ndarray

    def only(self, is_kept: np.ndarray) -> Ratio:
        """The same, not scored where `is_kept`, broadcastable to (N, T) bool, is False."""
        kept = np.broadcast_to(is_kept, self.denominator.shape)
        of_numerator = kept[..., None] if self.numerator.ndim > kept.ndim else kept
        return Ratio(np.where(of_numerator, self.numerator, 0.0), np.where(kept, self.denominator, 0.0))

    def rows(self, rows: np.ndarray) -> Ratio:
        """Some of the samples, by their indices."""
        return Ratio(self.numerator[rows], self.denominator[rows])


Measured = Ratio | FeatureSets
"""What a metric makes of the frames of a series."""


def pck(xy: np.ndarray, true_xy: np.ndarray, is_scored: np.ndarray, extent: np.ndarray, a: float) -> Ratio:
    """Percentage of correct keypoints: the share in [0, 1] of scored joints closer than a · L to the truth.

    Args:
        xy, true_xy: (N, T, 13, 2) canvas pixels.
        is_scored: (N, T, 13) bool, the joints visible in the truth.
        extent: (N,) L in canvas pixels, `PairInfo.pose_extent_px`; a sample with NaN is not scored.
    """
    is_scored = is_scored & np.isfinite(extent)[:, None, None]
    is_correct = np.linalg.norm(xy - true_xy, axis=-1) < a * extent[:, None, None]
    return _sums((is_correct & is_scored).astype(float), is_scored)


def has_moved(true_xy: np.ndarray, reference_xy: np.ndarray, extent: np.ndarray, a: float) -> np.ndarray:
    """(N, T, 13) bool: the joints whose true place is more than a · L from their place in the reference.

    Args:
        true_xy: (N, T, 13, 2) canvas pixels.
        reference_xy: (N, 1, 13, 2) canvas pixels.
        extent: (N,) L in canvas pixels; no joint of a sample with NaN has moved.
    """
    return np.linalg.norm(reference_xy - true_xy, axis=-1) > a * extent[:, None, None]


def moving_boxes(
    true_xy: np.ndarray, reference_xy: np.ndarray, is_moving: np.ndarray, extent: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The box of the moving joints: where a true picture differs from its reference because the person moves.

    It is the smallest box around the places of the moving joints in the reference and in the truth, widened on each
    side by `BOX_MARGIN` · L, or by `MIN_BOX_MARGIN_PX` where that is more, rounded outwards to whole pixels and cut to
    the picture. No prediction has a part in it, so all series of a score have the same boxes.

    Args:
        true_xy: (N, T, 13, 2) canvas pixels.
        reference_xy: (N, 1, 13, 2) canvas pixels.
        is_moving: (N, T, 13) bool, see `has_moved`; the joints are visible in the truth and in the reference.
        extent: (N,) L in canvas pixels.
        size: height and width of the pictures, in canvas pixels.

    Returns: (N, T, 4) int64 left, top, right and bottom, of which the last two are exclusive; all 0 where no joint
    moves.
    """
    places = np.stack(np.broadcast_arrays(true_xy, reference_xy))  # (2, N, T, 13, 2)
    margin = np.fmax(BOX_MARGIN * extent, MIN_BOX_MARGIN_PX)[:, None, None]
    is_counted = is_moving[..., None]
    low = np.floor(np.where(is_counted, places, np.inf).min((0, 3)) - margin)  # (N, T, 2)
    high = np.ceil(np.where(is_counted, places, -np.inf).max((0, 3)) + margin)
    edges = [each.clip(0, size[::-1]) for each in (low, high)]
    has_area = is_moving.any(-1) & np.all(edges[0] < edges[1], axis=-1)
    return np.where(has_area[..., None], np.concatenate(edges, -1), 0).astype(np.int64)


def motion_ratio(xy: np.ndarray, true_xy: np.ndarray, reference_xy: np.ndarray, is_scored: np.ndarray) -> Ratio:
    """Mean distance of the scored joints from their place in the reference, over that of the truth.

    A sample whose true joints have not moved at all has a denominator of 0: its motion counts, and raises the ratio of
    all samples, but it is not among the samples that are counted as scored.

    Args:
        xy, true_xy: (N, T, 13, 2) canvas pixels.
        reference_xy: (N, 1, 13, 2) canvas pixels.
        is_scored: (N, T, 13) bool, the joints visible in the truth and in the reference.
    """
    moved, truly_moved = (np.linalg.norm(each - reference_xy, axis=-1) for each in (xy, true_xy))
    return Ratio(*(np.where(is_scored, each, 0.0).sum(-1) for each in (moved, truly_moved)))


def joint_error_px(xy: np.ndarray, true_xy: np.ndarray, is_scored: np.ndarray) -> Ratio:
    """Mean distance in canvas pixels over the scored joints; shapes as in `pck`."""
    return _sums(np.where(is_scored, np.linalg.norm(xy - true_xy, axis=-1), 0.0), is_scored)


def visibility_f1(is_visible: np.ndarray, is_truly_visible: np.ndarray, is_present: np.ndarray) -> Ratio:
    """F1 of "this joint is visible" over (N, T, 13) joints where (N, T) `is_present`."""
    kept = is_present[..., None]
    hits = (is_visible & is_truly_visible & kept).sum(-1)
    claims = (is_visible & kept).sum(-1) + (is_truly_visible & kept).sum(-1)
    return Ratio(2.0 * hits, claims.astype(float))


def token_accuracy(ids: np.ndarray, true_ids: np.ndarray, is_scored: np.ndarray) -> Ratio:
    """The share in [0, 1] of scored positions, (N, T, L) bool, whose id is the truth's."""
    return _sums(((ids == true_ids) & is_scored).astype(float), is_scored)


def squared_error(picture: np.ndarray, true_picture: np.ndarray) -> float:
    """Mean over the values of two uint8 pictures of one shape; the mean of these over pictures makes a PSNR."""
    return float(np.square(picture.astype(np.float64) - true_picture).mean())


def squared_error_in(picture: np.ndarray, true_picture: np.ndarray, box: np.ndarray) -> float:
    """`squared_error` over the pixels of a box, (4,) left, top, right, bottom."""
    left, top, right, bottom = box
    return squared_error(picture[top:bottom, left:right], true_picture[top:bottom, left:right])


def psnr_db(mean_squared_error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of 8-bit pictures; `MAX_PSNR_DB` for an error of 0, NaN for NaN.

    The PSNR of a set of pictures is that of their mean squared error, not a mean of dB: in a mean of dB one picture
    that equals the truth would weigh as much as the value chosen for infinity.
    """
    least = 255**2 / 10 ** (MAX_PSNR_DB / 10)
    return 20 * math.log10(255) - 10 * np.log10(np.maximum(mean_squared_error, least))


def ssim(picture: np.ndarray, true_picture: np.ndarray) -> float:
    """Structural similarity (Wang et al., TIP 2004) of two (H, W, 3) uint8 pictures, as scikit-image computes it."""
    similarity: Any = structural_similarity(picture, true_picture, data_range=255, channel_axis=-1)
    return float(similarity)


def ssim_in(picture: np.ndarray, true_picture: np.ndarray, box: np.ndarray) -> float:
    """Mean of the map of `ssim` over the pixels of a box, (4,) left, top, right, bottom.

    A pixel's similarity is that of the 7 × 7 pixels around it, also of those outside the box; at the edge of the
    picture its pixels are reflected.
    """
    low, high = np.maximum(box[:2] - _SSIM_RADIUS, 0), np.minimum(box[2:] + _SSIM_RADIUS, picture.shape[1::-1])
    seen = (slice(low[1], high[1]), slice(low[0], high[0]))
    found: Any = structural_similarity(picture[seen], true_picture[seen], data_range=255, channel_axis=-1, full=True)
    similarity = found[1]  # the map, beside its mean
    (left, top), (right, bottom) = box[:2] - low, box[2:] - low
    return float(similarity[top:bottom, left:right].mean())


def _sums(values: np.ndarray, is_scored: np.ndarray) -> Ratio:
    return Ratio(values.sum(-1), is_scored.sum(-1).astype(float))
