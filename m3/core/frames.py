"""Frames keyed by modality, as tokens and decoded, and the chains of pairs that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m3.core.modalities import CLIP_MODALITIES, ModalityTable, frame_of, successor_of
from m3.core.types import PairInfo

NOTHING = "nothing"
"""Key and clip of a pair of which nothing is given: unconditional generation."""


def frame_modalities(table: ModalityTable) -> list[str]:
    """The modalities of a frame, in the order of the table: "coords" for "coords", for "coords_next", and for both."""
    return list(dict.fromkeys(frame_of(name)[0] for name in table.modalities))


def rolled_modalities(table: ModalityTable) -> dict[str, str]:
    """Modality of a frame → the modality of the successor that a roll-out generates for it, and then feeds back.

    These are the modalities that the table has in the reference and in the successor. Joints follow from their
    displacement where the table has it: "coords" → "motion_next".
    """
    rolled = {}
    for name in frame_modalities(table):
        if name not in table.modalities or name in CLIP_MODALITIES:
            continue
        if name == "coords" and "motion_next" in table.modalities:
            rolled[name] = "motion_next"
        elif (later := successor_of(name)) in table.modalities:
            rolled[name] = later
            lengths = [table.max_seq_lens[table.index(each)] for each in (name, later)]
            if lengths[0] != lengths[1]:
                raise ValueError(f"modalities.max_seq_lens: {lengths[0]} for {name}, but {lengths[1]} for {later}")
    return rolled


def frame_length(table: ModalityTable, name: str) -> int:
    """L: tokens of a frame's modality, which the table may have in any of the frames."""
    return table.max_seq_lens[table.index(first_of(table, name))]


def first_of(table: ModalityTable, name: str) -> str:
    """The first modality of the table that is a frame's modality `name` in some frame."""
    return next(modality for modality in table.modalities if frame_of(modality)[0] == name)


@dataclass(frozen=True)
class PairChain:
    """Pairs of one clip, each pair's successor frame being the reference frame of the next.

    rows: of the token table. Row k − 1 ends at horizon k, so the truth reaches to horizon len(rows).
    pairs: of the same rows. A reference without a truth has no rows and one pair, which ends where it begins.
    """

    rows: tuple[int, ...]
    pairs: tuple[PairInfo, ...]

    @property
    def title(self) -> str:
        """A caption: "golf swing · clip 0934, frame 12"."""
        first = self.pairs[0]
        if first.key == NOTHING:
            return "from nothing"
        action = f"{first.action.replace('_', ' ')} · " if first.action else ""
        return f"{action}clip {first.clip}, frame {first.reference}"


@dataclass(frozen=True)
class TokenFrames:
    """N sequences of a reference frame (index 0) and its T successors (horizons 1 … T), as tokens.

    ids: modality of a frame → (N, T + 1, L) int64; 0 where unknown. A transition ("motion", "gap") is that which ends
        at the frame; modalities of the clip ("action") are the same at all frames.
    is_known: modality → (N, T + 1, L) bool, True where a token is annotated, given or generated.
    is_present: (N, T + 1) bool, False at horizons without ground truth, and for the reference when generation is
        unconditional.
    """

    ids: Mapping[str, np.ndarray]
    is_known: Mapping[str, np.ndarray]
    is_present: np.ndarray

    def __getitem__(self, index: Any) -> TokenFrames:
        """Some sequences and frames, by NumPy indices of the first one or two dimensions that keep both."""
        ids, is_known = ({name: each[index] for name, each in part.items()} for part in (self.ids, self.is_known))
        return TokenFrames(ids, is_known, self.is_present[index])


def no_tokens(table: ModalityTable, shape: tuple[int, int]) -> TokenFrames:
    """Frames of shape (N, T + 1) of which nothing is known, of the modalities of a table."""
    lengths = {name: frame_length(table, name) for name in frame_modalities(table)}
    ids = {name: np.zeros((*shape, length), np.int64) for name, length in lengths.items()}
    return TokenFrames(ids, {name: np.zeros(each.shape, bool) for name, each in ids.items()}, np.zeros(shape, bool))


@dataclass(frozen=True)
class Poses:
    """Decoded joint tokens. xy: (…, 13, 2) float64 canvas pixels. is_visible: (…, 13) bool."""

    xy: np.ndarray
    is_visible: np.ndarray

    def __getitem__(self, index: Any) -> Poses:
        """Some poses, by NumPy indices of the leading dimensions."""
        return Poses(self.xy[index], self.is_visible[index])


@dataclass(frozen=True)
class Frames:
    """Decoded frames, which are drawn and scored.

    values: modality → value with leading dimensions (N, T + 1) that can be indexed like an array: `Poses` for joints,
        (N, T + 1, H, W, 3) uint8 RGB for pictures, black where not present. A modality that nothing decodes is absent.
    is_present: (N, T + 1) bool.
    tokens: that the values were decoded from; None for frames without tokens, such as real pictures.
    """

    values: Mapping[str, Any]
    is_present: np.ndarray
    tokens: TokenFrames | None = field(default=None)

    def __getitem__(self, index: Any) -> Frames:
        """Some sequences and frames, by NumPy indices of the first one or two dimensions that keep both."""
        values = {name: value[index] for name, value in self.values.items()}
        return Frames(values, self.is_present[index], None if self.tokens is None else self.tokens[index])

    def still(self) -> Frames:
        """The baseline "nothing moves": every successor is the reference frame."""
        reference = np.zeros(self.is_present.shape[1], int)
        copied = self[:, reference]
        tokens = None if copied.tokens is None else TokenFrames(copied.tokens.ids, copied.tokens.is_known,
                                                                self.is_present)  # fmt: skip
        return Frames(copied.values, self.is_present, tokens)
