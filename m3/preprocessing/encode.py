"""Adds picture tokens and captions to prepared clips, in the process that has the networks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from m3.captions import Captioner
from m3.core.joints import mirror_pictures
from m3.preprocessing.prepare import ClipPreparer, PreparedClip
from m3.preprocessing.staging import StagedClip
from m3.tokens.base import PictureTokenizer
from m3.tokens.encoding import encode_pictures

_PICTURES_AT_ONCE = 256
"""Pictures of a long clip that are in memory at the same time."""


@dataclass(frozen=True)
class ClipEncoder:
    """Prepared clip → staged clip. Each frame is tokenized once, even if it appears in several pairs.

    preparer: the one that prepared the clip.
    batch_size: frames per call of the tokenizer; the frames of a clip are padded to a multiple of it.
    """

    preparer: ClipPreparer
    tokenizer: PictureTokenizer
    captioner: Captioner
    batch_size: int

    def __call__(self, prepared: PreparedClip) -> StagedClip:
        """Raises ClipError where a picture can no longer be read."""
        staged = prepared.staged
        references = sorted({pair.reference for pair in staged.pairs})
        tokens: dict[str, list[np.ndarray]] = defaultdict(list)
        captions: list[str | None] = []
        for indices, pictures in self._blocks(prepared):
            if self.preparer.stores("tok_rgb"):
                tokens["tok_rgb"].append(self._ids(pictures))
                if self.preparer.has_flip:
                    tokens["tok_rgb.flip"].append(self._ids(mirror_pictures(pictures)))
            if self.captioner.needs_pictures:
                seen = pictures[np.isin(indices, references)]
                captions += self.captioner.captions(staged.action, len(seen), seen) if len(seen) else []
        if not self.captioner.needs_pictures:
            captions = self.captioner.captions(staged.action, len(references), None)
        caption_of = dict(zip(references, captions, strict=True))
        return replace(
            staged,
            captions=tuple(caption_of[pair.reference] for pair in staged.pairs),
            tokens={**staged.tokens, **{name: np.concatenate(parts) for name, parts in tokens.items()}},
        )

    def _blocks(self, prepared: PreparedClip) -> Iterator[tuple[list[int], np.ndarray]]:
        """Frame indices (n) and their pictures (n, size, size, 3) uint8, a bounded number at once."""
        remaining = self.preparer.pictures(prepared)
        block_size = self.batch_size * math.ceil(_PICTURES_AT_ONCE / self.batch_size)
        while block := list(islice(remaining, block_size)):
            yield [index for index, _ in block], np.stack([picture for _, picture in block])

    def _ids(self, pictures: np.ndarray) -> np.ndarray:
        ids = encode_pictures(self.tokenizer, pictures, self.batch_size)  # (n, h, w)
        if ids.shape[1:] != self.preparer.canvas.grid:
            raise ValueError(
                f"tokenizer {self.tokenizer.name} gave a grid of {ids.shape[1:]} tokens, "
                f"the canvas needs {self.preparer.canvas.grid}"
            )
        return ids
