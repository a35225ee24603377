"""Cross-entropy of target tokens: sums per modality, and the ways to average them. In nats."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor

from m3.model.encoder_decoder import EncoderDecoder
from m3.model.heads import FactorizedHead, FlatHead
from m3.records import PackedTokens

CHUNK = 512
"""Rows whose logits exist at the same time; (512, 64,000) float32 is 125 MiB."""


def modality_sums(model: EncoderDecoder, hidden: Tensor, targets: PackedTokens, label_smoothing: float = 0.0) -> Tensor:
    """Summed cross-entropy of each modality: (M, D) hidden vectors of the targets → (K,) float32."""
    parts = _by_modality(hidden, targets)
    return torch.stack([summed_cross_entropy(*part, model.head_of(k), label_smoothing) for k, part in enumerate(parts)])


@torch.no_grad()
def modality_scores(model: EncoderDecoder, hidden: Tensor, targets: PackedTokens) -> tuple[Tensor, Tensor]:
    """What evaluation adds up for each modality.

    Returns:
        Summed cross-entropy (K,) float32, and the number of targets whose likeliest legal id is the right one
        (K,) int64.
    """
    scores = [
        _scores(rows, ids, targets.position[targets.rows[k]], model, k)
        for k, (rows, ids) in enumerate(_by_modality(hidden, targets))
    ]
    sums, num_right = zip(*scores)
    return torch.stack(sums), torch.stack(num_right)


def num_targets(targets: PackedTokens) -> Tensor:
    """(K,) int64 targets of each modality, counted where they are: no copy from the host to wait for."""
    modalities = torch.arange(len(targets.rows), device=targets.modality.device)
    return (targets.modality[:, None] == modalities).sum(0)


def summed_cross_entropy(
    hidden: Tensor, ids: Tensor, head: FlatHead | FactorizedHead, label_smoothing: float = 0.0
) -> Tensor:
    """Sum over targets of −ln p(id); a factorized id's is the sum over its digits.

    Without targets it is a zero that still depends on the head, whose gradient is then 0 and not None: the optimizer
    does the same whether a modality is absent from one rank's batch or from the whole one.

    Args:
        hidden: (M, D) float.
        ids: (M,) int64, legal.
        label_smoothing: share of each target that is spread evenly over all ids (all values of each digit).
    Returns:
        Scalar, float32.
    """
    if isinstance(head, FactorizedHead):
        digits = zip(head.digit_logits(hidden), head.digits_of(ids))
        return sum(
            F.cross_entropy(logits.float(), digit, reduction="sum", label_smoothing=label_smoothing)
            for logits, digit in digits
        )
    weight = head.rows()
    loss = chunked_cross_entropy(hidden, weight, ids)
    if label_smoothing:
        # Σ_v (1/V)·(−ln p_v) − (−ln p_id) is the id's logit minus the mean logit: no need to see all logits again.
        loss = loss + label_smoothing * (hidden * (F.embedding(ids, weight) - weight.mean(0))).sum()
    return loss


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """Sum of the cross-entropies of `hidden @ weight.T`, whose (M, V) logits never exist as a whole.

    `torch.nn.functional.linear_cross_entropy` where torch has it (2.13), else a loop over checkpointed chunks; that
    too under autocast, of which the former knows nothing.
    """
    if not len(ids):
        return F.linear(hidden, weight[:1]).float().sum()
    if hasattr(F, "linear_cross_entropy") and not torch.is_autocast_enabled(hidden.device.type):
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)
        return F.linear_cross_entropy(hidden, weight, ids, reduction="sum", options=options)
    return _checkpointed_cross_entropy(hidden, weight, ids)


def _checkpointed_cross_entropy(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    def chunk_loss(rows: Tensor, chunk_ids: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(rows, weight).float(), chunk_ids, reduction="sum")

    chunks = zip(hidden.split(CHUNK), ids.split(CHUNK))
    return sum(torch.utils.checkpoint.checkpoint(chunk_loss, *chunk, use_reentrant=False) for chunk in chunks)


def average(sums: Tensor, counts: Tensor, how: Literal["present", "all", "token"]) -> Tensor:
    """One loss from the sums and numbers of targets of K modalities.

    "present": mean over the modalities that have targets of their mean losses. "all": the same with an absent
    modality counted as 0 (published). "token": mean over all targets. Linear in `sums`.

    Args:
        sums: (K,) float. counts: (K,), not all 0.
    """
    if how == "token":
        return sums.sum() / counts.sum()
    means = sums / counts.clamp_min(1)  # an absent modality's sum is 0
    return means.sum() / (len(sums) if how == "all" else (counts > 0).sum())


def _by_modality(hidden: Tensor, targets: PackedTokens) -> list[tuple[Tensor, Tensor]]:
    """For each modality its (M_k, D) hidden vectors and (M_k,) ids."""
    order, counts = torch.cat(targets.rows), [len(rows) for rows in targets.rows]
    return list(zip(hidden.index_select(0, order).split(counts), targets.ids.index_select(0, order).split(counts)))


def _scores(hidden: Tensor, ids: Tensor, position: Tensor, model: EncoderDecoder, k: int) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and number of right likeliest ids of the targets of modality k, chunk after chunk."""
    head = model.head_of(k)
    weight = None if isinstance(head, FactorizedHead) else head.rows()
    name, length = model.table.modalities[k], model.table.max_seq_lens[k]
    sizes = [model.table.num_legal_ids(name, p) for p in range(length)]
    num_legal = torch.tensor(sizes, device=ids.device)[position]  # (M,)
    nll, num_right = hidden.new_zeros((), dtype=torch.float32), ids.new_zeros(())
    for rows, row_ids, legal in zip(hidden.split(CHUNK), ids.split(CHUNK), num_legal.split(CHUNK)):
        is_right = torch.ones_like(row_ids, dtype=torch.bool)
        digit_logits = head.digit_logits(rows) if weight is None else (F.linear(rows, weight),)
        for logits, digit in zip(digit_logits, head.digits_of(row_ids)):
            nll += F.cross_entropy(logits.float(), digit, reduction="sum")
            likeliest = logits.argmax(1) if weight is None else _likeliest_legal(logits, legal, set(sizes))
            is_right &= likeliest == digit
        num_right += is_right.sum()
    return nll, num_right


def _likeliest_legal(logits: Tensor, num_legal: Tensor, sizes: set[int]) -> Tensor:
    """(M, V) logits → (M,) ids below `num_legal` (M,), whose values are `sizes`."""
    likeliest = torch.zeros_like(num_legal)
    for size in sizes:
        likeliest = torch.where(num_legal == size, logits[:, :size].argmax(1), likeliest)
    return likeliest
