"""What is generated, from what, and how: the settings of `conf/sampling/*.yaml`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from m3.core.frames import rolled_modalities
from m3.core.modalities import DISPLACEMENT, GAPS, JOINTS, PICTURE, ModalityTable, check_names, frame_of
from m3.core.validation import check
from m3.sampling.given import GivenEntry, given_mask, named_modality
from m3.sampling.guidance import Guidance
from m3.sampling.orders import ORDERS
from m3.sampling.schedules import SCHEDULES, TEMPERATURE_SCHEDULES, Schedule, TemperatureSchedule

Pick = Literal["sample", "argmax", "mean", "median"]
PICKS: tuple[Pick, ...] = ("sample", "argmax", "mean", "median")
ORDINAL_PICKS = ("mean", "median")

TopPOrder = Literal["after_temperature", "before_temperature"]
TOP_P_ORDERS: tuple[TopPOrder, ...] = ("after_temperature", "before_temperature")

Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")

_log = logging.getLogger(__name__)

AUTO = "auto"
"""`Sampling.given` and `Sampling.generate` that follow from the model."""
OTHERS = "others"
"""`Sampling.given`: all that is not generated."""

_DEFAULT = "default"
"""Key of the scheme for modalities without one of their own."""


@dataclass(frozen=True)
class DecodingConfig:
    """How one modality is generated: an entry of `sampling.schemes`, whose keys are these fields but the first.

    modality: name of the generated modality.
    num_steps: at most its tokens; None decides one token a step. A sample with fewer undecided tokens takes one step
        for each of them.
    order: in which the tokens are decided. "maskgit": a step proposes an id for every undecided position and keeps the
        proposals of the highest confidence; "roar": in a random order of the positions; "ar": in ascending order; or
        another entry of `m3.sampling.orders.ORDERS`.
    schedule: tokens per step, "cosine" or "linear".
    temperature: divides the logits; 0 leaves only the likeliest id of each digit.
    temperature_schedule: how the temperature falls, "constant", "linear" or "inverse_sqrt" (`temperature_factor`).
    top_k: number of likeliest ids of each digit that are kept, with all that are as likely as the last; None keeps all.
    top_p: then the likeliest ids that together have this probability are kept (Holtzman et al., ICLR 2020), with all
        that are as likely as the last; 1 keeps all.
    top_p_order: which probabilities `top_p` counts: those "after_temperature", as Hugging Face's samplers do, or those
        "before_temperature", as 4M does; a temperature above 1 keeps more ids in the first way.
    pick: how an id is taken from those that are kept. "sample" draws one by its probability, "argmax" takes the
        likeliest. "mean" and "median" are for ids with an order, joint positions, and for ids whose digits have one,
        pictures: the best guesses in squared and in absolute error where the distribution is broad or has several peaks
        close together, rounded to an id.
    noise: of "maskgit": scale of the Gumbel noise on the confidence, annealed linearly to 0 at the last step and
        multiplied by the temperature, so that temperature 0 is deterministic. 0 decides strictly by confidence.
    guidance: see `Guidance`; a mapping of its fields, as configuration has it, is converted.
    encoder_interval: the encoder is re-run every `encoder_interval` steps (1 = every step, exact); in between, the
        decoder attends to its last output.
    precision: of the matrix products: "bf16"; "fp32", the weights' own; or "auto", which is bf16 on a GPU that computes
        in it and fp32 elsewhere.

    Raises ValueError naming the key for an impossible value.
    """

    modality: str
    num_steps: int | None
    order: str = "maskgit"
    schedule: Schedule = "cosine"
    temperature: float = 1.0
    temperature_schedule: TemperatureSchedule = "constant"
    top_k: int | None = None
    top_p: float = 1.0
    top_p_order: TopPOrder = "after_temperature"
    pick: Pick = "sample"
    noise: float = 0.0
    guidance: Guidance = field(default_factory=Guidance)
    encoder_interval: int = 1
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if str(self.temperature_schedule) == "onex":
            _log.warning(
                "%s.temperature_schedule=onex is now inverse_sqrt; the old name works for this release", self.key
            )
            object.__setattr__(self, "temperature_schedule", "inverse_sqrt")
        for name, choices in (("order", ORDERS), ("schedule", SCHEDULES), ("pick", PICKS),
                              ("temperature_schedule", TEMPERATURE_SCHEDULES), ("top_p_order", TOP_P_ORDERS),
                              ("precision", PRECISIONS)):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(f"{self.key}.{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}")
        check(f"{self.key}.num_steps", self.num_steps, int | None, low=1)
        check(f"{self.key}.temperature", self.temperature, float, low=0)
        check(f"{self.key}.top_k", self.top_k, int | None, low=1)
        check(f"{self.key}.top_p", self.top_p, float, high=1)
        if self.top_p <= 0:
            raise ValueError(f"{self.key}.top_p={self.top_p}: need more than 0")
        check(f"{self.key}.noise", self.noise, float, low=0)
        if self.noise and self.order != "maskgit":
            raise ValueError(f"{self.key}.noise={self.noise}: order={self.order} decides by no confidence; need 0")
        check(f"{self.key}.encoder_interval", self.encoder_interval, int, low=1)
        if not isinstance(self.guidance, Guidance):
            object.__setattr__(self, "guidance", _built(f"{self.key}.guidance", Guidance, self.guidance))
        self.guidance.check(f"{self.key}.guidance", self.modality)

    @property
    def key(self) -> str:
        """The prefix of the scheme's keys in the configuration."""
        return f"sampling.schemes.{self.modality}"

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0 or self.pick == "argmax"

    def for_table(self, table: ModalityTable) -> DecodingConfig:
        """The scheme with its number of steps. Raises ValueError naming the key that does not fit the modalities."""
        k = table.index(self.modality)
        length = table.max_seq_lens[k]
        if self.num_steps is not None and self.num_steps > length:
            raise ValueError(f"{self.key}.num_steps={self.num_steps}: {self.modality} has {length} tokens")
        if self.pick in ORDINAL_PICKS and table.vocabularies[k] not in (JOINTS, DISPLACEMENT, PICTURE):
            raise ValueError(f"{self.key}.pick={self.pick!r}: ids of {self.modality} have no order; choose sample or "
                             "argmax")  # fmt: skip
        self.guidance.check_table(f"{self.key}.guidance", table)
        return replace(self, num_steps=self.num_steps or length)


@dataclass(frozen=True)
class Sampling:
    """The given and the generated modalities. Constructed from `conf/sampling/*.yaml`, whose keys are these fields.

    given: tokens known at the start: names of modalities, or mappings of one name to some of its parts, joints by
        name or token positions: `[tok_rgb, {coords: [head, left_hip]}]`. Empty: unconditional generation. "auto": all
        that the model takes of the reference, the frame before it, the gaps, and the clip. "others": all modalities
        that are not generated, also those of the successor.
    generate: names of modalities in the order in which they are generated; each one sees those before it. "auto": all
        that training had as a target of the successor, joints before pictures.
    schemes: for each modality how it is generated, as mappings of `DecodingConfig`'s fields; "default" for all others.
    precision: of the schemes that do not name their own.

    Raises ValueError naming the key for entries that contradict each other.
    """

    given: Sequence[GivenEntry] | Literal["auto", "others"]
    generate: Sequence[str] | Literal["auto"]
    schemes: Mapping[str, Mapping[str, Any]]
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        for key, words in (("given", (AUTO, OTHERS)), ("generate", (AUTO,))):
            value = getattr(self, key)
            if value not in words and (isinstance(value, str) or not isinstance(value, Sequence)):
                raise ValueError(f"sampling.{key}={value!r}: need a list, or {' or '.join(words)}")
        given = [] if self.given in (AUTO, OTHERS) else [named_modality(entry) for entry in self.given]
        generated = [] if self.generate == AUTO else self.generate
        for key, names in (("given", given), ("generate", generated)):
            if not all(isinstance(name, str) for name in names):
                raise ValueError(f"sampling.{key}={list(names)}: need names of modalities")
            if len(set(names)) != len(names):
                raise ValueError(f"sampling.{key}={list(names)}: each modality once")
        if not generated and self.generate != AUTO:
            raise ValueError("sampling.generate=[]: nothing to generate; name modalities, or give auto")
        if not isinstance(self.schemes, Mapping):
            raise ValueError(f"sampling.schemes={self.schemes!r}: need modalities with the keys of their schemes")
        for name in generated:
            if not self._has_scheme(name):
                raise ValueError(f"sampling.generate: no scheme for {name}; add sampling.schemes.{name}")
            if name in given and name in self.given:
                raise ValueError(f"sampling.generate: {name} is in sampling.given as a whole; nothing is left of it")
        for name in self.schemes:
            if name != _DEFAULT:
                self.scheme(name)

    def for_model(self, table: ModalityTable, has_references: bool = True) -> Sampling:
        """The same with lists in place of "auto" and "others".

        has_references: False where prompts have none of the table's `extra_vocabularies` to give, as files have not.

        Raises ValueError naming `sampling.generate` for a modality of the frame before the reference, for one that
        training never had as a target, and for "auto" where no part of the successor was one; naming a scheme that is
        of no modality.
        """
        check_names("sampling.schemes", self.schemes, table)
        rolled = rolled_modalities(table)
        generated, given = self.generate, self.given
        if generated != AUTO:
            _check_generated(generated, table)
        if generated == AUTO:
            joints_first = sorted(rolled, key=lambda name: (name != "coords", name != "tok_rgb"))
            generated = [rolled[name] for name in joints_first if table.is_ever_target(rolled[name])]
            if not generated:
                raise ValueError(
                    "sampling.generate=auto: this run had no part of the successor as a target; name what to "
                    f"generate: {', '.join(_learned(table))}"
                )
        if given in (AUTO, OTHERS):
            extra = () if has_references else table.extra_vocabularies or ()
            names = [name for name in table.modalities if frame_of(name)[0] not in extra and name not in generated]
            given = names if given == OTHERS else [name for name in names if _is_condition(name)]
        return replace(self, given=given, generate=generated)

    @cached_property
    def chosen(self) -> tuple[DecodingConfig, ...]:
        """The schemes of the generated modalities, in their order; of a sampling without "auto"."""
        assert self.generate != AUTO, "for_model gives lists"
        return tuple(self.scheme(name) for name in self.generate)

    def scheme(self, name: str, changes: Mapping[str, Any] | None = None) -> DecodingConfig:
        """How a modality is generated, with some fields of its scheme changed. Raises ValueError naming the key."""
        if not self._has_scheme(name):
            raise ValueError(f"sampling.schemes: none for {name}; add sampling.schemes.{name}")
        own = self.schemes[name if name in self.schemes else _DEFAULT]
        if not isinstance(own, Mapping):
            raise ValueError(f"sampling.schemes.{name}={own!r}: need the keys of a scheme")
        values = {"precision": self.precision, **own, **(changes or {}), "modality": name}
        return _built(f"sampling.schemes.{name}", DecodingConfig, values)

    def _has_scheme(self, name: str) -> bool:
        return name in self.schemes or _DEFAULT in self.schemes

    def for_table(self, table: ModalityTable) -> list[DecodingConfig]:
        """`chosen`, with their numbers of steps. Raises ValueError naming the key that does not fit the modalities."""
        return [scheme.for_table(table) for scheme in self.chosen]

    def is_given(self, table: ModalityTable) -> Tensor:
        """(S,) bool, True at the columns of a sample that are known at the start; of a sampling without "auto"."""
        assert self.given not in (AUTO, OTHERS), "for_model gives lists"
        return given_mask(table, self.given) if self.given else torch.zeros(table.num_tokens, dtype=torch.bool)


def _learned(table: ModalityTable) -> list[str]:
    return [name for name in table.modalities if table.is_ever_target(name)]


def _check_generated(names: Sequence[str], table: ModalityTable) -> None:
    learned = _learned(table)
    for name in names:
        if frame_of(name)[1] < 0:
            raise ValueError(
                f"sampling.generate: {name} is of the frame before the reference, which can be given and not generated"
            )
        if name in table.modalities and name not in learned:
            raise ValueError(
                f"sampling.generate: {name} was never a target of this run (modalities.target_alphas): choose from "
                f"{', '.join(learned)}, or train with a positive alpha for it"
            )


def _is_condition(name: str) -> bool:
    """Whether a modality belongs to the reference, to what was before it, or is a gap."""
    return frame_of(name)[1] < 1 or frame_of(name)[0] in GAPS


def _built(key: str, record: type, values: Mapping[str, Any]) -> Any:
    """An object of its fields' values. Raises ValueError naming a key that it does not have, or lacks."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{key}={values!r}: need its keys, {', '.join(f.name for f in fields(record))}")
    names = {f.name for f in fields(record)}
    for name in values:
        if name not in names:
            raise ValueError(f"{key}.{name}: unknown; choose from {', '.join(sorted(names))}")
    if record is DecodingConfig and "num_steps" not in values:
        raise ValueError(f"{key}.num_steps: missing; a number, or null for one token a step")
    return record(**values)
