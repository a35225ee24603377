"""Token budgets: the number of input and target tokens of each modality, from Dirichlet draws for a whole batch.

After 4M (Mizrahi et al., NeurIPS 2023, section 2.2), with its clamping ("drop") and a variant that preserves the drawn
total ("redistribute"). Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from m3.core.modalities import ModalityTable
from m3.core.rng import SampleGenerator
from m3.masking.dirichlet import argmax_probabilities, log_gamma_draws, num_uniforms


class _Side(NamedTuple):
    """Distribution of the input or of the target budgets for C alpha sets; tensors are on one device.

    low, num_totals: (C,) int64 smallest total, and number of totals from there on.
    alphas: (C, K) float64.
    winners: (C · 2^K, K) float64, row c · 2^K + bits: cumulative probabilities that a modality is the argmax of a draw
        among the open modalities, which are the set bits.
    num_uniforms: number of uniform numbers per gamma variate.
    """

    low: Tensor
    num_totals: Tensor
    alphas: Tensor
    winners: Tensor
    num_uniforms: int


class _BudgetDistribution(NamedTuple):
    """What `draw_budgets` needs of a modality table, on one device.

    lengths: (K,) int64. up_to: (C − 1,) float64 cumulative shares of the alpha sets of the mixture, without the last.
    bits: (K,) int64: 1, 2, 4 ….
    """

    lengths: Tensor
    up_to: Tensor
    bits: Tensor
    inputs: _Side
    targets: _Side


@lru_cache(maxsize=64)
def _distribution(table: ModalityTable, device: torch.device) -> _BudgetDistribution:
    with torch.inference_mode(False):  # cached, also for callers that train
        lengths = torch.tensor(table.max_seq_lens, device=device)
        sets = table.alpha_sets
        weights = torch.tensor([alpha_set.weight for alpha_set in sets], dtype=torch.float64)
        up_to = (weights.cumsum(0) / weights.sum())[:-1].to(device)
        sides = [
            _side([each.input_tokens_range for each in sets], tuple(each.input_alphas for each in sets), device),
            _side([each.target_tokens_range for each in sets], tuple(each.target_alphas for each in sets), device),
        ]
        return _BudgetDistribution(lengths, up_to, 2 ** torch.arange(table.num_modalities, device=device), *sides)


def _side(bounds: Sequence[Sequence[int]], alphas: tuple[tuple[float, ...], ...], device: torch.device) -> _Side:
    winners = torch.cat([torch.from_numpy(argmax_probabilities(row)) for row in alphas]).cumsum(1)
    total = winners[:, -1:]
    # The last open modality gets exactly 1, above every uniform number. Without open modalities nothing is drawn.
    winners = torch.where(total > 0, winners / total, 1.0)
    low, high = torch.tensor(bounds, device=device).T
    return _Side(
        low,
        high - low + 1,
        torch.tensor(alphas, dtype=torch.float64, device=device),
        winners.to(device),
        num_uniforms(alphas),
    )


def draw_budgets(
    generator: SampleGenerator, table: ModalityTable, batch_size: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Input and target budgets of B samples, one draw each.

    Args:
        lengths: (B, K) int64 tokens that each sample has of each modality, at most the table's, 0 where it lacks the
            modality, which is then treated as if its alphas were 0. None: the table's lengths.
    Returns:
        Two (B, K) int64 tensors. Their sum never exceeds a modality's length, each sums to at most its drawn total per
        sample, and is 0 for modalities with alpha 0. Inputs sum to 0 where a sample has no modality that its alpha set
        allows as input, targets where the inputs left no room; `m3.masking.select` draws such samples again.
    """
    dist = _distribution(table, generator.device)
    if len(dist.up_to):
        component = (generator.uniform(1) >= dist.up_to).sum(1)  # (B,) alpha set of each sample
    else:
        component = torch.zeros(batch_size, dtype=torch.int64, device=generator.device)
    room = dist.lengths.expand(batch_size, -1) if lengths is None else lengths
    is_there = room > 0
    is_drawn = (dist.inputs.alphas[component] > 0) | (dist.targets.alphas[component] > 0)  # (B, K)
    most = (room * is_drawn).sum(1) - 1  # inputs of a short sample leave a token for a target
    inputs = _draw_side(generator, dist, dist.inputs, component, room, is_there, most, table.clamped)
    targets = _draw_side(generator, dist, dist.targets, component, room - inputs, is_there, most, table.clamped)
    return inputs, targets


def _draw_side(
    generator: SampleGenerator,
    dist: _BudgetDistribution,
    side: _Side,
    component: Tensor,
    room: Tensor,
    is_there: Tensor,
    most: Tensor,
    clamped: str,
) -> Tensor:
    """Budgets (B, K) of one side, at most `room` (B, K), for the modalities where `is_there` (B, K).

    most: (B,) upper bound of their sum.
    """
    num_modalities = len(dist.lengths)
    num_rounds = num_modalities if clamped == "redistribute" else 1
    num_p = side.num_uniforms * num_modalities
    uniform = generator.uniform(1 + num_p + num_rounds * (num_modalities - 1))
    for_total, for_p, for_rounds = uniform.split([1, num_p, num_rounds * (num_modalities - 1)], dim=1)

    above_low = (for_total.squeeze(1) * side.num_totals[component]).long()
    total = torch.minimum(side.low[component] + above_low, most)  # (B,)
    alphas = side.alphas[component]  # (B, K)
    log_p = log_gamma_draws(for_p.unflatten(1, (side.num_uniforms, num_modalities)), alphas)  # (B, K), not normalized
    budget = torch.zeros_like(room)
    # The first round is the draw. Each further round places the whole excess or fills at least one more modality, so
    # that K − 1 further rounds always suffice.
    is_allowed = (alphas > 0) & is_there
    is_open = is_allowed
    for for_round in for_rounds.unflatten(1, (num_rounds, num_modalities - 1)).unbind(1):
        excess = (total - budget.sum(1)) * is_open.any(1)
        subset = component * 2**num_modalities + (is_open * dist.bits).sum(1)  # (B,)
        budget = torch.minimum(budget + _allocate(for_round, side.winners[subset], log_p, excess, is_open), room)
        is_open = is_allowed & (budget < room)
    return budget


def _allocate(uniform: Tensor, winners: Tensor, log_p: Tensor, total: Tensor, is_open: Tensor) -> Tensor:
    """Splits `total` (B,) over the open modalities (B, K): floor(p · total) each, and every left-over token to the
    argmax of another Dirichlet draw, by its cumulative probabilities `winners` (B, K).

    uniform: (B, K − 1).
    """
    p = log_p.masked_fill(~is_open, -math.inf).softmax(1).nan_to_num(0.0)  # a row with nothing open has total 0
    budget = (p * total[:, None]).floor().long()
    left_over = total - budget.sum(1)
    winner = (uniform[:, :, None] >= winners[:, None]).sum(2)  # (B, K − 1)
    is_used = torch.arange(uniform.shape[1], device=total.device) < left_over[:, None]
    return budget.scatter_add(1, winner, is_used.long())
