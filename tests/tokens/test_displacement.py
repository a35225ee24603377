"""Displacements: the grid against the formula of its cells, poses against sums computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from m3.core.modalities import DISPLACEMENT, NOT_SEEN, NUM_JOINT_BINS
from m3.tokens.displacement import (
    FINENESS,
    box_side,
    decode_displacement,
    displaced,
    displacement_tokens,
    encode_displacement,
    places,
    position_to_displacement,
    usable_places,
)
from m3.tokens.joints import JointCodec

MIDDLE = NOT_SEEN // 2
PX_256 = 256 / (NUM_JOINT_BINS - 1)
"""Canvas pixels of a bin."""


def pose(rng: np.random.Generator, low: float = 60, high: float = 190) -> tuple[np.ndarray, np.ndarray]:
    """(13, 2) px of a canvas of 256 px, and its (3, 13) tokens, all visible."""
    xy = rng.uniform(low, high, (13, 2))
    return xy, JointCodec(256).encode(xy, np.ones(13, bool)).astype(np.int64)


def test_every_cell_decodes_to_itself() -> None:
    ids = torch.arange(DISPLACEMENT.num_ids)
    moved, is_seen = decode_displacement(ids)
    assert torch.equal(encode_displacement(moved, is_seen), ids)
    assert not is_seen[NOT_SEEN] and is_seen[:NOT_SEEN].all()
    assert (moved[MIDDLE] == 0).all() and moved.abs().max() < 1


def test_cells_follow_the_inverse_hyperbolic_sine() -> None:
    """Row-major, y by rows: the id of (dx, dy) is 65 · cell(dy) + cell(dx)."""

    def cell(d: float) -> int:
        return min(64, max(0, math.floor((math.asinh(d / FINENESS) / math.asinh(1 / FINENESS) + 1) / 2 * 65)))

    for dx, dy in [(0.0, 0.0), (0.003, -0.01), (-0.2, 0.07), (5.0, -5.0), (0.99, 0.5)]:
        found = encode_displacement(torch.tensor([dx, dy], dtype=torch.float64), torch.tensor(True))
        assert found == 65 * cell(dy) + cell(dx)


def test_the_error_at_rest_is_below_a_third_of_a_pixel() -> None:
    """For a box as large as the canvas of 256 px; a hundredth of a side is still met to 0.4 px."""
    for reach, bound in ((0.3 / 256, 0.3), (0.01, 0.4)):
        moved = torch.linspace(-reach, reach, 2001, dtype=torch.float64)
        there = torch.stack([moved, -moved], 1)
        back = decode_displacement(encode_displacement(there, torch.ones(2001, dtype=torch.bool)))[0]
        assert ((back - there).abs() * 256).max() < bound


def test_positions_within_a_cell_are_finer_than_its_middle() -> None:
    edges = position_to_displacement(torch.arange(66, dtype=torch.float64))
    assert edges[0] == pytest.approx(-1) and edges[65] == pytest.approx(1) and (edges.diff() > 0).all()
    assert edges.diff()[32] * 256 < 0.6 < edges.diff()[0] * 256


def test_tokens_of_two_poses_are_displacements_in_sides_of_the_earlier_box() -> None:
    rng = np.random.default_rng(0)
    (here, here_tokens), (_, there_tokens) = pose(rng), pose(rng)
    there_tokens[2, 4] = 0
    side = max(np.ptp(here[:, 0]), np.ptp(here[:, 1]))
    assert box_side(here_tokens) * PX_256 == pytest.approx(side, abs=0.05)
    moved, is_seen = (part.numpy() for part in decode_displacement(torch.from_numpy(
        displacement_tokens(here_tokens, there_tokens))))  # fmt: skip
    assert is_seen.tolist() == [j != 4 for j in range(13)]
    true = (places(there_tokens) - places(here_tokens)) * PX_256 / side
    error = np.abs(moved - true)[is_seen]
    assert (error < 0.5 * 0.15 * np.sqrt(true[is_seen] ** 2 + FINENESS**2) + 1e-3).all()  # half a cell there


def test_a_hundred_steps_of_a_constant_displacement_do_not_drift() -> None:
    """Rounded at every frame, a step of 0.49 bins would never move at all."""
    rng = np.random.default_rng(1)
    xy, tokens = pose(rng)
    state, start = places(tokens), places(tokens)
    per_step = rng.uniform(-0.45, 0.45, (13, 2))  # bins, below half of the rounding
    for _ in range(100):
        tokens, state = displaced(tokens, state, per_step / box_side(tokens), np.ones(13, bool))
    assert np.abs(places(tokens) - (start + 100 * per_step)).max() * PX_256 < 0.1
    assert np.abs(state - (start + 100 * per_step)).max() < 1e-6


def test_the_displacement_and_the_earlier_pose_give_the_later_one() -> None:
    rng = np.random.default_rng(2)
    (_, here), (_, there) = pose(rng), pose(rng)
    exact = (places(there) - places(here)) / box_side(here)
    is_seen = np.arange(13) != 7
    tokens, state = displaced(here, places(here), exact, is_seen)
    assert np.array_equal(tokens[:2], there[:2]) and np.allclose(state, places(there))
    assert tokens[2].tolist() == is_seen.astype(int).tolist()


def test_joints_without_a_usable_place_do_not_come_back() -> None:
    rng = np.random.default_rng(3)
    _, here = pose(rng)
    here[2, [3, 5, 6]] = 0
    here[:2, 3] = 16  # an annotation in the corner of the picture
    here[:2, 5] = 0  # outside the canvas
    assert usable_places(here).tolist() == [j not in (3, 5) for j in range(13)]
    later, _ = displaced(here, places(here), np.full((13, 2), 0.05), np.ones(13, bool))
    assert later[2].tolist() == [int(j not in (3, 5)) for j in range(13)]
    assert (later[:, [3, 5]] == 0).all()
    _, there = pose(rng)
    assert (displacement_tokens(here, there)[[3, 5]] == NOT_SEEN).all()


def test_a_joint_that_leaves_the_canvas_becomes_invisible() -> None:
    _, here = pose(np.random.default_rng(4))
    far = np.zeros((13, 2))
    far[9] = 3.0, 0.0
    later, _ = displaced(here, places(here), far, np.ones(13, bool))
    assert later[:, 9].tolist() == [0, 0, 0] and later[2, :9].all()


def test_poses_without_a_visible_joint_have_a_box() -> None:
    nobody = np.zeros((2, 3, 13), np.int64)
    assert (displacement_tokens(nobody, nobody) == NOT_SEEN).all()
    assert np.isfinite(box_side(nobody)).all()
