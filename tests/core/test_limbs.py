from __future__ import annotations

from m3.core.joints import JOINT_NAMES, LIMBS, MIRRORED, limbs_of


def test_limbs_join_a_shoulder_a_hip_or_a_neighboring_joint():
    assert set(map(frozenset, LIMBS)) == {
        frozenset(JOINT_NAMES[joint] for joint in pair)
        for pair in ((1, 2), (7, 8), (1, 3), (2, 4), (3, 5), (4, 6), (1, 7), (2, 8), (7, 9), (8, 10), (9, 11), (10, 12))
    }
    assert len(LIMBS) == 12


def test_left_limbs_are_drawn_over_right_ones():
    assert LIMBS[-10:] == (*limbs_of("right"), *limbs_of("left"))


def test_limbs_of_a_side_are_in_the_order_of_the_arm_the_leg_and_the_trunk():
    joints = ("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"), ("shoulder", "hip")
    assert limbs_of("left") == tuple((f"left_{a}", f"left_{b}") for a, b in joints)


def test_the_mirror_exchanges_the_sides():
    assert [JOINT_NAMES[joint] for joint in MIRRORED[:3]] == ["head", "right_shoulder", "left_shoulder"]
    assert (MIRRORED[MIRRORED] == range(13)).all()
