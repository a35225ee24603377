"""The 13 joints: their names and order, the limbs between them, their positions, and their mirror image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

JOINT_NAMES = (
    "head",
    "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow",
    "left_wrist", "right_wrist",
    "left_hip", "right_hip",
    "left_knee", "right_knee",
    "left_ankle", "right_ankle",
)  # fmt: skip
NUM_JOINTS = len(JOINT_NAMES)


def limbs_of(side: str) -> tuple[tuple[str, str], ...]:
    """The 5 limbs of a side, "left" or "right", as pairs of joint names: arm, leg, and the trunk's edge."""
    parts = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"), ("shoulder", "hip"))
    return tuple((f"{side}_{first}", f"{side}_{second}") for first, second in parts)


LIMBS = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), *limbs_of("right"), *limbs_of("left"),
)  # fmt: skip
"""All 12 limbs in the order in which they are drawn: the left side covers the right one."""


@dataclass(frozen=True)
class Joints:
    """Joint positions of T frames in continuous pixels: (0, 0) is the top-left corner of the frame.

    xy: (T, 13, 2) float64, x then y, finite; the center of the first pixel is (0.5, 0.5).
    is_visible: (T, 13) bool, False where the joint is labeled invisible or is outside the frame.

    Raises ValueError for other shapes and positions that are not finite.
    """

    xy: np.ndarray
    is_visible: np.ndarray

    def __post_init__(self) -> None:
        num_frames = len(self.xy)
        if self.xy.shape != (num_frames, NUM_JOINTS, 2) or self.is_visible.shape != (num_frames, NUM_JOINTS):
            raise ValueError(
                f"joints need shapes (T, {NUM_JOINTS}, 2) and (T, {NUM_JOINTS}), "
                f"got {self.xy.shape} and {self.is_visible.shape}"
            )
        if not np.isfinite(self.xy).all():
            frame, joint, _ = np.argwhere(~np.isfinite(self.xy))[0]
            raise ValueError(f"joint {JOINT_NAMES[joint]} of frame {frame} is not finite: {self.xy[frame, joint]}")


_OTHER_SIDE = {"left": "right", "right": "left"}


def _mirrored_name(name: str) -> str:
    side, _, part = name.partition("_")
    return f"{_OTHER_SIDE[side]}_{part}" if side in _OTHER_SIDE else name


MIRRORED = np.array([JOINT_NAMES.index(_mirrored_name(name)) for name in JOINT_NAMES])
"""(13,) int64, index of each joint's counterpart on the other side; the head is its own."""


def mirror_joints(joints: Joints, width: float) -> Joints:
    """Joints on the mirror image of a picture that is `width` pixels wide: x → width − x, left and right exchanged."""
    xy = joints.xy[:, MIRRORED] * (-1, 1) + (width, 0)
    return Joints(xy, joints.is_visible[:, MIRRORED])


def mirror_pictures(pictures: np.ndarray) -> np.ndarray:
    """(…, height, width, 3) → (…, height, width, 3), columns in reverse order; a view."""
    return pictures[..., ::-1, :]


def pose_extent(joints: Joints) -> float:
    """Larger side of the box around all joints of all frames, visible or not, pixels rounded to 6 decimals."""
    corners = joints.xy.max(axis=(0, 1)) - joints.xy.min(axis=(0, 1))  # (2,)
    return round(float(corners.max()), 6)
