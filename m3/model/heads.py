"""From hidden vectors to the logits of a vocabulary. Every head starts at zero: the first loss is ln(number of ids)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3.modalities import JOINTS, PICTURE, Vocabulary
from m3.model.embeddings import OrdinalTable
from m3.tokens.fsq import digits_of_legal, digits_to_ids


class FlatHead(nn.Module):
    """One logit per id: the whole id is its only digit."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary.num_ids, width))

    def rows(self, num_ids: int | None = None) -> Tensor:
        """(V, D), or the first `num_ids` of them."""
        return self.weight[:num_ids]

    def digit_logits(self, hidden: Tensor, num_ids: int | None = None) -> tuple[Tensor, ...]:
        """(M, D) → one (M, V) tensor, or its first `num_ids` columns."""
        return (F.linear(hidden, self.rows(num_ids)),)

    def digits_of(self, ids: Tensor) -> tuple[Tensor, ...]:
        return (ids,)

    def ids_of(self, digits: tuple[Tensor, ...]) -> Tensor:
        return digits[0]


class OrdinalHead(FlatHead):
    """A flat head whose weights are an `OrdinalTable`."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        nn.Module.__init__(self)
        self.table = OrdinalTable(vocabulary.num_ids, width)

    def rows(self, num_ids: int | None = None) -> Tensor:
        return self.table.rows(num_ids)


class FactorizedHead(nn.Module):
    """A picture token as its FSQ digits, independent given the hidden vector: 8+8+8+5+5+5 logits instead of 64,000."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.levels = vocabulary.digits
        self.weight = nn.Parameter(torch.zeros(sum(self.levels), width))

    def digit_logits(self, hidden: Tensor, num_ids: int | None = None) -> tuple[Tensor, ...]:
        """(M, D) → (M, 8), (M, 8), (M, 8), (M, 5), (M, 5), (M, 5). `num_ids` says nothing new: all are legal."""
        return F.linear(hidden, self.weight).split(self.levels, dim=1)

    def digits_of(self, ids: Tensor) -> tuple[Tensor, ...]:
        """(M,) ids → six (M,) digits."""
        return digits_of_legal(ids, self.levels)

    def ids_of(self, digits: tuple[Tensor, ...]) -> Tensor:
        """Six (M,) digits → (M,) ids."""
        return digits_to_ids(torch.stack(digits, -1), self.levels)


def build_head(vocabulary: Vocabulary, width: int, head: str, joints: str) -> FlatHead | FactorizedHead:
    """The head of a vocabulary under `model.head` and `model.joints`."""
    if vocabulary is PICTURE and head == "factorized":
        return FactorizedHead(vocabulary, width)
    if vocabulary is JOINTS and joints == "ordinal":
        return OrdinalHead(vocabulary, width)
    return FlatHead(vocabulary, width)
