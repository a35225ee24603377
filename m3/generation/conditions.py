"""What users ask of a roll-out besides its frames: a step in time, an action, a sentence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from m3.checkpoint import LoadedModel
from m3.core.frames import TokenFrames
from m3.core.modalities import GAPS, NUM_GAP_IDS, ModalityTable
from m3.core.validation import check
from m3.generation.prompts import Prompts
from m3.tokens.gaps import decode_gap, encode_gap, encode_seconds
from m3.tokens.text import TextTokenizer


@dataclass(frozen=True)
class Conditions:
    """Those that are None are the clips' own.

    gap: frames from each frame of a roll-out to the next.
    action: a label of the training data.
    captions: a sentence.
    """

    gap: int | None = None
    action: str | None = None
    captions: str | None = None

    @property
    def texts(self) -> list[str]:
        """Those that are asked for, as text for users: "action golf_swing"."""
        asked = [] if self.gap is None else [f"gap {self.gap}"]
        asked += [] if self.action is None else [f"action {self.action}"]
        return asked + ([] if self.captions is None else [f"caption “{self.captions}”"])


def with_conditions(
    prompts: Prompts,
    loaded: LoadedModel,
    conditions: Conditions,
    text_tokenizer: TextTokenizer | None,
    given: Collection[str],
) -> Prompts:
    """The prompts with what is asked in place of what the clips have.

    Gaps after the last known frame of a clip are the last known one. Prompts without any, such as photos, get the
    median gap of the model's data, in frames and in seconds, where its checkpoint names it. A gap other than a clip's
    own ends its ground truth, which holds for the clip's own frames alone.

    Args:
        text_tokenizer: of the model's captions.
        given: the modalities of `sampling.given`.
    Raises:
        ValueError naming the key where the model lacks the modality or is not given it, where the label is none of its
            data, and for a caption that is empty or longer than the model's.
    """
    table = loaded.table
    for key, name in (("rollout.gap", "gap_next"), ("action", "action"), ("captions", "captions")):
        asked = getattr(conditions, key.split(".")[-1])
        if asked is not None and name in table.modalities and name not in given:
            raise ValueError(f"{key}={asked}: the model is not given it; add {name} to sampling.given")
    check("rollout.gap", conditions.gap, int | None, low=1, high=NUM_GAP_IDS)
    tokens = prompts.tokens
    if conditions.gap is None:
        tokens = _with_usual_gaps(tokens, loaded.data.get("median_gap"), loaded.data.get("median_gap_s"))
    elif "gap_next" in table.modalities:
        tokens = _with_gap(tokens, conditions.gap)
    else:
        raise _lacking(f"rollout.gap={conditions.gap}", "gap_next", table)
    if conditions.action is not None:
        tokens = _with_ids(tokens, "action", table, _action_ids(conditions.action, loaded))
    if conditions.captions is not None:
        tokens = _with_ids(tokens, "captions", table, _caption_ids(conditions.captions, table, text_tokenizer))
    return replace(prompts, tokens=tokens)


def lacks_gap(prompts: Prompts) -> bool:
    """Whether some prompt has no gap of its own, neither in frames nor in seconds."""
    return not _has_gap(prompts.tokens).all()


def _has_gap(tokens: TokenFrames) -> np.ndarray:
    """(N,) bool, True where the gap to the reference or to the first successor is known, in frames or in seconds."""
    return np.any([tokens.is_known[name][:, :2, 0].any(1) for name in GAPS if name in tokens.is_known], axis=0)


def _lacking(key: str, modality: str, table: ModalityTable) -> ValueError:
    option = "motion_rgb" if modality == "captions" else "motion"
    return ValueError(
        f"{key}: the model has no modality {modality}, only {', '.join(table.modalities)}; train with "
        f"modalities={option}"
    )


def _caption_ids(caption: str, table: ModalityTable, text_tokenizer: TextTokenizer | None) -> np.ndarray:
    check("captions", caption, str)
    key = f"captions={caption!r}"
    if "captions" not in table.modalities or text_tokenizer is None:
        raise _lacking(key, "captions", table)
    if not caption.strip():
        raise ValueError(f"{key}: need a sentence, or null for the clips' own")
    length = table.max_seq_lens[table.index("captions")]
    if (num_tokens := text_tokenizer.num_tokens(caption)) > length:
        raise ValueError(f"{key}: {num_tokens} tokens, the model takes {length} (modalities.max_seq_lens); shorten it")
    ids, is_content = text_tokenizer.encode(caption, length)
    return ids[is_content]


def _action_ids(action: str, loaded: LoadedModel) -> np.ndarray:
    if "action" not in loaded.table.modalities:
        raise _lacking(f"action={action}", "action", loaded.table)
    known = list(loaded.data.get("actions", ()))
    if action not in known:
        raise ValueError(f"action={action}: not a label of the training data; choose one of {', '.join(known)}")
    return np.array([known.index(action)])


def _with_ids(tokens: TokenFrames, name: str, table: ModalityTable, ids: np.ndarray) -> TokenFrames:
    """The same tokens for all frames."""
    length = table.max_seq_lens[table.index(name)]
    filled = np.zeros(length, np.int64)
    filled[: len(ids)] = ids
    shape = (*tokens.is_present.shape, length)
    is_known = np.broadcast_to(np.arange(length) < len(ids), shape)
    return TokenFrames(
        {**tokens.ids, name: np.broadcast_to(filled, shape).copy()},
        {**tokens.is_known, name: is_known.copy()},
        tokens.is_present,
    )


def _with_usual_gaps(tokens: TokenFrames, num_frames: int | None, seconds: float | None) -> TokenFrames:
    """The prompts' own gaps at all successors; index 0, the gap to the reference, stays.

    num_frames, seconds: for prompts without a gap of their own; None: they stay without.
    """
    names = [name for name in GAPS if name in tokens.ids]
    if not names:
        return tokens
    lacks_all, usual = ~_has_gap(tokens), {}
    if num_frames is not None:
        usual["gap"] = encode_gap(np.array(num_frames))
    if seconds is not None:
        usual["seconds"] = encode_seconds(np.array(seconds))
    found = _copy(tokens)
    for name in names:
        ids, is_known = found.ids[name], found.is_known[name]
        for frame in range(1, ids.shape[1]):
            ids[:, frame] = np.where(is_known[:, frame], ids[:, frame], ids[:, frame - 1])
            is_known[:, frame] |= is_known[:, frame - 1]
        if name in usual:
            ids[lacks_all, 1:], is_known[lacks_all, 1:] = usual[name], True
    return found


def _with_gap(tokens: TokenFrames, gap: int) -> TokenFrames:
    """That number of frames to all successors; index 0, the gap to the reference, stays."""
    found = _copy(tokens)
    ids, is_known = found.ids["gap"], found.is_known["gap"]
    own = np.where(is_known[:, 1:, 0], decode_gap(ids[:, 1:, 0]), gap)  # (N, T)
    found.is_present[:, 1:] &= np.logical_and.accumulate(own == gap, axis=1)
    ids[:, 1:], is_known[:, 1:] = encode_gap(np.array(gap)), True
    if "seconds" in found.is_known:  # the rate is not known here; frames say enough
        found.is_known["seconds"][:, 1:] = False
    return found


def _copy(tokens: TokenFrames) -> TokenFrames:
    ids, is_known = ({name: values.copy() for name, values in part.items()} for part in (tokens.ids, tokens.is_known))
    return TokenFrames(ids, is_known, tokens.is_present.copy())
