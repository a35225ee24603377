"""From logits to ids: temperature, top-k, top-p, then a pick from the ids that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from m3.core.modalities import DISPLACEMENT_SIDE, NOT_SEEN
from m3.sampling.settings import ORDINAL_PICKS, DecodingConfig, Pick
from m3.tokens.displacement import decode_displacement, encode_displacement, position_to_displacement

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


def log_probability(
    logits: Sequence[Tensor], digits: Sequence[Tensor], is_part: Sequence[Tensor | None] | None = None
) -> Tensor:
    """(R,) float64: of the digits, summed over them, under the distribution of the logits at temperature 1.

    is_part: for each digit (R,) bool, False where it does not belong to the id (`FactorizedHead.is_predicted`), or
        None where it always does; None for all.
    """
    total = torch.zeros(len(digits[0]), dtype=torch.float64, device=digits[0].device)
    for each, digit, belongs in zip(logits, digits, is_part or [None] * len(digits)):
        each = _as_float(each)
        log_share = (each.gather(1, digit[:, None])[:, 0] - each.logsumexp(-1)).double()
        total += log_share if belongs is None else log_share * belongs
    return total


def propose_displacements(
    logits: Sequence[Tensor], uniform: Tensor, temperature: Tensor, scheme: DecodingConfig
) -> tuple[Tensor, Tensor]:
    """Choose the displacements of R joints.

    "mean" and "median" read out each axis given that the joint is seen, not rounded to cells (a median is interpolated
    within its cell), and whether it is seen as the more probable of both. "sample" and "argmax" take ids, as
    `sample_digits` does, and their cells' middles; a joint that is not seen moves by its median.

    Args:
        logits: of a head that predicts cell along x (R, 65), cell along y (R, 65) and not seen (R, 2), or the one
            (R, 4,226) tensor of a flat head.
        uniform, temperature: as for `sample_digits`.

    Returns:
        (R,) int64 ids, and (R, 2) float64 displacements in sides of the pose's box, x then y.
    """
    *along_axes, is_unseen = _displacement_marginals(logits)
    pick = scheme.pick if scheme.pick in ORDINAL_PICKS and not scheme.is_greedy else "median"
    moved = torch.stack([_ordinal_displacement(each, temperature, scheme, pick) for each in along_axes], 1)
    if pick == scheme.pick:
        return encode_displacement(moved, is_unseen.argmax(1) == 0), moved
    digits = sample_digits(logits, uniform, temperature, scheme)
    ids = digits[0]
    if len(digits) == 3:
        ids = torch.where(digits[2] > 0, NOT_SEEN, digits[0] + DISPLACEMENT_SIDE * digits[1])
    middle, is_seen = decode_displacement(ids)
    return ids, torch.where(is_seen[:, None], middle, moved)


def digit_marginals(logits: Tensor, levels: Sequence[int]) -> tuple[Tensor, ...]:
    """(R, prod(levels)) logits of ids → one (R, level) for each digit, least significant first."""
    of_digits = _as_float(logits).unflatten(1, tuple(reversed(levels)))  # (R, L_last, …, L_first)
    others = [[d for d in range(1, len(levels) + 1) if d != len(levels) - k] for k in range(len(levels))]
    return tuple(of_digits.logsumexp(dims) for dims in others)


def _displacement_marginals(logits: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the cells along x and along y, given that the joint is seen, and of its not being seen."""
    if len(logits) == 3:
        along_x, along_y, is_unseen = map(_as_float, logits)
        return along_x, along_y, is_unseen
    each = _as_float(logits[0])
    cells = each[:, :NOT_SEEN].unflatten(1, (DISPLACEMENT_SIDE, DISPLACEMENT_SIDE))  # (R, y, x)
    is_unseen = torch.stack([cells.flatten(1).logsumexp(1), each[:, NOT_SEEN]], 1)
    return cells.logsumexp(1), cells.logsumexp(2), is_unseen


def _ordinal_displacement(logits: Tensor, temperature: Tensor, scheme: DecodingConfig, pick: Pick) -> Tensor:
    """(R, 65) logits of the cells along an axis → (R,) float64 mean or median."""
    weights = _kept_weights(logits, temperature, scheme).double()
    weights = weights / weights.sum(1, keepdim=True)
    if pick == "mean":
        middle = torch.arange(weights.shape[1], dtype=torch.float64, device=weights.device) + 0.5
        return weights @ position_to_displacement(middle)
    cumulative = weights.cumsum(1)
    cell = (cumulative < 0.5).sum(1, keepdim=True).clamp(max=weights.shape[1] - 1)
    own = weights.gather(1, cell)
    before = cumulative.gather(1, cell) - own
    return position_to_displacement((cell + (0.5 - before) / own.clamp(min=1e-12))[:, 0])


def _as_float(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _pick(logits: Tensor, uniform: Tensor, temperature: Tensor, scheme: DecodingConfig) -> Tensor:
    """(R, V) logits, (R,) uniform numbers and temperatures → (R,) int64 ids."""
    if scheme.is_greedy:
        return logits.argmax(-1)
    weights = _kept_weights(logits, temperature, scheme)
    if scheme.pick == "mean":
        ids = torch.arange(weights.shape[1], dtype=torch.float64, device=weights.device)
        return (weights.double() @ ids / weights.sum(-1, dtype=torch.float64)).round().long()
    return _quantile(weights, uniform if scheme.pick == "sample" else torch.full_like(uniform, 0.5))


def _kept_weights(logits: Tensor, temperature: Tensor, scheme: DecodingConfig) -> Tensor:
    """(R, V) probabilities up to a factor, 0 for ids that top_k and top_p leave out."""
    divisor = temperature.clamp(min=_COLDEST).to(logits.dtype)[:, None]
    relative = logits - logits.amax(-1, keepdim=True)
    weights = (relative / divisor).exp_()
    if scheme.top_k is not None or scheme.top_p < 1:
        counted = weights if scheme.top_p_order == "after_temperature" else relative.exp()
        weights = weights * (counted >= _smallest_kept(counted, scheme.top_k, scheme.top_p))
    return weights


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
