"""Cross-entropy of target tokens, in nats: sums per modality, and their reductions to one loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m3.core.modalities import MOTION
from m3.core.types import PackedTokens
from m3.model.encoder_decoder import EncoderDecoder
from m3.model.heads import FactorizedHead, FlatHead
from m3.tokens.fsq import basis
from m3.tokens.motion import blurred_cells

CHUNK = 384
"""Rows whose logits exist at a time on a processor; (384, 64,000) float32 are 94 MiB."""

_LOGITS_ON_GPU = 2**29
"""Logits that exist at a time on a GPU: 8,388 rows of 64,000, 1 GiB in 16 bits. Few large products keep it busy."""

_HALF_SCALE = 2.0**10
"""Scale of the logits' gradient in 16 bits: fp16 does not hold probabilities near 1 / 64,000 with full precision."""


def training_loss(
    model: EncoderDecoder,
    hidden: Tensor,
    targets: PackedTokens,
    modality_weights: Tensor,
    label_smoothing: float = 0.0,
    motion_blur: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of all targets' cross-entropies: (M, D) hidden vectors of the targets → loss, sums.

    Modalities that share a head go through it together, so that its gradient (125 MiB for pictures) exists once.

    Args:
        modality_weights: (K,) float, `target_weights`.
        label_smoothing: see `weighted_cross_entropy`.
        motion_blur: std, in sides of the pose's box, of the Gaussian over cells that replaces a motion target
            (`m3.tokens.motion.blurred_cells`); 0 for none.
    Returns:
        Scalar, Σ_k modality_weights[k] · sums[k], to differentiate; and the sums (K,) float32, detached.
    """
    loss, sums = hidden.new_zeros((), dtype=torch.float32), [torch.empty(0)] * len(targets.rows)
    heads: dict[int, list[int]] = {}
    for k in range(len(targets.rows)):
        heads.setdefault(id(model.head_of(k)), []).append(k)
    for together in heads.values():
        rows = torch.cat([targets.rows[k] for k in together])
        weights = torch.cat([modality_weights[k].expand(len(targets.rows[k])) for k in together])
        own_hidden, ids, head = hidden.index_select(0, rows), targets.ids[rows], model.head_of(together[0])
        if motion_blur and model.vocabularies[together[0]] == MOTION:
            part, nll = blurred_cross_entropy(own_hidden, ids, weights, head, motion_blur)
        else:
            part, nll = weighted_cross_entropy(own_hidden, ids, weights, head, label_smoothing, model.is_compiled)
        loss = loss + part
        for k, own in zip(together, nll.split([len(targets.rows[k]) for k in together])):
            sums[k] = own.sum()
    return loss, torch.stack(sums).float()


@torch.no_grad()
def modality_scores(model: EncoderDecoder, hidden: Tensor, targets: PackedTokens) -> tuple[Tensor, Tensor]:
    """Summed loss and number of correct predictions of each modality.

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
    """(K,) int64 targets of each modality, counted on their device, without a copy from the host."""
    modalities = torch.arange(len(targets.rows), device=targets.modality.device)
    return (targets.modality[:, None] == modalities).sum(0)


def weighted_cross_entropy(
    hidden: Tensor,
    ids: Tensor,
    weights: Tensor,
    head: FlatHead | FactorizedHead,
    label_smoothing: float = 0.0,
    is_compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Σ weights · (−ln p(id)) over targets; a factorized id's −ln p is the sum over its digits.

    Without targets the result is 0 with a gradient of 0 (not None) for the head, so that the optimizer does the same
    whether a modality is absent from the batch of one rank or from the global batch.

    Args:
        hidden: (M, D) float.
        ids: (M,) int64, legal.
        weights: (M,) float.
        label_smoothing: share of each target that is distributed evenly over all ids (all values of each digit).
        is_compiled: whether `torch.compile` makes one kernel of what follows the logits of a flat head.
    Returns:
        Scalar to differentiate, and each target's own loss (M,), detached; both at least float32.
    """
    if isinstance(head, FactorizedHead):
        digits = zip(head.digit_logits(hidden), head.digits_of(ids), head.is_predicted(ids))
        losses = []
        for logits, digit, is_predicted in digits:
            loss = F.cross_entropy(_at_least_float32(logits), digit, reduction="none", label_smoothing=label_smoothing)
            losses.append(loss if is_predicted is None else loss * is_predicted)
        nll = functools.reduce(torch.add, losses)
        return (nll * weights).sum(), nll.detach()
    return _ChunkedCrossEntropy.apply(hidden, head.rows(), ids, weights, label_smoothing, is_compiled)


def blurred_cross_entropy(
    hidden: Tensor, ids: Tensor, weights: Tensor, head: FlatHead | FactorizedHead, std: float
) -> tuple[Tensor, Tensor]:
    """`weighted_cross_entropy` of motion ids with each target distributed over the cells near it."""
    table = torch.from_numpy(blurred_cells(std)).to(hidden.device)
    (logits,) = head.digit_logits(hidden)
    nll = F.cross_entropy(_at_least_float32(logits), table[ids], reduction="none")
    return (nll * weights).sum(), nll.detach()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T` in chunks: the (M, V) logits never exist as a whole and are computed once.

    The loss is a scalar, so the gradient of a chunk is known, up to one factor, together with its logits, and is
    computed with them, as in `torch.nn.functional.linear_cross_entropy`. That function needs torch 2.13, and has no
    row weights, label smoothing or autocast.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        ids: Tensor,
        weights: Tensor,
        label_smoothing: float,
        is_compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        scale = _HALF_SCALE if dtype.itemsize == 2 else 1.0
        table = weight.to(dtype)
        weights = _at_least_float32(weights.to(hidden.device))
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        nll = hidden.new_empty(len(hidden), dtype=_at_least_float32(hidden[:0]).dtype)
        # Row weights, often near 1e-4, are used relative to the largest, for 16 bits.
        largest = weights.abs().amax() if len(weights) else weights.new_ones(())
        relative = (weights / largest.clamp_min(torch.finfo(weights.dtype).tiny))[:, None]
        loss_and_gradient = _compiled_loss_and_gradient() if is_compiled else _loss_and_gradient
        num_rows = _rows_at_once(hidden.device, len(table))
        with torch.autocast(device, enabled=False):
            memory = hidden.new_empty(min(num_rows, len(hidden)), len(table), dtype=dtype)
            for first in range(0, len(hidden), num_rows):
                rows = slice(first, first + num_rows)
                chunk = hidden[rows].to(dtype)
                logits = torch.mm(chunk, table.T, out=memory[: len(chunk)])  # (R, V)
                if is_compiled:
                    torch._dynamo.maybe_mark_dynamic(logits, 0)
                    torch._dynamo.maybe_mark_dynamic(ids, 0)
                nll[rows], gradient = loss_and_gradient(logits, ids[rows], label_smoothing, scale)
                grad_hidden[rows] = (gradient @ table).to(weights.dtype) * (relative[rows] * largest / scale)
                scaled = (chunk * relative[rows]).to(dtype)
                if dtype == weight.dtype:
                    grad_weight.addmm_(gradient.T, scaled)
                else:
                    grad_weight += gradient.T @ scaled
            grad_weight *= largest / scale
        ctx.gradients = grad_hidden, grad_weight
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, factor: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were used already: compute the loss again")
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        return grad_hidden.mul_(factor), grad_weight.mul_(factor), None, None, None, None


def _loss_and_gradient(logits: Tensor, ids: Tensor, label_smoothing: float, scale: float) -> tuple[Tensor, Tensor]:
    """Each row's cross-entropy, and its gradient.

    Args:
        logits: (R, V); float32 logits are overwritten.
        ids: (R,) int64.
        scale: factor of the gradient.
    Returns:
        (R,) at least float32, and (R, V) in the dtype of `logits`.
    """
    own, dtype = ids[:, None], logits.dtype
    logits = _at_least_float32(logits)
    mean = logits.mean(1, keepdim=True) if label_smoothing else 0
    of_id = logits.gather(1, own)
    log_probs = torch.log_softmax(logits, 1, out=logits)
    log_sum = of_id - log_probs.gather(1, own)
    nll = (log_sum - (1 - label_smoothing) * of_id - label_smoothing * mean)[:, 0]
    probs = log_probs.exp_()
    if label_smoothing:
        probs -= label_smoothing / probs.shape[1]
    probs.scatter_add_(1, own, probs.new_full(own.shape, label_smoothing - 1))  # now the gradient
    return nll, probs.mul_(scale).to(dtype) if scale != 1 else probs


def _fused_loss_and_gradient(
    logits: Tensor, ids: Tensor, label_smoothing: float, scale: float
) -> tuple[Tensor, Tensor]:
    """`_loss_and_gradient` without steps in place, for a compiler: two passes over the logits, in 16 bits where they
    have 16 bits."""
    values = _at_least_float32(logits)
    own = ids[:, None]
    log_sum = torch.logsumexp(values, 1, keepdim=True)
    nll = log_sum - (1 - label_smoothing) * values.gather(1, own)
    if label_smoothing:
        nll = nll - label_smoothing * values.mean(1, keepdim=True)
    is_own = (torch.arange(values.shape[1], device=ids.device) == own).to(values.dtype)
    gradient = (values - log_sum).exp() - label_smoothing / values.shape[1] - (1 - label_smoothing) * is_own
    return nll[:, 0], (gradient * scale).to(logits.dtype)


@functools.cache
def _compiled_loss_and_gradient() -> Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]:
    return torch.compile(_fused_loss_and_gradient)


def _rows_at_once(device: torch.device, num_ids: int) -> int:
    return CHUNK if device.type == "cpu" else max(_LOGITS_ON_GPU // num_ids, 1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype.itemsize == 2 else values


def reduce_losses(sums: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Scalar loss from the summed losses (K,) and the numbers of targets (K,) of K modalities: Σ_k weight_k · sum_k."""
    return (sums * target_weights(counts, reduction)).sum()


def target_weights(counts: Tensor, reduction: str) -> Tensor:
    """Weight of one target of each modality in the reduced loss: (K,) float64, 0 for an absent modality.

    Args:
        counts: (K,), not all 0.
        reduction: a key of `REDUCTIONS`.
    """
    return REDUCTIONS[reduction](counts.double())


def _mean_over(num_modalities: Callable[[Tensor], Tensor | int]) -> Callable[[Tensor], Tensor]:
    """Sum of the modalities' mean losses, divided by `num_modalities(counts)`."""

    def weights(counts: Tensor) -> Tensor:
        return (counts > 0).double() / counts.clamp_min(1) / num_modalities(counts)

    return weights


def _mean_over_targets(counts: Tensor) -> Tensor:
    return (counts > 0).double() / counts.sum()


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "present": _mean_over(lambda counts: (counts > 0).double().sum()),
    "all": _mean_over(len),
    "token": _mean_over_targets,
}
"""How the losses of the modalities become one: name → function from the number of targets of each modality, (K,)
float64, to the weight of each of its targets, (K,).

"present": mean over the modalities that have targets. "all": an absent modality counts as 0 (published). "token": mean
over all targets.
"""


def _by_modality(hidden: Tensor, targets: PackedTokens) -> list[tuple[Tensor, Tensor]]:
    """For each modality its (M_k, D) hidden vectors and (M_k,) ids."""
    order, counts = torch.cat(targets.rows), [len(rows) for rows in targets.rows]
    return list(zip(hidden.index_select(0, order).split(counts), targets.ids.index_select(0, order).split(counts)))


def _scores(hidden: Tensor, ids: Tensor, position: Tensor, model: EncoderDecoder, k: int) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and number of correct predictions for the targets of modality k, computed in chunks."""
    head = model.head_of(k)
    weight = None if isinstance(head, FactorizedHead) else head.rows()
    name, length = model.table.modalities[k], model.table.max_seq_lens[k]
    sizes = [model.table.num_legal_ids(name, p) for p in range(length)]
    num_legal = torch.tensor(sizes, device=ids.device)[position]  # (M,)
    worths = basis(head.levels) if isinstance(head, FactorizedHead) else (1,)
    nll, num_right = hidden.new_zeros((), dtype=torch.float32), ids.new_zeros(())
    num_rows = _rows_at_once(ids.device, model.num_logits(k))
    for rows, row_ids, legal in zip(hidden.split(num_rows), ids.split(num_rows), num_legal.split(num_rows)):
        is_right = torch.ones_like(row_ids, dtype=torch.bool)
        digit_logits = head.digit_logits(rows) if weight is None else (F.linear(rows, weight),)
        digits = zip(digit_logits, head.digits_of(row_ids), head.is_predicted(row_ids), worths)
        for logits, digit, is_predicted, worth in digits:
            # In n legal ids a digit takes its first ⌈n / worth⌉ values (see `FactorizedHead.digit_logits`).
            num_values = {-(-size // worth) for size in sizes}
            is_digit_right = _likeliest_legal(logits, -(-legal // worth), num_values) == digit
            if is_predicted is not None:
                logits, digit = logits[is_predicted], digit[is_predicted]
                is_digit_right = is_digit_right | ~is_predicted
            nll += F.cross_entropy(logits.float(), digit, reduction="sum")
            is_right &= is_digit_right
        num_right += is_right.sum()
    return nll, num_right


def _likeliest_legal(logits: Tensor, num_legal: Tensor, sizes: set[int]) -> Tensor:
    """(M, V) logits → (M,) likeliest ids below `num_legal` (M,). sizes: the distinct values of `num_legal`."""
    likeliest = torch.zeros_like(num_legal)
    for size in sizes:
        likeliest = torch.where(num_legal == size, logits[:, :size].argmax(1), likeliest)
    return likeliest
