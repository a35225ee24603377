"""From stored tokens to the tokens of a run's modalities, some of which are derived when a sample is read.

stored      tok_rgb, coords, their _next and _prev     members of shards, columns of token tables
derived     motion_prev, motion_next                   from two poses
            gap_…, seconds_…, action                   from the frame numbers, rate and label of a pair
            captions                                   from its text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3.core.joints import NUM_JOINTS
from m3.core.modalities import COORDS_LENGTH, JOINTS, NUM_JOINT_BINS, NUM_VISIBILITY_IDS, ModalityTable, frame_of
from m3.core.types import PairInfo
from m3.shards.manifest import SCHEMA_VERSION, Manifest, StoredModality, stored_for
from m3.tokens.displacement import displacement_tokens
from m3.tokens.gaps import encode_gap, encode_seconds
from m3.tokens.text import TextTokenizer


class PairFacts(NamedTuple):
    """What is known of B pairs besides their stored tokens.

    gap_prev, gap_next: (B,) int64 frames from the previous frame to the reference, and from there to the successor;
        0 where there is none.
    fps: (B,) float64 frames per second, 0 where unknown.
    action: (B,) int64 index of the label in the manifest, −1 where unknown.
    captions, captions_length: (B, L) int64 ids and (B,) int64 tokens, of the first caption; L is 0 without captions.
    """

    gap_prev: np.ndarray
    gap_next: np.ndarray
    fps: np.ndarray
    action: np.ndarray
    captions: np.ndarray
    captions_length: np.ndarray

    def rows(self, index: np.ndarray) -> PairFacts:
        """The facts of some pairs."""
        return PairFacts(*(column[index] for column in self))


class _Part(NamedTuple):
    """Tokens of one modality: (B, L) ids, 0 beyond the length, and (B,) lengths."""

    ids: np.ndarray
    length: np.ndarray


class SampleAssembler:
    """Assembles the tokens of a run's modalities.

    Args:
        manifest: of the data set.
        table: the run's modalities.
        text_tokenizer: of the data set's captions; needed for the modality captions alone.
        needs_words: False where the data set may lack labels and captions that the table names: samples are then
            without them, as for a trained model.

    Attributes:
        needed: the stored modalities to read, those of the table first, in its order.
        last_ids: (sum of their lengths,) uint16 largest legal id of each of their tokens.
        needs_facts: whether a modality is derived from frame numbers, rate, label or caption.

    Raises:
        ValueError, naming the remedy, where the data set lacks a modality or what it is derived from, or has it in
        another length or with more ids than the table.
    """

    def __init__(
        self,
        manifest: Manifest,
        table: ModalityTable,
        text_tokenizer: TextTokenizer | None = None,
        needs_words: bool = True,
    ) -> None:
        self.table = table
        self._actions = {action: number for number, action in enumerate(manifest.actions)}
        self._text_tokenizer = text_tokenizer
        self.needed = _needed(manifest, table)
        _check_labels(manifest, table, text_tokenizer, needs_words)
        self.last_ids = np.concatenate([_last_ids(each, table) for each in self.needed] or [np.zeros(0, np.uint16)])
        self.needs_facts = any(name in _DERIVED and name not in _MOTIONS for name in table.modalities)
        self._is_direct = tuple(table.modalities) == tuple(each.name for each in self.needed)

    def place_of(self, column: int) -> tuple[str, int]:
        """Modality and position of a column of the needed tokens."""
        for modality in self.needed:
            if column < modality.length:
                return modality.name, column
            column -= modality.length
        raise IndexError(column)

    def facts(self, pairs: Sequence[PairInfo], captions: Sequence[str]) -> PairFacts:
        """What the table's modalities need to know of pairs. captions: "" where a pair has none."""
        previous = np.array([-1 if pair.previous is None else pair.previous for pair in pairs], dtype=np.int64)
        reference = np.array([pair.reference for pair in pairs], dtype=np.int64)
        successor = np.array([pair.successor for pair in pairs], dtype=np.int64)
        return PairFacts(
            np.where(previous < 0, 0, reference - previous),
            successor - reference,
            np.array([pair.fps or 0.0 for pair in pairs], dtype=np.float64),
            np.array([self._actions.get(pair.action or "", -1) for pair in pairs], dtype=np.int64),
            *self._encoded(captions),
        )

    def _encoded(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(B, L) ids and (B,) lengths; equal captions are encoded once."""
        length = 0
        if "captions" in self.table.modalities:
            length = self.table.max_seq_lens[self.table.index("captions")]
        if self._text_tokenizer is None or not length:
            return np.zeros((len(captions), length), np.int64), np.zeros(len(captions), np.int64)
        encoded = {caption: self._text_tokenizer.encode(caption or None, length) for caption in set(captions)}
        ids = np.array([encoded[caption][0] for caption in captions], dtype=np.int64).reshape(len(captions), length)
        return ids, np.array([encoded[caption][1].sum() for caption in captions], dtype=np.int64)

    def assemble(self, stored: np.ndarray, lengths: np.ndarray, facts: PairFacts) -> tuple[np.ndarray, np.ndarray]:
        """Stored tokens (B, sum of the lengths of `needed`) and lengths (B, len(needed)) → (B, S) int64, (B, K) int64.

        Tokens beyond the length of a modality are 0.
        """
        if self._is_direct:
            return stored.astype(np.int64), lengths.astype(np.int64)
        parts, start = {}, 0
        for number, modality in enumerate(self.needed):
            ids = stored[:, start : start + modality.length].astype(np.int64)
            parts[modality.name] = _Part(ids, lengths[:, number].astype(np.int64))
            start += modality.length
        made = [parts[name] if name in parts else _DERIVED[name](parts, facts) for name in self.table.modalities]
        return np.concatenate([each.ids for each in made], 1), np.stack([each.length for each in made], 1)


def has_input_and_target(lengths: np.ndarray, table: ModalityTable) -> np.ndarray:
    """(B, K) lengths of samples → (B,) bool, whether some alpha set finds an input and a target in the sample."""
    found = np.zeros(len(lengths), bool)
    for alpha_set in table.alpha_sets:
        is_input, is_target = (np.array(side) > 0 for side in (alpha_set.input_alphas, alpha_set.target_alphas))
        has_both = (lengths[:, is_input] > 0).any(1) & (lengths[:, is_target] > 0).any(1)
        found |= has_both & (lengths[:, is_input | is_target].sum(1) > 1)
    return found


def lengths_unless_whole(lengths: np.ndarray, table: ModalityTable) -> Tensor | None:
    """(B, K) int64, or None where all samples have all tokens."""
    return None if (lengths == table.max_seq_lens).all() else torch.from_numpy(lengths)


def _needed(manifest: Manifest, table: ModalityTable) -> list[StoredModality]:
    stored = {modality.name: modality for modality in manifest.modalities}
    for name, length in zip(table.modalities, table.max_seq_lens, strict=True):
        if name in _DERIVED:
            if lacking := [each for each in stored_for([name]) if each not in stored]:
                raise ValueError(
                    f"modalities.modalities: {name} needs {', '.join(lacking)}, which the data set does not store; "
                    "make it again with `python preprocess.py … history=true`, or choose other modalities=…"
                )
        elif (found := stored[name].length if name in stored else 0) != length:
            raise ValueError(
                f"modalities.max_seq_lens: the run wants {length} tokens of {name}, the data set has {found} "
                f"(its canvas is {manifest.canvas_size} px): {_fitting(name, found)}, or make other data"
            )
    own = [name for name in table.modalities if name in stored]
    return [stored[name] for name in dict.fromkeys([*own, *stored_for(table.modalities)])]


def _fitting(name: str, length: int) -> str:
    """The shipped options for data with so many tokens of a modality."""
    if not length and frame_of(name)[0] == "tok_rgb":
        return "choose experiment=motion or modalities=coords, which need no pictures"
    if length == 64:
        return "choose experiment=demo"
    if length == 256:
        return "choose experiment=small, or modalities=m3"
    return "choose modalities=… for it"


def _check_labels(
    manifest: Manifest, table: ModalityTable, text_tokenizer: TextTokenizer | None, needs_words: bool
) -> None:
    """The table has at least as many ids of actions and texts as the data set needs."""
    num_ids = {"action": len(manifest.actions), "captions": 0 if text_tokenizer is None else text_tokenizer.num_ids}
    for name, found in num_ids.items():
        if name not in table.modalities:
            continue
        wanted = table.vocab_sizes[table.index(name)]
        if not found and needs_words and name == "action" and manifest.schema_version < SCHEMA_VERSION:
            raise ValueError(
                f"modalities.modalities: the data set is of schema version {manifest.schema_version}, which lists no "
                f"labels for {name}; make it again with `python preprocess.py … overwrite=true`, or leave {name} out"
            )
        if not found and needs_words:
            raise ValueError(f"modalities.modalities: the data set has no {name}; leave it out of modalities=…")
        if found > wanted:
            raise ValueError(
                f"modalities.vocab_sizes: {wanted} for {name}, the data set has {found} ids; give at least that many, "
                "or to a trained model data of the same labels and words"
            )


def _last_ids(modality: StoredModality, table: ModalityTable) -> np.ndarray:
    if modality.name in table.modalities:
        return np.array(table.last_ids[table.columns(modality.name)], dtype=np.uint16)
    last = np.full(modality.length, modality.num_ids - 1, dtype=np.uint16)
    if modality.vocabulary == JOINTS.name:
        last[:] = NUM_JOINT_BINS - 1
        last[2 * NUM_JOINTS :] = NUM_VISIBILITY_IDS - 1
    return last


_Parts = Mapping[str, _Part]


def _motion(earlier: str, later: str) -> Callable[[_Parts, PairFacts], _Part]:
    def derive(parts: _Parts, facts: PairFacts) -> _Part:
        poses = [parts[name].ids.reshape(-1, 3, NUM_JOINTS) for name in (earlier, later)]
        is_there = (parts[earlier].length == COORDS_LENGTH) & (parts[later].length == COORDS_LENGTH)
        return _only(displacement_tokens(*poses), is_there)

    return derive


def _only(ids: np.ndarray, is_there: np.ndarray) -> _Part:
    """A modality that samples have as a whole, or not at all."""
    return _Part(np.where(is_there[:, None], ids, 0), is_there * ids.shape[1])


def _gap(name: str) -> Callable[[_Parts, PairFacts], _Part]:
    def derive(parts: _Parts, facts: PairFacts) -> _Part:
        num_frames = getattr(facts, name)
        return _only(encode_gap(num_frames)[:, None], num_frames > 0)

    return derive


def _seconds(gap: str) -> Callable[[_Parts, PairFacts], _Part]:
    def derive(parts: _Parts, facts: PairFacts) -> _Part:
        num_frames = getattr(facts, gap)
        is_timed = (num_frames > 0) & (facts.fps > 0)
        seconds = np.where(is_timed, num_frames / np.where(is_timed, facts.fps, 1), 1)
        return _only(encode_seconds(seconds)[:, None], is_timed)

    return derive


def _action(parts: _Parts, facts: PairFacts) -> _Part:
    return _only(facts.action[:, None], facts.action >= 0)


def _captions(parts: _Parts, facts: PairFacts) -> _Part:
    return _Part(facts.captions, facts.captions_length)


_MOTIONS = {"motion_prev": _motion("coords_prev", "coords"), "motion_next": _motion("coords", "coords_next")}

_DERIVED: dict[str, Callable[[_Parts, PairFacts], _Part]] = {
    **_MOTIONS,
    "gap_prev": _gap("gap_prev"),
    "gap_next": _gap("gap_next"),
    "seconds_prev": _seconds("gap_prev"),
    "seconds_next": _seconds("gap_next"),
    "action": _action,
    "captions": _captions,
}
