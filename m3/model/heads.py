"""Heads: logits of a vocabulary from hidden vectors. Weights start at 0: the first loss is ln(number of ids)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3.core.modalities import DISPLACEMENT, JOINTS, PICTURE, Vocabulary
from m3.model.embeddings import OrdinalTable
from m3.tokens.fsq import basis, digits_of_legal, digits_to_ids


class FlatHead(nn.Module):
    """One logit per id: the whole id is its only digit."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.num_ids = vocabulary.num_ids
        self.weight = nn.Parameter(torch.zeros(vocabulary.num_ids, width))

    def num_logits(self, num_ids: int | None = None) -> int:
        """Number of logits that `digit_logits` gives per token."""
        return self.num_ids if num_ids is None else num_ids

    def rows(self, num_ids: int | None = None) -> Tensor:
        """The weights (V, D), or their first `num_ids` rows."""
        return self.weight[:num_ids]

    def digit_logits(self, hidden: Tensor, num_ids: int | None = None) -> tuple[Tensor, ...]:
        """(M, D) → one (M, V) tensor; only its first `num_ids` columns where that is given."""
        return (F.linear(hidden, self.rows(num_ids)),)

    def digits_of(self, ids: Tensor) -> tuple[Tensor, ...]:
        return (ids,)

    def ids_of(self, digits: tuple[Tensor, ...]) -> Tensor:
        return digits[0]

    def is_predicted(self, ids: Tensor) -> tuple[Tensor | None, ...]:
        """See `FactorizedHead.is_predicted`."""
        return (None,)


class OrdinalHead(FlatHead):
    """A flat head whose weights are an `OrdinalTable`."""

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        nn.Module.__init__(self)
        self.num_ids = vocabulary.num_ids
        self.table = OrdinalTable(vocabulary.num_ids, width)

    def rows(self, num_ids: int | None = None) -> Tensor:
        return self.table.rows(num_ids)


class FactorizedHead(nn.Module):
    """Predicts the digits of an id, which are independent given the hidden vector.

    A picture token has 8+8+8+5+5+5 logits instead of 64,000, a joint token 32+256 (fine and coarse coordinate) instead
    of 8,192, a displacement 65+65+2 instead of 4,226 (`DisplacementHead`).
    """

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        assert vocabulary.digits is not None, vocabulary.name
        self.levels = vocabulary.digits
        self.weight = nn.Parameter(torch.zeros(sum(self.levels), width))

    def num_logits(self, num_ids: int | None = None) -> int:
        """Number of logits per token over all digits, or over the values of digits in the first `num_ids` ids."""
        return sum(self._sizes(num_ids))

    def digit_logits(self, hidden: Tensor, num_ids: int | None = None) -> tuple[Tensor, ...]:
        """(M, D) → (M, V_d) for each digit d, least significant first.

        num_ids: only the values that digits take in the first `num_ids` ids. Their combinations must be exactly these
            ids, as for ids 0 and 1, the visibility of a joint.
        """
        logits = F.linear(hidden, self.weight).split(self.levels, dim=1)
        return tuple(each[:, :size] for each, size in zip(logits, self._sizes(num_ids)))

    def _sizes(self, num_ids: int | None) -> tuple[int, ...]:
        """Number of values that each digit takes in the first `num_ids` ids."""
        if num_ids is None:
            return self.levels
        return tuple(min(level, -(-num_ids // weight)) for level, weight in zip(self.levels, basis(self.levels)))

    def digits_of(self, ids: Tensor) -> tuple[Tensor, ...]:
        """(M,) ids → one (M,) tensor for each digit."""
        return digits_of_legal(ids, self.levels)

    def ids_of(self, digits: tuple[Tensor, ...]) -> Tensor:
        """The inverse of `digits_of`."""
        return digits_to_ids(torch.stack(digits, -1), self.levels)

    def is_predicted(self, ids: Tensor) -> tuple[Tensor | None, ...]:
        """(M,) ids → for each digit (M,) bool, True where it belongs to the id; None where it always does."""
        return (None,) * len(self.levels)


class DisplacementHead(FactorizedHead):
    """Predicts the cell along x, the cell along y, and whether the joint is seen at all.

    The cells of a joint that is not seen are neither learned nor part of the id's probability: those that the head
    gives are conditional on its being seen.
    """

    def _sizes(self, num_ids: int | None) -> tuple[int, ...]:
        assert num_ids in (None, DISPLACEMENT.num_ids), num_ids
        return self.levels

    def ids_of(self, digits: tuple[Tensor, ...]) -> Tensor:
        """The inverse of `digits_of`; the cells of a joint that is not seen have no effect."""
        *cells, is_unseen = digits
        is_seen = 1 - is_unseen
        return super().ids_of((*(cell * is_seen for cell in cells), is_unseen))

    def is_predicted(self, ids: Tensor) -> tuple[Tensor | None, ...]:
        is_seen = self.digits_of(ids)[-1] == 0
        return is_seen, is_seen, None


def build_head(vocabulary: Vocabulary, width: int, head: str, joints: str) -> FlatHead | FactorizedHead:
    """The head of a vocabulary under `model.head` and `model.joints`."""
    if vocabulary == PICTURE and head == "factorized" or vocabulary == JOINTS and joints == "digits":
        return FactorizedHead(vocabulary, width)
    if vocabulary == DISPLACEMENT and head == "factorized":
        return DisplacementHead(vocabulary, width)
    if vocabulary == JOINTS and joints in ("ordinal", "relative"):
        return OrdinalHead(vocabulary, width)
    return FlatHead(vocabulary, width)
