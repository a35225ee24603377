"""What the joint files of other programs hold, before it is understood as joints of a video's frames."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3.core.keypoints import Layout

MAX_NUMBERS = 2**25
"""Of all keypoints of a file: 300,000 poses of 33 keypoints."""

MAX_BYTES = 2**28
"""Of a joint file."""

UNKNOWN = -1
"""Person of a pose where the file does not follow people."""


class FormatError(ValueError):
    """A joint file that cannot be used; the message has the reason and the remedy, not the file's name."""


@dataclass(frozen=True)
class Detections:
    """n poses of K keypoints.

    format: whose file it is, for messages: "OpenPose".
    layout: of the keypoints; a text where it is not known: why not.
    frames: (n,) int64, as the file numbers them, or places in its sequence of frames.
    people: (n,) int64 number of the person, the same in all frames; `UNKNOWN` where the file does not follow people.
    xy: (n, K, 2) float64, NaN where the file has nothing.
    confidence: (n, K) float64; NaN where the file has none.
    span: numbers of the first frame that the file speaks of, and of the one after the last, whether people are in them
        or not; None where it lists only frames with people.
    is_numbered: the frames' numbers are written in the file; they may begin at 1.
    is_one_person: by the kind of the file, in all frames.
    size: (height, width) of the pictures that the file says its coordinates are of; None where it does not say it.
    is_share: coordinates are shares of width and height by the kind of the file; else that is found out.
    is_visibility: confidence is that a keypoint is not hidden: also the place of a hidden one is known.
    notes: how the file was understood.
    """

    format: str
    layout: Layout | str
    frames: np.ndarray
    people: np.ndarray
    xy: np.ndarray
    confidence: np.ndarray
    span: tuple[int, int] | None = None
    is_numbered: bool = False
    is_one_person: bool = False
    size: tuple[int, int] | None = None
    is_share: bool = False
    is_visibility: bool = False
    notes: tuple[str, ...] = ()


class PoseList:
    """Collects poses one by one. num_keypoints: K; None: that of the first pose."""

    def __init__(self, num_keypoints: int | None = None) -> None:
        self.num_keypoints = num_keypoints
        self._frames, self._people, self._values = array("q"), array("q"), array("d")

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: int, person: int, x: Sequence[Any], y: Sequence[Any], confidence: Sequence[Any]) -> None:
        """One pose: K numbers each; None and everything else that is no number is unknown."""
        if self.num_keypoints is None:
            self.num_keypoints = len(x)
        if not len(x) == len(y) == len(confidence) == self.num_keypoints:
            raise FormatError(f"a pose of {len(x)} keypoints in frame {frame}, others have {self.num_keypoints}")
        if len(self._values) > 3 * MAX_NUMBERS:
            raise FormatError(f"more than {MAX_NUMBERS:,} keypoints; divide video and file")
        if not 0 <= frame < 2**40:
            raise FormatError(f"frame {frame}, need whole numbers from 0")
        self._frames.append(frame)
        self._people.append(person if 0 <= person < 2**40 else UNKNOWN)
        for values in zip(x, y, confidence):
            self._values.extend(map(number_or_nan, values))

    def add_flat(self, frame: int, person: int, values: Sequence[Any]) -> None:
        """One pose as x, y, confidence of each keypoint in turn."""
        if not isinstance(values, list) or len(values) % 3:
            raise FormatError(f"a pose in frame {frame} whose numbers are not x, y and confidence in turn")
        self.add(frame, person, values[0::3], values[1::3], values[2::3])

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """frames (n,), people (n,), xy (n, K, 2), confidence (n, K)."""
        values = np.array(self._values).reshape(len(self._frames), self.num_keypoints or 0, 3)
        return np.array(self._frames), np.array(self._people), values[..., :2].copy(), values[..., 2].copy()


def number_or_nan(value: Any) -> float:
    """A value from a file as a float; NaN for None and everything that is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def whole_or(value: Any, default: int) -> int:
    """A whole number from a file: 3, 3.0, "3" or [3]; the default for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and len(value) < 20 and value.strip().isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
