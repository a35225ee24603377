"""Small models of random weights in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from m3.loss import (
    weighted_cross_entropy,
)
from m3.model.encoder_decoder import EncoderDecoder
from support.masking import M3

SMALL = dict(width=32, encoder_depth=2, decoder_depth=2, head_width=16)


def summed(hidden: Tensor, ids: Tensor, head: torch.nn.Module, label_smoothing: float = 0.0) -> Tensor:
    return weighted_cross_entropy(hidden, ids, torch.ones_like(hidden[:, 0]), head, label_smoothing)[0]


def small_model(**options) -> EncoderDecoder:
    torch.manual_seed(0)
    model = EncoderDecoder(M3, **{**SMALL, **options})
    for parameter in model.parameters():  # every weight, heads and norms too, so that a forgotten one shows
        torch.nn.init.normal_(parameter, std=0.2)
    return model.double()
