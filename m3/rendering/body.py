"""From 13 joints in the picture to a posed body: its scale, the direction it faces, and its depth order.

Lengths are in statures (1 = the height of the standing person); `Pose.scale` converts them to pixels. Unknown depth is
inferred from the labels: knees bend toward the direction that the person faces, and invisible joints are on the far
side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEAD = 0
SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES = (2, 1), (4, 3), (6, 5), (8, 7), (10, 9), (12, 11)
"""(the subject's own left, own right) joint indices.

Penn Action's "left" is the subject's right: left_shoulder is on the left of the picture in 87% of the clips with the
pose "front" and in 23% of those with "back", and 81% of those with the pose "left" have more visible right joints.
"""

TORSO, HEAD_ABOVE_NECK, SHOULDER_WIDTH, HIP_WIDTH = 0.29, 0.12, 0.19, 0.15
UPPER_ARM, FOREARM, THIGH, SHIN = 0.155, 0.145, 0.23, 0.225
"""Bone lengths in statures, medians of the Penn Action labels."""

_BONES = (
    ((1, 3), UPPER_ARM), ((2, 4), UPPER_ARM), ((3, 5), FOREARM), ((4, 6), FOREARM),
    ((7, 9), THIGH), ((8, 10), THIGH), ((9, 11), SHIN), ((10, 12), SHIN),
    ((1, 2), SHOULDER_WIDTH), ((7, 8), HIP_WIDTH), ((1, 7), TORSO), ((2, 8), TORSO), ((0, 1), 0.155), ((0, 2), 0.155),
)  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """A person in the picture, in pixels.

    xy: (13, 2) joints; a missing head, shoulder or hip is estimated from its neighbors.
    is_usable: (13,) bool, False where the position is neither labeled nor estimated.
    scale: pixels per stature.
    neck, pelvis: (2,) midpoints of the shoulders and of the hips.
    up: (2,) unit vector from pelvis to neck.
    facing: (3,) unit vector of the chest: along `side` (the picture's right for an upright person), along `up`,
        and toward the viewer.
    depth: (13,) pixels toward the viewer, up to an additive constant.
    """

    xy: np.ndarray
    is_usable: np.ndarray
    scale: float
    neck: np.ndarray
    pelvis: np.ndarray
    up: np.ndarray
    facing: np.ndarray
    depth: np.ndarray

    @property
    def side(self) -> np.ndarray:
        """(2,) unit vector, `up` turned clockwise on the screen by a right angle."""
        return np.array([-self.up[1], self.up[0]])


def plausible_joints(xy: np.ndarray, is_visible: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(13,) bool, joints with a plausible position.

    A visible joint always has one. An invisible joint has one unless it is at the corner (0.5, 0.5), which Penn Action
    writes for unknown positions, or more than half a frame outside.
    """
    height, width = size
    is_near = (xy > [-0.5 * width, -0.5 * height]) & (xy < [1.5 * width, 1.5 * height])
    is_nowhere = (xy <= 1).all(-1)
    return np.isfinite(xy).all(-1) & (is_visible | (is_near.all(-1) & ~is_nowhere))


def estimate_scale(xy: np.ndarray, is_usable: np.ndarray, depth: np.ndarray | None = None) -> float | None:
    """Pixels per stature, or None where no bone has two usable ends.

    With depths, bones have their true lengths, and the median is used. Without depths, foreshortening shortens bones,
    and the mean of the longest ones is used.
    """
    points = xy if depth is None else np.column_stack([xy, depth])
    known = [(a, b, nominal) for (a, b), nominal in _BONES if is_usable[a] and is_usable[b]]
    if not known:
        return None
    first, second, nominal = (np.array(column) for column in zip(*known))
    lengths = np.sort(np.linalg.norm(points[first] - points[second], axis=-1) / nominal)[::-1]
    if depth is not None:
        return float(np.median(lengths))
    chosen = (
        lengths[1:6] if len(lengths) > 6 else lengths[: max(len(lengths) - 1, 1)]
    )  # the very longest may be an error
    return float(chosen.mean())


def estimate_pose(
    xy: np.ndarray, is_visible: np.ndarray, size: tuple[int, int], depth: np.ndarray | None = None
) -> Pose | None:
    """The posed body of one frame, or None where its scale or its trunk cannot be estimated.

    Args:
        xy: (13, 2) pixels.
        is_visible: (13,) bool.
        size: (height, width) of the frame, pixels.
        depth: (13,) pixels toward the viewer, or None to infer it.
    """
    xy = np.array(xy, dtype=np.float64)
    is_usable = plausible_joints(xy, is_visible, size)
    scale = estimate_scale(xy, is_usable, depth)
    if scale is None or scale < 8 or not is_usable[list(SHOULDERS + HIPS)].any():
        return None
    _drop_detached(xy, is_usable, scale)
    neck, pelvis = _trunk(xy, is_usable, scale)
    up = _up(xy, is_usable, neck, pelvis, scale)
    if not is_usable[HEAD]:
        xy[HEAD], is_usable[HEAD] = neck + up * HEAD_ABOVE_NECK * scale, True
    if depth is None:
        facing = _infer_facing(xy, is_usable, is_visible, up, scale)
        depth = _infer_depth(facing, scale)
    else:
        facing = _facing_from_depth(xy, depth, up)
    return Pose(xy, is_usable, scale, neck, pelvis, up, facing, np.asarray(depth, dtype=np.float64))


def _drop_detached(xy: np.ndarray, is_usable: np.ndarray, scale: float) -> None:
    """Marks limb joints as unusable that are more than 2.2 bone lengths from their parent: their labels are wrong."""
    for (parent, child), nominal in _BONES[:8]:
        if is_usable[parent] and is_usable[child] and np.hypot(*(xy[child] - xy[parent])) > 2.2 * nominal * scale:
            is_usable[child] = False


def _trunk(xy: np.ndarray, is_usable: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Neck and pelvis. Missing shoulders and hips are put where their counterpart is, or one torso length away.

    At least one of them must be usable.
    """
    neck, pelvis = _midpoint(xy, is_usable, SHOULDERS), _midpoint(xy, is_usable, HIPS)
    if neck is None:
        assert pelvis is not None
        neck = pelvis + [0, -TORSO * scale] if not is_usable[HEAD] else pelvis + 0.75 * (xy[HEAD] - pelvis)
    if pelvis is None:
        pelvis = neck + [0, TORSO * scale]
        if is_usable[HEAD] and np.hypot(*(neck - xy[HEAD])) > 0.04 * scale:
            pelvis = neck + (neck - xy[HEAD]) / np.hypot(*(neck - xy[HEAD])) * TORSO * scale
    for pair, middle in ((SHOULDERS, neck), (HIPS, pelvis)):
        for joint in pair:
            if not is_usable[joint]:
                xy[joint], is_usable[joint] = middle, True
    return xy[list(SHOULDERS)].mean(0), xy[list(HIPS)].mean(0)


def _midpoint(xy: np.ndarray, is_usable: np.ndarray, pair: tuple[int, int]) -> np.ndarray | None:
    """(2,) mean of the usable joints of a pair, or None without any."""
    usable = [joint for joint in pair if is_usable[joint]]
    return xy[usable].mean(0) if usable else None


def _up(xy: np.ndarray, is_usable: np.ndarray, neck: np.ndarray, pelvis: np.ndarray, scale: float) -> np.ndarray:
    """(2,) unit vector from pelvis to neck; the head's direction contributes where the trunk is foreshortened."""
    up = (neck - pelvis) / scale
    if is_usable[HEAD]:
        up = up + 0.5 * (xy[HEAD] - neck) / scale
    up = up + [0, -0.02]
    return up / max(np.hypot(*up), 1e-6)


def _infer_facing(
    xy: np.ndarray, is_usable: np.ndarray, is_visible: np.ndarray, up: np.ndarray, scale: float
) -> np.ndarray:
    """(3,) unit vector of the chest (see `Pose.facing`), from labels without depth."""
    side = np.array([-up[1], up[0]])
    # The subject's left is on the right of the picture when the chest faces the viewer.
    across = [
        float((xy[left] - xy[right]) @ side) / (width * scale)
        for (left, right), width in ((SHOULDERS, SHOULDER_WIDTH), (HIPS, HIP_WIDTH))
    ]
    toward = float(np.clip(0.6 * across[0] + 0.4 * across[1], -1, 1))
    evidence = 4 * float((xy[HEAD] - xy[list(SHOULDERS)].mean(0)) @ side) / scale
    for k in range(2):
        for (start, bend, end), weight in (((HIPS, KNEES, ANKLES), 8.0), ((SHOULDERS, ELBOWS, WRISTS), -4.0)):
            joints = [start[k], bend[k], end[k]]
            if is_usable[joints].all():
                first, middle, last = xy[joints]
                chord = last - first
                share = np.clip((middle - first) @ chord / max(chord @ chord, 1e-6), 0, 1)
                evidence += weight * float((middle - first - share * chord) @ side) / scale
                if start is SHOULDERS:  # hands are mostly in front of the chest
                    evidence += 2 * float(chord @ side) / scale
    limbs = np.array([SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES])
    evidence += 0.35 * float(is_visible[limbs[:, 1]].sum() - is_visible[limbs[:, 0]].sum())
    sideways = float(np.tanh(1.5 * evidence)) * np.sqrt(1 - toward**2)
    facing = np.array([sideways, 0.0, toward])
    return facing / max(np.linalg.norm(facing), 0.3)


def _infer_depth(facing: np.ndarray, scale: float) -> np.ndarray:
    """(13,) pixels toward the viewer, from the direction of the chest; hands are assumed in front of the chest."""
    depth = np.zeros(13)
    ahead = 0.5 + facing[2]  # seen from behind, the hands are hidden by the body
    for (left, right), half_width in (
        (SHOULDERS, 0.09), (ELBOWS, 0.12), (WRISTS, 0.11), (HIPS, 0.07), (KNEES, 0.08), (ANKLES, 0.07)
    ):  # fmt: skip
        depth[left], depth[right] = -facing[0] * half_width, facing[0] * half_width
    for joints, reach in ((ELBOWS, 0.03), (WRISTS, 0.09), (KNEES, 0.02)):
        depth[list(joints)] += reach * ahead
    return depth * scale


def _facing_from_depth(xy: np.ndarray, depth: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(3,) unit vector of the chest (see `Pose.facing`), from joints with depth."""
    points = np.column_stack([xy, depth])
    (own_left, own_right), hips = SHOULDERS, HIPS
    left = (points[own_left] - points[own_right]) + 0.5 * (points[hips[0]] - points[hips[1]])
    spine = points[list(SHOULDERS)].mean(0) - points[list(HIPS)].mean(0)
    forward = np.cross(spine, left)  # x right, y down, z toward the viewer
    forward /= max(float(np.linalg.norm(forward)), 1e-6)
    side = np.array([-up[1], up[0]])
    return np.array([forward[:2] @ side, forward[:2] @ up, forward[2]])
