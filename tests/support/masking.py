"""The modality table of the published recipe, random tokens for it, and the generator that masks them."""

from __future__ import annotations

import numpy as np
import torch

from m3.core.modalities import ModalityTable
from m3.core.rng import SampleGenerator

M3 = ModalityTable(
    modalities=["tok_rgb", "coords", "tok_rgb_next", "coords_next"],
    vocab_sizes=[65536] * 4,
    max_seq_lens=[256, 39, 256, 39],
    input_alphas=[1, 1, 1, 1],
    target_alphas=[1, 1, 1, 1],
    input_tokens_range=[32, 128],
    target_tokens_range=[32, 128],
    clamped="drop",
)


def generator(num_samples: int, seed: int = 0, epoch: int = 0) -> SampleGenerator:
    return SampleGenerator(seed, "test", torch.arange(num_samples), epoch)


def random_tokens(num_samples: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 64_000, (2, num_samples, 256))
    places = rng.integers(0, 8_192, (2, num_samples, 26))
    visible = rng.integers(0, 2, (2, num_samples, 13))
    frames = [np.concatenate([p, c, v], 1) for p, c, v in zip(pictures, places, visible)]
    return torch.from_numpy(np.concatenate(frames, 1))
