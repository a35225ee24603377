"""Pictures and joints go through the same map: a mark drawn at a joint is found at the joint's canvas position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3.clips.canvas import Canvas, CropCanvas, PadCanvas, PersonCanvas, StretchCanvas, ZoomCanvas
from m3.clips.penn_action import read_label
from m3.core.joints import Joints

SIZES = [(270, 480), (360, 480), (480, 270), (271, 481), (113, 97), (64, 64), (128, 200)]


def joints_at(xy: np.ndarray) -> Joints:
    return Joints(np.tile(xy, (1, 13, 1)).astype(np.float64), np.ones((1, 13), dtype=bool))


def centroid(picture: np.ndarray) -> np.ndarray:
    """Brightness-weighted mean of the pixel centers, x then y."""
    weight = picture[..., 0].astype(np.float64)
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.mark.parametrize(
    "canvas",
    [CropCanvas(128), StretchCanvas(128), CropCanvas(256), StretchCanvas(32), PadCanvas(128), PadCanvas(256)]
    + [PersonCanvas(128), ZoomCanvas(128)],
)
@pytest.mark.parametrize("size", SIZES)
def test_a_dot_lands_where_its_joint_lands(canvas: Canvas, size: tuple[int, int]):
    height, width = size
    rows, columns = np.indices(size) + 0.5
    window = canvas.window(size)
    for x, y in ((0.5 * width, 0.5 * height), (0.5 * width + 0.2 * height, 0.3 * height), (0.45 * width, 0.7 * height)):
        if abs(x - width / 2) > 0.35 * min(size):
            continue
        radius = 0.08 * min(size)
        dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / (radius / 2) ** 2)
        frame = np.repeat(dot[..., None], 3, axis=-1).round().astype(np.uint8)
        landed = window.joints(joints_at(centroid(frame)))
        assert landed.is_visible.all()
        assert np.abs(centroid(window.picture(frame)) - landed.xy[0, 0]).max() < 0.06


@pytest.mark.parametrize("size", [(101, 201), (200, 101), (100, 201)])
def test_a_gradient_shows_which_source_pixels_are_on_the_canvas(size: tuple[int, int]):
    """The color of a frame that encodes x, read at the canvas's middle row, is the x of the window's map."""
    ramp = np.tile(np.arange(size[1], dtype=np.uint8)[None, :, None], (size[0], 1, 3))  # value v at center v + 0.5
    for canvas in (CropCanvas(64), StretchCanvas(64), PersonCanvas(64)):
        window = canvas.window(size)
        middles = np.stack([np.arange(64) + 0.5, np.full(64, 32.0)], axis=-1)  # (64, 2)
        expected = window.to_source(middles)[:, 0] - 0.5
        inner = slice(3, -3)  # at the borders of the frame the filter has no neighbors
        assert np.abs(window.picture(ramp)[32, inner, 0] - expected[inner]).max() <= 0.51


def test_crop_shows_the_middle_square():
    window = CropCanvas(64).window((100, 201))
    assert (window.left, window.top, window.width, window.height) == (50.5, 0, 100, 100)
    corners = window.to_canvas(np.array([[50.5, 0], [150.5, 100], [100.5, 50], [0, 0]]))
    assert np.allclose(corners, [[0, 0], [64, 64], [32, 32], [-32.32, 0]])


def test_stretch_shows_everything():
    corners = StretchCanvas(64).window((100, 200)).to_canvas(np.array([[0, 0], [200, 100], [200, 0]]))
    assert np.allclose(corners, [[0, 0], [64, 64], [64, 0]])


def test_joints_outside_the_canvas_become_invisible_and_keep_their_position():
    xy = np.tile([[50.0, 50.0]], (13, 1))[None]  # (1, 13, 2)
    xy[0, 0], xy[0, 1], xy[0, 2] = (49.9, 50), (50, 0), (151, 50)
    is_visible = np.ones((1, 13), dtype=bool)
    is_visible[0, 5] = False
    landed = CropCanvas(64).window((100, 200)).joints(Joints(xy, is_visible))
    assert landed.is_visible[0].tolist() == [False, True, False, True, True, False] + [True] * 7
    assert landed.xy[0, 0, 0] < 0 < 64 < landed.xy[0, 2, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([CropCanvas, StretchCanvas, PadCanvas, PersonCanvas, ZoomCanvas]),
    st.integers(1, 32).map(lambda k: 16 * k),
    st.integers(7, 2000), st.integers(7, 2000), st.floats(-3000, 3000), st.floats(-3000, 3000),
)  # fmt: skip
def test_there_and_back(kind, side: int, height: int, width: int, x: float, y: float):
    window = kind(side).window((height, width))
    point = np.array([[x, y]])
    assert np.abs(window.to_source(window.to_canvas(point)) - point).max() < 1e-8
    assert np.abs(window.to_canvas(window.to_source(point)) - point).max() < 1e-8


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([CropCanvas, StretchCanvas]), st.integers(7, 300), st.integers(7, 300))
def test_the_picture_has_the_canvas_size(kind, height: int, width: int):
    picture = kind(48).window((height, width)).picture(np.full((height, width, 3), 77, np.uint8))
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8 and (picture == 77).all()


@pytest.mark.parametrize("size", [100, 0, -16, 8, 16.0, "128"])
def test_impossible_sizes_name_the_key(size):
    with pytest.raises(ValueError, match=r"canvas\.size="):
        CropCanvas(size)


def test_a_frame_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"need \(100, 200, 3\) uint8"):
        CropCanvas(64).window((100, 200)).picture(np.zeros((200, 100, 3), np.uint8))


@pytest.mark.parametrize("size", [(100, 201), (271, 481), (480, 270), (97, 113), (7, 300)])
@pytest.mark.parametrize("side", [64, 256])
def test_pad_shows_everything_between_black_bars(size: tuple[int, int], side: int):
    """Of an all-white frame the canvas shows the part given by the window, to half a canvas pixel."""
    window = PadCanvas(side).window(size)
    picture = window.picture(np.full((*size, 3), 255, np.uint8))
    low, high = window.to_canvas(np.array([[0.0, 0.0], [size[1], size[0]]]))
    assert picture.shape == (side, side, 3) and set(np.unique(picture)) <= {0, 255}
    for axis, (first, last) in enumerate(zip(low, high)):
        is_shown = (picture[..., 0] == 255).any(axis=axis)  # by column for x, by row for y
        shown = np.flatnonzero(is_shown)
        assert is_shown[shown[0] : shown[-1] + 1].all()
        assert abs(shown[0] - first) <= 0.5 and abs(shown[-1] + 1 - last) <= max(0.5, 1 - (last - first))
    assert np.isclose((high - low).max(), side)


def test_a_gradient_on_a_padded_canvas():
    height, width = 101, 230
    ramp = np.tile(np.arange(width, dtype=np.uint8)[None, :, None], (height, 1, 3))
    down = np.tile(np.arange(height, dtype=np.uint8)[:, None, None], (1, width, 3))
    window = PadCanvas(64).window((height, width))
    places = np.arange(64) + 0.5
    x = window.to_source(np.stack([places, np.full(64, 32.0)], axis=-1))[:, 0] - 0.5
    y = window.to_source(np.stack([np.full(64, 32.0), places], axis=-1))[:, 1] - 0.5
    inside = (y > 4) & (y < height - 5)
    assert inside.sum() > 20
    assert np.abs(window.picture(ramp)[32, 3:-3, 0] - x[3:-3]).max() <= 0.51
    assert np.abs(window.picture(down)[inside, 32, 0] - y[inside]).max() <= 0.51


def test_person_follows_the_median_joint_as_far_as_the_frame_reaches():
    def left(x: float, is_visible: bool = True) -> float:
        xy = np.tile([[x, 40.0]], (13, 1))[None]
        return PersonCanvas(64).window((100, 300), Joints(xy, np.full((1, 13), is_visible))).left

    assert [left(150), left(120), left(10), left(299)] == [100, 70, 0, 200]
    assert left(10, is_visible=False) == PersonCanvas(64).window((100, 300)).left == 100
    window = PersonCanvas(64).window((300, 100), Joints(np.full((1, 13, 2), 60.0), np.ones((1, 13), bool)))
    assert (window.left, window.top, window.width, window.height) == (0, 10, 100, 100)


def zoomed(corners: list[tuple[float, float]], size: tuple[int, int], side: int = 64, **changes):
    """(left, top, side) of the window for a clip whose visible joints are at the corners, one after the other."""
    xy = np.array([corners[k % len(corners)] for k in range(26)], dtype=np.float64).reshape(2, 13, 2)
    is_visible = np.ones((2, 13), bool)
    for (frame, joint), place in changes.get("hidden", {}).items():
        xy[frame, joint], is_visible[frame, joint] = place, False
    window = ZoomCanvas(side).window(size, Joints(xy, is_visible))
    assert window.width == window.height
    return window.left, window.top, window.width


def test_zoom_is_a_square_around_the_visible_joints_of_all_frames():
    # 100 px wide, 60 px high, and 12% of 100 px on each side.
    assert zoomed([(100, 80), (200, 140)], (400, 500)) == pytest.approx((88, 48, 124))
    assert zoomed([(100, 80), (200, 140)], (400, 500), hidden={(0, 3): (5, 5)}) == pytest.approx((88, 48, 124))
    assert zoomed([(10, 80), (110, 140)], (400, 500)) == pytest.approx((0, 48, 124))  # kept inside the frame
    assert zoomed([(10, 80), (490, 140)], (400, 500)) == pytest.approx((50, 0, 400))  # no larger than crop's
    assert zoomed([(-60, 80), (490, 140)], (400, 500)) == pytest.approx((45, 0, 400))  # counts as at the frame's edge


def test_zoom_enlarges_no_pixel_more_than_twice():
    assert zoomed([(200, 200), (210, 205)], (400, 500), side=64) == pytest.approx((189, 186.5, 32))
    assert zoomed([(200, 200), (210, 205)], (400, 500), side=256) == pytest.approx((141, 138.5, 128))


def test_zoom_without_joints_is_a_crop():
    hidden = Joints(np.full((1, 13, 2), 20.0), np.zeros((1, 13), bool))
    for joints in (None, hidden):
        assert ZoomCanvas(64).window((100, 300), joints) == CropCanvas(64).window((100, 300))


def test_how_many_visible_joints_each_canvas_loses_on_real_labels(penn_labels: Path):
    """On all 2,326 label files `crop` loses 3.2% and `person` 1.3%; `pad` and `stretch` lose none."""
    canvases = {
        "crop": CropCanvas(256),
        "person": PersonCanvas(256),
        "pad": PadCanvas(256),
        "stretch": StretchCanvas(256),
    }
    lost, total = dict.fromkeys(canvases, 0), 0
    for path in sorted(penn_labels.glob("*.mat"))[::4]:
        label = read_label(path)
        total += label.joints.is_visible.sum()
        for name, canvas in canvases.items():
            kept = canvas.window(label.size, label.joints).joints(label.joints).is_visible
            lost[name] += (label.joints.is_visible & ~kept).sum()
    share = {name: 100 * count / total for name, count in lost.items()}
    assert share["pad"] == share["stretch"] == 0
    assert 2.4 < share["crop"] < 4.0 and 0.8 < share["person"] < 1.8, share
