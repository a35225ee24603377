"""Agreement of pictures and joints: are the drawn limbs at the joints? Measured by color, without a detector.

A person keeps their clothes, so the colors along the limbs of the reference (its picture, at its joints) should
appear along the same limbs of a later picture at its joints. The measure is the distance in CIELAB. By itself it
depends more on clothes and backgrounds than on limbs, so it is compared with that at other poses in the same picture.
The score of a picture is the share of these poses whose colors fit worse (ties count half): the area under the ROC
curve of a classifier that separates the sample's joints from the others by color. The best score is 1. There are two:

* "agreement": the other poses are those of other clips. Is it this person, in roughly this pose? Joints unrelated to
  the picture score 0.5, since they are one more of these poses.
* "agreement@0.05": the other poses are the sample's own joints, moved as a whole by 0.05 of the pose's size in eight
  directions. Are the limbs exactly there? Joints of other clips score little more than 0.5: people are in the middle.

Neither detects limbs that moved within one color (a hand on a shirt of that color) or people whose clothes have the
background's color. So even the true joints in the true pictures stay below 1; their score is reported as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import map_coordinates
from skimage.color import rgb2lab

from m3.core.joints import JOINT_NAMES, limbs_of
from m3.core.rng import numpy_generator
from m3.metrics.measures import Ratio

SIDE_LIMBS = (*limbs_of("left"), *limbs_of("right"))
_ENDS = np.array([[JOINT_NAMES.index(name) for name in limb] for limb in SIDE_LIMBS])  # (10, 2)
_ALONG = np.array([0.2, 0.5, 0.8])
"""Where on a limb colors are taken: 0 is its first joint, 1 its second."""
_AROUND = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]) / 256
"""Shares of the canvas's side: a color is the mean over a small cross."""
MIN_LIMBS = 3
"""With fewer limbs visible in all of reference, picture and other pose, a pose is not compared."""
NUM_OTHERS = 16
SHIFT = 0.05
"""Share of the larger side of the box around the visible joints."""
_ANGLES = np.arange(8) * np.pi / 4
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)  # (8, 2)
_SEED = 0


def agreement(
    pictures: np.ndarray,
    xy: np.ndarray,
    is_visible: np.ndarray,
    is_present: np.ndarray,
    reference_colors: np.ndarray,
    clip: np.ndarray,
) -> dict[str, Ratio]:
    """Both scores of N pictures at one horizon.

    Args:
        pictures: (N, H, W, 3) uint8.
        xy, is_visible: (N, 13, 2) canvas pixels and (N, 13), the joints that the pictures should show.
        is_present: (N,) bool; the others are not scored.
        reference_colors: (N, 10, 3, 3), `limb_colors` of the references; NaN for limbs that they do not show.
        clip: (N,) labels; poses of the same clip are not compared with.

    Returns: (N, 1) each. A sample with fewer than `MIN_LIMBS` limbs, or without another clip's pose, is not scored.
    """
    names = ("agreement", "agreement@0.05")
    ratios = {name: Ratio(np.zeros((len(xy), 1)), np.zeros((len(xy), 1))) for name in names}
    for n in is_present.nonzero()[0].tolist():
        others = _others(n, is_present & (clip != clip[n]))
        shifted = _shifted(xy[n], is_visible[n])
        poses = np.concatenate([xy[[n, *others]], shifted])
        seen = np.concatenate([is_visible[[n, *others]], np.repeat(is_visible[[n]], len(shifted), 0)])
        colors = limb_colors(pictures[n], poses, seen)  # (P, 10, 3, 3)
        distance = np.linalg.norm(colors - reference_colors[n], axis=-1).mean(-1)  # (P, 10), NaN where unseen
        own, of_others, of_shifted = np.split(distance, [1, 1 + len(others)])
        for name, compared in zip(names, (of_others, of_shifted)):
            share = _share_that_fits_worse(own[0], compared)
            if share is not None:
                ratios[name].numerator[n], ratios[name].denominator[n] = share, 1.0
    return ratios


def limb_colors(picture: np.ndarray, xy: np.ndarray, is_visible: np.ndarray) -> np.ndarray:
    """Colors along the limbs of P poses in a picture.

    Args:
        picture: (H, W, 3) uint8.
        xy, is_visible: (P, 13, 2) pixels, (P, 13).

    Returns: (P, 10, 3, 3) CIELAB at three places on each limb; NaN where a joint of the limb is invisible.
    """
    start, end = xy[:, _ENDS[:, 0], None], xy[:, _ENDS[:, 1], None]  # (P, 10, 1, 2)
    points = start + (end - start) * _ALONG[:, None]  # (P, 10, 3, 2)
    places = points[..., None, :] + _AROUND * max(picture.shape[:2]) - 0.5  # the first pixel's center is 0.5
    at = [places[..., 1], places[..., 0]]
    channels = [map_coordinates(picture[..., c].astype(float), at, order=1, mode="nearest") for c in range(3)]
    colors = rgb2lab(np.stack(channels, -1).mean(-2) / 255)
    is_seen = np.all(is_visible[:, _ENDS], axis=-1)  # (P, 10)
    return np.where(is_seen[..., None, None], colors, np.nan)


def _others(n: int, is_candidate: np.ndarray) -> Sequence[int]:
    """At most `NUM_OTHERS` samples, a function of n and the candidates alone."""
    drawn = numpy_generator(_SEED, "agreement", n).permutation(len(is_candidate))
    return [int(other) for other in drawn if is_candidate[other]][:NUM_OTHERS]


def _shifted(xy: np.ndarray, is_visible: np.ndarray) -> np.ndarray:
    """(13, 2) joints → (8, 13, 2), moved as a whole; (0, 13, 2) where none is visible or all are at one point."""
    size = np.ptp(xy[is_visible], axis=0).max() if is_visible.any() else 0.0
    return xy + SHIFT * size * _DIRECTIONS[:, None] if size else np.zeros((0, *xy.shape))


def _share_that_fits_worse(own: np.ndarray, others: np.ndarray) -> float | None:
    """(10,) and (P, 10) distances → the score; each comparison is over the limbs that both have."""
    is_shared = ~np.isnan(own) & ~np.isnan(others)  # (P, 10)
    is_comparable = is_shared.sum(1) >= MIN_LIMBS
    if not is_comparable.any():
        return None
    is_shared, others = is_shared[is_comparable], others[is_comparable]
    mine = np.where(is_shared, own, 0.0).sum(1)
    theirs = np.where(is_shared, others, 0.0).sum(1)
    return float(((mine < theirs) + 0.5 * (mine == theirs)).mean())
