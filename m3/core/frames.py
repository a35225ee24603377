"""Frames of roll-outs, as tokens and decoded, and the chains of pairs that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3.core.types import PairInfo

NOTHING = "nothing"
"""Key and clip of a pair that nobody gave anything of."""


@dataclass(frozen=True)
class Chain:
    """Pairs of one clip, each one's successor frame being the next one's reference frame.

    rows: of the token table. Row k − 1 ends at horizon k, so the truth reaches to horizon len(rows).
    pairs: of the same rows. A reference without a truth has no rows and one pair, which ends where it begins.
    """

    rows: tuple[int, ...]
    pairs: tuple[PairInfo, ...]

    @property
    def title(self) -> str:
        """What a caption says of it: "golf swing · clip 0934, frame 12"."""
        first = self.pairs[0]
        if first.key == NOTHING:
            return "from nothing"
        action = f"{first.action.replace('_', ' ')} · " if first.action else ""
        return f"{action}clip {first.clip}, frame {first.reference}"


@dataclass(frozen=True)
class TokenFrames:
    """Frames as tokens: N samples of a reference frame (index 0) and its T successors (horizons 1 … T).

    tok_rgb: (N, T + 1, L) int64; L is 0 with a model that knows no pictures.
    coords: (N, T + 1, 39) int64, zeros (invisible) with a model that knows no joints.
    is_present: (N, T + 1) bool, False at horizons that the truth does not reach; ids are 0 there.
    """

    tok_rgb: np.ndarray
    coords: np.ndarray
    is_present: np.ndarray

    def samples(self, rows: Sequence[int]) -> TokenFrames:
        """The frames of some samples, in that order."""
        chosen = list(rows)
        return TokenFrames(self.tok_rgb[chosen], self.coords[chosen], self.is_present[chosen])

    def still(self) -> TokenFrames:
        """The baseline: every successor is the reference frame."""
        return TokenFrames(_repeat(self.tok_rgb), _repeat(self.coords), self.is_present)


def _repeat(values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values[:, :1], values.shape)


@dataclass(frozen=True)
class Frames:
    """`TokenFrames`, decoded: what a person sees and what is scored.

    pictures: (N, T + 1, H, W, 3) uint8 RGB, black where not present.
    xy: (N, T + 1, 13, 2) float64 canvas pixels.
    is_visible: (N, T + 1, 13) bool.
    is_present: (N, T + 1) bool.
    """

    pictures: np.ndarray
    xy: np.ndarray
    is_visible: np.ndarray
    is_present: np.ndarray

    def samples(self, rows: Sequence[int]) -> Frames:
        """The frames of some samples, in that order."""
        chosen = list(rows)
        return Frames(self.pictures[chosen], self.xy[chosen], self.is_visible[chosen], self.is_present[chosen])


def nothing_moves(frames: Frames) -> Frames:
    """The baseline: every successor is the reference frame, its picture and its joints."""
    return Frames(_repeat(frames.pictures), _repeat(frames.xy), _repeat(frames.is_visible), frames.is_present)
