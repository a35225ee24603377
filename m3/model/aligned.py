"""What the inputs have at the place of a picture token: pictures by place, and poses as maps on their grid.

Attention finds such things by itself, given time. Pose-guided generation gives the pose as a picture for the same
reason (Ma et al., NeurIPS 2017), and video models let pixels be copied from their place in the frame before (Finn et
al., NeurIPS 2016).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m3.core.joints import JOINT_NAMES, LIMBS, NUM_JOINTS
from m3.core.modalities import COORDS_LENGTH, JOINTS, NUM_JOINT_BINS, PICTURE, ModalityTable, modality_at
from m3.core.types import PackedTokens
from m3.model.embeddings import DigitEmbedding

_SEGMENTS = (*LIMBS, ("head", "left_shoulder"), ("head", "right_shoulder"))
_FIRST, _SECOND = ([JOINT_NAMES.index(pair[end]) for pair in _SEGMENTS] for end in (0, 1))

_NEAR, _WIDE = 0.5, 1.5
"""Standard deviations of the heat around joints and limbs, in tokens."""

NUM_POSE_FEATURES = 4 * NUM_JOINTS + 7 * len(_SEGMENTS)


class PlacedPoses(NamedTuple):
    """Poses of B samples as far as they are known.

    xy: (B, 13, 2) float32, in sides of the canvas. is_seen: (B, 13) bool: its place is known, and it is not known to be
    invisible.
    """

    xy: Tensor
    is_seen: Tensor


def placed_poses(tokens: PackedTokens, modality: int) -> PlacedPoses:
    """The poses that a modality of joints has among packed tokens."""
    rows = tokens.rows[modality]
    place = tokens.sample.index_select(0, rows) * COORDS_LENGTH + tokens.position.index_select(0, rows)
    dense = torch.full((len(tokens.lengths) * COORDS_LENGTH,), -1, dtype=torch.int64, device=rows.device)
    x, y, visibility = dense.index_copy(0, place, tokens.ids.index_select(0, rows)).view(-1, 3, NUM_JOINTS).unbind(1)
    is_seen = (x >= 0) & (y >= 0) & (x + y > 0) & (visibility != 0)
    return PlacedPoses(torch.stack([x, y], -1).clamp(min=0).float() / (NUM_JOINT_BINS - 1), is_seen)


def pose_features(poses: PlacedPoses, sample: Tensor, position: Tensor, side: int) -> Tensor:
    """How joints and limbs lie around the middle of a picture token: heat that falls with the distance, and the way.

    Args:
        sample, position: (M,) int64 of picture tokens; side: tokens along a side of the picture.
    Returns:
        (M, NUM_POSE_FEATURES) float32; 0 for joints and limbs that are not seen.
    """
    middle = torch.stack([position % side, position // side], -1) + 0.5  # (M, 2), in tokens
    joints = poses.xy.index_select(0, sample) * side - middle[:, None]  # (M, 13, 2), from the token
    is_seen = poses.is_seen.index_select(0, sample)
    start, end = joints[:, _FIRST], joints[:, _SECOND]  # (M, 14, 2)
    along = end - start
    length = along.square().sum(-1).clamp(min=1e-6)  # squared
    share = (-(start * along).sum(-1) / length).clamp(0, 1)  # of the limb, where it is nearest
    nearest = start + share[..., None] * along
    direction = along / length.sqrt()[..., None]
    near, wide = _heat(nearest, _NEAR), _heat(nearest, _WIDE)
    of_limbs = torch.cat([near, wide, share * near, *(nearest * wide[..., None]).unbind(-1),
                          *(direction * near[..., None]).unbind(-1)], 1)  # fmt: skip
    is_limb_seen = (is_seen[:, _FIRST] & is_seen[:, _SECOND]).repeat(1, 7)
    wide = _heat(joints, _WIDE)
    of_joints = torch.cat([_heat(joints, _NEAR), wide, *(joints * wide[..., None]).unbind(-1)], 1)
    return torch.cat([of_joints * is_seen.repeat(1, 4), of_limbs * is_limb_seen], 1)


def _heat(offset: Tensor, deviation: float) -> Tensor:
    """(…, 2) → (…)."""
    return (-offset.square().sum(-1) / (2 * deviation**2)).exp()


class AlignedPictures(nn.Module):
    """Vectors for the picture tokens of a sample, from what its inputs have at the same place.

    An input token has those of its own frame's pose, a query those of all pictures and poses among the inputs.

    Raises ValueError naming the key for pictures that are not square.
    """

    def __init__(self, table: ModalityTable, width: int) -> None:
        super().__init__()
        self.table = table
        self.pictures = [k for k, vocabulary in enumerate(table.vocabularies) if vocabulary == PICTURE]
        for k in self.pictures:
            if self._side(k) ** 2 != table.max_seq_lens[k]:
                raise ValueError(f"model.aligned=true needs square pictures, {table.modalities[k]} has "
                                 f"{table.max_seq_lens[k]} tokens")  # fmt: skip
        self.poses = [
            k for k, (vocabulary, length) in enumerate(zip(table.vocabularies, table.max_seq_lens))
            if vocabulary == JOINTS and length == COORDS_LENGTH
        ]  # fmt: skip
        self.tokens = nn.ModuleList(DigitEmbedding(PICTURE, width) for _ in self.pictures)
        self.own_pose = nn.Linear(NUM_POSE_FEATURES, width, bias=False)
        self.input_poses = nn.ModuleList(nn.Linear(NUM_POSE_FEATURES, width, bias=False) for _ in self.poses)
        self.pose_of: dict[int, int] = {}  # picture → pose of the same frame
        for k in self.pictures:
            for frame in (-1, 0, 1):
                if modality_at("tok_rgb", frame) == table.modalities[k]:
                    pose = modality_at("coords", frame)
                    if pose is not None and pose in table.modalities and table.index(pose) in self.poses:
                        self.pose_of[k] = table.index(pose)

    def of_inputs(self, x: Tensor, inputs: PackedTokens) -> Tensor:
        """(N, D) vectors of the inputs → (N, D), those of pictures with their frame's pose."""
        for picture, pose in self.pose_of.items():
            rows = inputs.rows[picture]
            sample, position = inputs.sample.index_select(0, rows), inputs.position.index_select(0, rows)
            features = pose_features(placed_poses(inputs, pose), sample, position, self._side(picture))
            x = x.index_add(0, rows, self.own_pose(features).to(x.dtype))
        return x

    def of_queries(self, x: Tensor, inputs: PackedTokens, targets: PackedTokens) -> Tensor:
        """(M, D) vectors of the queries → (M, D), those of pictures with what the inputs have at their place."""
        placed = [placed_poses(inputs, k) for k in self.poses]
        for target in self.pictures:
            rows, length = targets.rows[target], self.table.max_seq_lens[target]
            sample, position = targets.sample.index_select(0, rows), targets.position.index_select(0, rows)
            vectors = x.new_zeros(len(rows), x.shape[1])
            for poses, linear in zip(placed, self.input_poses):
                vectors = vectors + linear(pose_features(poses, sample, position, self._side(target)))
            for picture, embedding in zip(self.pictures, self.tokens):
                if self.table.max_seq_lens[picture] == length:
                    vectors = vectors + self._at(embedding, inputs, picture, sample * length + position)
            x = x.index_add(0, rows, vectors.to(x.dtype))
        return x

    def _at(self, embedding: nn.Module, inputs: PackedTokens, picture: int, place: Tensor) -> Tensor:
        """(M, D) vectors of the input tokens of a picture at `place`, sample · L + position; 0 where there is none."""
        rows, length = inputs.rows[picture], self.table.max_seq_lens[picture]
        own = inputs.sample.index_select(0, rows) * length + inputs.position.index_select(0, rows)
        dense = torch.full((len(inputs.lengths) * length,), -1, dtype=torch.int64, device=rows.device)
        ids = dense.index_copy(0, own, inputs.ids.index_select(0, rows)).index_select(0, place)
        return embedding(ids.clamp(min=0)) * (ids >= 0)[:, None]

    def _side(self, picture: int) -> int:
        return math.isqrt(self.table.max_seq_lens[picture])
