"""What roll-outs start from, and what is known to follow: frames of a split, of files of one's own, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from m3.batches.table import TokenTable
from m3.core.frames import NOTHING, Chain, Frames, TokenFrames
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import COORDS_LENGTH, ModalityTable
from m3.core.types import PairInfo
from m3.generation.rollout import frame_modalities, true_frames
from m3.metrics.baselines import PoseFrames, constant_velocity
from m3.tokens.joints import JointCodec

_DRAW = 2**32
"""Samples of one start are told apart by multiples of it."""


@dataclass(frozen=True)
class Starts:
    """N reference frames.

    chains: titles and places of the references and of what follows them.
    tokens: (N, T + 1) frames: the reference and its truth. Horizons without truth are not present, and the reference
        is not where nothing is given of it.
    are_joints_known: (N, T + 1, 13) bool, joints that somebody annotated (of a split also those seen as invisible).
    sample: (N,) int64 identities of the starts, for `m3.sampling.sampler.generate`; less than 2³².
    previous: joints of the frame before the reference, T = 0; not present where there is none.
    real_pictures, is_real: (N, T + 1, size, size, 3) uint8 and (N, T + 1) bool, the frames themselves on the canvas;
        None where only tokens are at hand.
    """

    chains: list[Chain]
    tokens: TokenFrames
    are_joints_known: np.ndarray
    sample: np.ndarray
    previous: PoseFrames
    real_pictures: np.ndarray | None = None
    is_real: np.ndarray | None = None

    @property
    def has_truth(self) -> bool:
        """Whether any horizon of any start has one."""
        return bool(self.tokens.is_present[:, 1:].any())

    @property
    def has_joints(self) -> np.ndarray:
        """(N,) bool, whose frames show an annotated joint."""
        return (self.tokens.coords[:, :, 2 * NUM_JOINTS :] > 0).any((1, 2))

    @property
    def extent(self) -> np.ndarray:
        """(N,) pose_extent_px, NaN where unknown."""
        return np.array([chain.pairs[0].pose_extent_px or math.nan for chain in self.chains])

    @property
    def clip(self) -> np.ndarray:
        """(N,) ids of the clips."""
        return np.array([chain.pairs[0].clip for chain in self.chains])

    @property
    def actions(self) -> list[str | None]:
        return [chain.pairs[0].action for chain in self.chains]

    def constant_velocity(self, truth: Frames) -> PoseFrames:
        """The baseline, for the truth that is decoded from `tokens`."""
        before = self.previous
        return constant_velocity(truth, before.xy[:, 0], before.is_visible[:, 0], before.is_present[:, 0])

    def sample_ids(self, draw: int = 0) -> Tensor:
        """(N,) int64: identities of the n-th samples of the starts; of draw 0 they are the starts' own."""
        return torch.as_tensor(self.sample) + draw * _DRAW

    def reference(self, device: torch.device | str) -> dict[str, Tensor]:
        """Modality → (N, L) int64 tokens of the reference."""
        ids = {"tok_rgb": self.tokens.tok_rgb, "coords": self.tokens.coords}
        return {name: torch.as_tensor(each[:, 0], device=device) for name, each in ids.items()}

    def is_known(self, is_given: Tensor, table: ModalityTable, device: torch.device | str) -> dict[str, Tensor]:
        """Modality → (N, L) bool: what of the reference is both given, (S,) bool, and there."""
        has_reference = torch.as_tensor(self.tokens.is_present[:, :1])
        there = {"coords": torch.as_tensor(np.tile(self.are_joints_known[:, 0], 3))}  # x, y, visibility
        return {
            name: (is_given[table.columns(name)] & there.get(name, torch.tensor(True)) & has_reference).to(device)
            for name in frame_modalities(table)
        }


def starts_of_split(split: TokenTable, table: ModalityTable, chains: list[Chain], num_frames: int) -> Starts:
    """The references of chains of a split; what follows them is their truth."""
    tokens = split.columns(table)
    return Starts(
        chains,
        true_frames(tokens, table, chains, num_frames),
        np.ones((len(chains), num_frames + 1, NUM_JOINTS), bool),
        np.array([chain.rows[0] for chain in chains]),
        _previous(split.pairs, tokens, table, chains, JointCodec(split.manifest.canvas_size)),
    )


def _previous(
    pairs: Sequence[PairInfo], tokens: np.ndarray, table: ModalityTable, chains: Sequence[Chain], codec: JointCodec
) -> PoseFrames:
    rows = previous_rows(pairs, chains)
    if "coords" not in frame_modalities(table):
        return no_previous(len(chains))
    xy, is_visible = codec.decode(tokens[rows][:, table.columns("coords")].reshape(len(rows), 1, 3, -1))
    return PoseFrames(xy, is_visible, (rows >= 0)[:, None])


def previous_rows(pairs: Sequence[PairInfo], chains: Sequence[Chain]) -> np.ndarray:
    """(N,) int: the row of the pair that ends where a chain begins, −1 where the clip has none in the split.

    Its reference is the frame before the chain's reference; of several (`pairs=dense`) the nearest.
    """
    row_ending_at: dict[tuple[str, int], int] = {}
    for row, pair in enumerate(pairs):
        place = pair.clip, pair.successor
        if place not in row_ending_at or pair.reference > pairs[row_ending_at[place]].reference:
            row_ending_at[place] = row
    return np.array([row_ending_at.get((c.pairs[0].clip, c.pairs[0].reference), -1) for c in chains], dtype=int)


def no_previous(num_starts: int) -> PoseFrames:
    """Nobody saw a frame before the references."""
    joints = (num_starts, 1, NUM_JOINTS)
    return PoseFrames(np.zeros((*joints, 2)), np.zeros(joints, bool), np.zeros((num_starts, 1), bool))


def starts_of_nothing(table: ModalityTable, num_frames: int) -> Starts:
    """One start of which nothing is given: unconditional generation."""
    chain = Chain((), (PairInfo(NOTHING, NOTHING, 0, 0, None, None),))
    names = frame_modalities(table)
    length = table.max_seq_lens[table.index("tok_rgb")] if "tok_rgb" in names else 0
    shape = 1, num_frames + 1
    ids = [np.zeros((*shape, width), np.int64) for width in (length, COORDS_LENGTH)]
    tokens, are_joints_known = TokenFrames(*ids, np.zeros(shape, bool)), np.zeros((*shape, NUM_JOINTS), bool)
    return Starts([chain], tokens, are_joints_known, np.zeros(1, np.int64), no_previous(1))


def completed_truth(truth: Frames, predicted: Frames) -> Frames:
    """The truth with the reference of the roll-outs, parts of which were generated: baselines start from there."""

    def with_reference(true: np.ndarray, made: np.ndarray) -> np.ndarray:
        return np.concatenate([made[:, :1], true[:, 1:]], 1)

    return replace(
        truth,
        pictures=with_reference(truth.pictures, predicted.pictures),
        xy=with_reference(truth.xy, predicted.xy),
        is_visible=with_reference(truth.is_visible, predicted.is_visible),
    )
