"""The one codec between displacements of joints and their tokens, and the poses that follow from them.

A displacement is measured in sides of the box around the earlier of its two poses, so that a token means the same
motion for a person of any size. Cells are finer around 0: half a cell at rest is 0.29 px for a box of 256 px.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m3.core.joints import NUM_JOINTS
from m3.core.modalities import DISPLACEMENT_SIDE, NOT_SEEN, NUM_JOINT_BINS
from m3.tokens.pose_box import PoseBox, has_place

FINENESS = 0.015
"""Displacement up to which cells have about equal size, in sides of the pose's box; beyond it their size grows."""

REACH = 1.0
"""Largest displacement along an axis, in the same unit; larger ones are clipped to the outermost cells."""

_ARCSINH_OF_REACH = float(np.arcsinh(REACH / FINENESS))
_MAX_BIN = NUM_JOINT_BINS - 1
_MARGIN = 0.5
"""An invisible joint farther than this from the box of the visible ones, in its larger sides, has no usable place."""


def encode_displacement(displacement: Tensor, is_seen: Tensor) -> Tensor:
    """(…, 2) displacements in sides of the pose's box, x then y, and (…) bool → (…) int64 ids.

    The id is `NOT_SEEN` where is_seen is False.
    """
    position = (torch.asinh(displacement / FINENESS) / _ARCSINH_OF_REACH + 1) / 2 * DISPLACEMENT_SIDE
    cell = position.floor().clamp(0, DISPLACEMENT_SIDE - 1).long()
    return torch.where(is_seen, cell[..., 1] * DISPLACEMENT_SIDE + cell[..., 0], NOT_SEEN)


def decode_displacement(ids: Tensor) -> tuple[Tensor, Tensor]:
    """(…) legal ids → (…, 2) float64 displacements of the cells' middles, in sides of the box, and (…) bool is_seen.

    The displacement of `NOT_SEEN` is 0.
    """
    is_seen = ids != NOT_SEEN
    cell = torch.where(is_seen, ids, NOT_SEEN // 2)  # the middle cell
    position = torch.stack([cell % DISPLACEMENT_SIDE, cell // DISPLACEMENT_SIDE], -1) + 0.5
    return position_to_displacement(position.double()), is_seen


def position_to_displacement(position: Tensor) -> Tensor:
    """(…) float64 positions along an axis of the grid, 0 … 65, → (…) displacements in sides of the pose's box.

    Cell i reaches from position i to i + 1; the middle of the middle cell gives exactly 0.
    """
    return FINENESS * torch.sinh((2 * position / DISPLACEMENT_SIDE - 1) * _ARCSINH_OF_REACH)


def usable_places(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens → (…, 13) bool: joints from whose place a displacement can start.

    These are the visible joints, and invisible ones whose place is near the box of the visible ones: annotations often
    put an invisible joint into a corner of the picture, from where it would come back as a limb across it.
    """
    is_visible = poses[..., 2, :] > 0  # (…, 13)
    xy = poses[..., :2, :].astype(np.float64)
    low = np.where(is_visible[..., None, :], xy, np.inf).min(-1, keepdims=True)  # (…, 2, 1)
    high = np.where(is_visible[..., None, :], xy, -np.inf).max(-1, keepdims=True)
    margin = _MARGIN * (high - low).max(-2, keepdims=True)  # −inf without a visible joint: none is near
    is_near = ((xy >= low - margin) & (xy <= high + margin)).all(-2)
    return is_visible | (has_place(poses) & is_near)


def box_side(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens → (…) float64: larger side, in bins, of the box around the joints with a usable place."""
    return PoseBox.around(np.where(usable_places(poses)[..., None, :], poses, 0)).side


def displacement_tokens(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens of two poses → (…, 13) int64 ids of the displacements from one to the other.

    `NOT_SEEN` where the joint is invisible in the later pose or has no usable place in the earlier one.
    """
    moved = (later[..., :2, :].astype(np.float64) - earlier[..., :2, :]) / box_side(earlier)[..., None, None]
    is_seen = (later[..., 2, :] > 0) & usable_places(earlier)
    moved = np.ascontiguousarray(np.swapaxes(moved, -1, -2))
    return encode_displacement(torch.from_numpy(moved), torch.from_numpy(is_seen)).numpy()


def displaced(
    earlier: np.ndarray, xy: np.ndarray, displacement: np.ndarray, is_seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The later pose, exactly: tokens for the model, and the places without rounding for the next displacement.

    Rounding the places of every frame to bins would drift by up to half a bin per frame, all in one direction.

    Args:
        earlier: (…, 3, 13) tokens of the earlier pose.
        xy: (…, 13, 2) float64 bins, its places without rounding.
        displacement: (…, 13, 2) in sides of its box. A joint that is not seen moves too, and stays invisible.
        is_seen: (…, 13) bool. A joint without a usable place in the earlier pose stays invisible, and without place.

    Returns:
        (…, 3, 13) int64 tokens, in which joints that have left the canvas are invisible and have no place; and
        (…, 13, 2) float64 bins, which may lie outside the canvas.
    """
    is_placed = usable_places(earlier)
    xy = np.where(is_placed[..., None], xy + displacement * box_side(earlier)[..., None, None], 0.0)
    is_inside = ((xy >= 0) & (xy <= _MAX_BIN)).all(-1) & is_placed
    bins = np.where(is_inside[..., None], np.round(xy), 0).astype(np.int64)
    tokens = np.concatenate([np.swapaxes(bins, -1, -2), (is_seen & is_inside)[..., None, :].astype(np.int64)], -2)
    return tokens, xy


def places(poses: np.ndarray) -> np.ndarray:
    """(…, 3, 13) joint tokens → (…, 13, 2) float64 bins."""
    assert poses.shape[-2:] == (3, NUM_JOINTS)
    return np.swapaxes(poses[..., :2, :], -1, -2).astype(np.float64)
