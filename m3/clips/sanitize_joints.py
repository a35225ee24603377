"""Cleaning of annotated joints: positions become finite, and only joints inside the frame stay visible."""

from __future__ import annotations

import numpy as np

from m3.clips.base import ClipError
from m3.core.joints import JOINT_NAMES, Joints

MAX_COORDINATE = 1e5
"""Pixels; a larger coordinate is an annotation error and treated like NaN."""


def is_valid_position(xy: np.ndarray) -> np.ndarray:
    """(T, 13, 2) → (T, 13) bool, whether both coordinates are finite and at most `MAX_COORDINATE` in size."""
    return np.all(np.abs(xy) <= MAX_COORDINATE, axis=-1)  # NaN compares false


def sanitize_joints(
    xy: np.ndarray, is_visible: np.ndarray, size: tuple[int, int], where: str
) -> tuple[Joints, tuple[str, ...]]:
    """Joints with finite positions that are visible only inside the frame, and notes on visible joints that changed.

    A joint without a valid position (NaN, infinite, absurdly large) becomes invisible and is put at the median of the
    clip's visible joints, where it does not enlarge the box around a pose. A visible joint outside the frame keeps its
    position and becomes invisible.

    Args:
        xy: (T, 13, 2) float64, continuous pixels.
        is_visible: (T, 13) bool.
        size: (height, width) of the frames, pixels.
        where: name of the file, for notes and errors.

    Raises ClipError where no joint of the clip has a valid position.
    """
    is_placed = is_valid_position(xy)  # (T, 13)
    if not is_placed.any():
        raise ClipError(f"{where}: no joint has a valid position, the first one is {xy[0, 0].tolist()}")
    height, width = size
    is_inside = ((xy >= 0) & (xy <= (width, height))).all(axis=-1)  # (T, 13)
    notes = (
        *_note(where, xy, is_visible & ~is_placed, "have no place"),
        *_note(where, xy, is_visible & is_placed & ~is_inside, "lie outside the frame"),
    )
    filler = np.median(xy[is_visible & is_inside if (is_visible & is_inside).any() else is_placed], axis=0)  # (2,)
    return Joints(np.where(is_placed[..., None], xy, filler), is_visible & is_inside), notes


def _note(where: str, xy: np.ndarray, is_lost: np.ndarray, what: str) -> tuple[str, ...]:
    """One note on the (T, 13) visible joints that became invisible, if there are any."""
    if not is_lost.any():
        return ()
    frame, joint = np.argwhere(is_lost)[0]
    x, y = xy[frame, joint]
    first = f"{JOINT_NAMES[joint]} of frame {frame} at ({x:g}, {y:g})"
    return (f"{where}: {is_lost.sum()} visible joints {what}, the first is {first}: taken as invisible",)
