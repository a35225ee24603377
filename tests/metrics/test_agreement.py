"""Joints–picture agreement on rendered people: high for their own joints, chance for those of others."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2lab

from m3.core.joints import JOINT_NAMES
from m3.metrics.agreement import SIDE_LIMBS, agreement, limb_colors
from m3.rendering.render import random_scene, render_frame

SIZE, NUM_PEOPLE = 96, 14


def standing(rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """(13, 2) a person of 60 px with arms and legs anywhere."""
    xy = np.zeros((13, 2))
    place = dict(zip(JOINT_NAMES, range(13)))
    xy[place["head"]] = (0, -28)
    for side, sign in (("left", -1), ("right", 1)):
        xy[place[f"{side}_shoulder"]], xy[place[f"{side}_hip"]] = (sign * 6, -20), (sign * 5, 0)
        for start, middle, end, length, center in (
            ("shoulder", "elbow", "wrist", 10, sign * 0.2), ("hip", "knee", "ankle", 14, 0.0),
        ):  # fmt: skip
            for near, far in ((start, middle), (middle, end)):
                angle = center + rng.uniform(-0.2, 1.5) * -sign
                step = length * np.array([np.sin(angle), np.cos(angle)])
                xy[place[f"{side}_{far}"]] = xy[place[f"{side}_{near}"]] + step
    return xy + at


@pytest.fixture(scope="module")
def people() -> dict[str, np.ndarray]:
    """References and successors of people in clothes and places of their own."""
    rng = np.random.default_rng(3)
    is_visible = np.ones(13, bool)
    made: dict[str, list[np.ndarray]] = {"reference": [], "reference_xy": [], "picture": [], "xy": []}
    for _ in range(NUM_PEOPLE):
        scene = random_scene(rng, 0.9)
        for picture, joints in (("reference", "reference_xy"), ("picture", "xy")):
            xy = standing(rng, rng.uniform([36, 42], [60, 54]))
            made[picture].append(render_frame(xy, is_visible, (SIZE, SIZE), scene))
            made[joints].append(xy)
    return {name: np.stack(values) for name, values in made.items()}


def agreements(
    people: dict[str, np.ndarray], xy: np.ndarray, pictures: np.ndarray | None = None, name="agreement", **changes
) -> np.ndarray:
    """The scores of those of `people` that have one."""
    visible = np.ones((NUM_PEOPLE, 13), bool)
    rows = zip(people["reference"], people["reference_xy"][:, None])
    colors = np.concatenate([limb_colors(picture, joints, visible[:1]) for picture, joints in rows])
    given = {"is_visible": visible, "is_present": np.ones(NUM_PEOPLE, bool), "clip": np.arange(NUM_PEOPLE), **changes}
    pictures = people["picture"] if pictures is None else pictures
    ratio = agreement(pictures, xy, given["is_visible"], given["is_present"], colors, given["clip"])[name]
    assert ratio.numerator.shape == ratio.denominator.shape == (NUM_PEOPLE, 1)
    assert (ratio.numerator[ratio.denominator == 0] == 0).all()
    return ratio.numerator[ratio.denominator > 0]


def test_own_joints_agree_and_those_of_others_are_chance(people):
    own = agreements(people, people["xy"]).mean()
    shuffled = np.mean([agreements(people, np.roll(people["xy"], shift, 0)).mean() for shift in range(1, NUM_PEOPLE)])
    assert own > 0.95
    assert 0.4 < shuffled < 0.6


def test_a_picture_that_stays_or_joints_that_stay_agree_less(people):
    own = agreements(people, people["xy"]).mean()
    assert agreements(people, people["reference_xy"]).mean() < own - 0.1
    assert agreements(people, people["xy"], pictures=people["reference"]).mean() < own - 0.1
    assert agreements(people, people["reference_xy"], pictures=people["reference"]).mean() == 1  # itself


def test_joints_that_are_slightly_off_agree_less(people):
    def exact(xy: np.ndarray) -> float:
        return agreements(people, xy, name="agreement@0.05").mean()

    own = exact(people["xy"])
    shuffled = np.mean([exact(np.roll(people["xy"], shift, 0)) for shift in range(1, NUM_PEOPLE)])
    assert own > 0.9 and 0.4 < shuffled < 0.65
    # 4 px, a fifteenth of the person
    off = [exact(people["xy"] + shift) for shift in ([4, 0], [-4, 0], [0, 4], [0, -4])]
    assert max(off) < own - 0.1


def test_what_cannot_be_compared_is_not_scored(people):
    assert len(agreements(people, people["xy"], clip=np.zeros(NUM_PEOPLE))) == 0  # no other clip
    assert len(agreements(people, people["xy"], clip=np.zeros(NUM_PEOPLE), name="agreement@0.05")) == NUM_PEOPLE
    few = np.zeros((NUM_PEOPLE, 13), bool)
    few[:, :4] = True  # head, shoulders, an elbow: one limb
    for name in ("agreement", "agreement@0.05"):
        assert len(agreements(people, people["xy"], is_visible=few, name=name)) == 0
    half = np.arange(NUM_PEOPLE) < 5
    assert len(agreements(people, people["xy"], is_present=half)) == 5


def test_colors_are_those_along_the_limb():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32], picture[:, 32:] = (200, 30, 30), (20, 60, 220)
    xy = np.full((1, 13, 2), 5.0)
    elbow, wrist = JOINT_NAMES.index("left_elbow"), JOINT_NAMES.index("left_wrist")
    xy[0, elbow], xy[0, wrist] = (10, 20), (54, 20)
    is_visible = np.ones((1, 13), bool)
    is_visible[0, JOINT_NAMES.index("right_knee")] = False
    colors = limb_colors(picture, xy, is_visible)
    limb = SIDE_LIMBS.index(("left_elbow", "left_wrist"))
    red, blue = rgb2lab(np.array([[200, 30, 30], [20, 60, 220]]) / 255)
    assert np.allclose(colors[0, limb, 0], red) and np.allclose(colors[0, limb, 2], blue)
    assert np.allclose(colors[0, limb, 1], rgb2lab((np.array([200, 30, 30]) + [20, 60, 220]) / 2 / 255), atol=1)
    hidden = [limb for limb, ends in enumerate(SIDE_LIMBS) if "right_knee" in ends]
    assert np.isnan(colors[0, hidden]).all() and np.isfinite(np.delete(colors[0], hidden, 0)).all()
