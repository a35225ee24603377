"""Cuts: frames at which another scene begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CELLS = 16
"""Side of the thumbnails that are compared."""

_MIN_CHANGE = 18.0
"""Mean difference of two thumbnails at a cut, at least; 0 … 255."""

_MIN_RATIO = 3.0
"""Change at a cut, at least, in mean changes of the frames around it."""

CUT_WINDOW = 3
"""Frames before and after that a change is compared with."""


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (16, 16, 3) float32 means; every pixel of a small frame, a sample of a large one's."""
    height, width = frame.shape[:2]
    step = max(1, min(height, width) // (8 * _CELLS))
    sample = frame[::step, ::step]
    rows, columns = (np.linspace(0, side, _CELLS + 1).astype(int)[:-1] for side in sample.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(sample.astype(np.float32), rows, axis=0), columns, axis=1)
    num_rows, num_columns = (np.diff([*starts, side]) for starts, side in zip((rows, columns), sample.shape[:2]))
    num_pixels = np.maximum(np.multiply.outer(num_rows, num_columns), 1)  # of each cell
    return sums / num_pixels[..., None].astype(np.float32)


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Difference of two thumbnails, 0 … 255, without what a change of the light alone brings."""
    difference = after - before
    return float(np.abs(difference - difference.mean(axis=(0, 1))).mean())


def may_be_cut(changes: Sequence[float]) -> bool:
    """Whether the last of these changes may be a cut, as far as it can be known without the frames after it."""
    before = changes[-1 - CUT_WINDOW : -1]
    return changes[-1] >= _MIN_CHANGE and (not len(before) or changes[-1] >= _MIN_RATIO * max(*before, 1.0))


def find_cuts(changes: Sequence[float]) -> list[int]:
    """Frames at which a scene begins, without frame 0, ascending.

    A cut is a change that is large and stands out from those around it: a flash changes the picture twice, a swift
    camera or a video of few frames per second all the time.

    changes: (T − 1,), of each frame from the second on to the one before it.
    """
    values = np.asarray(changes, dtype=np.float64)
    cuts = []
    for index in np.flatnonzero(values >= _MIN_CHANGE):
        around = np.concatenate(
            [values[max(0, index - CUT_WINDOW) : index], values[index + 1 : index + 1 + CUT_WINDOW]]
        )
        if not len(around) or values[index] >= _MIN_RATIO * max(float(around.max()), 1.0):
            cuts.append(int(index) + 1)
    return cuts


def first_cut(frames: Sequence[np.ndarray], max_frames: int) -> int | None:
    """Number of the first frame of the second scene, or None where the first `max_frames` frames are one scene."""
    thumbnails = (thumbnail(frames[number]) for number in range(min(len(frames), max_frames)))
    changes, before = [], next(thumbnails)
    for seen in thumbnails:
        changes.append(change(before, seen))
        before = seen
        if len(changes) > CUT_WINDOW and (cuts := find_cuts(changes)) and cuts[0] <= len(changes) - CUT_WINDOW:
            return cuts[0]
    cuts = find_cuts(changes)
    return cuts[0] if cuts else None
