"""Embeddings of token ids and of positions."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3.core.joints import NUM_JOINTS
from m3.core.modalities import (
    COORDS_LENGTH,
    JOINTS,
    MOTION,
    NUM_HORIZONS,
    NUM_VISIBILITY_IDS,
    PICTURE,
    ModalityTable,
    Vocabulary,
)
from m3.tokens.fsq import digits_of_legal

INIT_STD = 0.02


def published_frequencies(width: int) -> Tensor:
    """(width / 2,) radians per position: 1 down to 10⁻⁴, as in Vaswani et al. 2017."""
    return 10_000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))


def fitted_frequencies(length: int, width: int) -> Tensor:
    """(width / 2,) radians per position, for wavelengths from 2 positions to 4 lengths of the axis."""
    lowest, highest = math.log2(math.pi / (2 * length)), math.log2(math.pi)
    return torch.logspace(highest, lowest, width // 2, base=2, dtype=torch.float64)


def sincos(length: int, frequencies: Tensor) -> Tensor:
    """(length, 2 · len(frequencies)): sines, then cosines, of the angles position · frequency."""
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_grid(side: int, width: int) -> Tensor:
    """(side · side, width), row-major: half of the width embeds the row, half the column."""
    line = sincos(side, fitted_frequencies(side, width // 2))
    return torch.cat([line.repeat_interleave(side, 0), line.repeat(side, 1)], dim=1)


def sincos_motion(width: int) -> Tensor:
    """(16 · 13, width), horizon after horizon: the embedding of the joint's x token plus one of the horizon."""
    joint = sincos(COORDS_LENGTH, fitted_frequencies(COORDS_LENGTH, width))[:NUM_JOINTS]
    horizon = sincos(NUM_HORIZONS, fitted_frequencies(NUM_HORIZONS, width))
    return (horizon[:, None] + joint).flatten(0, 1)


class PositionEmbedding(nn.Module):
    """Fixed embedding of the position within a modality, from 0 in each.

    layout: "1d", as published; or "2d", in which picture tokens are embedded by row and column, motion tokens by
        horizon and joint, and wavelengths fit the length of each axis.
    """

    def __init__(self, table: ModalityTable, width: int, layout: Literal["1d", "2d"]) -> None:
        super().__init__()
        if layout not in ("1d", "2d"):
            raise ValueError(f"model.positions={layout!r}: choose 1d or 2d")
        if width % 4:
            raise ValueError(f"model.width={width}: sin-cos positions need a multiple of 4")
        embedding = torch.zeros(table.num_modalities, max(table.max_seq_lens), width)  # (K, longest, D)
        for k, (vocabulary, length) in enumerate(zip(table.vocabularies, table.max_seq_lens)):
            if vocabulary is PICTURE and layout == "2d":
                side = math.isqrt(length)
                if side**2 != length:
                    raise ValueError(
                        f"model.positions=2d needs square pictures, {table.modalities[k]} has {length} tokens"
                    )
                embedding[k, :length] = sincos_grid(side, width)
            elif vocabulary is MOTION and layout == "2d":
                embedding[k, :length] = sincos_motion(width)
            else:
                frequencies = published_frequencies(width) if layout == "1d" else fitted_frequencies(length, width)
                embedding[k, :length] = sincos(length, frequencies)
        self.embedding: Tensor
        self.register_buffer("embedding", embedding, persistent=False)

    def forward(self, modality: Tensor, position: Tensor) -> Tensor:
        """(N,), (N,) → (N, D)."""
        return self.embedding[modality, position]


class TokenEmbedding(nn.Embedding):
    """One learned vector per id."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__(vocabulary.num_ids, width)


class DigitEmbedding(nn.Module):
    """A picture token is the sum of the learned vectors of its FSQ digits."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        assert vocabulary.digits is not None, vocabulary.name
        self.levels = vocabulary.digits
        self.digits = nn.ModuleList(nn.Embedding(level, width) for level in self.levels)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) → (N, D)."""
        columns = digits_of_legal(ids, self.levels)
        vectors: list[Tensor] = [embedding(column) for embedding, column in zip(self.digits, columns)]
        return functools.reduce(torch.add, vectors)


def ordinal_features(num_ids: int, num_frequencies: int = 32) -> Tensor:
    """(num_ids, 2 · num_frequencies) sines and cosines of id / num_ids, from half a cycle to 64 cycles."""
    place = (torch.arange(num_ids, dtype=torch.float64) + 0.5) / num_ids
    cycles = torch.logspace(-1, 6, num_frequencies, base=2, dtype=torch.float64)
    angles = 2 * math.pi * place[:, None] * cycles
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class OrdinalTable(nn.Module):
    """A (num_ids, D) table for ids that are coordinates: neighboring ids have similar rows.

    Rows are a learned linear map of fixed Fourier features of the id (after Tancik et al., NeurIPS 2020), the finest of
    which have a wavelength of 128 ids. Ids 0 and 1, which also encode invisible and visible, get an additional learned
    vector each.
    """

    def __init__(self, num_ids: int, width: int) -> None:
        super().__init__()
        self.features: Tensor
        self.register_buffer("features", ordinal_features(num_ids), persistent=False)
        self.smooth = nn.Parameter(torch.zeros(self.features.shape[1], width))
        self.visibility = nn.Parameter(torch.zeros(NUM_VISIBILITY_IDS, width))

    def rows(self, num_ids: int | None = None) -> Tensor:
        """(num_ids, D) rows of all ids, or of the first `num_ids` ≥ 2."""
        rows = self.features[:num_ids] @ self.smooth
        return torch.cat([rows[:NUM_VISIBILITY_IDS] + self.visibility, rows[NUM_VISIBILITY_IDS:]])


class OrdinalEmbedding(OrdinalTable):
    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__(vocabulary.num_ids, width)
        nn.init.normal_(self.visibility, std=INIT_STD)
        nn.init.normal_(self.smooth, std=INIT_STD)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) → (N, D)."""
        # Not by indexing `visibility`: the order in which its gradient is summed depends on threads.
        own = F.embedding(ids.clamp(max=NUM_VISIBILITY_IDS - 1), self.visibility)
        return self.features[ids] @ self.smooth + own * (ids < NUM_VISIBILITY_IDS)[:, None]


def build_embedding(vocabulary: Vocabulary, width: int, head: str, joints: str) -> nn.Module:
    """The input embedding of a vocabulary, matching its head (`m3.model.heads.build_head`)."""
    if vocabulary is PICTURE and head == "factorized":
        return DigitEmbedding(vocabulary, width)
    if vocabulary is JOINTS and joints != "table":
        return OrdinalEmbedding(vocabulary, width)
    return TokenEmbedding(vocabulary, width)
