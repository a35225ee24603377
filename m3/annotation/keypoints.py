"""From the keypoints of pose networks to the 13 joints of m3.

Pose networks name the person's own sides. m3's are Penn Action's: its left is the person's own right, from the front
and from behind (see `m3.rendering.body`). The head is the middle of the ears; where the layout has none, the place that
the layout calls head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3.core.joints import JOINT_NAMES, NUM_JOINTS

_PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")

KeypointMap = Sequence[Sequence[int]]
"""For each of the 13 joints the keypoints whose mean it is."""


def keypoint_map(head: Sequence[int], left: Sequence[int], right: Sequence[int]) -> list[list[int]]:
    """The map of a layout of keypoints.

    head: keypoints whose mean is the head.
    left, right: the person's own shoulder, elbow, wrist, hip, knee and ankle.
    """
    own = {"left": left, "right": right}
    joints: dict[str, list[int]] = {"head": list(head)}
    for part, own_left, own_right in zip(_PAIRS, own["left"], own["right"], strict=True):
        joints[f"left_{part}"], joints[f"right_{part}"] = [own_right], [own_left]
    return [joints[name] for name in JOINT_NAMES]


LAYOUTS: dict[str, list[list[int]]] = {
    "blazepose33": keypoint_map([7, 8], [11, 13, 15, 23, 25, 27], [12, 14, 16, 24, 26, 28]),
    "coco17": keypoint_map([3, 4], [5, 7, 9, 11, 13, 15], [6, 8, 10, 12, 14, 16]),
    "halpe26": keypoint_map([3, 4], [5, 7, 9, 11, 13, 15], [6, 8, 10, 12, 14, 16]),
    "h36m17": keypoint_map([10, 9], [11, 12, 13, 4, 5, 6], [14, 15, 16, 1, 2, 3]),  # top of the head, and nose
}
"""Name of a layout → its map."""

_NUM_KEYPOINTS = {"blazepose33": 33, "coco17": 17, "halpe26": 26, "h36m17": 17}


def checked_map(key: str, layout: str | Sequence[int | Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The map of a layout's name, or of a list of 13 keypoints (or lists of these). Raises ValueError naming `key`."""
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise ValueError(f"{key}={layout!r}: choose {', '.join(LAYOUTS)}, or a list of {NUM_JOINTS} keypoints")
        return tuple(map(tuple, LAYOUTS[layout]))
    joints = tuple((entry,) if isinstance(entry, int) else tuple(entry) for entry in layout)
    is_number = all(type(index) is int and index >= 0 for joint in joints for index in joint)
    if len(joints) != NUM_JOINTS or not all(joints) or not is_number:
        raise ValueError(
            f"{key}={list(layout)}: need {NUM_JOINTS} entries in the order of m3.core.joints.JOINT_NAMES, each a "
            "keypoint's number from 0 or a list of such"
        )
    return joints


def to_joints(xy: np.ndarray, confidence: np.ndarray, joints: KeypointMap) -> tuple[np.ndarray, np.ndarray]:
    """(K, 2) places and (K,) confidences of keypoints → (13, 2) and (13,) of the joints.

    A joint that is the mean of several keypoints has the largest of their confidences: of a person seen from the side
    one ear is hidden, and its place is known.
    """
    return (
        np.array([sum(xy[point] for point in points) / len(points) for points in joints]),
        np.array([max(confidence[point] for point in points) for points in joints]),
    )
