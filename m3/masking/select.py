"""Which tokens are inputs and which are targets, and packing them."""

from __future__ import annotations

import torch
from torch import Tensor

from m3.masking.budgets import draw_budgets
from m3.modalities import JOINTS, ModalityTable
from m3.records import NUM_JOINTS, PackedTokens
from m3.seeds import SampleGenerator

_LAST_KEY = torch.iinfo(torch.int64).max
_MAX_REDRAWS = 1000


def choose(tokens: Tensor, table: ModalityTable, generator: SampleGenerator) -> tuple[Tensor, Tensor]:
    """Draws budgets and positions of a batch, on the device of `tokens`.

    One random permutation per sample and modality: its first `input budget` positions are inputs, the next
    `target budget` positions are targets. Positions of invisible joints (`can_be_target`) are then taken out
    of the targets; a sample left without any is drawn again.

    Args:
        tokens: (B, S) int64.
    Returns:
        is_input, is_target: (B, S) bool, disjoint, at least one True in each row of both.
    Raises:
        ValueError if some sample finds no target within 1,000 draws.
    """
    is_allowed = can_be_target(tokens, table)
    is_input, is_target = _choose_positions(generator, table, len(tokens))
    is_target &= is_allowed
    for _ in range(_MAX_REDRAWS):
        rows = (~is_target.any(1)).nonzero().squeeze(1)
        if not len(rows):
            return is_input, is_target
        generator = generator.fork("redraw")
        is_input[rows], is_target[rows] = _choose_positions(generator.rows(rows), table, len(rows))
        is_target &= is_allowed
    raise ValueError("modalities: a sample has no token that could be a target; widen target_alphas or the ranges")


def _choose_positions(generator: SampleGenerator, table: ModalityTable, batch_size: int) -> tuple[Tensor, Tensor]:
    inputs, targets = draw_budgets(generator, table, batch_size)  # (B, K) each
    keys = generator.bits(table.num_tokens)  # (B, S); their order within a modality is the permutation
    is_input, is_target = [], []
    for k, modality_keys in enumerate(keys.split(table.max_seq_lens, dim=1)):
        beyond = torch.full_like(modality_keys[:, :1], _LAST_KEY)
        ordered = torch.cat([modality_keys.sort(1).values, beyond], 1)  # (B, L + 1)
        input_bound = ordered.gather(1, inputs[:, k, None])
        target_bound = ordered.gather(1, (inputs + targets)[:, k, None])
        is_input.append(modality_keys < input_bound)
        is_target.append((modality_keys >= input_bound) & (modality_keys < target_bound))
    return torch.cat(is_input, 1), torch.cat(is_target, 1)


def can_be_target(tokens: Tensor, table: ModalityTable) -> Tensor:
    """(B, S) bool: False at the x and y tokens of invisible joints, which are never predicted nor scored."""
    is_allowed = torch.ones_like(tokens, dtype=torch.bool)
    for name, vocabulary in zip(table.modalities, table.vocabularies):
        if vocabulary is JOINTS:
            columns = table.columns(name)
            is_visible = tokens[:, columns][:, 2 * NUM_JOINTS :] > 0  # (B, J)
            is_allowed[:, columns][:, : 2 * NUM_JOINTS] = is_visible.repeat(1, 2)
    return is_allowed


def pack(tokens: Tensor, is_chosen: Tensor, table: ModalityTable) -> PackedTokens:
    """The chosen tokens of all samples one after the other.

    Args:
        tokens: (B, S) int64.
        is_chosen: (B, S) bool.
    """
    device = tokens.device
    lengths = torch.tensor(table.max_seq_lens, device=device)
    modality_of_column = torch.repeat_interleave(lengths)  # (S,)
    position_of_column = (
        torch.arange(table.num_tokens, device=device) - torch.tensor(table.offsets, device=device)[modality_of_column]
    )
    sample, column = is_chosen.nonzero(as_tuple=True)  # (N,) each, sample ascending, then column
    return PackedTokens(
        ids=tokens[sample, column],
        modality=modality_of_column[column],
        position=position_of_column[column],
        sample=sample,
        lengths=is_chosen.sum(1),
    )
