"""Pictures → picture tokens in batches of a fixed size, because ids may depend on the batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from m3.tokens.base import PictureTokenizer, to_pixels


def encode_pictures(tokenizer: PictureTokenizer, pictures: np.ndarray, batch_size: int) -> np.ndarray:
    """(F, H, W, 3) uint8 → (F, H/16, W/16) uint16 ids; the last batch is padded with black pictures."""
    ids = []
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        padded = np.zeros((batch_size, *pictures.shape[1:]), dtype=np.uint8)
        padded[: len(batch)] = batch
        with torch.inference_mode():
            ids.append(tokenizer.encode(to_pixels(padded))[: len(batch)].cpu().numpy())  # (b, h, w)
    return np.concatenate(ids).astype(np.uint16)


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Sets the number of torch's CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
