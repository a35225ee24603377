"""The interface of an interpreter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m3.core.palette import INK, PAPER
from m3.metrics.specs import MetricSpec
from m3.tokens.base import PictureTokenizer
from m3.tokens.joints import JointCodec
from m3.tokens.text import TextTokenizer


@dataclass(frozen=True)
class DecodingContext:
    """What decoding depends on besides the ids.

    canvas_size: pixels on each side. actions: labels of the ids of "action". text_tokenizer: of captions.
    """

    tokenizer: PictureTokenizer
    canvas_size: int
    actions: Sequence[str] = ()
    text_tokenizer: TextTokenizer | None = None

    @property
    def codec(self) -> JointCodec:
        return JointCodec(self.canvas_size)


class Interpreter(ABC):
    """Decodes, draws and scores the tokens of one vocabulary.

    A module `m3/vocabularies/NAME.py` makes an instance available as INTERPRETER.

    is_overlay: True where it draws onto the picture of a frame, False where it fills a cell by itself.
    """

    is_overlay = False

    @abstractmethod
    def decode(self, ids: np.ndarray, is_known: np.ndarray, is_present: np.ndarray, context: DecodingContext) -> Any:
        """The value of the tokens of N sequences of T + 1 frames.

        Args:
            ids: (N, T + 1, L) int64, 0 where unknown.
            is_known: (N, T + 1, L) bool.
            is_present: (N, T + 1) bool.

        Returns:
            A value with leading dimensions (N, T + 1) that NumPy indices of these two can select from: an array, or a
            record such as `m3.core.frames.Poses`.
        """

    @abstractmethod
    def draw(self, value: Any, cell: Image.Image, canvas_size: int) -> Image.Image:
        """The cell with the value of one frame drawn into it.

        Args:
            value: one frame of what `decode` returns.
            cell: square RGB picture: what is below an overlay, else blank.
            canvas_size: pixels; canvas coordinates times cell.width / canvas_size are pixels of the cell.
        """

    def stored_shape(self, length: int) -> tuple[int, ...]:
        """The shape in files of the L tokens of a frame."""
        return (length,)

    def metrics(self, modality: str) -> Sequence[MetricSpec]:
        """The metrics of a modality of this vocabulary, besides the accuracy of its tokens and `METRICS`."""
        return ()


class WordsInterpreter(Interpreter):
    """Decodes the tokens of a frame to words, which are written into a cell of their own."""

    def decode(
        self, ids: np.ndarray, is_known: np.ndarray, is_present: np.ndarray, context: DecodingContext
    ) -> np.ndarray:
        """(N, T + 1) texts, "" where no token is known."""
        words = np.full(is_present.shape, "", dtype=object)
        for place in zip(*np.nonzero(is_known.any(-1))):
            words[place] = self.words(ids[place][is_known[place]], context)
        return words

    @abstractmethod
    def words(self, ids: np.ndarray, context: DecodingContext) -> str:
        """The text of the known tokens of one frame, (n,) int64, n at least 1."""

    def draw(self, value: str, cell: Image.Image, canvas_size: int) -> Image.Image:
        picture = Image.new("RGB", cell.size, PAPER)
        font = ImageFont.load_default(cell.width * 0.09)
        lines = wrap(value, 18, max_lines=9, placeholder=" …") or [""]
        pen = ImageDraw.Draw(picture)
        pen.multiline_text((cell.width / 2, cell.height / 2), "\n".join(lines), INK, font, anchor="mm", align="center")
        return picture
