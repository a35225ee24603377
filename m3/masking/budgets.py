"""How many tokens of each modality a sample shows and predicts: Dirichlet budgets for a whole batch at once.

After 4M (Mizrahi et al., NeurIPS 2023, section 2.2), with its clamping ("drop") and a variant that keeps the
draw's total ("redistribute"). Nothing here waits for the device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from m3.core.modalities import ModalityTable
from m3.core.rng import SampleGenerator
from m3.masking.dirichlet import argmax_probabilities, log_gamma_draws, num_uniforms


class _Side(NamedTuple):
    """The law of the input or of the target budgets, on a device, for C alpha sets.

    bounds: inclusive, of the drawn total.
    alphas: (C, K) float64.
    winners: (C · 2^K, K) float64 cumulative probabilities of being the argmax among the open modalities, whose bits
        are the low part of the row's index.
    num_uniforms: numbers for a gamma variate.
    """

    bounds: tuple[int, int]
    alphas: Tensor
    winners: Tensor
    num_uniforms: int


class _Law(NamedTuple):
    """Everything that `draw_budgets` takes from a modality table, on a device.

    lengths: (K,) int64. up_to: (C − 1,) float64 cumulative shares of the mixture's alpha sets but the last.
    bits: (K,) int64, 1, 2, 4 ….
    """

    lengths: Tensor
    up_to: Tensor
    bits: Tensor
    inputs: _Side
    targets: _Side


@lru_cache(maxsize=64)
def _law(table: ModalityTable, device: torch.device) -> _Law:
    with torch.inference_mode(False):  # kept for all callers
        lengths = torch.tensor(table.max_seq_lens, device=device)
        weights = torch.tensor([alpha_set.weight for alpha_set in table.alpha_sets], dtype=torch.float64)
        up_to = (weights.cumsum(0) / weights.sum())[:-1].to(device)
        sides = [
            _side(table.input_tokens_range, tuple(each.input_alphas for each in table.alpha_sets), device),
            _side(table.target_tokens_range, tuple(each.target_alphas for each in table.alpha_sets), device),
        ]
        return _Law(lengths, up_to, 2 ** torch.arange(table.num_modalities, device=device), *sides)


def _side(bounds: tuple[int, int], alphas: tuple[tuple[float, ...], ...], device: torch.device) -> _Side:
    winners = torch.cat([torch.from_numpy(argmax_probabilities(row)) for row in alphas]).cumsum(1)
    total = winners[:, -1:]
    # The last open modality at exactly 1, beyond every uniform number; with none open, all: nothing is left to win.
    winners = torch.where(total > 0, winners / total, 1.0)
    return _Side(
        bounds,
        torch.tensor(alphas, dtype=torch.float64, device=device),
        winners.to(device),
        num_uniforms(alphas),
    )


def draw_budgets(generator: SampleGenerator, table: ModalityTable, batch_size: int) -> tuple[Tensor, Tensor]:
    """Input and target budgets of B samples, one draw each.

    Returns:
        Two (B, K) int64 tensors. Together they never exceed a modality's length, each sums to at most its drawn total,
        and a modality with alpha 0 gets nothing. Inputs sum to at least 1; targets may sum to 0, where the inputs left
        no room: `m3.masking.select` draws such a sample again.
    """
    law = _law(table, generator.device)
    if len(law.up_to):
        component = (generator.uniform(1) >= law.up_to).sum(1)  # (B,) alpha set of each sample
    else:
        component = torch.zeros(batch_size, dtype=torch.int64, device=generator.device)
    inputs = _draw_side(generator, law, law.inputs, component, law.lengths.expand(batch_size, -1), table.clamped)
    targets = _draw_side(generator, law, law.targets, component, law.lengths - inputs, table.clamped)
    return inputs, targets


def _draw_side(
    generator: SampleGenerator, law: _Law, side: _Side, component: Tensor, room: Tensor, clamped: str
) -> Tensor:
    """Budgets (B, K) of one side, at most `room` (B, K)."""
    num_modalities = len(law.lengths)
    num_rounds = num_modalities if clamped == "redistribute" else 1
    num_p = side.num_uniforms * num_modalities
    uniform = generator.uniform(1 + num_p + num_rounds * (num_modalities - 1))
    for_total, for_p, for_rounds = uniform.split([1, num_p, num_rounds * (num_modalities - 1)], dim=1)

    low, high = side.bounds
    total = low + (for_total.squeeze(1) * (high - low + 1)).long()  # (B,)
    alphas = side.alphas[component]  # (B, K)
    log_p = log_gamma_draws(for_p.unflatten(1, (side.num_uniforms, num_modalities)), alphas)  # (B, K), not normalized
    budget = torch.zeros_like(room)
    # The first round is the draw. Each later one places the whole excess or fills at least one more modality, so that
    # K − 1 of them always suffice.
    is_open = alphas > 0
    for for_round in for_rounds.unflatten(1, (num_rounds, num_modalities - 1)).unbind(1):
        excess = (total - budget.sum(1)) * is_open.any(1)
        subset = component * 2**num_modalities + (is_open * law.bits).sum(1)  # (B,)
        budget = torch.minimum(budget + _allocate(for_round, side.winners[subset], log_p, excess, is_open), room)
        is_open = (alphas > 0) & (budget < room)
    return budget


def _allocate(uniform: Tensor, winners: Tensor, log_p: Tensor, total: Tensor, is_open: Tensor) -> Tensor:
    """Splits `total` (B,) over the open modalities (B, K): floor(p · total), each left-over token to the argmax of a
    Dirichlet draw of its own, which falls on a modality with the probabilities cumulated in `winners` (B, K).

    uniform: (B, K − 1).
    """
    p = log_p.masked_fill(~is_open, -math.inf).softmax(1).nan_to_num(0.0)  # a row with nothing open has total 0
    budget = (p * total[:, None]).floor().long()
    left_over = total - budget.sum(1)
    winner = (uniform[:, :, None] >= winners[:, None]).sum(2)  # (B, K − 1)
    is_used = torch.arange(uniform.shape[1], device=total.device) < left_over[:, None]
    return budget.scatter_add(1, winner, is_used.long())
