"""The orders in which the tokens of a modality are decided."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from m3.core.rng import SampleGenerator

Order = Callable[[SampleGenerator, int, int], Tensor]
"""(generator, B, L) → (B, L) float64: tokens are decided in ascending order of these numbers."""


def _random(generator: SampleGenerator, batch_size: int, length: int) -> Tensor:
    """Mizrahi et al., NeurIPS 2023."""
    return generator.fork("order").uniform(length)


def _ascending(generator: SampleGenerator, batch_size: int, length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64, device=generator.device).expand(batch_size, -1)


ORDERS: dict[str, Order | None] = {"maskgit": None, "roar": _random, "ar": _ascending}
"""Name → order. None: the confidence of a step's proposals decides (Chang et al., MaskGIT, CVPR 2022)."""
