"""Classifier-free guidance (Ho & Salimans, 2022) with several weighted conditions, as in 4M (NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from m3.core.modalities import ModalityTable
from m3.core.validation import check


@dataclass(frozen=True)
class Guidance:
    """logits = unconditional + scale · Σ weight · (conditional − unconditional), over the conditions.

    The unconditional pass leaves the tokens of all conditions out of the inputs, the pass of a condition leaves out
    those of the other conditions. All passes query the same positions.

    scale: 1 with one condition of weight 1 is no guidance; larger values follow the condition more closely.
    conditions: each is a modality, or a list of modalities that are one condition together. Empty: no guidance.
    weights: of the conditions; None gives each the weight 1.
    """

    scale: float = 1.0
    conditions: Sequence[str | Sequence[str]] = ()
    weights: Sequence[float] | None = None

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The modalities of each condition."""
        return [(entry,) if isinstance(entry, str) else tuple(entry) for entry in self.conditions]

    def check(self, key: str, modality: str) -> None:
        """Raises ValueError naming the key for values that are impossible in the scheme of `modality`."""
        check(f"{key}.scale", self.scale, float)
        if not _is_list(self.conditions) or not all(
            isinstance(name, str) for entry in self.conditions for name in (entry if _is_list(entry) else [entry])
        ):
            raise ValueError(f"{key}.conditions={self.conditions!r}: need a list of modalities, or of lists of them")
        if self.weights is not None and not _is_list(self.weights):
            raise ValueError(f"{key}.weights={self.weights!r}: need a list, one number for each condition")
        names = [name for group in self.groups for name in group]
        if self.scale != 1 and not names:
            raise ValueError(f"{key}.scale={self.scale}: name the guiding modalities in {key}.conditions")
        if modality in names or len(set(names)) != len(names) or not all(self.groups):
            raise ValueError(f"{key}.conditions={self.groups}: need modalities other than {modality}, each once")
        if self.weights is not None:
            if len(self.weights) != len(self.groups):
                raise ValueError(f"{key}.weights={list(self.weights)}: need one for each of {self.groups}")
            for weight in self.weights:
                check(f"{key}.weights", weight, float)

    def check_table(self, key: str, table: ModalityTable) -> None:
        """Raises ValueError naming the key for a condition that the model does not have."""
        for name in (name for group in self.groups for name in group):
            if name not in table.modalities:
                raise ValueError(f"{key}.conditions: no modality {name!r}; choose from {', '.join(table.modalities)}")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


class Pass(NamedTuple):
    """A pass of the model, without some of the inputs.

    left_out: columns of a sample's tokens. coefficient: its weight in the result; the sum
    over all passes is 1.
    """

    left_out: tuple[slice, ...]
    coefficient: float


def passes(guidance: Guidance, table: ModalityTable) -> list[Pass]:
    """The passes whose weighted sum is the guided result, without those of weight 0.

    Heads are linear and the coefficients sum to 1, so the decoder's hidden vectors can be summed instead of the logits.
    """
    groups = guidance.groups
    if not groups:
        return [Pass((), 1.0)]
    shares = [guidance.scale * weight for weight in guidance.weights or [1.0] * len(groups)]
    columns = [tuple(table.columns(name) for name in group) for group in groups]
    everything = tuple(part for group in columns for part in group)
    made = [Pass(everything, 1 - sum(shares))]
    for i, share in enumerate(shares):
        made.append(Pass(tuple(part for j, group in enumerate(columns) if j != i for part in group), share))
    return [each for each in made if abs(each.coefficient) > 1e-9]  # 1 − Σ shares is 0 up to rounding


def visible_to(is_known: Tensor, one: Pass) -> Tensor:
    """(B, S) bool: the inputs of a pass."""
    if one.left_out:
        is_known = is_known.clone()
        for columns in one.left_out:
            is_known[:, columns] = False
    return is_known
