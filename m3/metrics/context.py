"""What else is known of roll-outs when they are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3.core.frames import Frames, TokenFrames
from m3.metrics.baselines import PoseFrames
from m3.metrics.tallies import RolloutTokens


@dataclass(frozen=True)
class Draw:
    """Other roll-outs from the same references: (N, T + 1) frames and their tokens."""

    frames: Frames
    tokens: TokenFrames


@dataclass(frozen=True)
class Context:
    """What else is known of N samples. What is not known leaves its scores absent.

    has_joints: (N,) bool, whose truth has annotated joints; None: all of them.
    has_pictures: whether the model knows pictures.
    clip: (N,) labels; None: each sample is a clip of its own.
    action: (N,) labels, None for unknown ones; None: nothing is broken down by action.
    constant_velocity: (N, T + 1) joints of that baseline.
    tokens: of predicted and true frames.
    real_pictures: (N, T + 1, H, W, 3) uint8, the real frames on the canvas.
    is_real: (N, T + 1) bool, where there is one.
    argmax: the roll-outs with the likeliest id everywhere.
    draws: several drawn at random from each reference; needs `tokens`.
    """

    has_joints: np.ndarray | None = None
    has_pictures: bool = True
    clip: np.ndarray | None = None
    action: Sequence[str | None] | None = None
    constant_velocity: PoseFrames | None = None
    tokens: RolloutTokens | None = None
    real_pictures: np.ndarray | None = None
    is_real: np.ndarray | None = None
    argmax: Draw | None = None
    draws: Sequence[Draw] = ()
