"""From the keypoints of pose networks to the 13 joints of m3.

Pose networks name the person's own sides. m3's are Penn Action's: its left is the person's own right, from the front
and from behind (see `m3.rendering.body`). The head is the middle of the ears; where the layout has none, the place that
the layout calls head.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3.core.joints import JOINT_NAMES, NUM_JOINTS

_PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")

KeypointMap = Sequence[Sequence[int]]
"""For each of the 13 joints the keypoints whose mean it is."""


@dataclass(frozen=True)
class Layout:
    """The keypoints of a pose network or a joint file.

    name: for messages.
    joints: see `KeypointMap`; a joint that the layout lacks has no keypoints.
    other_heads: keypoints whose mean is the head where no keypoint of the head is known, the best first.
    eyes: the person's own left and right one; None for a layout without eyes.
    """

    name: str
    joints: KeypointMap
    other_heads: KeypointMap = ()
    eyes: tuple[int, int] | None = None

    @property
    def missing(self) -> list[str]:
        """The joints that it lacks."""
        return [name for name, points in zip(JOINT_NAMES, self.joints) if not points]


def keypoint_map(head: Sequence[int], left: Sequence[int | None], right: Sequence[int | None]) -> list[list[int]]:
    """The map of a layout of keypoints.

    head: keypoints whose mean is the head.
    left, right: the person's own shoulder, elbow, wrist, hip, knee and ankle; None for what the layout lacks.
    """
    joints: dict[str, list[int]] = {"head": list(head)}
    for part, own_left, own_right in zip(_PAIRS, left, right, strict=True):
        joints[f"left_{part}"] = [] if own_right is None else [own_right]
        joints[f"right_{part}"] = [] if own_left is None else [own_left]
    return [joints[name] for name in JOINT_NAMES]


_COCO = keypoint_map([3, 4], [5, 7, 9, 11, 13, 15], [6, 8, 10, 12, 14, 16])
_COCO_HEADS = ((1, 2), (0,))  # eyes, nose

_ALL = (
    Layout(
        "blazepose33", keypoint_map([7, 8], [11, 13, 15, 23, 25, 27], [12, 14, 16, 24, 26, 28]), ((2, 5), (0,)), (2, 5)
    ),
    Layout("coco17", _COCO, _COCO_HEADS, (1, 2)),
    Layout("halpe26", _COCO, ((17,), *_COCO_HEADS), (1, 2)),
    Layout("h36m17", keypoint_map([10, 9], [11, 12, 13, 4, 5, 6], [14, 15, 16, 1, 2, 3])),  # top of the head, and nose
    Layout(
        "openpose25", keypoint_map([17, 18], [5, 6, 7, 12, 13, 14], [2, 3, 4, 9, 10, 11]), ((15, 16), (0,)), (16, 15)
    ),
    Layout(
        "openpose18", keypoint_map([16, 17], [5, 6, 7, 11, 12, 13], [2, 3, 4, 8, 9, 10]), ((14, 15), (0,)), (15, 14)
    ),
    Layout("mpii16", keypoint_map([9, 8], [13, 14, 15, 3, 4, 5], [12, 11, 10, 2, 1, 0])),  # top of the head, upper neck
    Layout("smpl22", keypoint_map([15], [16, 18, 20, 1, 4, 7], [17, 19, 21, 2, 5, 8])),
)

LAYOUTS: dict[str, KeypointMap] = {layout.name: layout.joints for layout in _ALL}
"""Name of a layout → its map."""

_BY_NAME = {layout.name: layout for layout in _ALL}

_BY_NUMBER = {33: "blazepose33", 26: "halpe26", 136: "halpe26", 133: "coco17", 25: "openpose25", 18: "openpose18",
              16: "mpii16", 22: "smpl22"}  # fmt: skip
"""Number of keypoints → the layout of the first of them. 17 are COCO's or those of Human3.6M."""

_COMPACT, _SPREAD = 0.22, 0.32
"""Side of the box around the first five keypoints, as a share of that around all: of a face at most the first."""


def layout_named(key: str, layout: str | Sequence[int | Sequence[int]]) -> Layout:
    """The layout of a name, or of a list of 13 keypoints (or lists of these). Raises ValueError naming `key`."""
    if isinstance(layout, str) and layout in _BY_NAME:
        return _BY_NAME[layout]
    return Layout("a list", checked_map(key, layout))


def layout_of_number(num_keypoints: int, xy: np.ndarray) -> Layout | str:
    """The layout of poses of which only the number of keypoints is known, or why it cannot be told.

    xy: (n, K, 2) places, NaN or (0, 0) where unknown. The first five keypoints of COCO's layout are all in the face.
    """
    if num_keypoints in (17, 25):
        xy = np.where((xy == 0).all(-1, keepdims=True), np.nan, xy)
        with_all = xy[np.isfinite(xy[:, :5]).all(axis=(1, 2))] if len(xy) else xy
        if len(with_all):
            whole = np.nanmax(with_all, axis=1) - np.nanmin(with_all, axis=1)
            first = with_all[:, :5].max(axis=1) - with_all[:, :5].min(axis=1)
            share = float(np.median(first.max(-1) / np.maximum(whole.max(-1), 1e-9)))
            if share <= _COMPACT:
                return _BY_NAME["coco17"]  # of 25: BODY_25B, which begins with COCO's
            if share >= _SPREAD:
                return _BY_NAME["h36m17" if num_keypoints == 17 else "openpose25"]
        elif num_keypoints == 17:
            return _BY_NAME["coco17"]  # a network that leaves parts of faces out; Human3.6M's poses are whole
        if num_keypoints == 25:
            return _BY_NAME["openpose25"]
        return "17 keypoints that may be coco17 or h36m17"
    if num_keypoints in _BY_NUMBER:
        return _BY_NAME[_BY_NUMBER[num_keypoints]]
    return f"{num_keypoints} keypoints, which is no layout that m3 knows"


_MIN_NAMED = 6


def layout_of_names(names: Sequence[str]) -> tuple[Layout, str] | None:
    """The layout of named keypoints, and how its sides were understood ("" for names with left and right).

    None where fewer than six joints, or no pair of shoulders or hips, can be recognized.
    """
    words = [_words(name) for name in names]
    sides: dict[str, str] = {"left": "left", "l": "left", "right": "right", "r": "right"}
    note = ""
    if not any(word in sides for each in words for word in each):
        sides = {"1": "right", "2": "left"}
        note = "sides are numbered: 1 is taken as the person's right, 2 as the left, as MPII has them"
    places: dict[tuple[str, str], int] = {}
    for number, each in enumerate(words):
        side = [sides[word] for word in each if word in sides]
        rest = " ".join(word for word in each if word not in sides)
        places.setdefault((side[0] if len(side) == 1 else "", rest), number)
    own = {side: [places.get((side, part)) for part in _PAIRS] for side in ("left", "right")}
    pairs = [left is not None and right is not None for left, right in zip(own["left"], own["right"])]
    if sum(place is not None for side in own.values() for place in side) < _MIN_NAMED or not (pairs[0] or pairs[3]):
        return None
    ears, eyes = ([places.get((side, part)) for side in ("left", "right")] for part in ("ear", "eye"))
    heads: list[list[int]] = []
    for group in (
        ears,
        [places.get(("", "head"))],
        [places.get(("", "forehead")), places.get(("", "chin"))],
        [places.get(("", "head top")), places.get(("", "upper neck"), places.get(("", "neck")))],
        eyes,
        [places.get(("", "nose"))],
    ):
        known = [place for place in group if place is not None]
        if len(known) == len(group):
            heads.append(known)
    both_eyes = (eyes[0], eyes[1]) if eyes[0] is not None and eyes[1] is not None else None
    joints = keypoint_map(heads[0] if heads else [], own["left"], own["right"])
    return Layout("named keypoints", joints, tuple(heads[1:]), both_eyes), note


_SIDED = "|".join((*_PAIRS, "ear", "eye"))
_GLUED = re.compile(f"(l|r|left|right)({_SIDED})|({_SIDED})(l|r|left|right)")
_SAME = {"headtop": "head top", "topofhead": "head top", "shldr": "shoulder"}


def _words(name: str) -> list[str]:
    """ "LShoulder", "left_shoulder", "shoulder_L", "lshoulder" → "l" or "left", and "shoulder", in some order."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words: list[str] = []
    for word in re.findall(r"[a-z]+|[0-9]+", spaced.lower()):
        if match := _GLUED.fullmatch(word):
            words += [part for part in match.groups() if part]
        else:
            words += str(_SAME.get(word, word)).split()
    return ["head", "top"] if sorted(words) == ["head", "top"] else words


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
