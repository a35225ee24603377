"""Embeddings of token ids and of positions."""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3.core.joints import NUM_JOINTS
from m3.core.modalities import (
    COORDS_LENGTH,
    DISPLACEMENT,
    DISPLACEMENT_SIDE,
    JOINTS,
    MOTION,
    NOT_SEEN,
    NUM_HORIZONS,
    NUM_VISIBILITY_IDS,
    PICTURE,
    ModalityTable,
    Vocabulary,
)
from m3.tokens.fsq import digits_of_legal
from m3.tokens.pose_box import SMALLEST_SIDE

INIT_STD = 0.02

_FEATURE_STD, _CELL_STD = 0.05, 0.01
"""Of maps of Fourier features, and of what cells have beside them: near cells start with near vectors."""


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


def sincos_joint(width: int) -> Tensor:
    """(13, width): the embedding of a joint, that of its x token in the layout "2d"."""
    return sincos(COORDS_LENGTH, fitted_frequencies(COORDS_LENGTH, width))[:NUM_JOINTS]


def sincos_motion(width: int) -> Tensor:
    """(16 · 13, width), horizon after horizon: the embedding of the joint plus one of the horizon."""
    horizon = sincos(NUM_HORIZONS, fitted_frequencies(NUM_HORIZONS, width))
    return (horizon[:, None] + sincos_joint(width)).flatten(0, 1)


class PositionEmbedding(nn.Module):
    """Fixed embedding of the position within a modality, from 0 in each.

    layout: "1d", as published; "2d", in which picture tokens are embedded by row and column, motion tokens by horizon
        and joint, displacements by joint, and wavelengths fit the length of each axis; or "joint", likewise, with x, y
        and visibility embedded by joint and kind.
    """

    def __init__(self, table: ModalityTable, width: int, layout: Literal["1d", "2d", "joint"]) -> None:
        super().__init__()
        if layout not in ("1d", "2d", "joint"):
            raise ValueError(f"model.positions={layout!r}: choose 1d, 2d or joint")
        if width % 4:
            raise ValueError(f"model.width={width}: sin-cos positions need a multiple of 4")
        embedding = torch.zeros(table.num_modalities, max(table.max_seq_lens), width)  # (K, longest, D)
        for k, (vocabulary, length) in enumerate(zip(table.vocabularies, table.max_seq_lens)):
            if vocabulary == PICTURE and layout != "1d":
                side = math.isqrt(length)
                if side**2 != length:
                    raise ValueError(
                        f"model.positions=2d needs square pictures, {table.modalities[k]} has {length} tokens"
                    )
                embedding[k, :length] = sincos_grid(side, width)
            elif vocabulary == MOTION and layout != "1d":
                embedding[k, :length] = sincos_motion(width)
            elif vocabulary == DISPLACEMENT and layout != "1d":
                embedding[k, :length] = sincos_joint(width)
            elif vocabulary == JOINTS and layout == "joint":
                kind = sincos(length // NUM_JOINTS, fitted_frequencies(length // NUM_JOINTS, width))
                embedding[k, :length] = (kind[:, None] + sincos_joint(width)).flatten(0, 1)
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
    """A token is the sum of the learned vectors of its digits: FSQ digits of a picture, cells of a displacement."""

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


class PoseTokens(NamedTuple):
    """N tokens of poses, or of displacements of their joints.

    ids, position: (N,) int64. pose: (N,) int64, which pose a token belongs to: 0 … num_poses − 1.
    """

    ids: Tensor
    position: Tensor
    pose: Tensor
    num_poses: int


class PerPosition(nn.Module):
    """A linear map for each position of a pose: (N, F) features → (N, D)."""

    def __init__(self, length: int, num_features: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, num_features, width) * _FEATURE_STD)

    def forward(self, features: Tensor, tokens: PoseTokens) -> Tensor:
        length, num_features, width = self.weight.shape
        row = tokens.pose * length + tokens.position
        # All positions side by side, 0 where a token is absent: one batched product, and sums in a fixed order.
        dense = features.new_zeros(tokens.num_poses * length, num_features).index_copy(0, row, features)
        mapped = torch.einsum("bpf,pfd->bpd", dense.view(-1, length, num_features), self.weight)
        return mapped.reshape(-1, width).index_select(0, row)


class RelativeJointEmbedding(OrdinalEmbedding):
    """An ordinal embedding, and features of each place relative to the box around the pose's known places.

    The features have a linear map of their own for each position: how far the left wrist is from the middle of the pose
    means something else than how far the head is.
    """

    num_frequencies = 12

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__(vocabulary, width)
        self.cycles: Tensor
        self.register_buffer("cycles", torch.logspace(-2, 3, self.num_frequencies, base=2), persistent=False)
        self.own = PerPosition(COORDS_LENGTH, 2 * self.num_frequencies + 1, width)

    def forward(self, tokens: PoseTokens) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(N, D)."""
        is_place = (tokens.position < 2 * NUM_JOINTS) & (tokens.ids > 0)  # a joint without a place is at 0
        angle = 2 * math.pi * self._relative(tokens, is_place)[:, None] * self.cycles
        features = torch.cat([angle.sin(), angle.cos()], 1) * is_place[:, None]
        is_seen = (2.0 * tokens.ids - 1) * (tokens.position >= 2 * NUM_JOINTS)
        return super().forward(tokens.ids) + self.own(torch.cat([features, is_seen[:, None]], 1), tokens)

    @staticmethod
    def _relative(tokens: PoseTokens, is_place: Tensor) -> Tensor:
        """(N,) float32: distance along its axis from the middle of the box, in its larger sides."""
        axis = tokens.position // NUM_JOINTS % 2
        row, place = tokens.pose * 2 + axis, tokens.ids.float()
        low = place.new_full((2 * tokens.num_poses,), math.inf)
        low = low.scatter_reduce(0, row, place.masked_fill(~is_place, math.inf), "amin")
        high = place.new_full((2 * tokens.num_poses,), -math.inf)
        high = high.scatter_reduce(0, row, place.masked_fill(~is_place, -math.inf), "amax")
        side = (high - low).view(-1, 2).amax(1).clamp(min=SMALLEST_SIDE)
        relative = (place - (low + high)[row] / 2) / side[tokens.pose]
        return torch.where(is_place, relative, 0.0)


class DisplacementEmbedding(nn.Module):
    """The sum of the vectors of a displacement's cells, which are near for near cells, and features of both cells with
    a linear map of their own for each joint. A joint that is not seen has a vector of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cells = nn.Parameter(torch.randn(2, DISPLACEMENT_SIDE, width) * _CELL_STD)  # along x, along y
        self.not_seen = nn.Parameter(torch.zeros(width))
        self.features: Tensor
        self.register_buffer("features", cell_features(), persistent=False)
        num_features = self.features.shape[1]
        self.smooth = nn.Parameter(torch.randn(2, num_features, width) * _FEATURE_STD)
        self.own = PerPosition(NUM_JOINTS, 2 * num_features, width)

    def forward(self, tokens: PoseTokens) -> Tensor:
        """(N, D)."""
        is_seen = (tokens.ids != NOT_SEEN)[:, None]
        cells = tokens.ids.clamp(max=NOT_SEEN - 1)
        x, y = cells % DISPLACEMENT_SIDE, cells // DISPLACEMENT_SIDE
        along_x, along_y = self.features[x], self.features[y]
        own = self.own(torch.cat([along_x, along_y], 1) * is_seen, tokens)
        vectors = self.cells + self.features @ self.smooth  # (2, 65, D)
        return torch.where(is_seen, F.embedding(x, vectors[0]) + F.embedding(y, vectors[1]) + own, self.not_seen)


POSE_EMBEDDINGS = (RelativeJointEmbedding, DisplacementEmbedding)
"""Those that take `PoseTokens`."""


def cell_features(num_frequencies: int = 12) -> Tensor:
    """(65, 2 · num_frequencies) sines and cosines of the place of a cell on its axis, −1 … 1."""
    place = 2 * (torch.arange(DISPLACEMENT_SIDE, dtype=torch.float64) + 0.5) / DISPLACEMENT_SIDE - 1
    finest = math.log2(DISPLACEMENT_SIDE / 6)
    angle = 2 * math.pi * place[:, None] * torch.logspace(-2, finest, num_frequencies, base=2, dtype=torch.float64)
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def build_embedding(vocabulary: Vocabulary, width: int, head: str, joints: str) -> nn.Module:
    """The input embedding of a vocabulary, matching its head (`m3.model.heads.build_head`)."""
    if vocabulary == DISPLACEMENT and joints == "relative":
        return DisplacementEmbedding(width)
    if vocabulary == JOINTS and joints == "relative":
        return RelativeJointEmbedding(vocabulary, width)
    if vocabulary in (PICTURE, DISPLACEMENT) and head == "factorized":
        return DigitEmbedding(vocabulary, width)
    if vocabulary == JOINTS and joints != "table":
        return OrdinalEmbedding(vocabulary, width)
    return TokenEmbedding(vocabulary, width)
