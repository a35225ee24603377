"""Which tokens of a sample are known: whole modalities, or some joints or positions of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from m3.core.joints import JOINT_NAMES, NUM_JOINTS
from m3.core.modalities import JOINTS, ModalityTable

GivenEntry = str | Mapping[str, Sequence[str | int]]
"""A modality as a whole, or {modality: joints by name, or token positions}."""


def joint_positions(joints: Sequence[str]) -> list[int]:
    """Positions of the x, y and visibility tokens of some joints within a pose's 39 tokens.

    Raises ValueError for a name that is not in `m3.core.types.JOINT_NAMES`.
    """
    unknown = [joint for joint in joints if joint not in JOINT_NAMES]
    if unknown:
        raise ValueError(f"joints {unknown}: choose from {', '.join(JOINT_NAMES)}")
    return [part * NUM_JOINTS + JOINT_NAMES.index(joint) for part in range(3) for joint in joints]


def named_modality(entry: GivenEntry) -> str:
    """The modality of an entry. Raises ValueError naming `sampling.given` for one of another form."""
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(f"sampling.given: {entry!r} is neither a modality nor parts of one, {{coords: [head]}}")
    return next(iter(entry))


def given_mask(table: ModalityTable, given: Sequence[GivenEntry]) -> Tensor:
    """(S,) bool, True at the columns of a sample that the entries name.

    Raises ValueError naming `sampling.given` for modalities, joints and positions that are not there.
    """
    is_given = torch.zeros(table.num_tokens, dtype=torch.bool)
    for entry in given:
        name = named_modality(entry)
        if name not in table.modalities:
            raise ValueError(f"sampling.given: no modality {name!r}; choose from {', '.join(table.modalities)}")
        columns = table.columns(name)
        parts = range(columns.stop - columns.start) if isinstance(entry, str) else entry[name]
        if isinstance(parts, str) or not isinstance(parts, Sequence):
            raise ValueError(f"sampling.given: {name}: {parts!r} is no list of joints or token positions")
        for position in _positions(table, name, parts):
            is_given[columns.start + position] = True
    return is_given


def _positions(table: ModalityTable, name: str, parts: Sequence[str | int]) -> list[int]:
    k = table.index(name)
    numbers = [part for part in parts if isinstance(part, int)]
    joints = [part for part in parts if not isinstance(part, int)]
    if joints and table.vocabularies[k] != JOINTS:
        raise ValueError(f"sampling.given: {name} has no joints, {joints}; give token positions")
    beyond = [number for number in numbers if not 0 <= number < table.max_seq_lens[k]]
    if beyond:
        raise ValueError(f"sampling.given: {name} has positions 0 … {table.max_seq_lens[k] - 1}, not {beyond}")
    try:
        return numbers + joint_positions(joints)
    except ValueError as error:
        raise ValueError(f"sampling.given: {name}: {error}") from error
