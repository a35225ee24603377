"""Words ↔ ids: a byte-level BPE, trained on the captions of a data set and stored beside its shards as JSON.

Every byte is in the vocabulary, so that any text can be encoded. Two ids are special: 0 is padding, 1 ends a caption.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from m3.core.modalities import MAX_VOCAB_SIZE
from m3.core.reading import Record, parse_json

PAD, END = "[PAD]", "[EOS]"
PAD_ID, END_ID = 0, 1
MIN_VOCAB_SIZE = 2 + 256
"""[PAD], [EOS] and 256 bytes."""


def is_content(ids: Tensor) -> Tensor:
    """(B, L) ids of generated captions → (B, L) bool, True up to the first [EOS] and for it; False for padding."""
    return ~_is_after_first((ids == END_ID) | (ids == PAD_ID)) & (ids != PAD_ID)


def is_after_end(ids: Tensor, is_known: Tensor) -> Tensor:
    """(B, L) ids and (B, L) bool → (B, L) bool, True after the first known [EOS]. Unknown ids are not read."""
    return _is_after_first(is_known & (ids == END_ID))


def _is_after_first(is_end: Tensor) -> Tensor:
    return is_end.cumsum(1) - is_end.long() > 0


def train_text_tokenizer(captions: Iterable[str], vocab_size: int) -> str:
    """The JSON of a trained tokenizer; it does not depend on the order of the captions.

    Args:
        captions: training text; repeated captions count repeatedly.
        vocab_size: largest number of ids. Pairs of tokens that occur once are not merged, so that few captions give
            fewer ids.

    Raises ValueError for a size outside 258 … 65,536.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise ValueError(f"vocab_size={vocab_size}: need {MIN_VOCAB_SIZE} … {MAX_VOCAB_SIZE}")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(captions), trainer)
    return tokenizer.to_str()


def _check_kind(json_text: str) -> None:
    """Raises ValueError unless a text describes a byte-level BPE with the parts of `train_text_tokenizer` alone."""
    where = "not the JSON of a text tokenizer"
    found = Record(parse_json(json_text, where), where)
    for key in ("truncation", "padding", "normalizer", "post_processor"):
        if not found.is_null(key):
            raise found.error(key, "null")
    model = found.record("model")
    model.text("type", "BPE")
    if not model.is_null("dropout"):
        raise model.error("dropout", "null")
    for key in ("pre_tokenizer", "decoder"):
        found.record(key).text("type", "ByteLevel")
    added = [(each.text("content"), each.count("id")) for each in found.records("added_tokens", 2)]
    if added != [(PAD, PAD_ID), (END, END_ID)]:
        raise found.error("added_tokens", f"{PAD} and {END}")


class TextTokenizer:
    """Captions ↔ ids 0 … num_ids − 1.

    Args:
        json_text: result of `train_text_tokenizer`.

    Raises ValueError for any other text, also for other kinds of tokenizers: the library's format can hold patterns
    that take forever to match, and lengths to pad to.
    """

    def __init__(self, json_text: str) -> None:
        _check_kind(json_text)
        try:
            self._tokenizer = Tokenizer.from_str(json_text)
        except BaseException as error:  # the library raises plain Exceptions, and its Rust code panics
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise ValueError(f"not the JSON of a text tokenizer: {error}") from error
        if (self._tokenizer.token_to_id(PAD), self._tokenizer.token_to_id(END)) != (PAD_ID, END_ID):
            raise ValueError(f"not a text tokenizer of m3: {PAD} must have id {PAD_ID} and {END} id {END_ID}")
        ids = sorted(self._tokenizer.get_vocab().values())
        if ids != list(range(len(ids))) or len(ids) > MAX_VOCAB_SIZE:
            raise ValueError(
                f"not a text tokenizer of m3: its ids are not 0 … {len(ids) - 1}, at most {MAX_VOCAB_SIZE}"
            )
        self._tokenizer.encode_special_tokens = True  # a caption that spells "[EOS]" is text
        self._json_text = json_text

    def __reduce__(self) -> tuple[type[TextTokenizer], tuple[str]]:
        return TextTokenizer, (self._json_text,)

    @property
    def num_ids(self) -> int:
        return self._tokenizer.get_vocab_size()

    def num_tokens(self, caption: str) -> int:
        """Tokens of a caption, with its [EOS]."""
        return len(self._tokenizer.encode(caption).ids) + 1

    def encode(self, caption: str | None, length: int) -> tuple[np.ndarray, np.ndarray]:
        """A caption → (length,) uint16 ids and (length,) bool is_content.

        is_content is True for the tokens of the text and the [EOS] after them, False for padding. A longer caption is
        truncated to `length` tokens without [EOS]; None gives padding only.
        """
        content = [] if caption is None else [*self._tokenizer.encode(caption).ids, END_ID][:length]
        ids = np.full(length, PAD_ID, dtype=np.uint16)
        ids[: len(content)] = content
        return ids, np.arange(length) < len(content)

    def decode(self, ids: np.ndarray) -> str:
        """(length,) integer ids → the text up to the first [EOS] or padding.

        A character that was truncated becomes "\N{REPLACEMENT CHARACTER}". Raises ValueError for an illegal id.
        """
        if len(ids) and not 0 <= int(np.min(ids)) <= int(np.max(ids)) < self.num_ids:
            raise ValueError(f"text ids {np.min(ids)} … {np.max(ids)}: legal ids are 0 … {self.num_ids - 1}")
        ends = np.flatnonzero(np.isin(ids, (PAD_ID, END_ID)))
        return self._tokenizer.decode([int(i) for i in ids[: ends[0] if len(ends) else None]])
