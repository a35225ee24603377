"""The mirror image of a picture and of the joints on it: who is seen is mirrored too, so left becomes right."""

from __future__ import annotations

import numpy as np

from m3.records import JOINT_NAMES, Joints

_OTHER_SIDE = {"left": "right", "right": "left"}


def _mirrored_name(name: str) -> str:
    side, _, part = name.partition("_")
    return f"{_OTHER_SIDE[side]}_{part}" if side in _OTHER_SIDE else name


MIRRORED = np.array([JOINT_NAMES.index(_mirrored_name(name)) for name in JOINT_NAMES])
"""(13,) the joint that each one is in the mirror."""


def mirror_joints(joints: Joints, width: float) -> Joints:
    """Joints on a picture `width` px wide → those on its mirror image: x → width − x, left and right exchanged."""
    xy = joints.xy[:, MIRRORED] * (-1, 1) + (width, 0)
    return Joints(xy, joints.is_visible[:, MIRRORED])


def mirror_pictures(pictures: np.ndarray) -> np.ndarray:
    """(…, height, width, 3) → the same, its columns in reverse order."""
    return pictures[..., ::-1, :]
