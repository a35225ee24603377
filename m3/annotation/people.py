"""From tracks to people: which of them are believed, what is smoothed, and who is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from m3.annotation.tracking import Track


@dataclass(frozen=True)
class Person:
    """One person in consecutive frames of one scene.

    first: number of the first frame.
    xy: (n, 13, 2) float64 pixels of the frame, NaN where the person was lost.
    is_visible: (n, 13) bool.
    score: mean over the frames, 0 … 1.
    extent: mean over the frames of the larger side of the box around the joints, pixels.
    """

    first: int
    xy: np.ndarray
    is_visible: np.ndarray
    score: float
    extent: float

    @property
    def end(self) -> int:
        """Number of the frame after the last one."""
        return self.first + len(self.xy)


@dataclass(frozen=True)
class Belief:
    """When a track is a person.

    min_seconds: length of a track.
    min_mean_score: mean score of a track, 0 … 1.
    min_confidence: mean confidence of its joints, 0 … 1: a hand or a coat that looks like a person has few joints.
    visibility: confidence from which on a joint is visible, 0 … 1.
    smoothing: standard deviation of the smoothing, frames of 1/30 s; 0 for none.
    """

    min_seconds: float
    min_mean_score: float
    min_confidence: float
    visibility: float
    smoothing: float


def person_of(track: Track, size: tuple[int, int], fps: float, belief: Belief) -> Person | str:
    """The person of a track, or why there is none. size: (height, width) of the frames, pixels."""
    xy = np.stack(track.xy).astype(np.float64)  # (n, 13, 2)
    confidence = np.stack(track.confidence).astype(np.float64)  # (n, 13)
    scores = np.array(track.scores)
    is_found = scores > 0
    where = f"a track of frames {track.first} … {track.end - 1}"
    if is_found.sum() < round(belief.min_seconds * fps):
        return f"{where}: seen for {is_found.sum() / fps:.2f} s, need {belief.min_seconds:g} s"
    score, sure = float(scores[is_found].mean()), float(confidence[is_found].mean())
    if score < belief.min_mean_score:
        return f"{where}: a mean score of {score:.2f}, need {belief.min_mean_score:g}"
    if sure < belief.min_confidence:
        return f"{where}: a mean confidence of its joints of {sure:.2f}, need {belief.min_confidence:g}"
    xy = smoothed(xy, belief.smoothing * fps / 30)
    is_inside = ((xy >= 0) & (xy <= size[::-1])).all(-1)
    is_visible = (confidence >= belief.visibility) & is_inside
    if not is_visible.any():
        return f"{where}: none of its joints is visible"
    extents = (np.nanmax(xy[is_found], axis=1) - np.nanmin(xy[is_found], axis=1)).max(-1)  # (n,)
    return Person(track.first, xy, is_visible, score, float(extents.mean()))


def smoothed(xy: np.ndarray, sigma: float) -> np.ndarray:
    """Each coordinate filtered by a Gaussian of standard deviation `sigma` frames, which delays nothing.

    xy: (n, …). NaN stays NaN and its neighbors do not see it. At the ends only frames that exist have a weight, along a
    straight line, so that a steady motion stays what it is.
    """
    if sigma <= 0 or len(xy) < 3:
        return xy
    reach = max(1, int(np.ceil(3 * sigma)))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    flat = xy.reshape(len(xy), -1)
    padding = np.full((reach, flat.shape[1]), np.nan)
    padded = np.concatenate([padding, flat, padding])
    is_known = np.isfinite(padded)
    values = np.where(is_known, padded, 0.0)
    moments = [np.zeros_like(flat) for _ in range(5)]  # of weight, offset and value: the local straight line
    for offset, weight in zip(offsets, weights):
        part = slice(reach + offset, reach + offset + len(flat))
        known, value = weight * is_known[part], weight * values[part]
        for moment, term in zip(moments, (known, known * offset, known * offset**2, value, value * offset)):
            moment += term
    total, first, second, mean, slope = moments
    determinant = total * second - first**2
    is_line = determinant > 1e-9
    line = (second * mean - first * slope) / np.where(is_line, determinant, 1)
    result = np.where(is_line, line, mean / np.maximum(total, 1e-12))
    return np.where(np.isfinite(flat), result, np.nan).reshape(xy.shape)


class Span(Protocol):
    """Where a person is in a video: see `Person`."""

    @property
    def first(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def extent(self) -> float: ...


Someone = TypeVar("Someone", bound=Span)


def chosen(people: Sequence[Someone], person: str) -> list[Someone]:
    """The people of one scene who become clips, in the order of their first frames.

    person: "largest": one at a time, the one with the largest box, summed over the frames; "track": only the one who is
        in view longest; "every": all.
    """
    if person == "every":
        return sorted(people, key=lambda each: each.first)
    if person == "track":
        longest = max(people, key=lambda each: (each.end - each.first, each.extent), default=None)
        return [] if longest is None else [longest]
    kept: list[Someone] = []
    for each in sorted(people, key=lambda each: -each.extent * (each.end - each.first)):
        if all(each.end <= other.first or other.end <= each.first for other in kept):
            kept.append(each)
    return sorted(kept, key=lambda each: each.first)
