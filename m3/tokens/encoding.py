"""Pictures → picture tokens in batches of one fixed size, on which the ids may depend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from m3.tokens.base import PictureTokenizer, to_pixels


def encode_pictures(tokenizer: PictureTokenizer, pictures: np.ndarray, batch_size: int) -> np.ndarray:
    """(F, H, W, 3) uint8 → (F, H/16, W/16) uint16 ids, in batches of one fixed size.

    The last batch is padded with black pictures: the ids of a picture may depend on the batch's size.
    """
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
    """Within the block, CPU threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
