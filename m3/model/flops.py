"""Floating-point operations of a training step, for comparing its speed with the peak of the device.

Not `torch.utils.flop_counter.FlopCounterMode` (the tests compare with it): it also counts padding, and slows the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from m3.model.encoder_decoder import EncoderDecoder

_OPERATIONS = 2 * 3  # a multiplication and an addition; forward, gradient of the input, gradient of the weight


def train_step_flops(
    model: EncoderDecoder,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    target_counts: Tensor | Sequence[int],
) -> float:
    """Floating-point operations that forward and backward pass need for the real tokens.

    Counts the matrix products: linear layers over N inputs or M targets, attention between the tokens of each sample
    (n², n · m and m² pairs), and the logits of each target's own vocabulary. Leaves out padding, activations that are
    recomputed to save memory, norms, softmax, embeddings, and the optimizer.

    Args:
        input_lengths, target_lengths: (B,) real tokens of each sample. Concatenated samples of several steps give the
            sum over those steps.
        target_counts: (K,) real targets of each modality; they sum to M.
    """
    inputs = torch.as_tensor(input_lengths, dtype=torch.float64)  # (B,)
    targets = torch.as_tensor(target_lengths, dtype=torch.float64)
    counts = torch.as_tensor(target_counts, dtype=torch.float64)  # (K,)
    over_inputs, over_targets = _linear_weights(model)
    width = model.enc_norm.weight.numel()
    logits = torch.tensor([model.num_logits(k) for k in range(len(counts))], dtype=torch.float64, device=counts.device)

    linear = over_inputs * inputs.sum() + over_targets * targets.sum()
    scores = len(model.encoder) * inputs.square() + len(model.decoder) * (targets.square() + targets * inputs)  # (B,)
    attention = 2 * width * scores.sum()  # query times key, then scores times value
    return _OPERATIONS * float(linear + attention + width * (logits * counts).sum())


def _linear_weights(model: EncoderDecoder) -> tuple[int, int]:
    """Number of weights in the linear layers applied to every input token, and in those applied to every target."""
    linears = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    is_over_inputs = [name.startswith(("encoder.", "dec_context_proj")) or "kv_proj" in name.split(".")
                      for name, _ in linears]  # fmt: skip
    sizes = [layer.weight.numel() for _, layer in linears]
    over_inputs = sum(size for size, is_over in zip(sizes, is_over_inputs) if is_over)
    return over_inputs, sum(sizes) - over_inputs
