"""The 13 joints of the layouts of keypoints."""

from __future__ import annotations

import numpy as np
import pytest

from m3.core.joints import JOINT_NAMES
from m3.core.keypoints import LAYOUTS, checked_map, layout_of_names, layout_of_number, to_joints

COCO = """nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle""".split()
H36M = """pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine neck nose head left_shoulder
left_elbow left_wrist right_shoulder right_elbow right_wrist""".split()
BLAZEPOSE = """nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear
mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky right_pinky
left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle right_ankle left_heel
right_heel left_foot_index right_foot_index""".split()


@pytest.mark.parametrize(("layout", "names"), [
    ("coco17", COCO), ("halpe26", COCO), ("h36m17", H36M), ("blazepose33", BLAZEPOSE),
])  # fmt: skip
def test_sides_are_exchanged_and_everything_else_keeps_its_name(layout: str, names: list[str]):
    other = {"left": "right", "right": "left"}
    for joint, points in zip(JOINT_NAMES, LAYOUTS[layout], strict=True):
        found = {names[point] for point in points}
        if joint == "head":
            assert found in ({"left_ear", "right_ear"}, {"head", "nose"})
        else:
            side, part = joint.split("_")
            assert found == {f"{other[side]}_{part}"}


def test_a_joint_of_two_keypoints_is_their_middle_and_as_sure_as_the_surer_one():
    xy, confidence = np.random.default_rng(0).uniform(0, 9, (17, 2)), np.linspace(0, 1, 17)
    places, sure = to_joints(xy, confidence, LAYOUTS["coco17"])
    assert np.allclose(places[0], (xy[3] + xy[4]) / 2) and sure[0] == confidence[4]
    assert np.allclose(places[1], xy[6]) and sure[1] == confidence[6]


def test_a_map_is_a_name_or_a_list():
    assert checked_map("key", "coco17") == tuple(map(tuple, LAYOUTS["coco17"]))
    assert checked_map("key", [[0, 1], *range(2, 14)])[:2] == ((0, 1), (2,))
    for wrong in ("coco18", [1, 2], [[], *range(12)], [-1, *range(12)], ["a", *range(12)]):
        with pytest.raises(ValueError, match="^key="):
            checked_map("key", wrong)


@pytest.mark.parametrize("style", [
    "{side}_{part}", "{Side}{Part}", "{part}_{side}", "{s}{Part}", "{S}{Part}", "{s}{part}", "{part}{S}",
    "{Side} {Part}", "{side}{part}", "{s}_{part}",
])  # fmt: skip
def test_named_keypoints_are_recognized_in_any_style(style: str):
    parts = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "ear")
    names = [
        style.format(side=side, part=part, Side=side.title(), Part=part.title(), s=side[0], S=side[0].upper())
        for part in parts for side in ("left", "right")
    ]  # fmt: skip
    found = layout_of_names(["tail", *names])
    assert found is not None and found[1] == "" and found[0].missing == []
    for joint, points in zip(JOINT_NAMES, found[0].joints, strict=True):
        side, _, part = joint.partition("_")
        own = {"left": 1, "right": 0}.get(side)  # m3's left is the person's own right
        expected = [13, 14] if joint == "head" else [1 + 2 * parts.index(part) + (own or 0)]
        assert list(points) == expected


def test_names_of_an_animal_are_no_person():
    assert layout_of_names(["snout", "left_ear", "right_ear", "tail_base", "left_paw", "right_paw", "spine"]) is None


def test_17_keypoints_are_cocos_where_the_first_five_are_a_face():
    rng = np.random.default_rng(0)
    face, body = rng.uniform(40, 50, (9, 5, 2)), rng.uniform(0, 100, (9, 12, 2))
    coco = layout_of_number(17, np.concatenate([face, body], 1))
    assert not isinstance(coco, str) and coco.name == "coco17"
    h36m = layout_of_number(17, np.concatenate([body[:, :5], face, body[:, 5:]], 1))
    assert not isinstance(h36m, str) and h36m.name == "h36m17"
    assert isinstance(layout_of_number(19, body), str)
