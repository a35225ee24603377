"""Randomness as a pure function: (seed, epoch, sample) → numbers, never of rank, worker or batch.

Only the initial weights of a model depend on a global random state, which train.py seeds. NumPy code uses
`numpy_generator`; batched torch code uses a `SampleGenerator`, whose row b depends only on the seed and the identity of
sample b.
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
    """A generator for a tuple of labels (a clip's id, an epoch, …); other labels give an independent one."""
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
        seed: seed of the run; any integer, 0 included.
        purpose: a word that gives each stage its own streams ("budgets", "sampling").
        sample: (B,) int64 identities; equal identities get equal streams in every batch.
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
        """The streams of some samples, continued from their current state. index: (B',) int64 rows."""
        return self._with_state(self._state[index])

    def fork(self, purpose: str) -> SampleGenerator:
        """Independent streams of the same samples; drawing from them does not advance these."""
        return self._with_state(_mix(self._state + zlib.crc32(purpose.encode())))

    @staticmethod
    def _with_state(state: Tensor) -> SampleGenerator:
        generator = object.__new__(SampleGenerator)
        generator._state = state
        return generator
