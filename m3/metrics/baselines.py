"""Baselines besides "nothing moves" (`Frames.still`): joints that keep their velocity, and joints that slow down."""

from __future__ import annotations

import numpy as np

from m3.core.frames import Frames, Poses, TokenFrames
from m3.tokens.joints import JointCodec

FIRST_STEP = 0.7
"""Damped velocity: the first step, as a share of the last displacement."""
DECAY = 0.6
"""Damped velocity: each further step, as a share of the step before it."""


def constant_velocity(truth: Frames, previous: Frames, codec: JointCodec) -> Frames:
    """Every joint moves on along a straight line by its last displacement: xy(h) = xy(0) + h · (xy(0) − xy(−1)).

    One step is one pair, however many video frames it spans: the time to the next frame is unknown at generation. A
    joint that is invisible in one of the two frames stays where it is. Visibilities stay those of the reference. There
    are joints only, and tokens of them with places clipped to the canvas.

    Args:
        truth: (N, T + 1) frames, of which only the joints of the reference are read.
        previous: (N, 1) frames: the one before each reference, not present where there is none.
        codec: of the joint tokens.
    """
    return _moved_on(truth, previous, codec, np.arange(truth.is_present.shape[1], dtype=float))


def damped_velocity(truth: Frames, previous: Frames, codec: JointCodec) -> Frames:
    """Every joint moves on along a straight line and slows down: its steps are 0.7, 0.42, 0.252, … of the last.

    The first step is `FIRST_STEP` of the last displacement xy(0) − xy(−1), each further step `DECAY` of the step
    before, so that a joint ends 1.75 displacements ahead. Arguments and rules as `constant_velocity`.
    """
    steps = FIRST_STEP * DECAY ** np.arange(truth.is_present.shape[1] - 1)
    return _moved_on(truth, previous, codec, np.concatenate([[0.0], steps.cumsum()]))


def _moved_on(truth: Frames, previous: Frames, codec: JointCodec, distance: np.ndarray) -> Frames:
    """The reference's joints, moved on along their last displacement.

    distance: (T + 1,) from the reference to each horizon, as a multiple of that displacement; 0 for the reference.
    """
    poses, before = truth.values["coords"], previous.values["coords"]
    moves = (poses.is_visible[:, 0] & before.is_visible[:, 0])[..., None]  # (N, 13, 1)
    displacement = np.where(moves, poses.xy[:, 0] - before.xy[:, 0], 0.0)
    xy = poses.xy[:, :1] + distance[:, None, None] * displacement[:, None]  # (N, T + 1, 13, 2)
    is_visible = np.broadcast_to(poses.is_visible[:, :1], poses.is_visible.shape)
    is_present = np.broadcast_to(previous.is_present, truth.is_present.shape)
    ids = codec.encode(xy.clip(0, codec.canvas_size), is_visible).astype(np.int64)  # (N, T + 1, 3, 13)
    ids = ids.reshape(*is_present.shape, -1)
    tokens = TokenFrames({"coords": ids}, {"coords": np.ones(ids.shape, bool)}, is_present)
    return Frames({"coords": Poses(xy, is_visible)}, is_present, tokens)
