"""Pre-norm transformer blocks over packed tokens: (N, D) in, (N, D) out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3.model.attention import CrossAttention, Segments, SelfAttention


class Norm(nn.LayerNorm):
    """LayerNorm without bias, eps 1e-6."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, bias=False)


class MLP(nn.Module):
    """Two bias-free linear layers around an exact GELU."""

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.fc1 = nn.Linear(width, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _LinearOfGelu.apply(self.fc1(x), self.fc2.weight)


class _LinearOfGelu(torch.autograd.Function):
    """`gelu(x) @ weight.T` that recomputes gelu(x) in the backward pass.

    gelu(x) would be about an eighth of the activations that a block saves; computing it is about 1% of a block's work.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.gelu(x) @ weight.to(x.dtype).T  # x is the output of a linear layer, in the precision of autocast

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        grad_weight = gradient.T @ F.gelu(x)
        grad_activated = gradient @ weight.to(x.dtype)
        return torch.ops.aten.gelu_backward(grad_activated, x), grad_weight.to(weight.dtype)


class EncoderBlock(nn.Module):
    def __init__(self, width: int, head_width: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = Norm(width)
        self.attn = SelfAttention(width, head_width)
        self.norm2 = Norm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        x = x + self.attn(self.norm1(x), segments)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, head_width: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = Norm(width)
        self.self_attn = SelfAttention(width, head_width)
        self.query_norm = Norm(width)
        self.context_norm = Norm(width)
        self.cross_attn = CrossAttention(width, head_width)
        self.norm2 = Norm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: Tensor, context: Tensor, queries: Segments, keys: Segments) -> Tensor:
        x = x + self.self_attn(self.norm1(x), queries)
        x = x + self.cross_attn(self.query_norm(x), self.context_norm(context), queries, keys)
        return x + self.mlp(self.norm2(x))
