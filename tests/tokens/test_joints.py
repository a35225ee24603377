"""The joint codec: round trips within half a bin, and nothing illegal in either direction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3.tokens.joints import JointCodec


@pytest.mark.parametrize("canvas_size, tolerance", [(256, 0.0157), (128, 0.00785)])
def test_round_trip_of_a_hundred_thousand_points(canvas_size: int, tolerance: float):
    codec, rng = JointCodec(canvas_size), np.random.default_rng(0)
    xy = rng.uniform(0, canvas_size, (100_000 // 13 + 1, 13, 2))
    is_visible = rng.uniform(size=xy.shape[:2]) < 0.8
    tokens = codec.encode(xy, is_visible)
    assert tokens.dtype == np.uint16 and tokens.shape == (len(xy), 3, 13)
    back, still_visible = codec.decode(tokens)
    assert np.abs(back - xy).max() <= tolerance
    assert np.abs(back - xy).max() > 0.9 * canvas_size / 8191 / 2  # the bound is tight: no finer grid in disguise
    assert (still_visible == is_visible).all()


def test_tokens_are_those_of_the_formula():
    xy = np.zeros((13, 2))
    xy[0], xy[1], xy[2] = (256, 0), (128, 1), (0.02, 255.99)
    tokens = JointCodec(256).encode(xy, np.ones(13, dtype=bool))
    assert tokens[0, :3].tolist() == [8191, round(128 / 256 * 8191), 1]  # row x
    assert tokens[1, :3].tolist() == [0, 32, 8191]  # row y: 1 / 256 · 8191 = 31.996
    assert tokens[2].tolist() == [1] * 13


def test_all_tokens_survive_decoding_and_encoding():
    for first in range(0, 8192 - 26, 26):
        tokens = np.concatenate([np.arange(first, first + 26).reshape(2, 13), np.ones((1, 13))]).astype(np.uint16)
        codec = JointCodec(128)
        assert (codec.encode(*codec.decode(tokens)) == tokens).all()


def test_invisible_joints_keep_their_position_on_the_canvas_only():
    xy = np.full((13, 2), 64.0)
    xy[1], xy[2], xy[3], xy[4] = (-0.01, 50), (50, 128.01), (np.nan, 3), (128, 0)
    tokens = JointCodec(128).encode(xy, np.zeros(13, dtype=bool))
    assert tokens[2].tolist() == [0] * 13
    assert tokens[:2, 1:4].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert tokens[:2, 4].tolist() == [8191, 0] and tokens[:2, 0].tolist() == [4096, 4096]


@pytest.mark.parametrize("point", [(-0.5, 3), (3, 128.5), (np.nan, 3)])
def test_a_visible_joint_off_the_canvas_is_an_error(point: tuple[float, float]):
    xy = np.full((13, 2), 64.0)
    xy[5] = point
    with pytest.raises(ValueError, match="not on the canvas of 128"):
        JointCodec(128).encode(xy, np.ones(13, dtype=bool))


@pytest.mark.parametrize("row, value", [(0, 8192), (1, 9000), (2, 2)])
def test_illegal_tokens_are_an_error(row: int, value: int):
    tokens = np.zeros((3, 13), dtype=np.uint16)
    tokens[row, 7] = value
    with pytest.raises(ValueError, match="illegal joint token"):
        JointCodec(128).decode(tokens)


@given(st.integers(1, 40).map(lambda k: 16 * k), st.floats(0, 1), st.floats(0, 1))
def test_round_trip_on_any_canvas(canvas_size: int, x: float, y: float):
    codec, xy = JointCodec(canvas_size), np.tile([x * canvas_size, y * canvas_size], (13, 1))
    back, _ = codec.decode(codec.encode(xy, np.ones(13, dtype=bool)))
    assert np.abs(back - xy).max() <= canvas_size / 8191 / 2 * (1 + 1e-9)
