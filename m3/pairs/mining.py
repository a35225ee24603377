"""Pair miners: they choose the successor frame of each reference frame of a clip, and the frame before both.

That previous frame is as far from the reference as the successor is, or the reference before it in a chain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import cycle, islice

import numpy as np

from m3.core.types import FramePair
from m3.pairs.ssim import FastSsim, Moments, exact_ssim, gray_picture

SSIM_DIGITS = 6
"""Decimals of a stored SSIM."""

MAX_STEPS = 100
"""Of one `Stride`."""


class _SsimMiner(ABC):
    """The successor of a reference is the first later frame whose SSIM with it is below a threshold.

    Pairs and their SSIM are exactly those of scikit-image: a faster SSIM only skips frames that are clearly above the
    threshold.

    Args:
        threshold: SSIM below which a frame counts as different, in (0, 1].
        max_pairs_per_clip: at most that many pairs, from the clip's start; None for all.

    Raises ValueError for other values.
    """

    needs_pictures = True
    tie_margin = 1e-3
    """The fast SSIM decides only at or above the threshold plus this margin. On filmed frames the two SSIM differ by
    about 1e-7; on pictures constructed so that rounding errors do not average out, by up to 3e-4."""

    def __init__(self, threshold: float, max_pairs_per_clip: int | None = None) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"pairs.threshold={threshold}: need 0 < threshold <= 1, for SSIM is at most 1")
        _check_max_pairs(max_pairs_per_clip)
        self.threshold = threshold
        self.max_pairs_per_clip = max_pairs_per_clip

    def pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        """Pairs of a clip's frames, ordered by reference frame; SSIM rounded to 6 digits."""
        return islice(self._all_pairs(frames), self.max_pairs_per_clip)

    @abstractmethod
    def _all_pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]: ...

    def _ssim_if_different(self, fast_ssim: FastSsim, a: Moments, b: Moments) -> float | None:
        """SSIM of two frames if it is below the threshold, else None."""
        if fast_ssim(a, b) >= self.threshold + self.tie_margin:
            return None
        similarity = exact_ssim(a.picture, b.picture)
        return round(similarity, SSIM_DIGITS) if similarity < self.threshold else None


class Chain(_SsimMiner):
    """Each successor is the next reference, the previous frame is the last reference.

    Frames are read once, in order, and a pair's successor was read last.
    """

    def _all_pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        first = gray_picture(frames[0])
        fast_ssim = FastSsim(first.shape)
        reference, candidate, reference_index, previous = fast_ssim.empty(), fast_ssim.empty(), 0, None
        fast_ssim.fill(reference, first)
        for index in range(1, len(frames)):
            fast_ssim.fill(candidate, gray_picture(frames[index]))
            similarity = self._ssim_if_different(fast_ssim, reference, candidate)
            if similarity is not None:
                yield FramePair(reference_index, index, similarity, previous)
                reference, candidate, reference_index, previous = candidate, reference, index, reference_index


class Dense(_SsimMiner):
    """Every frame is a reference once; a frame without a successor gives no pair.

    The previous frame is as many frames before the reference as the successor is after it.

    References are processed in blocks: one pass over the frames compares each with all references of the block that
    have no successor yet, so that a frame is decoded once per block and not once per reference.
    """

    max_bytes = 2**28
    """Memory for the references of a block, bytes; a block has at least one reference."""

    def _all_pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        size = frames[0].shape[:2]
        fast_ssim = FastSsim(size)
        block = max(1, self.max_bytes // fast_ssim.bytes_per_frame)
        for start in range(0, len(frames) - 1, block):
            references = range(start, min(start + block, len(frames) - 1))
            yield from self._pairs_of_block(frames, references, fast_ssim)

    def _pairs_of_block(
        self, frames: Sequence[np.ndarray], references: range, fast_ssim: FastSsim
    ) -> Iterator[FramePair]:
        waiting: dict[int, Moments] = {}  # references without a successor yet
        found: dict[int, FramePair] = {}
        free: list[Moments] = []
        for index in range(references.start, len(frames)):
            candidate = free.pop() if free else fast_ssim.empty()
            fast_ssim.fill(candidate, gray_picture(frames[index]))
            for reference, moments in list(waiting.items()):
                similarity = self._ssim_if_different(fast_ssim, moments, candidate)
                if similarity is not None:
                    found[reference] = FramePair(reference, index, similarity, _mirrored(reference, index))
                    free.append(waiting.pop(reference))
            if index in references:
                waiting[index] = candidate
            else:
                free.append(candidate)
            if not waiting:
                break
        yield from (found[reference] for reference in references if reference in found)


class Stride:
    """The successor is a fixed number of frames after its reference, the previous frame as many before it.

    Pictures are not read.

    Args:
        step: a number of frames, or a fraction of the last frame's index ("1/17" or 0.25), rounded down to at least
            one frame. Several numbers of frames: the references take them in turn, so that of "every" frame n has
            step[n % len(step)].
        starts: "every": each frame that has a successor is a reference; "chain": each successor is the next reference.
        max_pairs_per_clip: at most that many pairs, from the clip's start; None for all.

    Raises ValueError for other values.
    """

    needs_pictures = False

    def __init__(
        self,
        step: int | float | str | Sequence[int],
        starts: str = "every",
        max_pairs_per_clip: int | None = None,
    ) -> None:
        self._steps = _parse_steps(step)
        if starts not in ("every", "chain"):
            raise ValueError(f"pairs.starts={starts}: need every or chain")
        _check_max_pairs(max_pairs_per_clip)
        self.step = step
        self.starts = starts
        self.max_pairs_per_clip = max_pairs_per_clip

    def pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        """Pairs in order of their reference frames, without SSIM. Only the length of `frames` is read."""
        return islice(self._all_pairs(len(frames) - 1), self.max_pairs_per_clip)

    def _all_pairs(self, last: int) -> Iterator[FramePair]:
        """last: index of the last frame."""
        reference, in_turn = 0, cycle([int(step) if step >= 1 else max(1, int(step * last)) for step in self._steps])
        while reference < last:
            step = next(in_turn)
            if (successor := reference + step) <= last:
                yield FramePair(reference, successor, None, _mirrored(reference, successor))
            reference = reference + 1 if self.starts == "every" else successor


def _mirrored(reference: int, successor: int) -> int | None:
    """The frame as far before the reference as the successor is after it, or None before the clip's start."""
    previous = 2 * reference - successor
    return previous if previous >= 0 else None


def _parse_steps(step: int | float | str | Sequence[int]) -> list[Fraction]:
    if isinstance(step, str) or not isinstance(step, Sequence):
        return [_parse_step(step)]
    if not 0 < len(step) <= MAX_STEPS or not all(type(each) is int and each > 0 for each in step):
        raise ValueError(f"pairs.step={[*step]}: need 1 to {MAX_STEPS} whole numbers of frames")
    return [Fraction(each) for each in step]


def _parse_step(step: int | float | str) -> Fraction:
    """The exact decimal value: 0.3 is 3/10, not the nearest binary number."""
    try:
        value = Fraction(str(step))
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0 or (value > 1 and value.denominator > 1):
        raise ValueError(
            f"pairs.step={step}: need a whole number of frames, or a fraction of the clip between 0 and 1 such as 1/17"
        )
    return value


def _check_max_pairs(max_pairs_per_clip: int | None) -> None:
    if max_pairs_per_clip is not None and max_pairs_per_clip < 1:
        raise ValueError(f"pairs.max_pairs_per_clip={max_pairs_per_clip}: need at least 1, or null for all")
