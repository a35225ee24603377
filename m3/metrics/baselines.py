"""Baselines besides "nothing moves" (`Frames.still`): joints that keep their velocity."""

from __future__ import annotations

import numpy as np

from m3.core.frames import Frames, Poses, TokenFrames
from m3.tokens.joints import JointCodec


def constant_velocity(truth: Frames, previous: Frames, codec: JointCodec) -> Frames:
    """Every joint moves on along a straight line: xy(h) = xy(0) + h · (xy(0) − xy(−1)).

    One step is one pair, however many video frames it spans: the time to the next frame is unknown at generation. A
    joint that is invisible in one of the two frames stays where it is. Visibilities stay those of the reference. There
    are joints only, and tokens of them with places clipped to the canvas.

    Args:
        truth: (N, T + 1) frames, of which only the joints of the reference are read.
        previous: (N, 1) frames: the one before each reference, not present where there is none.
        codec: of the joint tokens.
    """
    poses, before = truth.values["coords"], previous.values["coords"]
    horizon = np.arange(truth.is_present.shape[1])[:, None, None]
    moves = (poses.is_visible[:, 0] & before.is_visible[:, 0])[..., None]  # (N, 13, 1)
    velocity = np.where(moves, poses.xy[:, 0] - before.xy[:, 0], 0.0)
    xy = poses.xy[:, :1] + horizon * velocity[:, None]  # (N, T + 1, 13, 2)
    is_visible = np.broadcast_to(poses.is_visible[:, :1], poses.is_visible.shape)
    is_present = np.broadcast_to(previous.is_present, truth.is_present.shape)
    ids = codec.encode(xy.clip(0, codec.canvas_size), is_visible).astype(np.int64)  # (N, T + 1, 3, 13)
    ids = ids.reshape(*is_present.shape, -1)
    tokens = TokenFrames({"coords": ids}, {"coords": np.ones(ids.shape, bool)}, is_present)
    return Frames({"coords": Poses(xy, is_visible)}, is_present, tokens)
