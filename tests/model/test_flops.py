"""Counted operations against PyTorch's own counter, sample by sample, so that nothing is padded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.masking import M3, generator, random_tokens
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m3.masking.select import choose, pack
from m3.model.encoder_decoder import EncoderDecoder
from m3.model.flops import train_step_flops

SMALL = dict(width=32, encoder_depth=2, decoder_depth=3, head_width=16, mlp_ratio=3)


def counted_by_torch(model: EncoderDecoder, num_samples: int) -> int:
    """Forward and backward of each sample alone; attention and logits as the plain matrix products that they are."""
    tokens = random_tokens(num_samples)
    is_input, is_target = choose(tokens, M3, generator(num_samples))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for b in range(num_samples):
            targets = pack(tokens[b : b + 1], is_target[b : b + 1], M3)
            hidden = model(pack(tokens[b : b + 1], is_input[b : b + 1], M3), targets)
            loss = hidden.new_zeros(())
            for k in range(4):
                rows = (targets.modality == k).nonzero().squeeze(1)
                digits = zip(model.digit_logits(hidden[rows], k), model.digits_of(targets.ids[rows], k))
                loss = loss + sum(F.cross_entropy(logits, digit, reduction="sum") for logits, digit in digits)
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("options", [{}, {"head": "factorized"}, {"logits": "table"}])
def test_operations_equal_those_that_torch_counts(options: dict) -> None:
    model = EncoderDecoder(M3, **SMALL, **options)
    tokens = random_tokens(5)
    is_input, is_target = choose(tokens, M3, generator(5))
    counts = torch.stack([part.sum() for part in is_target.split(M3.max_seq_lens, dim=1)])
    ours = train_step_flops(model, is_input.sum(1), is_target.sum(1), counts)
    assert ours == counted_by_torch(model, 5)


def test_steps_add_up() -> None:
    model = EncoderDecoder(M3, **SMALL)
    steps = [([3, 50], [20, 7], [9, 8, 6, 4]), ([40, 1], [2, 60], [30, 0, 31, 1])]
    inputs, targets = (sum((step[side] for step in steps), []) for side in (0, 1))
    counts = [sum(pair) for pair in zip(steps[0][2], steps[1][2])]
    assert train_step_flops(model, inputs, targets, counts) == sum(train_step_flops(model, *step) for step in steps)
