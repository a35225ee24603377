"""Which pair goes to train, eval or test."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from m3.core.rng import numpy_generator

SPLITS = ("train", "eval", "test")

Unit = TypeVar("Unit", bound=Hashable)


@dataclass(frozen=True)
class ClipPairs:
    """What a splitter needs of a clip.

    clip: its id.
    num_pairs: at least 1.
    is_train: the source's own flag, or None.
    video, is_eval: see `m3.core.types.Clip`.
    """

    clip: str
    num_pairs: int
    is_train: bool | None
    video: str | None = None
    is_eval: bool = False


PairRef = tuple[str, int]
"""A clip's id and the index of a pair in it."""


class Splitter(Protocol):
    """Divides all pairs among the splits."""

    def check(self, num_clips: int) -> None:
        """Raises ValueError, before any work, where so few clips cannot fill the splits."""
        ...

    def split(self, clips: Sequence[ClipPairs]) -> dict[str, list[PairRef]]:
        """Each pair once, in the order in which the pairs are stored."""
        ...


def split_output_dataset(
    units: Sequence[Unit], ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 42
) -> dict[str, list[Unit]]:
    """Shuffle the units and cut them into train, eval and test.

    Sizes are ratio · number of units, rounded so that they add up (largest remainders first), but at least 1 where
    the ratio is positive. Raises ValueError where there are fewer units than splits to fill.
    """
    _check_ratios(ratios)
    num_wanted = sum(ratio > 0 for ratio in ratios)
    if len(units) < num_wanted:
        raise ValueError(
            f"split.ratios={list(ratios)} asks for {num_wanted} splits, but there are only {len(units)} clips or pairs "
            "to fill them: give more clips, or set a ratio to 0 (split.ratios=[1,0,0])"
        )
    sizes = [math.floor(ratio * len(units)) for ratio in ratios]
    by_remainder = sorted(range(len(sizes)), key=lambda k: (sizes[k] - ratios[k] * len(units), k))
    for k in by_remainder[: len(units) - sum(sizes)]:
        sizes[k] += 1
    for k, ratio in enumerate(ratios):
        if ratio > 0 and not sizes[k]:
            sizes[k] += 1
            sizes[sizes.index(max(sizes))] -= 1
    order = iter(numpy_generator(seed, "split").permutation(len(units)))
    return {name: [units[next(order)] for _ in range(size)] for name, size in zip(SPLITS, sizes)}


class RandomSplit:
    """Clips, or single pairs, shuffled and cut.

    Args:
        unit: "clip" keeps all pairs of a clip in one split, so that nothing leaks from train to test; "pair" is the
            published recipe.
        ratios: of train, eval and test; they sum to 1.
        seed: of the shuffle.
    """

    def __init__(self, unit: Literal["clip", "pair"], ratios: Sequence[float], seed: int) -> None:
        if unit not in ("clip", "pair"):
            raise ValueError(f"split.unit={unit!r}: choose clip or pair (or split=official)")
        _check_ratios(ratios)
        self.unit = unit
        self.ratios = tuple(ratios)
        self.seed = seed

    def check(self, num_clips: int) -> None:
        if self.unit == "clip":
            split_output_dataset(range(num_clips), self.ratios, self.seed)

    def split(self, clips: Sequence[ClipPairs]) -> dict[str, list[PairRef]]:
        if self.unit == "pair":
            return split_output_dataset(_pair_refs(clips), self.ratios, self.seed)
        return _divided(clips, self.ratios, self.seed)


class OfficialSplit:
    """The data set's own train flag; eval are the training clips that it sets apart, or else a part of them.

    Args:
        eval_ratio: where it sets none apart, share of the clips flagged train that becomes eval, in (0, 1).
        seed: of the choice of eval clips.
    """

    def __init__(self, eval_ratio: float, seed: int) -> None:
        if not 0 < eval_ratio < 1:
            raise ValueError(f"split.eval_ratio={eval_ratio}: need a number between 0 and 1")
        self.eval_ratio = eval_ratio
        self.seed = seed

    def check(self, num_clips: int) -> None:
        if num_clips < len(SPLITS):
            raise ValueError(f"split=official needs at least {len(SPLITS)} clips, the source has {num_clips}")

    def split(self, clips: Sequence[ClipPairs]) -> dict[str, list[PairRef]]:
        unflagged = [clip.clip for clip in clips if clip.is_train is None]
        if unflagged:
            raise ValueError(f"split=official: clip {unflagged[0]} has no train flag; choose split=clip")
        train, test = [c for c in clips if c.is_train], [c for c in clips if not c.is_train]
        if len(train) < 2 or not test:
            raise ValueError(
                f"split=official: {len(train)} usable train and {len(test)} test clips cannot fill train, eval and "
                "test; use more clips (source.max_clips) or choose split=clip"
            )
        if own_eval := [clip for clip in train if clip.is_eval]:
            rest = [clip for clip in train if not clip.is_eval]
            if not rest:
                raise ValueError("split=official: all training clips are set apart for evaluation; choose split=clip")
            return {"train": _pair_refs(rest), "eval": _pair_refs(own_eval), "test": _pair_refs(test)}
        divided = _divided(train, (1 - self.eval_ratio, self.eval_ratio, 0), self.seed)
        return {**divided, "test": _pair_refs(test)}


def _divided(clips: Sequence[ClipPairs], ratios: Sequence[float], seed: int) -> dict[str, list[PairRef]]:
    """The pairs of the splits; all clips of a video are in the same one."""
    videos: dict[tuple[bool, str], list[ClipPairs]] = {}
    for clip in clips:
        videos.setdefault((clip.video is None, clip.video or clip.clip), []).append(clip)
    divided = split_output_dataset(list(videos), ratios, seed)
    return {name: _pair_refs([clip for key in keys for clip in videos[key]]) for name, keys in divided.items()}


def _pair_refs(clips: Sequence[ClipPairs]) -> list[PairRef]:
    return [(clip.clip, pair) for clip in clips for pair in range(clip.num_pairs)]


def _check_ratios(ratios: Sequence[float]) -> None:
    if len(ratios) != len(SPLITS) or any(not 0 <= ratio <= 1 for ratio in ratios) or abs(sum(ratios) - 1) > 1e-9:
        raise ValueError(
            f"split.ratios={list(ratios)}: need numbers from 0 to 1 that sum to 1, for {', '.join(SPLITS)}"
        )
