"""Randomness as a pure function: (seed, epoch, sample) → numbers, never of rank, worker or batch.

Nothing touches a global random state but the first weights of a model, for which train.py seeds torch. NumPy code
asks `numpy_generator`; batched torch code carries a `SampleGenerator`, whose row b depends on nothing but the seed and
the identity of sample b.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2⁶⁴ / golden ratio, as a signed 64-bit integer
_MIX_1 = -0x40A7B892E31B1A47
_MIX_2 = -0x6B2FB644ECCEEE15


def numpy_generator(seed: int, *labels: int | str) -> np.random.Generator:
    """An independent generator for each tuple of labels (a clip's id, an epoch, …)."""
    words = [label if isinstance(label, int) else zlib.crc32(label.encode()) for label in labels]
    return np.random.default_rng([seed, *words])


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) on int64, which wraps like uint64."""
    return _mix_in_place(x.clone())


def _mix_in_place(x: Tensor) -> Tensor:
    for shift, kept, factor in ((30, 0x3FFFFFFFF, _MIX_1), (27, 0x1FFFFFFFFF, _MIX_2)):
        x ^= (x >> shift).bitwise_and_(kept)
        x *= factor
    x ^= (x >> 31).bitwise_and_(0x1FFFFFFFF)
    return x


class SampleGenerator:
    """B independent SplitMix64 streams, one per sample, advanced together.

    Args:
        seed: of the run; any integer, 0 included.
        purpose: a word that keeps the draws of different stages apart ("budgets", "sampling").
        sample: (B,) int64 identities; equal identities get equal streams, in whatever batch they stand.
        epoch: (B,) int64 or an int, a second identity.
    """

    def __init__(self, seed: int, purpose: str, sample: Tensor, epoch: Tensor | int = 0) -> None:
        key = torch.full_like(sample, seed) * _GOLDEN + zlib.crc32(purpose.encode())
        if not isinstance(epoch, Tensor):
            epoch = torch.full_like(sample, epoch)
        key = _mix(key) + epoch * _GOLDEN
        self._state = _mix(_mix(key) + sample * _GOLDEN)  # (B,)

    def bits(self, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform over all 2⁶⁴ values."""
        count = int(np.prod(shape, dtype=np.int64))
        steps = torch.arange(count + 1, device=self._state.device) * _GOLDEN
        drawn = _mix_in_place(self._state[:, None] + steps[1:])  # (B, count)
        self._state = self._state + steps[-1]
        return drawn.view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float64 in the open interval (0, 1)."""
        return (self.bits(*shape) >> 12).bitwise_and_(0xFFFFFFFFFFFFF).double().add_(0.5).mul_(2.0**-52)

    @property
    def device(self) -> torch.device:
        return self._state.device

    def rows(self, index: Tensor) -> SampleGenerator:
        """The streams of some samples, continuing where they stand; `index`: (B',) int64."""
        return self._with_state(self._state[index])

    def fork(self, purpose: str) -> SampleGenerator:
        """Other streams of the same samples, whose draws leave this generator's as they are."""
        return self._with_state(_mix(self._state + zlib.crc32(purpose.encode())))

    @staticmethod
    def _with_state(state: Tensor) -> SampleGenerator:
        generator = object.__new__(SampleGenerator)
        generator._state = state
        return generator
