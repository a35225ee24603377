"""The records that one stage hands to the next, and the one legend of shape letters.

    B batch                S tokens of a sample       K modalities
    N packed input tokens  M packed target tokens     D model width
    H heads                E head width               V vocabulary
    J = 13 joints          T frames

Arrays before batching are NumPy, from batching on they are torch. The name of a mask is the meaning of True.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3.core.joints import Joints


@dataclass(frozen=True)
class Clip:
    """One video of one person.

    id: unique within its source, of letters, digits and _+=,@- alone, at most 128 bytes: it becomes part of file names
        and of WebDataset keys (`m3.clips.names.is_clip_id`).
    frames: T pictures, each (height, width, 3) uint8 RGB, decoded when indexed.
    size: (height, width) of every frame, pixels, available without decoding one.
    joints: joints of the same T frames, or None for a video without annotations.
    action: the label as the source spells it ("golf_swing"), or None.
    is_train: the source's own split, or None where it has none.
    is_eval: of the clips with `is_train`, those that the source itself sets apart for evaluation.
    notes: irregularities that did not prevent the clip's use, for the manifest.
    fps: frames per second, or None where the source does not know its rate.
    video: id of the video that the clip is a part of, or None where it is no part: parts of a video stay in one split.
    """

    id: str
    frames: Sequence[np.ndarray]
    size: tuple[int, int]
    joints: Joints | None
    action: str | None = None
    is_train: bool | None = None
    notes: tuple[str, ...] = ()
    fps: float | None = None
    video: str | None = None
    is_eval: bool = False


@dataclass(frozen=True)
class Rejection:
    """A clip that was not used, and why."""

    clip: str
    reason: str


class FramePair(NamedTuple):
    """Two frames of a clip, and the one before them. All are frame indices from 0.

    reference, successor: the pair.
    ssim: of the two, or None where it is not computed.
    previous: the frame from which the motion came to the reference, earlier than it; None at the clip's start.
    """

    reference: int
    successor: int
    ssim: float | None
    previous: int | None = None


@dataclass(frozen=True)
class TokenizedPair:
    """One sample of a shard.

    key: "{clip}-{reference frame:06d}".
    tokens: modality name → uint16 array in its stored shape, (h, w) for pictures and (3, 13) for joints; without those
        that the pair lacks: of the previous frame at the clip's start, of the joints of a clip without them.
    captions: none, one or several captions of the reference frame.
    meta: see `m3.shards.meta.pair_meta`.
    """

    key: str
    tokens: dict[str, np.ndarray]
    captions: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PairInfo:
    """A row of the token table without its tokens.

    key: "{clip}-{reference frame:06d}".
    clip: id of the clip.
    reference, successor: frame indices, from 0.
    action: the clip's label, or None.
    pose_extent_px: larger side, in canvas pixels, of the box around all 13 joints (invisible ones
        included) over all frames of the clip: the L of PCK@a. None for clips without joints.
    previous: frame index of the previous frame (see `FramePair`), or None.
    fps: frames per second of the clip, or None where it is not known.
    """

    key: str
    clip: str
    reference: int
    successor: int
    action: str | None
    pose_extent_px: float | None
    previous: int | None = None
    fps: float | None = None


class TokenBatch(NamedTuple):
    """A batch of a loader: all tokens of B samples, unmasked.

    tokens: (B, S) int64 ids, modalities side by side in the order of the modality table; 0 beyond a sample's lengths.
    sample: (B,) int64 index of each sample in its split.
    epoch: (B,) int64 complete passes over the split before the sample was drawn.
    lengths: (B, K) int64 tokens that each sample has of each modality, its first ones; 0 where it lacks the modality.
        None: all samples have all tokens.
    packed: inputs and targets of each micro-batch, where they were chosen ahead of the step; else None.
    """

    tokens: Tensor
    sample: Tensor
    epoch: Tensor
    lengths: Tensor | None = None
    packed: tuple[tuple[PackedTokens, PackedTokens], ...] | None = None

    def to(self, device: torch.device) -> TokenBatch:
        """On a device; from pinned memory without a wait for the copy. Lightning calls it."""
        return self._with(lambda each: each.to(device, non_blocking=True), lambda each: each.to(device))

    def pin_memory(self) -> TokenBatch:
        """In pinned memory of the host."""
        return self._with(Tensor.pin_memory, PackedTokens.pin_memory)

    def _with(
        self, function: Callable[[Tensor], Tensor], of_packed: Callable[[PackedTokens], PackedTokens]
    ) -> TokenBatch:
        lengths, packed = self.lengths, self.packed
        return TokenBatch(
            function(self.tokens),
            function(self.sample),
            function(self.epoch),
            None if lengths is None else function(lengths),
            None if packed is None else tuple((of_packed(inputs), of_packed(targets)) for inputs, targets in packed),
        )


@dataclass(frozen=True)
class PackedTokens:
    """The chosen tokens of B samples, concatenated without padding (N inputs or M targets).

    `ids`, `modality`, `position` and `sample` are (N,) int64. Samples are in the order of the batch; within a sample
    the tokens are in the order of the modality table, positions ascending. N, the counts of the modalities
    (`len(rows[k])`) and `max_seqlen` are host integers, so that reading them does not wait for the device.

    ids: token ids; those of targets are read by the loss only.
    modality: index into the modality table.
    position: position within the modality, from 0.
    sample: row of the batch, 0 … B − 1, ascending.
    lengths: (B,) int64 number of tokens of each sample; they sum to N.
    max_seqlen: the largest of `lengths`.
    rows: for each modality k of the table (N_k,) int64, ascending: indices where `modality` is k.
    """

    ids: Tensor
    modality: Tensor
    position: Tensor
    sample: Tensor
    lengths: Tensor
    max_seqlen: int
    rows: tuple[Tensor, ...]

    def to(self, device: torch.device) -> PackedTokens:
        """On a device; from pinned memory without a wait for the copy."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> PackedTokens:
        """In pinned memory of the host."""
        return self._with(Tensor.pin_memory)

    def _with(self, function: Callable[[Tensor], Tensor]) -> PackedTokens:
        fields = {name: getattr(self, name) for name in ("ids", "modality", "position", "sample", "lengths")}
        moved = {name: function(tensor) for name, tensor in fields.items()}
        return replace(self, **moved, rows=tuple(map(function, self.rows)))
