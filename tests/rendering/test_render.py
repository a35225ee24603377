"""The renderer: same bytes for same input, a body at the joints, and nothing elsewhere."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3.clips.demo import demo_clip
from m3.clips.penn_action import read_label
from m3.core.rng import numpy_generator
from m3.rendering.backgrounds import PAINTERS, Background, paint_background
from m3.rendering.body import SHOULDERS, estimate_pose, estimate_scale, plausible_joints
from m3.rendering.motion import ACTIONS
from m3.rendering.render import random_scene, render_frame
from m3.rendering.scene import OCCLUDER_KINDS, Occluder, occluder_cover
from m3.rendering.shapes import polygon_distance

SIZE = (240, 320)


def standing(facing_viewer: bool = True) -> np.ndarray:
    """(13, 2) joints of a person of 200 px in a 240 x 320 picture, in Penn Action's order and naming."""
    x = np.array([0, -19, 19, -30, 30, -34, 34, -15, 15, -17, 17, -18, 18], dtype=float)
    y = np.array([40, 64, 64, 95, 95, 124, 124, 122, 122, 168, 168, 213, 213], dtype=float)
    return np.column_stack([160 + (x if facing_viewer else -x), y])


ALL = np.ones(13, dtype=bool)


def scene(*labels: int | str):
    return random_scene(numpy_generator(0, *labels))


def drawn(xy: np.ndarray, is_visible: np.ndarray, size: tuple[int, int] = SIZE, **changes) -> np.ndarray:
    """(height, width) difference of each pixel from the background alone."""
    place = replace(scene("drawn"), tint=(1.0, 1.0, 1.0), **changes)
    background = (paint_background(place.background, size) + 0.5).astype(np.uint8)
    return np.abs(render_frame(xy, is_visible, size, place).astype(int) - background).max(-1)


def test_same_joints_and_scene_give_same_bytes():
    first = render_frame(standing(), ALL, SIZE, scene(1))
    paint_background.cache_clear()
    assert first.dtype == np.uint8 and first.shape == (*SIZE, 3)
    assert (render_frame(standing(), ALL, SIZE, scene(1)) == first).all()
    assert (render_frame(standing(), ALL, SIZE, scene(2)) != first).any()


def test_background_is_the_same_in_every_frame():
    """Where neither of two bodies nor their shadows are, two frames of a scene agree to the bit."""
    first, second = (render_frame(standing() + [dx, 0], ALL, SIZE, scene(3)) for dx in (-40, 40))
    assert (first[:, :30] == second[:, :30]).all() and (first[:, -30:] == second[:, -30:]).all()
    assert (first[:18] == second[:18]).all()


@pytest.mark.parametrize("joint", range(13))
def test_body_covers_its_joints(joint: int):
    xy = standing()
    difference = drawn(xy, ALL, background=Background("studio", 5, 0.6), shirt=(255, 0, 0), trousers=(0, 0, 255))
    column, row = np.floor(xy[joint]).astype(int)
    assert difference[row, column] > 12, f"joint {joint} at {xy[joint]} shows the background"


def test_body_is_no_stick_figure():
    share = (drawn(standing(), ALL, background=Background("studio", 5, 0.6)) > 12).mean()
    assert 0.08 < share < 0.25  # 200 px tall, about 60 px wide on average


def test_nothing_is_drawn_outside_the_neighborhood_of_the_joints():
    difference = drawn(standing(), ALL)
    columns = np.flatnonzero((difference > 3).any(0))
    assert columns.min() > 160 - 34 - 60 and columns.max() < 160 + 34 + 60


def test_invisible_joints_are_drawn_only_with_a_plausible_position():
    is_visible = ALL.copy()
    is_visible[[6, 4]] = False  # an arm
    whole, xy = drawn(standing(), ALL), standing()
    assert (drawn(xy, is_visible) > 12).sum() == pytest.approx((whole > 12).sum(), rel=0.02)
    xy[[6, 4]] = 0.5  # (1, 1) in the label file
    without = drawn(xy, is_visible)
    assert whole[100, 192] > 12 and without[100, 192] <= 3
    assert (without[:30, :30] <= 3).all()


def test_person_without_trunk_is_omitted():
    is_visible, xy = np.zeros(13, dtype=bool), np.full((13, 2), 0.5)
    assert (drawn(xy, is_visible) == 0).all()
    is_visible[[11, 9]], xy[[11, 9]] = True, [[100, 200], [100, 150]]
    assert (drawn(xy, is_visible) == 0).all()


@pytest.mark.parametrize("seed", range(40))
def test_any_joints_can_be_drawn(seed: int):
    """Wild, degenerate and far-away joints neither raise nor warn."""
    rng = np.random.default_rng(seed)
    xy = rng.normal(150, 10.0 ** rng.uniform(-3, 3), (13, 2))
    if seed % 4 == 0:
        xy[rng.integers(13, size=8)] = xy[0]
    with np.errstate(all="raise", under="ignore"):
        frame = render_frame(xy, rng.uniform(size=13) < 0.7, (64, 96), scene("wild", seed))
    assert frame.shape == (64, 96, 3)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(12, 2\)"):
        render_frame(standing()[:12], ALL, SIZE, scene(0))


def test_scale_is_the_stature_and_survives_foreshortening():
    assert estimate_scale(standing(), ALL) == pytest.approx(200, rel=0.07)
    bowed = standing()
    bowed[[0, 1, 2, 3, 4, 5, 6], 1] += 40  # the trunk tilts toward the viewer
    assert estimate_scale(bowed, ALL) == pytest.approx(200, rel=0.1)
    assert estimate_scale(standing(), np.zeros(13, dtype=bool)) is None


def test_scale_with_depth_is_constant():
    demo = demo_clip(0, list(ACTIONS).index("golf_swing"), 24, (224, 224))
    scales = [estimate_scale(xy, ALL, depth) for xy, depth in zip(demo.joints.xy, demo.depth)]
    flat = [estimate_scale(xy, ALL) for xy in demo.joints.xy]
    assert np.ptp(scales) / np.mean(scales) < 0.03 < 0.05 < np.ptp(flat) / np.mean(flat)


def test_facing_follows_the_naming_of_penn_action():
    """There, `left_shoulder` is on the left of the picture for a person who faces the viewer."""
    assert estimate_pose(standing(True), ALL, SIZE).facing[2] > 0.8
    assert estimate_pose(standing(False), ALL, SIZE).facing[2] < -0.8
    upside_down = [320, 240] - standing(True)  # turned by 180 degrees in the picture
    assert estimate_pose(upside_down, ALL, SIZE).facing[2] > 0.8


def test_facing_with_depth_is_the_normal_of_the_chest():
    points = np.column_stack([standing() - [160, 0], np.zeros(13)])
    for angle in np.linspace(-3, 3, 13):
        x, depth = points[:, 0] * np.cos(angle), -points[:, 0] * np.sin(angle)
        pose = estimate_pose(np.column_stack([x + 160, points[:, 1]]), ALL, SIZE, depth)
        assert pose.facing[[0, 2]] == pytest.approx([np.sin(angle), np.cos(angle)], abs=0.02)


def test_nearer_arm_hides_the_farther():
    """Both wrists at one spot: the color there is that of the arm with the nearer depth."""
    xy = standing()
    xy[[3, 4]], xy[[5, 6]] = xy[list(reversed(SHOULDERS))] + [0, 30], [160, 100]
    look = replace(scene(1), sleeve=0.97)
    depth = np.zeros(13)
    pictures = []
    for near in (3, 4):
        depth[[3, 4, 5, 6]] = 20
        depth[[near, near + 2]] = 60
        pictures.append(render_frame(xy, ALL, SIZE, look, depth))
    assert (pictures[0][90:110, 150:170] != pictures[1][90:110, 150:170]).any()


def test_plausible_joints():
    xy = np.array([[0.5, 0.5], [0.5, 100.0], [-100.0, 50.0], [-1000.0, 50.0], [0.5, 0.5]])
    is_visible = np.array([False, False, False, False, True])
    assert plausible_joints(xy, is_visible, SIZE).tolist() == [False, True, True, False, True]


def test_polygon_distance_is_that_of_a_square():
    x, y = np.arange(0, 20, dtype=np.float32)[None], np.arange(0, 20, dtype=np.float32)[:, None]
    got = polygon_distance(np.array([[5.0, 5], [15, 5], [15, 15], [5, 15]]), x, y)
    dx, dy = np.abs(x - 10) - 5, np.abs(y - 10) - 5
    want = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)
    assert got == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("kind", PAINTERS)
def test_backgrounds(kind: str):
    pictures = [paint_background(Background(kind, seed, 0.5), (90, 160)) for seed in (1, 2)]
    assert pictures[0].shape == (90, 160, 3) and pictures[0].min() >= 0 and pictures[0].max() <= 255
    assert np.abs(pictures[0] - pictures[1]).mean() > 2, "two seeds, one place"
    assert pictures[0].std() > 4, "a flat color is no place"


@pytest.mark.parametrize("kind", OCCLUDER_KINDS)
def test_occluder_hides_what_it_covers(kind: str):
    place = replace(scene(4), occluder=Occluder(kind, (0.3, 0.6, 0.7, 0.95), (120, 90, 60)))
    cover = occluder_cover(place, SIZE)
    with_person, without = (render_frame(xy, ALL, SIZE, place) for xy in (standing(), standing() - [900, 0]))
    assert cover.max() == 1 and 0.02 < cover.mean() < 0.3
    assert (with_person[cover == 1] == without[cover == 1]).all()
    assert (with_person[cover == 0] != without[cover == 0]).any()


def test_scenes_vary():
    scenes = [scene("vary", k) for k in range(60)]
    assert len({s.background.kind for s in scenes}) == len(PAINTERS)
    assert len({s.shirt for s in scenes}) > 50 and len({s.skin for s in scenes}) > 3
    assert all(0.28 <= s.background.horizon <= 0.72 for s in scenes)


def test_real_labels_are_drawn_over_their_joints(penn_labels: Path):
    """In frames of all kinds of real poses nearly every usable visible joint of the trunk and legs is on the body."""
    hits = []
    for path in sorted(penn_labels.glob("*.mat"))[::40]:
        label = read_label(path)
        frame = len(label.joints.xy) // 2
        xy, is_visible = label.joints.xy[frame], label.joints.is_visible[frame]
        difference = drawn(xy, is_visible, label.size, background=Background("studio", 5, 0.6), shirt=(255, 0, 0))
        columns, rows = np.floor(xy[is_visible]).astype(int).T
        hits += (difference[rows.clip(0, label.size[0] - 1), columns.clip(0, label.size[1] - 1)] > 8).tolist()
    assert len(hits) > 300 and np.mean(hits) > 0.97


def test_is_fast():
    """60 frames a second on an idle core; a quarter of that here, where others may be busy."""
    look = scene(1)
    render_frame(standing(), ALL, (270, 480), look)
    start = time.process_time()
    for k in range(20):
        render_frame(standing() + k, ALL, (270, 480), look)
    assert (time.process_time() - start) / 20 < 4 / 60
