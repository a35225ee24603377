"""From hidden vectors to the logits of a vocabulary. Every head starts at zero: the first loss is ln(number of ids)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3.core.modalities import JOINTS, PICTURE, Vocabulary
from m3.model.embeddings import OrdinalTable
from m3.tokens.fsq import basis, digits_of_legal, digits_to_ids


class FlatHead(nn.Module):
    """One logit per id: the whole id is its only digit."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.num_ids = vocabulary.num_ids
        self.weight = nn.Parameter(torch.zeros(vocabulary.num_ids, width))

    def num_logits(self, num_ids: int | None = None) -> int:
        """Logits of a token, or of its first `num_ids` ids: what `digit_logits` gives for a hidden vector."""
        return self.num_ids if num_ids is None else num_ids

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
        self.num_ids = vocabulary.num_ids
        self.table = OrdinalTable(vocabulary.num_ids, width)

    def rows(self, num_ids: int | None = None) -> Tensor:
        return self.table.rows(num_ids)


class FactorizedHead(nn.Module):
    """A token as its digits, independent given the hidden vector.

    A picture token has 8+8+8+5+5+5 logits instead of 64,000, a joint's 32+256 (fine step, coarse place), not 8,192.
    """

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.levels = vocabulary.digits
        self.weight = nn.Parameter(torch.zeros(sum(self.levels), width))

    def num_logits(self, num_ids: int | None = None) -> int:
        """Logits of a token: of all its digits, or of those that its first `num_ids` ids need."""
        return sum(self._sizes(num_ids))

    def digit_logits(self, hidden: Tensor, num_ids: int | None = None) -> tuple[Tensor, ...]:
        """(M, D) → (M, V_d) for each digit d, least significant first; of the first `num_ids` ids where it is given.

        Exact where these are all combinations of their digits, as 0 and 1 at the visibility of a joint are.
        """
        logits = F.linear(hidden, self.weight).split(self.levels, dim=1)
        return tuple(each[:, :size] for each, size in zip(logits, self._sizes(num_ids)))

    def _sizes(self, num_ids: int | None) -> tuple[int, ...]:
        """Values that each digit takes in the first `num_ids` ids."""
        if num_ids is None:
            return self.levels
        return tuple(min(level, -(-num_ids // weight)) for level, weight in zip(self.levels, basis(self.levels)))

    def digits_of(self, ids: Tensor) -> tuple[Tensor, ...]:
        """(M,) ids → one (M,) tensor for each digit."""
        return digits_of_legal(ids, self.levels)

    def ids_of(self, digits: tuple[Tensor, ...]) -> Tensor:
        """The inverse of `digits_of`."""
        return digits_to_ids(torch.stack(digits, -1), self.levels)


def build_head(vocabulary: Vocabulary, width: int, head: str, joints: str) -> FlatHead | FactorizedHead:
    """The head of a vocabulary under `model.head` and `model.joints`."""
    if vocabulary is PICTURE and head == "factorized" or vocabulary is JOINTS and joints == "digits":
        return FactorizedHead(vocabulary, width)
    if vocabulary is JOINTS and joints == "ordinal":
        return OrdinalHead(vocabulary, width)
    return FlatHead(vocabulary, width)
