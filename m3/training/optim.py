"""Optimizer settings: durations in tokens, AdamW with decay groups, warm-up and cosine schedule, moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from m3.core.devices import default_device, has_fast_bf16
from m3.core.validation import check
from m3.model.encoder_decoder import EncoderDecoder
from m3.training.muon import Muon


def steps_in(millions: float, tokens_per_step: int) -> int:
    """Number of steps for `millions` · 10⁶ nominal tokens, rounded up."""
    return math.ceil(millions * 1e6 / tokens_per_step)


@dataclass(frozen=True)
class Schedule:
    """Durations in steps, and the learning rate of each step; from `OptimConfig.schedule`."""

    num_steps: int
    num_warmup_steps: int
    lr: float
    min_lr: float

    def lr_at(self, step: int) -> float:
        """lr · (i + 1)/W in the W warm-up steps, then half a cosine that ends at min_lr in the last step."""
        if step < self.num_warmup_steps:
            return self.lr * (step + 1) / self.num_warmup_steps
        span = self.num_steps - 1 - self.num_warmup_steps
        progress = min((step - self.num_warmup_steps) / span, 1.0) if span > 0 else 1.0
        return self.min_lr + (self.lr - self.min_lr) / 2 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class OptimConfig:
    """`conf/optim/*.yaml`.

    batch_size: samples per device and micro-batch.
    total_tokens, warmup_tokens: durations in millions of nominal tokens.
    num_tokens_per_sample: nominal tokens of a sample, inputs and targets together.
    lr, min_lr: learning rates at the end of the warm-up and in the last step.
    weight_decay, betas: of AdamW; norms and biases do not decay.
    muon: the matrices of the blocks are updated by Muon (`m3.training.muon`), all other weights by AdamW.
    clip_grad: largest norm of the whole gradient.
    accumulation: micro-batches per device and step; their gradients are summed.
    ema_decay: share of the moving average of the weights that is kept in each step; the average is then evaluated,
        shared and used for generation. None for no average.
    dtype: fp32, fp16, bf16, or auto: bf16 where the default device is faster in it, else fp32. Overridden by a hardware
        config that sets a precision.

    Raises ValueError naming the key.
    """

    batch_size: int
    total_tokens: float
    warmup_tokens: float
    num_tokens_per_sample: int
    lr: float
    min_lr: float
    weight_decay: float
    clip_grad: float
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "fp32"
    betas: Sequence[float] = (0.9, 0.95)
    accumulation: int = 1
    ema_decay: float | None = None
    muon: bool = False

    def __post_init__(self) -> None:
        for key in ("batch_size", "accumulation", "num_tokens_per_sample"):
            check(f"optim.{key}", getattr(self, key), int, low=1)
        for key in ("total_tokens", "warmup_tokens", "lr", "min_lr", "weight_decay", "clip_grad"):
            check(f"optim.{key}", getattr(self, key), float, low=0)
        for key in ("total_tokens", "lr", "clip_grad"):
            if not getattr(self, key) > 0:
                raise ValueError(f"optim.{key}={getattr(self, key)}: must be positive")
        if not isinstance(self.muon, bool):
            raise ValueError(f"optim.muon={self.muon!r}: choose true or false")
        check("optim.ema_decay", self.ema_decay, int | float | None, low=0, high=1)
        if self.ema_decay == 1:
            raise ValueError("optim.ema_decay=1: the average would never change; use less than 1, or null for none")
        if len(self.betas) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas={list(self.betas)}: need two numbers in [0, 1)")
        if not 0 <= self.warmup_tokens < self.total_tokens:
            raise ValueError(
                f"optim.warmup_tokens={self.warmup_tokens}: need 0 <= it < total_tokens={self.total_tokens}"
            )
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"optim.min_lr={self.min_lr}: must lie in [0, lr={self.lr}]")
        if self.dtype not in ("auto", *PRECISION_OF):
            raise ValueError(f"optim.dtype={self.dtype!r}: choose auto, {', '.join(PRECISION_OF)}")

    @property
    def precision(self) -> str:
        """Lightning's name of the precision."""
        if self.dtype == "auto":
            return PRECISION_OF["bf16" if has_fast_bf16(default_device()) else "fp32"]
        return PRECISION_OF[self.dtype]

    def samples_per_step(self, num_devices: int) -> int:
        """The global batch: batch_size · accumulation · num_devices."""
        return self.batch_size * self.accumulation * num_devices

    def schedule(self, num_devices: int) -> Schedule:
        """The durations in steps."""
        num_steps, num_warmup_steps = (
            steps_in(millions, self.tokens_per_step(num_devices))
            for millions in (self.total_tokens, self.warmup_tokens)
        )
        return Schedule(num_steps, num_warmup_steps, self.lr, self.min_lr)

    def tokens_per_step(self, num_devices: int) -> int:
        """Nominal tokens of a step on all devices."""
        return self.num_tokens_per_sample * self.samples_per_step(num_devices)

    def optimizer(self, model: EncoderDecoder, is_fused: bool) -> torch.optim.Optimizer:
        """Parameters with fewer than two dimensions (norms, biases) are not decayed."""
        if self.muon:
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            beta_1, beta_2 = self.betas
            return Muon(
                parameters,
                lr=self.lr,
                adam_lr=self.lr,
                weight_decay=self.weight_decay,
                betas=(beta_1, beta_2),
                adam_weight_decay=self.weight_decay,
                kernels=model.hidden_matrices,
            )
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        beta_1, beta_2 = self.betas
        return torch.optim.AdamW(groups, lr=self.lr, betas=(beta_1, beta_2), fused=is_fused)


@torch.no_grad()
def ema_update(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """ema_model ← decay · ema_model + (1 − decay) · model, weight by weight, in place.

    Not Lightning's `EMAWeightAveraging` callback, which does not support sharded models (hardware.strategy=fsdp).
    """
    get_ema_multi_avg_fn(decay)(list(ema_model.parameters()), list(model.parameters()), None)


PRECISION_OF = {"fp32": "32-true", "fp16": "16-mixed", "bf16": "bf16-mixed"}
"""Lightning's name for each dtype."""
