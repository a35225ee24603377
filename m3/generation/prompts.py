"""Prompts: reference frames, and the ground truth that follows them, from a split, from files, or empty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3.batches.datamodule import SampleRows
from m3.batches.table import TokenTable
from m3.core.frames import (
    NOTHING,
    Frames,
    PairChain,
    Poses,
    TokenFrames,
    frame_modalities,
    no_tokens,
    rolled_modalities,
)
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import CLIP_MODALITIES, GAPS, ModalityTable, frame_of, modality_at
from m3.core.types import PairInfo
from m3.generation.rollout import RowTokens, true_frames
from m3.shards.manifest import Manifest
from m3.tokens.joints import JointCodec

_SAMPLE_STRIDE = 2**32
"""Distance between the identities of two samples of one prompt."""


@dataclass(frozen=True)
class Prompts:
    """N reference frames.

    chains: the references and the frames that follow them, as pairs of a clip, with titles.
    tokens: (N, T + 1) frames: the reference and the ground truth of its successors. Tokens are known where they were
        read or annotated; joints of a split count as annotated, invisible ones too. Conditions that are asked for
        (a gap, an action, a caption) are known at all frames.
    history: (N, 1) frames: the frame before the reference; its tokens are known where there is one.
    sample: (N,) int64 identities of the prompts, for `m3.sampling.sampler.generate`; less than 2³².
    previous: (N, 1) frames: joints of `history`, decoded, not present where there is none. None for a model without
        joints.
    real: (N, T + 1) frames: the original pictures on the canvas, "tok_rgb"; None where only tokens are available.
    """

    chains: list[PairChain]
    tokens: TokenFrames
    history: TokenFrames
    sample: np.ndarray
    previous: Frames | None = None
    real: Frames | None = None

    @property
    def num_frames(self) -> int:
        """T."""
        return self.tokens.is_present.shape[1] - 1

    @property
    def has_truth(self) -> bool:
        """Whether any horizon of any prompt has a ground truth."""
        return bool(self.tokens.is_present[:, 1:].any())

    def has_truth_of(self, name: str, frames: slice = slice(1, None)) -> bool:
        """Whether tokens of a modality are known in some frames of any prompt, by default in those of the horizons."""
        return name in self.tokens.is_known and bool(self.tokens.is_known[name][:, frames].any())

    @property
    def has_joints(self) -> np.ndarray:
        """(N,) bool, True where the frames have a visible joint."""
        if "coords" not in self.tokens.ids:
            return np.zeros(len(self.chains), bool)
        return np.any(self.tokens.ids["coords"][:, :, 2 * NUM_JOINTS :], axis=(1, 2))

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

    def sample_ids(self, number: int = 0) -> Tensor:
        """(N,) int64: identities of the n-th samples of the prompts; those of sample 0 are the prompts' own."""
        return torch.as_tensor(self.sample) + number * _SAMPLE_STRIDE

    def given(self, is_given: Tensor, table: ModalityTable) -> tuple[TokenFrames, TokenFrames]:
        """The tokens that are given to the model: (N, T + 1) frames, and (N, 1) frames of the history.

        Of frames after the first successor only the gaps are given. What a prompt lacks is left out, except for
        pictures and the modalities of `extra_vocabularies`.

        Args:
            is_given: (S,) bool, from `Sampling.is_given`.
        Raises:
            ValueError where a prompt lacks one of these.
        """
        found = no_tokens(table, (len(self.chains), max(self.num_frames, 1) + 1))
        before = no_tokens(table, (len(self.chains), 1))
        found.is_present[:], before.is_present[:] = True, True
        for modality in table.modalities:
            (name, frame), asked = frame_of(modality), is_given[table.columns(modality)].numpy()
            if frame < 0:
                _give(before, self.history, name, slice(0, 1), asked)
                continue
            self._check_given(modality, asked, table)
            is_gap_ahead = frame == 1 and name in GAPS
            _give(found, self.tokens, name, slice(1, None) if is_gap_ahead else slice(frame, frame + 1), asked)
        return found, before

    def _check_given(self, modality: str, asked: np.ndarray, table: ModalityTable) -> None:
        name, frame = frame_of(modality)
        if name != "tok_rgb" and name not in (table.extra_vocabularies or {}):
            return
        is_there = self.tokens.is_present[:, frame] & self.tokens.is_known[name][:, frame].any(-1)
        if asked.any() and not is_there.all():
            lacking = self.chains[int(is_there.argmin())].pairs[0].clip
            raise ValueError(f"sampling.given: {lacking} has no {modality} to give; leave it out")


def _give(given: TokenFrames, source: TokenFrames, name: str, frames: slice, asked: np.ndarray) -> None:
    given.is_known[name][:, frames] = asked & source.is_known[name][:, frames]
    given.ids[name][:, frames] = source.ids[name][:, frames] * given.is_known[name][:, frames]


def prompts_of_split(split: TokenTable, table: ModalityTable, chains: list[PairChain], num_frames: int) -> Prompts:
    """The references of chains of a split; the frames that follow them are their truth."""
    with_truth = _with_truth(table, split.manifest)
    samples = SampleRows(split, with_truth, needs_words=False)
    before = previous_rows(split.pairs, chains)
    rows = np.unique([row for chain in chains for row in chain.rows] + before[before >= 0].tolist())
    read = RowTokens.read(samples, rows)
    history = _history(read, table, chains, before)
    previous = None
    if "coords" in rolled_modalities(table):
        xy, is_visible = JointCodec(split.manifest.canvas_size).decode(
            history.ids["coords"].reshape(len(chains), 1, 3, NUM_JOINTS)
        )
        previous = Frames({"coords": Poses(xy, is_visible)}, np.asarray(history.is_known["coords"].all(-1)))
    return Prompts(
        chains,
        true_frames(read, with_truth, chains, num_frames),
        history,
        np.array([chain.rows[0] for chain in chains]),
        previous,
    )


def _with_truth(table: ModalityTable, manifest: Manifest) -> ModalityTable:
    """The table, and the stored modalities that it lacks of the frames before and after the references.

    A model that generates displacements is scored by the joints that follow from them.
    """
    stored = {modality.name: modality.length for modality in manifest.modalities}
    names = [modality_at(name, frame) for name in rolled_modalities(table) for frame in (-1, 1)]
    lacking = {name: stored[name] for name in names if name in stored and name not in table.modalities}
    return table.extended(lacking)


def _history(tokens: RowTokens, table: ModalityTable, chains: Sequence[PairChain], before: np.ndarray) -> TokenFrames:
    """(N, 1) frames before the references: as stored with the pair, else the reference of the pair that ends there."""
    frames = no_tokens(table, (len(chains), 1))
    for n, (chain, row) in enumerate(zip(chains, before.tolist())):
        for name in frames.ids:
            stored = modality_at(name, -1)
            if stored is not None and stored in tokens.table.modalities:
                ids, is_known = tokens.of(stored, chain.rows[:1])
            elif row >= 0 and name in tokens.table.modalities and name not in CLIP_MODALITIES:
                ids, is_known = tokens.of(name, [row])
            else:
                continue
            frames.ids[name][n], frames.is_known[name][n] = ids, is_known
            frames.is_present[n] |= is_known.any()
    return frames


def previous_rows(pairs: Sequence[PairInfo], chains: Sequence[PairChain]) -> np.ndarray:
    """(N,) int: the row of the pair that ends where a chain begins, −1 where the clip has none in the split.

    Its reference is the frame before the chain's reference; of several (`pairs=dense`) the nearest.
    """
    row_ending_at: dict[tuple[str, int], int] = {}
    for row, pair in enumerate(pairs):
        place = pair.clip, pair.successor
        if place not in row_ending_at or pair.reference > pairs[row_ending_at[place]].reference:
            row_ending_at[place] = row
    return np.array([row_ending_at.get((c.pairs[0].clip, c.pairs[0].reference), -1) for c in chains], dtype=int)


def no_previous(num_prompts: int) -> Frames:
    """`Prompts.previous` where the frames before the references are unknown."""
    joints = num_prompts, 1, NUM_JOINTS
    poses = Poses(np.zeros((*joints, 2)), np.zeros(joints, bool))
    return Frames({"coords": poses}, np.zeros((num_prompts, 1), bool))


def prompt_of_nothing(table: ModalityTable, num_frames: int) -> Prompts:
    """One prompt with nothing given: unconditional generation."""
    chain = PairChain((), (PairInfo(NOTHING, NOTHING, 0, 0, None, None),))
    previous = no_previous(1) if "coords" in frame_modalities(table) else None
    tokens, history = (no_tokens(table, (1, num)) for num in (num_frames + 1, 1))
    return Prompts([chain], tokens, history, np.zeros(1, np.int64), previous)


def with_generated_reference(truth: Frames, predicted: Frames) -> Frames:
    """The truth with the partly generated reference of the roll-outs, from which baselines then start."""

    def replaced(true: Any, made: Any) -> Any:
        if hasattr(true, "__array__"):
            return np.concatenate([made[:, :1], true[:, 1:]], 1)
        # a record of arrays, such as Poses
        return replace(true, **{f.name: replaced(getattr(true, f.name), getattr(made, f.name)) for f in fields(true)})

    return replace(truth, values={name: replaced(true, predicted.values[name]) for name, true in truth.values.items()})
