"""What a model has to beat besides "nothing moves": joints that go on as they went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3.core.frames import Frames


@dataclass(frozen=True)
class PoseFrames:
    """Joints without pictures: `Frames` but for these.

    xy: (N, T + 1, 13, 2) float64 canvas pixels; is_visible: (N, T + 1, 13) bool; is_present: (N, T + 1) bool.
    """

    xy: np.ndarray
    is_visible: np.ndarray
    is_present: np.ndarray


def constant_velocity(
    truth: Frames, previous_xy: np.ndarray, is_previous_visible: np.ndarray, has_previous: np.ndarray
) -> PoseFrames:
    """Every joint goes on along a straight line: xy(h) = xy(0) + h · (xy(0) − xy(−1)).

    One step is one pair, however many video frames it spans: when the next frame comes, nobody knows at generation.
    A joint that is invisible in one of the two frames stays where it is. Visibilities stay the reference's. There
    are no pictures.

    Args:
        truth: (N, T + 1) frames, of which only the reference is read.
        previous_xy, is_previous_visible: (N, 13, 2) and (N, 13), of the frame before the reference.
        has_previous: (N,) bool; without such a frame the sample is not present.
    """
    horizon = np.arange(truth.is_present.shape[1])[:, None, None]
    moves = (truth.is_visible[:, 0] & is_previous_visible)[..., None]  # (N, 13, 1)
    velocity = np.where(moves, truth.xy[:, 0] - previous_xy, 0.0)
    xy = truth.xy[:, :1] + horizon * velocity[:, None]  # (N, T + 1, 13, 2)
    is_visible = np.broadcast_to(truth.is_visible[:, :1], truth.is_visible.shape)
    return PoseFrames(xy, is_visible, np.broadcast_to(has_previous[:, None], truth.is_present.shape))
