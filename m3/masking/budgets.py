"""How many tokens of each modality a sample shows and predicts: Dirichlet budgets for a whole batch at once.

After 4M (Mizrahi et al., NeurIPS 2023, section 2.2), with its clamping ("drop") and a variant that keeps the
draw's total ("redistribute").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m3.modalities import ModalityTable
from m3.seeds import SampleGenerator

_GAMMA_ATTEMPTS = 6  # the rejection sampler accepts 95% at worst: 6 misses in a row have probability 1e-8
_MAX_REDRAWS = 1000


def log_gamma_draws(generator: SampleGenerator, alphas: Tensor, num_draws: int) -> Tensor:
    """Logarithms of Gamma(alpha, 1) variates; normalised over K they are Dirichlet draws.

    Marsaglia & Tsang (ACM TOMS 2000), with their boost for alpha < 1; alpha 1 is an exponential, alpha 0 gives −inf.

    Args:
        alphas: (K,) float64, at least 0.
    Returns:
        (B, num_draws, K) float64.
    """
    shape = (num_draws, len(alphas))
    if bool(((alphas == 1) | (alphas == 0)).all()):
        log_draws = (-generator.uniform(*shape).log()).log()
        return log_draws.masked_fill(alphas == 0, -math.inf)
    d = torch.where(alphas < 1, alphas + 1, alphas) - 1 / 3
    uniform = generator.uniform(3, _GAMMA_ATTEMPTS, *shape)  # (B, 3, attempts, num_draws, K)
    normal = (-2 * uniform[:, 0].log()).sqrt() * (2 * math.pi * uniform[:, 1]).cos()
    base = 1 + normal / (9 * d).sqrt()
    log_cube = 3 * base.clamp_min(1e-300).log()
    is_accepted = (base > 0) & (uniform[:, 2].log() < normal**2 / 2 + d * (1 - log_cube.exp() + log_cube))
    first = is_accepted.byte().argmax(1, keepdim=True)  # index of the first True, 0 if there is none
    log_draws = d.log() + log_cube.gather(1, first).squeeze(1)
    log_boost = generator.uniform(*shape).log() / alphas
    return log_draws + torch.where(alphas < 1, log_boost, 0.0)


def draw_budgets(generator: SampleGenerator, table: ModalityTable, batch_size: int) -> tuple[Tensor, Tensor]:
    """Input and target budgets of B samples.

    Returns:
        Two (B, K) int64 tensors. Together they never exceed a modality's length, each sums to at least 1 and to
        at most its drawn total, and a modality with alpha 0 gets nothing.
    Raises:
        ValueError if some sample finds no target within 1,000 draws.
    """
    inputs, targets = _draw_once(generator, table, batch_size)
    is_empty = targets.sum(1) == 0  # inputs cannot be: they are drawn first, and lengths and totals are at least 1
    for _ in range(_MAX_REDRAWS):
        if not is_empty.any():
            return inputs, targets
        generator = generator.fork("redraw")
        rows = is_empty.nonzero().squeeze(1)
        inputs[rows], targets[rows] = _draw_once(generator.rows(rows), table, len(rows))
        is_empty = targets.sum(1) == 0
    raise ValueError("modalities: the input budgets leave no room for targets; lower input_tokens_range")


def _draw_once(generator: SampleGenerator, table: ModalityTable, batch_size: int) -> tuple[Tensor, Tensor]:
    device = generator.device
    lengths = torch.tensor(table.max_seq_lens, device=device).expand(batch_size, -1)
    inputs = _draw_side(generator, table.input_alphas, table.input_tokens_range, lengths, table.clamped)
    targets = _draw_side(generator, table.target_alphas, table.target_tokens_range, lengths - inputs, table.clamped)
    return inputs, targets


def _draw_side(
    generator: SampleGenerator, alphas: tuple[float, ...], bounds: tuple[int, int], room: Tensor, clamped: str
) -> Tensor:
    """Budgets (B, K) of one side, at most `room` (B, K)."""
    low, high = bounds
    alpha = torch.tensor(alphas, dtype=torch.float64, device=room.device)
    total = low + (generator.uniform(1).squeeze(1) * (high - low + 1)).long()  # (B,)
    log_p = log_gamma_draws(generator, alpha, 1).squeeze(1)  # (B, K), not normalised
    drawn = _allocate(generator, alpha, log_p, total, (alpha > 0).expand_as(room))
    budget = drawn.minimum(room)
    if clamped == "drop":
        return budget
    # Each round places the whole excess or fills at least one more modality: K − 1 rounds always suffice.
    for _ in range(len(alphas) - 1):
        is_open = (alpha > 0) & (budget < room)
        excess = (total - budget.sum(1)) * is_open.any(1)
        budget = (budget + _allocate(generator, alpha, log_p, excess, is_open)).minimum(room)
    return budget


def _allocate(generator: SampleGenerator, alpha: Tensor, log_p: Tensor, total: Tensor, is_open: Tensor) -> Tensor:
    """Splits `total` (B,) over the open modalities (B, K): floor(p · total), each left-over token to the argmax of
    a Dirichlet draw of its own."""
    num_modalities = is_open.shape[1]
    p = torch.where(is_open, log_p, -math.inf).softmax(1).nan_to_num(0.0)  # a row with nothing open has total 0
    budget = (p * total[:, None]).floor().long()
    if num_modalities == 1:
        return budget
    left_over = total - budget.sum(1)
    draws = log_gamma_draws(generator, alpha, num_modalities - 1)  # (B, K − 1, K)
    winners = draws.masked_fill(~is_open[:, None], -math.inf).argmax(2)
    is_used = torch.arange(num_modalities - 1, device=total.device) < left_over[:, None]
    return budget.scatter_add(1, winners, is_used.long())
