"""The modality table: the one place that knows names, lengths, vocabularies, alphas and legal ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from m3.records import NUM_JOINTS
from m3.settings import require

FSQ_LEVELS = (8, 8, 8, 5, 5, 5)
"""Levels of the six digits of a picture token (Cosmos-0.1 DI, and m3's own mini tokenizer)."""

PICTURE_STRIDE = 16
"""A picture token stands for 16 × 16 pixels; canvas sizes are multiples of it."""

NUM_JOINT_BINS = 8192
"""Ids of an x or y token. A visibility token uses the first two of them."""

NUM_VISIBILITY_IDS = 2
"""Ids of a visibility token: 0 invisible, 1 visible."""

COORDS_LENGTH = 3 * NUM_JOINTS
"""Tokens of a pose: 13 x, 13 y, 13 visibilities."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids that one output head predicts and one embedding table reads.

    name: "picture" or "joints" (or "table", the published vocabulary that everything shares).
    num_ids: legal ids are 0 … num_ids − 1.
    digits: mixed-radix levels of an id, least significant first, or None where it has no inner structure.
    """

    name: str
    num_ids: int
    digits: tuple[int, ...] | None = None


MAX_VOCAB_SIZE = 65536
"""Shards and token tables hold ids as uint16."""

PICTURE = Vocabulary("picture", math.prod(FSQ_LEVELS), FSQ_LEVELS)
JOINTS = Vocabulary("joints", NUM_JOINT_BINS)

_VOCABULARY_OF = {"tok_rgb": PICTURE, "coords": JOINTS, "tok_rgb_next": PICTURE, "coords_next": JOINTS}


@dataclass(frozen=True)
class ModalityTable:
    """The modalities of a run, in the order in which their tokens lie in a sample, and their budgets' law.

    Constructed from `conf/modalities/*.yaml`, whose keys are these fields.

    modalities: names, of tok_rgb, coords, tok_rgb_next, coords_next.
    vocab_sizes: padded table sizes, per modality; read by `logits=table`.
    max_seq_lens: tokens per modality (L).
    input_alphas, target_alphas: Dirichlet concentrations, per modality; 0 never receives a token.
    input_tokens_range, target_tokens_range: inclusive bounds of the tokens of a sample's draw.
    clamped: what happens to tokens drawn beyond a modality's length: "drop" (published) or "redistribute".

    Raises ValueError naming the key for fields that disagree or that no draw can satisfy.
    """

    modalities: Sequence[str]
    vocab_sizes: Sequence[int]
    max_seq_lens: Sequence[int]
    input_alphas: Sequence[float]
    target_alphas: Sequence[float]
    input_tokens_range: Sequence[int]
    target_tokens_range: Sequence[int]
    clamped: Literal["drop", "redistribute"] = "redistribute"

    def __post_init__(self) -> None:
        for key in ("modalities", "vocab_sizes", "max_seq_lens", "input_alphas", "target_alphas",
                    "input_tokens_range", "target_tokens_range"):  # fmt: skip
            object.__setattr__(self, key, tuple(getattr(self, key)))
        self._check_columns()
        self._check_ranges()

    def _check_columns(self) -> None:
        unknown = [name for name in self.modalities if name not in _VOCABULARY_OF]
        if unknown or len(set(self.modalities)) != self.num_modalities or not self.modalities:
            raise ValueError(
                f"modalities.modalities={list(self.modalities)}: need distinct names of {list(_VOCABULARY_OF)}"
            )
        for key in ("vocab_sizes", "max_seq_lens", "input_alphas", "target_alphas"):
            if len(getattr(self, key)) != self.num_modalities:
                raise ValueError(
                    f"modalities.{key}={list(getattr(self, key))}: need one entry for each of {list(self.modalities)}"
                )
        for key, kind in (
            ("vocab_sizes", int),
            ("max_seq_lens", int),
            ("input_alphas", float),
            ("target_alphas", float),
        ):
            for value in getattr(self, key):
                require(f"modalities.{key}", value, kind, low=1 if kind is int else 0)
        for name, vocabulary, size, length in zip(
            self.modalities, self.vocabularies, self.vocab_sizes, self.max_seq_lens
        ):
            if not vocabulary.num_ids <= size <= MAX_VOCAB_SIZE:
                raise ValueError(
                    f"modalities.vocab_sizes: {size} for {name}, need {vocabulary.num_ids} … {MAX_VOCAB_SIZE}"
                )
            if vocabulary is JOINTS and length != COORDS_LENGTH:
                raise ValueError(f"modalities.max_seq_lens: {name} has {COORDS_LENGTH} tokens, got {length}")

    def _check_ranges(self) -> None:
        if self.clamped not in ("drop", "redistribute"):
            raise ValueError(f"modalities.clamped={self.clamped!r}: choose drop or redistribute")
        for side in ("input", "target"):
            alphas, bounds = getattr(self, f"{side}_alphas"), getattr(self, f"{side}_tokens_range")
            if len(bounds) != 2 or not all(isinstance(bound, int) for bound in bounds):
                raise ValueError(f"modalities.{side}_tokens_range={list(bounds)}: need two whole numbers")
            low, high = bounds
            if not any(alphas):
                raise ValueError(f"modalities.{side}_alphas={list(alphas)}: one of them must be positive")
            room = sum(length for length, alpha in zip(self.max_seq_lens, alphas) if alpha > 0)
            if not 1 <= low <= high <= room:
                raise ValueError(
                    f"modalities.{side}_tokens_range={[low, high]}: need 1 <= low <= high <= {room}, "
                    f"the positions of the modalities with a positive {side} alpha"
                )
        either = zip(self.max_seq_lens, self.input_alphas, self.target_alphas)
        room = sum(length for length, input_alpha, target_alpha in either if input_alpha > 0 or target_alpha > 0)
        if (most := self.input_tokens_range[1] + self.target_tokens_range[1]) > room:
            raise ValueError(
                f"modalities.input_tokens_range and target_tokens_range ask for up to {most} of {room} positions; "
                "lower their upper bounds"
            )

    @property
    def num_modalities(self) -> int:
        return len(self.modalities)

    @property
    def num_tokens(self) -> int:
        """S, the tokens of a whole sample."""
        return sum(self.max_seq_lens)

    @cached_property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """One per modality; modalities of one kind share theirs."""
        return tuple(_VOCABULARY_OF[name] for name in self.modalities)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Column of each modality's first token in a sample: lengths 17, 256, 256 give 0, 17, 273."""
        return tuple(sum(self.max_seq_lens[:k]) for k in range(self.num_modalities))

    def index(self, name: str) -> int:
        if name not in self.modalities:
            raise ValueError(f"modality {name!r} is not in the table {list(self.modalities)}")
        return self.modalities.index(name)

    def columns(self, name: str) -> slice:
        """Where the tokens of a modality lie in a sample's S tokens."""
        k = self.index(name)
        return slice(self.offsets[k], self.offsets[k] + self.max_seq_lens[k])

    def num_legal_ids(self, name: str, position: int) -> int:
        """Legal ids at a position are 0 … this − 1: 64,000 in pictures, 8,192 for x and y, 2 for visibility."""
        vocabulary = self.vocabularies[self.index(name)]
        if vocabulary is JOINTS and position >= 2 * NUM_JOINTS:
            return NUM_VISIBILITY_IDS
        return vocabulary.num_ids
