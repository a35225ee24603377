"""Attention between packed tokens of many samples: every token attends to tokens of its own sample only."""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from m3.core.types import PackedTokens

Kernel = Literal["auto", "padded", "varlen"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


class Segments:
    """Boundaries of the samples in N packed tokens, for the two layouts that attention kernels take: packed and padded.

    padded_row: (N,) int64 index of each token in the flattened (B, max_seqlen) padded layout.
    is_attended: (B, max_seqlen) bool, False in the padding; None where there is no padding. A sample without tokens has
        one key and value, both zero, so that attention to it gives 0.
    cu_seqlens: (B + 1,) int32 cumulative lengths from 0.
    max_seqlen: tokens of the longest sample, at least 1.
    """

    def __init__(self, packed: PackedTokens) -> None:
        lengths = packed.lengths
        self.batch_size, self.max_seqlen = len(lengths), max(packed.max_seqlen, 1)
        self.cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).int()
        rank = torch.arange(len(packed.ids), device=lengths.device) - self.cu_seqlens[packed.sample]
        self.padded_row = packed.sample * self.max_seqlen + rank
        self.is_attended = None
        if len(packed.ids) != self.batch_size * self.max_seqlen:
            self.is_attended = torch.arange(self.max_seqlen, device=lengths.device) < lengths.clamp(min=1)[:, None]

    def pad(self, rows: Tensor) -> Tensor:
        """(N, H, E) → (B, H, max_seqlen, E), zeros in the padding."""
        if self.is_attended is not None:
            padded = rows.new_zeros(self.batch_size * self.max_seqlen, *rows.shape[1:])
            rows = padded.index_copy(0, self.padded_row, rows)
        return rows.view(self.batch_size, self.max_seqlen, *rows.shape[1:]).transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, H, max_seqlen, E) → (N, H, E)."""
        rows = padded.transpose(1, 2).flatten(0, 1)
        return rows if self.is_attended is None else rows.index_select(0, self.padded_row)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments, kernel: Kernel = "auto"
) -> Tensor:
    """Softmax attention of (M, H, E) queries over (N, H, E) keys and values, scale 1/√E → (M, H, E).

    Queries of a sample without keys get zeros. CPUs compute in float32: the backward pass of torch's kernel for them is
    six times as slow in bfloat16.

    Args:
        kernel: "varlen": `torch.nn.attention.varlen` on the packed tokens; needs half precision and a GPU of compute
            capability 8.0 or more. "padded": `scaled_dot_product_attention` with a key mask. "auto": varlen where it
            is available, else padded.
    """
    if kernel == "varlen" or kernel == "auto" and _has_varlen(query):
        lengths = (queries.cu_seqlens, keys.cu_seqlens, queries.max_seqlen, keys.max_seqlen)
        return cast(Tensor, varlen_attn(query, key, value, *lengths))  # a tuple only with return_aux
    if query.device.type == "cpu" and query.dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            return packed_attention(query.float(), key.float(), value.float(), queries, keys, "padded").to(query.dtype)
    mask = None if keys.is_attended is None else keys.is_attended[:, None, None, :]
    attended = F.scaled_dot_product_attention(queries.pad(query), keys.pad(key), keys.pad(value), attn_mask=mask)
    return queries.unpad(attended)


def _has_varlen(query: Tensor) -> bool:
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    # Not get_device_capability, which `torch.compile` cannot trace.
    return query.is_cuda and is_half and torch.cuda.get_device_properties(query.device).major >= 8


class SelfAttention(nn.Module):
    """Multi-head self-attention over packed tokens, without biases.

    qkv_proj: rows of q, then k, then v; within each, head after head.
    kernel: see `packed_attention`.
    """

    kernel: Kernel = "auto"

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.attn_out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        query, key, value = self.qkv_proj(x).unflatten(1, (3, -1, self.head_width)).unbind(1)  # (N, H, E) each
        return self.attn_out_proj(packed_attention(query, key, value, segments, segments, self.kernel).flatten(1))


class CrossAttention(nn.Module):
    """Multi-head attention of packed queries to packed context, without biases.

    kv_proj: rows of k, then v; within each, head after head.
    kernel: see `packed_attention`.
    """

    kernel: Kernel = "auto"

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.q_proj = nn.Linear(width, width, bias=False)
        self.kv_proj = nn.Linear(width, 2 * width, bias=False)
        self.attn_out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor, queries: Segments, keys: Segments) -> Tensor:
        query = self.q_proj(x).unflatten(1, (-1, self.head_width))  # (M, H, E)
        if self._has_few_queries(query, context, queries, keys):
            return self.attn_out_proj(self._attend_to_context(query, context, queries, keys).flatten(1))
        key, value = self.kv_proj(context).unflatten(1, (2, -1, self.head_width)).unbind(1)  # (N, H, E) each
        return self.attn_out_proj(packed_attention(query, key, value, queries, keys, self.kernel).flatten(1))

    def _has_few_queries(self, query: Tensor, context: Tensor, queries: Segments, keys: Segments) -> bool:
        """Whether `_attend_to_context` takes fewer operations and needs no padding, which it would copy per head.

        For m queries and n context tokens of a sample it takes 4 · m · H · n · D operations, computing keys and values
        4 · n · D²: it is cheaper below D / H queries. Not for training, where there are more queries.
        """
        is_plain = query.dtype == context.dtype and query.device.type == "cpu" and keys.is_attended is None
        return is_plain and not torch.is_grad_enabled() and queries.max_seqlen < self.head_width

    def _attend_to_context(self, query: Tensor, context: Tensor, queries: Segments, keys: Segments) -> Tensor:
        """(M, H, E) queries → (M, H, E) attended values, without computing keys and values of the context.

        q · (W_k c) = (W_kᵀ q) · c, and W_v is applied after the weighted sum over tokens, as in DeepSeek-V2 (2024).
        """
        to_key, to_value = self.kv_proj.weight.unflatten(0, (2, -1, self.head_width)).unbind(0)  # (H, E, D) each
        rows = torch.einsum("mhe,hed->mhd", query, to_key)
        rows = rows * (context.shape[1] / self.head_width) ** 0.5  # `packed_attention` divides by √D, not by √E
        shared = context[:, None].expand(-1, rows.shape[1], -1)  # (N, H, D), the same for all heads
        attended = packed_attention(rows, shared, shared, queries, keys, self.kernel)
        return torch.einsum("mhd,hed->mhe", attended, to_value)
