"""The frames that are scored, and all that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from m3.core.frames import Frames


@dataclass(frozen=True)
class Comparison:
    """N roll-outs of T frames beside their ground truth. Scores that need a field that is None are absent.

    predicted, truth: (N, T + 1) frames with the same references.
    extent: (N,) L of PCK in canvas pixels, `PairInfo.pose_extent_px`; NaN where unknown: not scored by PCK.
    clip: (N,) labels of the clips; None: each sample is a clip of its own.
    action: (N,) labels, None for unknown ones; None: no scores by action.
    has_joints: (N,) bool, True where the ground truth has annotated joints; None: everywhere.
    is_given_joint: (N, T + 1, 13) bool, joints that were given, which scores of joints leave out; None: none were.
    constant_velocity, damped_velocity: these baselines.
    real: (N, T + 1) frames: the pictures before the tokenizer, "tok_rgb".
    argmax: the roll-outs with the likeliest id everywhere.
    samples: several random roll-outs of each reference.
    cache: results that several metrics share; empty in a copy by `dataclasses.replace`.
    """

    predicted: Frames
    truth: Frames
    extent: np.ndarray
    clip: np.ndarray | None = None
    action: Sequence[str | None] | None = None
    has_joints: np.ndarray | None = None
    is_given_joint: np.ndarray | None = None
    constant_velocity: Frames | None = None
    damped_velocity: Frames | None = None
    real: Frames | None = None
    argmax: Frames | None = None
    samples: Sequence[Frames] = ()
    cache: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def num_samples(self) -> int:
        return len(self.truth.is_present)

    @cached_property
    def clips(self) -> np.ndarray:
        """(N,) labels."""
        return np.arange(self.num_samples) if self.clip is None else np.asarray(self.clip)

    @cached_property
    def series(self) -> Mapping[str, Frames]:
        """Name of a series → its frames, without the samples; see `m3.metrics.specs.SERIES`."""
        frames = {
            "model": self.predicted,
            "nothing_moves": self.truth.still(),
            "constant_velocity": self.constant_velocity,
            "damped_velocity": self.damped_velocity,
            "tokenizer": None if self.real is None else self.truth,
            "real_reference": None if self.real is None else _copied_reference(self.real),
            "reference_joints": _with_reference_joints(self.predicted, self.truth),
            "truth": self.truth,
            "argmax": self.argmax,
        }
        return {name: each for name, each in frames.items() if each is not None}


def _copied_reference(real: Frames) -> Frames:
    still = real.still()
    return replace(still, is_present=still.is_present & real.is_present[:, :1])


def _with_reference_joints(predicted: Frames, truth: Frames) -> Frames | None:
    if not {"tok_rgb", "coords"} <= predicted.values.keys() & truth.values.keys():
        return None
    joints = truth.still().values["coords"]
    return Frames({"tok_rgb": predicted.values["tok_rgb"], "coords": joints}, predicted.is_present)
