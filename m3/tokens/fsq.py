"""Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505): six bounded numbers, each with a few levels.

A picture token is a mixed-radix number: with levels (8, 8, 8, 5, 5, 5) the weights of the digits are 1, 8, 64, 512,
2560 and 12800, digit 0 least significant, as in Cosmos-0.1 DI. Digit d with L levels encodes the value
(d − L//2) / (L//2): −1 … 0.75 for 8 levels, −1 … 1 for 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn

from m3.core.modalities import FSQ_LEVELS


def basis(levels: Sequence[int]) -> tuple[int, ...]:
    """The weight of each digit: (1, 8, 64, 512, 2560, 12800) for the levels of m3."""
    return tuple(accumulate(levels[:-1], mul, initial=1))


def ids_to_digits(ids: Tensor, levels: Sequence[int] = FSQ_LEVELS) -> Tensor:
    """(…) integer ids → (…, len(levels)) int64 digits. Raises ValueError for an id outside 0 … prod(levels) − 1."""
    radix = torch.tensor(levels, device=ids.device)
    weights = torch.tensor(basis(levels), device=ids.device)
    ids = ids.long()
    num_ids = int(radix.prod())
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < num_ids:
        raise ValueError(f"token ids {int(ids.min())} … {int(ids.max())}: legal ids are 0 … {num_ids - 1}")
    return ids.unsqueeze(-1) // weights % radix


def digits_of_legal(ids: Tensor, levels: Sequence[int] = FSQ_LEVELS) -> tuple[Tensor, ...]:
    """(…) int64 legal ids → len(levels) tensors (…) of digits, without a check that would wait for the device.

    The last digit of an illegal id is outside its levels, so that looking it up in a table fails.
    """
    *low, last = basis(levels)
    return (*(ids // weight % level for weight, level in zip(low, levels)), ids // last)


def digits_to_ids(digits: Tensor, levels: Sequence[int] = FSQ_LEVELS) -> Tensor:
    """(…, len(levels)) integer digits → (…) int64 ids. Raises ValueError for a digit outside 0 … level − 1."""
    radix = torch.tensor(levels, device=digits.device)
    weights = torch.tensor(basis(levels), device=digits.device)
    digits = digits.long()
    if bool(((digits < 0) | (digits >= radix)).any()):
        raise ValueError(f"digits must be in 0 … level − 1 for the levels {tuple(levels)}")
    return (digits * weights).sum(-1)


class FSQ(nn.Module):
    """Rounds (…, 6) numbers to the grid, with straight-through gradients. Has no weights."""

    middle: Tensor
    last: Tensor

    def __init__(self, levels: Sequence[int] = FSQ_LEVELS) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.register_buffer("middle", torch.tensor([float(level // 2) for level in levels]), persistent=False)
        self.register_buffer("last", torch.tensor([level - 1.0 for level in levels]), persistent=False)

    def bound(self, z: Tensor) -> Tensor:
        """(…, 6) numbers → numbers that round to −(L//2) … L − 1 − L//2; 0 → 0. An even L needs an offset of a half."""
        scale = self.last / 2 * (1 + 1e-3)
        offset = torch.where(self.last % 2 == 1, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / scale)) * scale - offset

    def round(self, levels: Tensor) -> Tensor:
        """(…, 6) numbers of `bound` → (…, 6) values on the grid, in [−1, 1]."""
        return (levels + (levels.round() - levels).detach()) / self.middle

    def forward(self, z: Tensor) -> Tensor:
        """(…, 6) float → (…, 6) values on the grid, in [−1, 1]."""
        return self.round(self.bound(z))

    def values_to_ids(self, values: Tensor) -> Tensor:
        """(…, 6) values on the grid → (…) int64 ids."""
        return digits_to_ids((values * self.middle + self.middle).round(), self.levels)

    def ids_to_values(self, ids: Tensor) -> Tensor:
        """(…) integer ids → (…, 6) float32 values on the grid. Raises ValueError for an illegal id."""
        return (ids_to_digits(ids, self.levels) - self.middle) / self.middle
