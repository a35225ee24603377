"""Statistics of a data set, for its manifest and its summary."""

from __future__ import annotations

from typing import Any

import numpy as np

from m3.core.joints import NUM_JOINTS
from m3.preprocessing.staging import StagedClip

QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
PAIR_BINS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SSIM_BINS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


class DatasetStatistics:
    """Adds up the clips of a data set."""

    def __init__(self) -> None:
        self._num_pairs: list[int] = []
        self._ssim: list[float] = []
        self._distance: list[int] = []
        self._duration_s: list[float] = []
        self._num_visible = self._num_frames = self._num_invisible = self._num_with_joints = 0

    def add(self, clip: StagedClip) -> None:
        self._num_pairs.append(len(clip.pairs))
        self._ssim += [pair.ssim for pair in clip.pairs if pair.ssim is not None]
        distances = [pair.successor - pair.reference for pair in clip.pairs]
        self._distance += distances
        if clip.fps is not None:
            self._duration_s += [distance / clip.fps for distance in distances]
        self._num_with_joints += clip.has_joints
        if clip.has_joints and "coords" in clip.tokens:
            visible = clip.tokens["coords"][:, 2].sum(axis=1)  # (F,) visible joints of each frame
            self._num_visible += int(visible.sum())
            self._num_frames += len(visible)
            self._num_invisible += int((visible == 0).sum())

    def record(self) -> dict[str, Any]:
        """Plain numbers.

        pairs_per_clip, ssim, frame_distance (successor − reference, frames), pair_duration_s (the same in seconds, of
            clips with a known rate): quantiles; None where no pair has one.
        pairs_per_clip_histogram, ssim_histogram: counts of bins, "20–49" or "0.80–0.85".
        visible_joints: share of the joints that are visible, over all frames that occur in pairs; None without joints.
        clips, clips_with_joints: how many clips there are, and how many have any joints.
        invisible_frames: how many of these frames show no joint at all.
        """
        num_joints = NUM_JOINTS * self._num_frames
        return {
            "pairs_per_clip": _quantiles(self._num_pairs),
            "pairs_per_clip_histogram": _histogram(self._num_pairs, PAIR_BINS),
            "ssim": _quantiles(self._ssim),
            "ssim_histogram": _histogram(self._ssim, SSIM_BINS),
            "frame_distance": _quantiles(self._distance),
            "pair_duration_s": _quantiles(self._duration_s),
            "visible_joints": round(self._num_visible / num_joints, 4) if num_joints else None,
            "invisible_frames": self._num_invisible,
            "clips": len(self._num_pairs),
            "clips_with_joints": self._num_with_joints,
        }


def _quantiles(values: list[Any]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.quantile(np.array(values), list(QUANTILES.values()), method="nearest")
    return {name: round(value.item(), 6) for name, value in zip(QUANTILES, found)}


def _histogram(values: list[Any], bins: tuple[float, ...]) -> dict[str, int]:
    """Counts of values in [bin, next bin); the last bin of whole numbers is open, that of SSIM includes 1."""
    if not values:
        return {}
    is_whole = isinstance(bins[0], int)
    place = np.searchsorted(bins if is_whole else bins[:-1], values, side="right") - 1
    names = [_bin_name(bins, i, is_whole) for i in range(len(bins) - (not is_whole))]
    counts = np.bincount(place.clip(0), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts) if count}


def _bin_name(bins: tuple[float, ...], i: int, is_whole: bool) -> str:
    if not is_whole:
        return f"{bins[i]:.2f}–{bins[i + 1]:.2f}"
    if i == len(bins) - 1:
        return f"{bins[i]} and more"
    return str(bins[i]) if bins[i + 1] == bins[i] + 1 else f"{bins[i]}–{bins[i + 1] - 1}"
