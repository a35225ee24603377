"""The modality table: the single definition of names, lengths, vocabularies, alphas and legal ids."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from torch.nn import ModuleDict

from m3.core.joints import NUM_JOINTS
from m3.core.validation import check

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

JOINT_LEVELS = (32, 256)
"""Levels of the digits of an x or y token: a fine step within one of 256 coarse places."""

NUM_STEP_IDS = 64
"""Ids of a step token: frames from one horizon of a forecast to the next."""

NUM_HORIZONS = 16
"""Poses of a forecast, one step apart."""

MOTION_SIDE = 33
"""Cells along x and along y of the grid of displacements that a motion token chooses from; odd: the middle is 0."""

UNSEEN_MOTION = MOTION_SIDE**2
"""The id, after those of the cells, of the motion of a joint that is not seen there; nobody learns or scores it."""

MOTION_LENGTH = NUM_HORIZONS * NUM_JOINTS
"""Motion tokens of a sample: for each horizon where its 13 joints have gone."""

DISPLACEMENT_SIDE = 65
"""Cells along x and along y of the grid of displacements from one frame to the next; odd: the middle is 0."""

NOT_SEEN = DISPLACEMENT_SIDE**2
"""The id, after those of the cells, of a joint that is invisible after its displacement; learned and predicted."""

DISPLACEMENT_LEVELS = (DISPLACEMENT_SIDE, DISPLACEMENT_SIDE, 2)
"""Digits of a displacement: cell along x, cell along y, and 1 for `NOT_SEEN`, whose other digits are 0."""

NUM_GAP_IDS = 64
"""Ids of a gap token: 1 … 64 frames from one frame to the next; larger gaps count as 64."""

NUM_SECONDS_IDS = 64
"""Ids of a token for the duration of a gap in seconds (`m3.tokens.gaps`)."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids that one output head predicts and one embedding table reads.

    name: "picture", "joints", "displacement", "gap", "seconds", "action", "text", "step" or "motion" (or "table", the
        published vocabulary that everything shares).
    num_ids: legal ids are 0 … num_ids − 1.
    digits: mixed-radix levels of an id, least significant first, or None where it has no inner structure.
    """

    name: str
    num_ids: int
    digits: tuple[int, ...] | None = None


MAX_VOCAB_SIZE = 65536
"""Shards and token tables hold ids as uint16."""

_WORD = re.compile(r"[a-z][a-z0-9_]*")

PICTURE = Vocabulary("picture", math.prod(FSQ_LEVELS), FSQ_LEVELS)
JOINTS = Vocabulary("joints", NUM_JOINT_BINS, JOINT_LEVELS)
STEP = Vocabulary("step", NUM_STEP_IDS)
MOTION = Vocabulary("motion", UNSEEN_MOTION + 1)

DISPLACEMENT = Vocabulary("displacement", NOT_SEEN + 1, DISPLACEMENT_LEVELS)
GAP = Vocabulary("gap", NUM_GAP_IDS)
SECONDS = Vocabulary("seconds", NUM_SECONDS_IDS)

ACTION, TEXT = "action", "text"
"""Names of the vocabularies whose number of ids depends on the data set: it is the entry of `vocab_sizes`."""

_VOCABULARY_OF = {
    "tok_rgb": PICTURE,
    "coords": JOINTS,
    "tok_rgb_next": PICTURE,
    "coords_next": JOINTS,
    "tok_rgb_prev": PICTURE,
    "coords_prev": JOINTS,
    "motion_prev": DISPLACEMENT,
    "motion_next": DISPLACEMENT,
    "gap_prev": GAP,
    "gap_next": GAP,
    "seconds_prev": SECONDS,
    "seconds_next": SECONDS,
    "step": STEP,
    "motion": MOTION,
}

_SIZED_VOCABULARY_OF = {"action": ACTION, "captions": TEXT}

_VOCABULARY_NAMED = {vocabulary.name: vocabulary for vocabulary in _VOCABULARY_OF.values()}

_RESERVED_MODALITIES = (*_SIZED_VOCABULARY_OF, "clip", "meta", "gap", "seconds", "reference_frame", "successor_frame")
"""Names of other members of shards and of arrays in tokens.npz."""

RESERVED_VOCABULARIES = ("base", "lookup", "table")
"""Modules of `m3.vocabularies` that are no interpreters, and the head of `logits=table`. Heads are also keys of a
`ModuleDict`, whose own attributes cannot be keys."""

_LENGTH_OF = {JOINTS: COORDS_LENGTH, MOTION: MOTION_LENGTH, DISPLACEMENT: NUM_JOINTS, GAP: 1, SECONDS: 1}

_PREV, _NEXT = "_prev", "_next"

GAPS = ("gap", "seconds")
"""Modalities of the time from one frame to the next."""

TRANSITIONS = ("motion", *GAPS)
"""Modalities of the transition that ends at a frame: "motion_prev" ends at the reference, "motion_next" at the
successor."""

CLIP_MODALITIES = ("action", "captions")
"""Modalities that are the same for all frames of a clip."""


def check_names(key: str, names: Iterable[str], table: ModalityTable) -> None:
    """Raises ValueError for a name that is no modality of the table, nor one that other tables of m3 have.

    key: of the configuration section whose keys the names are; "default" is one for all modalities.
    """
    known = {"default", *table.modalities, *_VOCABULARY_OF, *_SIZED_VOCABULARY_OF}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.75)
            meant = f"did you mean {close[0]}?" if close else f"choose from {', '.join(table.modalities)}"
            raise ValueError(f"{key}.{name}: the model has no such modality; {meant}")


def modality_at(name: str, frame: int) -> str | None:
    """The name of a frame's modality in the previous frame (−1), the reference (0) or the successor (1).

    ("coords", 1) → "coords_next", ("motion", 0) → "motion_prev"; None where there is none, as for ("action", 1).
    """
    if name in CLIP_MODALITIES:
        return name if frame == 0 else None
    if name in TRANSITIONS:
        return {0: name + _PREV, 1: name + _NEXT}.get(frame)
    return {-1: name + _PREV, 0: name, 1: name + _NEXT}.get(frame)


def successor_of(name: str) -> str:
    """The name of a frame's modality where the frame is the successor: "coords" → "coords_next"."""
    return name + _NEXT


def frame_of(name: str) -> tuple[str, int]:
    """The modality of a frame and the frame, −1 previous, 0 reference or 1 successor.

    "coords_next" → ("coords", 1), "coords_prev" → ("coords", −1), "motion_prev" → ("motion", 0).
    """
    if name.endswith(_NEXT):
        return name.removesuffix(_NEXT), 1
    if name.endswith(_PREV):
        base = name.removesuffix(_PREV)
        return base, 0 if base in TRANSITIONS else -1
    return name, 0


@dataclass(frozen=True)
class AlphaSet:
    """Dirichlet concentrations of a share of the samples.

    weight: positive; samples take a set with probability proportional to it.
    input_alphas, target_alphas: per modality.
    input_tokens_range, target_tokens_range: inclusive bounds of the number of tokens of a sample.
    """

    weight: float
    input_alphas: tuple[float, ...]
    target_alphas: tuple[float, ...]
    input_tokens_range: tuple[int, ...]
    target_tokens_range: tuple[int, ...]


_ALPHA_SET_KEYS = ("input_alphas", "target_alphas", "input_tokens_range", "target_tokens_range")


@dataclass(frozen=True)
class ModalityTable:
    """The modalities of a run, in the order of their tokens in a sample, and the distribution of token budgets.

    Constructed from `conf/modalities/*.yaml`, whose keys are these fields.

    modalities: names, of tok_rgb, coords, motion, gap, seconds, action, captions, step (`m3.batches.futures`), and
        those of `extra_vocabularies`. "NAME_next" is modality NAME of the successor frame and "NAME_prev" that of the
        frame before the reference; of motion, gap and seconds they are the transition to the successor and to the
        reference.
    vocab_sizes: padded table sizes, per modality; read by `logits=table`. For action and captions the number of ids, of
        which the data may have fewer: a checkpoint knows how many (`m3.checkpoint.loading`).
    max_seq_lens: tokens per modality (L); a sample may have fewer, or none.
    input_alphas, target_alphas: Dirichlet concentrations, per modality; 0 never receives a token.
    input_tokens_range, target_tokens_range: inclusive bounds of the number of tokens of a sample; a sample or an alpha
        set that has fewer positions gives all of them.
    clamped: what happens to tokens drawn beyond a modality's length: "drop" (published) or "redistribute".
    mixture: None, or alpha sets of which each sample takes one by weight, as mappings {weight, input_alphas,
        target_alphas, input_tokens_range, target_tokens_range}. What a set does not name are the fields above.
    extra_vocabularies: None, or the vocabularies of modalities that m3 itself does not have, as mappings
        {name, num_ids} by modality. "NAME_next" has that of NAME. `m3.vocabularies` decodes, draws and scores them.

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
    mixture: Sequence[Mapping[str, Any] | AlphaSet] | None = None
    extra_vocabularies: Mapping[str, Mapping[str, Any]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for key in ("modalities", "vocab_sizes", "max_seq_lens", "input_alphas", "target_alphas",
                    "input_tokens_range", "target_tokens_range"):  # fmt: skip
            object.__setattr__(self, key, _as_tuple(key, getattr(self, key)))
        if self.mixture is not None:
            object.__setattr__(self, "mixture", self._read_mixture())
        self._check_extra_vocabularies()
        self._check_columns()
        self._check_alphas()
        self._check_ranges()

    def _read_mixture(self) -> tuple[AlphaSet, ...]:
        own = {key: getattr(self, key) for key in _ALPHA_SET_KEYS}
        sets = []
        for number, entry in enumerate(_as_tuple("mixture", self.mixture)):
            if isinstance(entry, AlphaSet):
                sets.append(entry)
                continue
            if not isinstance(entry, Mapping) or not {"weight"} <= entry.keys() <= {"weight", *own}:
                raise ValueError(
                    f"modalities.mixture[{number}]={entry}: need weight and, where they differ from the table's, "
                    f"{', '.join(own)}"
                )
            values = {key: _as_tuple(f"mixture[{number}].{key}", entry.get(key, own[key])) for key in own}
            sets.append(AlphaSet(entry["weight"], **values))
        if not sets:
            raise ValueError("modalities.mixture=[]: need an alpha set, or null for the table's own alphas")
        return tuple(sets)

    def _check_extra_vocabularies(self) -> None:
        """Names become parts of file names (`m3.vocabularies`, shards), so they are words."""
        if not isinstance(self.extra_vocabularies, Mapping | None):
            raise ValueError(f"modalities.extra_vocabularies={self.extra_vocabularies!r}: need a mapping, or null")
        num_ids = {vocabulary.name: vocabulary.num_ids for vocabulary in _VOCABULARY_OF.values()}
        for modality, entry in (self.extra_vocabularies or {}).items():
            key = f"modalities.extra_vocabularies.{modality}"
            is_word = isinstance(modality, str) and _WORD.fullmatch(modality) is not None
            is_taken = modality in {*_VOCABULARY_OF, *_RESERVED_MODALITIES}
            if not is_word or is_taken or modality.endswith((_PREV, _NEXT)):
                raise ValueError(f"{key}: need a new name of a-z, 0-9 and _ that does not end in {_PREV} or {_NEXT}")
            if not isinstance(entry, Mapping) or entry.keys() != {"name", "num_ids"}:
                raise ValueError(f"{key}={entry!r}: need name and num_ids")
            if not isinstance(entry["name"], str) or not _WORD.fullmatch(entry["name"]):
                raise ValueError(f"{key}.name={entry['name']!r}: need a word of a-z, 0-9 and _")
            is_reserved = entry["name"] in {*RESERVED_VOCABULARIES, *_SIZED_VOCABULARY_OF.values()}
            if is_reserved or hasattr(ModuleDict(), entry["name"]):
                raise ValueError(f"{key}.name={entry['name']!r}: this name is reserved, choose another")
            check(f"{key}.num_ids", entry["num_ids"], int, low=1, high=MAX_VOCAB_SIZE)
            if num_ids.setdefault(entry["name"], entry["num_ids"]) != entry["num_ids"]:
                raise ValueError(
                    f"{key}.num_ids={entry['num_ids']}: vocabulary {entry['name']} has {num_ids[entry['name']]} ids"
                )

    def _vocabulary_of(self, name: str) -> Vocabulary | None:
        if name in _VOCABULARY_OF:
            return _VOCABULARY_OF[name]
        if name in _SIZED_VOCABULARY_OF:
            self._check_length("vocab_sizes", self.vocab_sizes)
            return Vocabulary(_SIZED_VOCABULARY_OF[name], self.vocab_sizes[list(self.modalities).index(name)])
        extra = (self.extra_vocabularies or {}).get(frame_of(name)[0])
        if extra is None:
            return None
        return _VOCABULARY_NAMED.get(extra["name"]) or Vocabulary(extra["name"], extra["num_ids"])

    def _check_columns(self) -> None:
        unknown = [name for name in self.modalities if self._vocabulary_of(name) is None]
        if unknown or len(set(self.modalities)) != self.num_modalities or not self.modalities:
            known = [*_VOCABULARY_OF, *_SIZED_VOCABULARY_OF, *(self.extra_vocabularies or {})]
            raise ValueError(
                f"modalities.modalities={list(self.modalities)}: need distinct names of {known}; "
                "modalities.extra_vocabularies defines new ones"
            )
        for key in ("vocab_sizes", "max_seq_lens"):
            self._check_length(key, getattr(self, key))
            for value in getattr(self, key):
                check(f"modalities.{key}", value, int, low=1)
        for name, vocabulary, size, length in zip(
            self.modalities, self.vocabularies, self.vocab_sizes, self.max_seq_lens
        ):
            if not vocabulary.num_ids <= size <= MAX_VOCAB_SIZE:
                raise ValueError(
                    f"modalities.vocab_sizes: {size} for {name}, need {vocabulary.num_ids} … {MAX_VOCAB_SIZE}"
                )
            needed = 1 if vocabulary.name == ACTION else _LENGTH_OF.get(vocabulary, length)
            if needed != length:
                raise ValueError(f"modalities.max_seq_lens: {name} has {needed} tokens, got {length}")

    def _check_length(self, key: str, values: Sequence[Any]) -> None:
        if len(values) != self.num_modalities:
            raise ValueError(f"modalities.{key}={list(values)}: need one entry for each of {list(self.modalities)}")

    def _check_alphas(self) -> None:
        for place, alpha_set in self._named_alpha_sets():
            check(f"modalities.{place}weight", alpha_set.weight, float, low=0)
            if not alpha_set.weight:
                raise ValueError(f"modalities.{place}weight=0: need a positive number, or leave the set out")
            for key in ("input_alphas", "target_alphas"):
                alphas = getattr(alpha_set, key)
                self._check_length(place + key, alphas)
                for alpha in alphas:
                    check(f"modalities.{place}{key}", alpha, float, low=0)
                if not any(alphas):
                    raise ValueError(f"modalities.{place}{key}={list(alphas)}: one of them must be positive")

    def _check_ranges(self) -> None:
        if self.clamped not in ("drop", "redistribute"):
            raise ValueError(f"modalities.clamped={self.clamped!r}: choose drop or redistribute")
        rooms: dict[str, list[int]] = {}
        for place, alpha_set in self._named_alpha_sets():
            for side in ("input", "target"):
                bounds = getattr(alpha_set, f"{side}_tokens_range")
                if len(bounds) != 2 or not all(type(bound) is int for bound in bounds):  # True is an int, but no bound
                    raise ValueError(f"modalities.{place}{side}_tokens_range={list(bounds)}: need two whole numbers")
                if not 1 <= bounds[0] <= bounds[1]:
                    raise ValueError(f"modalities.{place}{side}_tokens_range={list(bounds)}: need 1 <= low <= high")
                rooms.setdefault(side, []).append(self._room(getattr(alpha_set, f"{side}_alphas")))
        for side, of_sets in rooms.items():
            # A set with less room than its upper bound gives all that it has; no bound is beyond the widest set.
            for place, alpha_set in self._named_alpha_sets():
                low, high = getattr(alpha_set, f"{side}_tokens_range")
                if high > max(of_sets):
                    raise ValueError(
                        f"modalities.{place}{side}_tokens_range={[low, high]}: need 1 <= low <= high <= "
                        f"{max(of_sets)}, the positions of the modalities with a positive alpha in {side}_alphas"
                    )
        for (place, alpha_set), *room_of in zip(self._named_alpha_sets(), rooms["input"], rooms["target"]):
            sides = alpha_set.input_tokens_range, alpha_set.target_tokens_range
            most = sum(min(bounds[1], room) for bounds, room in zip(sides, room_of))
            room = self._room([sum(alphas) for alphas in zip(alpha_set.input_alphas, alpha_set.target_alphas)])
            if most > room:
                raise ValueError(
                    f"modalities.{place}input_tokens_range and target_tokens_range ask for up to {most} tokens "
                    f"together, the modalities with a positive alpha in {place}input_alphas or {place}target_alphas "
                    f"have {room}; lower the upper bounds"
                )

    def _named_alpha_sets(self) -> list[tuple[str, AlphaSet]]:
        """Each alpha set with the prefix of its keys."""
        if self.mixture is None:
            return [("", alpha_set) for alpha_set in self.alpha_sets]
        return [(f"mixture[{number}].", alpha_set) for number, alpha_set in enumerate(self.alpha_sets)]

    def _room(self, alphas: Sequence[float]) -> int:
        """Positions of the modalities with a positive alpha."""
        return sum(length for length, alpha in zip(self.max_seq_lens, alphas) if alpha > 0)

    @property
    def alpha_sets(self) -> tuple[AlphaSet, ...]:
        """The mixture, or the table's own alphas as its only set."""
        own = AlphaSet(1, **{key: tuple(getattr(self, key)) for key in _ALPHA_SET_KEYS})
        return (own,) if self.mixture is None else tuple(each for each in self.mixture if isinstance(each, AlphaSet))

    def is_ever_target(self, name: str) -> bool:
        """Whether training draws targets of a modality."""
        return any(alpha_set.target_alphas[self.index(name)] > 0 for alpha_set in self.alpha_sets)

    def inputs_for(self, name: str) -> tuple[str, ...]:
        """The modalities that training gives as inputs where `name` is a target; all of them if it never is one."""
        k, trained = self.index(name), set[str]()
        for alpha_set in self.alpha_sets:
            if alpha_set.target_alphas[k] > 0:
                trained |= {each for each, alpha in zip(self.modalities, alpha_set.input_alphas) if alpha > 0}
        return tuple(each for each in self.modalities if each in trained or not trained)

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
        found = [self._vocabulary_of(name) for name in self.modalities]
        return tuple(vocabulary for vocabulary in found if vocabulary is not None)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Column of each modality's first token in a sample: lengths 17, 256, 256 give 0, 17, 273."""
        return tuple(sum(self.max_seq_lens[:k]) for k in range(self.num_modalities))

    @cached_property
    def last_ids(self) -> tuple[int, ...]:
        """The largest legal id of each of a sample's S columns."""
        return tuple(
            self.num_legal_ids(name, position) - 1
            for name, length in zip(self.modalities, self.max_seq_lens)
            for position in range(length)
        )

    def extended(self, lengths: Mapping[str, int]) -> ModalityTable:
        """This table with further modalities at its end, of these lengths, that are never drawn (alpha 0)."""
        never, mixture = (0,) * len(lengths), None
        if self.mixture is not None:
            mixture = [
                replace(
                    each,
                    input_alphas=(*each.input_alphas, *never),
                    target_alphas=(*each.target_alphas, *never),
                )
                for each in self.alpha_sets
            ]
        return replace(
            self,
            modalities=(*self.modalities, *lengths),
            vocab_sizes=(*self.vocab_sizes, *[MAX_VOCAB_SIZE] * len(lengths)),
            max_seq_lens=(*self.max_seq_lens, *lengths.values()),
            input_alphas=(*self.input_alphas, *never),
            target_alphas=(*self.target_alphas, *never),
            mixture=mixture,
        )

    def index(self, name: str) -> int:
        if name not in self.modalities:
            raise ValueError(f"modality {name!r} is not in the table {list(self.modalities)}")
        return self.modalities.index(name)

    def columns(self, name: str) -> slice:
        """The columns of a modality in a sample's S tokens."""
        k = self.index(name)
        return slice(self.offsets[k], self.offsets[k] + self.max_seq_lens[k])

    def num_legal_ids(self, name: str, position: int) -> int:
        """Legal ids at a position are 0 … this − 1: 64,000 in pictures, 8,192 for x and y, 2 for visibility, 4,226 in
        displacements."""
        vocabulary = self.vocabularies[self.index(name)]
        if vocabulary == JOINTS and position >= 2 * NUM_JOINTS:
            return NUM_VISIBILITY_IDS
        return vocabulary.num_ids


def _as_tuple(key: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"modalities.{key}={value!r}: need a list")
    return tuple(value)
