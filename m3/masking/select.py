"""Selection of input and target tokens, and their packing. The host waits for the device once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3.core.joints import NUM_JOINTS
from m3.core.modalities import JOINTS, MOTION, TEXT, UNSEEN_MOTION, ModalityTable
from m3.core.rng import SampleGenerator
from m3.core.types import PackedTokens
from m3.masking.budgets import draw_budgets

_MAX_REDRAWS = 1000
_LAST_KEY = torch.iinfo(torch.int32).max
_SPAN_STARTS = 256 // 3
"""Of 256 values of a key's low byte: those that begin a span of text."""


class _Columns(NamedTuple):
    """The columns of a sample, on a device.

    modality, position: (S,) int64 of each token.
    kept_bits, own_bits: (S + K,) int32 for `_keys`; each modality has one more column after its tokens, the end.
    modality_or_end, position_or_end: (S + K,) int64 of each of these; the position of an end is −1.
    """

    modality: Tensor
    position: Tensor
    kept_bits: Tensor
    own_bits: Tensor
    modality_or_end: Tensor
    position_or_end: Tensor


@lru_cache(maxsize=64)
def _columns(table: ModalityTable, device: torch.device) -> _Columns:
    modality, position, kept_bits, own_bits, modality_or_end, position_or_end = [], [], [], [], [], []
    for k, length in enumerate(table.max_seq_lens):
        modality += [k] * length
        position += range(length)
        kept_bits += [-1 << length.bit_length()] * length + [0]
        own_bits += [*range(length), _LAST_KEY]
        modality_or_end += [k] * (length + 1)
        position_or_end += [*range(length), -1]
    with torch.inference_mode(False):  # cached, also for callers that train
        int64s = (torch.tensor(values, device=device) for values in (modality, position))
        int32s = (torch.tensor(values, dtype=torch.int32, device=device) for values in (kept_bits, own_bits))
        ends = (torch.tensor(values, device=device) for values in (modality_or_end, position_or_end))
        return _Columns(*int64s, *int32s, *ends)


class _Chosen(NamedTuple):
    """Chosen tokens of B samples.

    mask: (B, S) bool, True where chosen. counts: (B, K) int64, chosen tokens of each modality.
    """

    mask: Tensor
    counts: Tensor


@contextmanager
def _one_thread() -> Iterator[None]:
    """Runs torch's operators on one CPU thread: for small ones synchronizing threads costs more than the work, up to a
    hundred times as much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def choose_and_pack(
    tokens: Tensor, table: ModalityTable, generator: SampleGenerator, lengths: Tensor | None = None
) -> tuple[PackedTokens, PackedTokens]:
    """The packed inputs and targets of a batch, chosen as in `choose`.

    The host waits for the device once, for the sizes, and once more for each redraw of samples without inputs or
    targets.
    """
    chosen, facts = _draw(tokens, table, generator, lengths)
    inputs, targets = (_pack(tokens, table, *each) for each in zip(chosen, facts))
    return inputs, targets


@_one_thread()
def choose(
    tokens: Tensor, table: ModalityTable, generator: SampleGenerator, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draws budgets and positions of a batch, on the device of `tokens`.

    One random permutation per sample and modality: its first `input budget` positions are inputs, the next
    `target budget` positions are targets. The permutation of a text keeps the positions of a span together (`_keys`).
    Positions of invisible joints (`can_be_target`) are then taken out of the targets; a sample left without any, or
    without inputs, is drawn again.

    Args:
        tokens: (B, S) int64.
        lengths: (B, K) int64, tokens of each modality in each sample: its first ones; 0 where the sample lacks the
            modality. None: the table's lengths.
    Returns:
        is_input, is_target: (B, S) bool, disjoint, at least one True in each row of both.
    Raises:
        ValueError if some sample finds no input or no target within 1,000 draws.
    """
    inputs, targets = _draw(tokens, table, generator, lengths)[0]
    return inputs.mask, targets.mask


@_one_thread()
def pack(tokens: Tensor, is_chosen: Tensor, table: ModalityTable) -> PackedTokens:
    """The chosen tokens of all samples, concatenated.

    Args:
        tokens: (B, S) int64.
        is_chosen: (B, S) bool.
    """
    chosen = _Chosen(is_chosen, _counts(is_chosen, table))
    return _pack(tokens, table, chosen, *_facts([chosen]))


def can_be_target(tokens: Tensor, table: ModalityTable) -> Tensor:
    """(B, S) bool: False for the x, y and motion tokens of invisible joints, which are neither predicted nor scored."""
    is_allowed = torch.ones_like(tokens, dtype=torch.bool)
    for name, vocabulary in zip(table.modalities, table.vocabularies):
        if vocabulary == JOINTS:
            columns = table.columns(name)
            is_visible = tokens[:, columns][:, 2 * NUM_JOINTS :] > 0  # (B, J)
            is_allowed[:, columns][:, : 2 * NUM_JOINTS] = is_visible.repeat(1, 2)
        elif vocabulary == MOTION:
            columns = table.columns(name)
            is_allowed[:, columns] = tokens[:, columns] != UNSEEN_MOTION
    return is_allowed


def _draw(
    tokens: Tensor, table: ModalityTable, generator: SampleGenerator, lengths: Tensor | None
) -> tuple[tuple[_Chosen, _Chosen], list[list[int]]]:
    """Inputs and targets, and `_facts` of both."""
    inputs, targets = _draw_once(tokens, table, generator, lengths)
    for _ in range(_MAX_REDRAWS):
        facts = _facts([inputs, targets])
        if facts[0][-1] and facts[1][-1]:  # no sample is without inputs or targets
            return (inputs, targets), facts
        generator = generator.fork("redraw")
        is_lacking = (inputs.counts.sum(1) == 0) | (targets.counts.sum(1) == 0)
        rows = is_lacking.nonzero().squeeze(1)
        again = _draw_once(tokens[rows], table, generator.rows(rows), None if lengths is None else lengths[rows])
        for old, new in zip((*inputs, *targets), (*again[0], *again[1])):
            old[rows] = new
    raise ValueError(
        "modalities: a sample has no token that could be an input, or none that could be a target; widen the alphas or "
        "target_tokens_range, or lower input_tokens_range"
    )


def _draw_once(
    tokens: Tensor, table: ModalityTable, generator: SampleGenerator, lengths: Tensor | None
) -> tuple[_Chosen, _Chosen]:
    num_inputs, num_targets = draw_budgets(generator, table, len(tokens), lengths)  # (B, K) each
    keys = _keys(generator, table, lengths)  # (B, S + K)
    is_input, is_target = [], []
    for k, modality_keys in enumerate(keys.split([length + 1 for length in table.max_seq_lens], dim=1)):
        ordered = _sorted_rows(modality_keys)  # (B, L + 1), the end last
        modality_keys = modality_keys[:, :-1]
        is_first = modality_keys < ordered.gather(1, num_inputs[:, k, None])
        is_first_or_next = modality_keys < ordered.gather(1, (num_inputs + num_targets)[:, k, None])
        is_input.append(is_first)
        is_target.append(is_first ^ is_first_or_next)
    allowed = torch.cat(is_target, 1) & can_be_target(tokens, table)
    return _Chosen(torch.cat(is_input, 1), num_inputs), _Chosen(allowed, _counts(allowed, table))


def _keys(generator: SampleGenerator, table: ModalityTable, lengths: Tensor | None) -> Tensor:
    """(B, S + K) int32 sort keys: sorting the keys of a modality gives its random permutation.

    The high bits are random, two keys from each draw of 64 bits. The low bits are the index of the column, so that keys
    of a modality differ. After each modality comes one more key, larger than all of its keys; positions beyond the
    length of a sample have this key too. Texts are permuted by spans (`_span_keys`).
    """
    columns = _columns(table, generator.device)
    num_keys = len(columns.own_bits)
    keys = generator.bits((num_keys + 1) // 2).view(torch.int32)[:, :num_keys]
    for k, vocabulary in enumerate(table.vocabularies):
        if vocabulary.name == TEXT:
            own = slice(table.offsets[k] + k, table.offsets[k] + k + table.max_seq_lens[k])
            keys[:, own] = _span_keys(keys[:, own])
    keys = keys.bitwise_and_(columns.kept_bits).bitwise_or_(columns.own_bits)
    if lengths is not None:
        keys.masked_fill_(columns.position_or_end >= lengths[:, columns.modality_or_end], _LAST_KEY)
    return keys


def _span_keys(keys: Tensor) -> Tensor:
    """(B, L) int32 random keys, in which all positions of a span have the key of its first one.

    A span begins at the first position, and at each further one with probability 1 / 3: three tokens on average, as in
    T5 (Raffel et al., JMLR 2020). Ascending order then takes whole spans, each from left to right.
    """
    is_first = (keys & 0xFF) < _SPAN_STARTS  # the low byte: of the order it decides only ties
    is_first[:, 0] = True
    position = torch.arange(keys.shape[1], device=keys.device)
    return keys.gather(1, (position * is_first).cummax(1).values)


def _sorted_rows(keys: Tensor) -> Tensor:
    if keys.device.type == "cpu":  # NumPy's vectorized sort is 10 to 30 times as fast as torch's on the CPU
        return torch.from_numpy(np.sort(keys.numpy(), axis=1))
    return keys.sort(1).values


def _counts(is_chosen: Tensor, table: ModalityTable) -> Tensor:
    """(B, S) bool → (B, K) int64."""
    return torch.stack([part.sum(1) for part in is_chosen.split(table.max_seq_lens, dim=1)], 1)


def _facts(chosen: Sequence[_Chosen]) -> list[list[int]]:
    """For each: K counts over all samples, then the largest and the smallest number of tokens of a sample; one copy."""
    facts = []
    for each in chosen:
        lengths = each.counts.sum(1)
        facts += [each.counts.sum(0), lengths.max()[None], lengths.min()[None]]
    return torch.cat(facts).view(len(chosen), -1).tolist()


def _pack(tokens: Tensor, table: ModalityTable, chosen: _Chosen, facts: list[int]) -> PackedTokens:
    *counts, max_seqlen, _ = facts
    columns = _columns(table, tokens.device)
    place = chosen.mask.reshape(-1).nonzero_static(size=sum(counts)).squeeze(1)  # (N,) sample after sample
    column = place % table.num_tokens
    modality = columns.modality[column]
    rows = [(modality == k).nonzero_static(size=count).squeeze(1) for k, count in enumerate(counts)]
    return PackedTokens(
        ids=tokens.reshape(-1)[place],
        modality=modality,
        position=columns.position[column],
        sample=place // table.num_tokens,
        lengths=chosen.counts.sum(1),
        max_seqlen=max_seqlen,
        rows=tuple(rows),
    )
