"""Pre-norm transformer blocks over packed tokens: (N, D) in, (N, D) out."""

from __future__ import annotations

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
        return self.fc2(F.gelu(self.fc1(x)))


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
