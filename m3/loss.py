"""Cross-entropy of target tokens: sums per modality, and the ways to average them. In nats."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor

from m3.model.heads import FactorizedHead, FlatHead

CHUNK = 512
"""Rows whose logits exist at the same time; (512, 64,000) float32 is 125 MiB."""


def summed_cross_entropy(hidden: Tensor, ids: Tensor, head: FlatHead | FactorizedHead) -> Tensor:
    """Sum over targets of −ln p(id); a factorized id's is the sum over its digits.

    Args:
        hidden: (M, D) float.
        ids: (M,) int64, legal.
    Returns:
        Scalar, float32.
    """
    if isinstance(head, FactorizedHead):
        digits = zip(head.digit_logits(hidden), head.digits_of(ids))
        return sum(F.cross_entropy(logits.float(), digit, reduction="sum") for logits, digit in digits)
    return chunked_cross_entropy(hidden, head.rows(), ids)


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """Sum of the cross-entropies of `hidden @ weight.T`, whose (M, V) logits never exist as a whole.

    `torch.nn.functional.linear_cross_entropy` where torch has it (2.13), else a loop over checkpointed chunks.
    """
    if hasattr(F, "linear_cross_entropy"):
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
    modality counted as 0 (published). "token": mean over all targets.

    Args:
        sums: (K,) float. counts: (K,), not all 0.
    """
    if how == "token":
        return sums.sum() / counts.sum()
    means = sums / counts.clamp_min(1)  # an absent modality's sum is 0
    return means.sum() / (len(sums) if how == "all" else (counts > 0).sum())
