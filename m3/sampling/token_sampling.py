"""From logits to ids: temperature, top-k, top-p, then a pick from the ids that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from m3.sampling.settings import DecodingConfig

_COLDEST = 1e-30  # lower temperatures are raised to this, to avoid a division by 0
_BLOCK = 256  # ids whose probabilities are summed at once in a search
_FIRST_LOOK = 1024  # this many likeliest ids usually contain top_p; sorting all of 64,000 takes 20 times as long


def sample_digits(
    logits: Sequence[Tensor], uniform: Tensor, temperature: Tensor, scheme: DecodingConfig
) -> tuple[Tensor, ...]:
    """Choose each digit of R tokens.

    Args:
        logits: one (R, V_d) float tensor for each digit, of legal ids only.
        uniform: (R, at least one per digit) float64 in (0, 1).
        temperature: (R,) float64, positive; not read by greedy schemes.

    Returns:
        One (R,) int64 per digit. A row's choice depends on no other row.
    """
    return tuple(_pick(_as_float(each), uniform[:, d], temperature, scheme) for d, each in enumerate(logits))


def log_probability(logits: Sequence[Tensor], digits: Sequence[Tensor]) -> Tensor:
    """(R,) float64: of the digits, summed over them, under the distribution of the logits at temperature 1."""
    total = torch.zeros(len(digits[0]), dtype=torch.float64, device=digits[0].device)
    for each, digit in zip(logits, digits):
        each = _as_float(each)
        total += (each.gather(1, digit[:, None])[:, 0] - each.logsumexp(-1)).double()
    return total


def _as_float(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _pick(logits: Tensor, uniform: Tensor, temperature: Tensor, scheme: DecodingConfig) -> Tensor:
    """(R, V) logits, (R,) uniform numbers and temperatures → (R,) int64 ids."""
    if scheme.is_greedy:
        return logits.argmax(-1)
    divisor = temperature.clamp(min=_COLDEST).to(logits.dtype)[:, None]
    weights = (logits - logits.amax(-1, keepdim=True)).div_(divisor).exp_()  # probabilities up to a factor
    if scheme.top_k is not None or scheme.top_p < 1:
        weights = weights * (weights >= _smallest_kept(weights, scheme.top_k, scheme.top_p))
    if scheme.pick == "mean":
        ids = torch.arange(weights.shape[1], dtype=torch.float64, device=weights.device)
        return (weights.double() @ ids / weights.sum(-1, dtype=torch.float64)).round().long()
    return _quantile(weights, uniform if scheme.pick == "sample" else torch.full_like(uniform, 0.5))


def _smallest_kept(weights: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """(R, 1): the smallest of the R rows' weights that top_k and then top_p keep.

    A threshold, so that which ids stay does not depend on how ties are sorted.
    """
    width = weights.shape[1]
    if top_k is not None:
        ordered = weights.topk(min(top_k, width)).values
        wanted = ordered.sum(-1, dtype=torch.float64) * top_p
    else:
        ordered = weights.topk(min(_FIRST_LOOK, width)).values
        wanted = weights.sum(-1, dtype=torch.float64) * top_p
        if (ordered.sum(-1, dtype=torch.float64) < wanted).any():
            ordered = weights.sort(dim=-1, descending=True).values
    if top_p == 1:
        return ordered[:, -1:]
    before = ordered.cumsum(-1, dtype=torch.float64) - ordered
    num_kept = (before < wanted[:, None]).sum(-1, keepdim=True).clamp(min=1)
    return ordered.gather(1, num_kept - 1)


def _quantile(weights: Tensor, level: Tensor) -> Tensor:
    """(R, V) weights ≥ 0, (R,) float64 levels in (0, 1) → (R,) int64: the first id whose cumulative weight exceeds this
    share of the row's sum. Its weight is positive.
    """
    if weights.shape[1] <= _BLOCK:
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        return _first_beyond(cumulative, level * cumulative[:, -1])
    if missing := -weights.shape[1] % _BLOCK:
        weights = F.pad(weights, (0, missing))
    blocks = weights.unflatten(1, (-1, _BLOCK))  # (R, V / 256, 256)
    cumulative = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = level * cumulative[:, -1]
    block = _first_beyond(cumulative, wanted)
    before = F.pad(cumulative, (1, 0)).gather(1, block[:, None])[:, 0]
    within = blocks[torch.arange(len(block), device=block.device), block].cumsum(-1, dtype=torch.float64)
    return block * _BLOCK + _first_beyond(within, wanted - before)


def _first_beyond(cumulative: Tensor, wanted: Tensor) -> Tensor:
    """The first index of each row whose cumulative sum exceeds `wanted`, or the closest to it."""
    total = cumulative[:, -1]
    # Strictly below the total, so that rounding never ends beyond the last id of positive weight.
    wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, wanted[:, None], right=True)[:, 0]
