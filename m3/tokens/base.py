"""The interface of picture tokenizers, and the conversion between uint8 pictures and their pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from m3.core.modalities import PICTURE_STRIDE


class PictureTokenizer(ABC):
    """Pixels ↔ ids 0 … 63,999 on a grid 16 times coarser.

    name: "mini", "cosmos", … or "none".
    fingerprint: hexadecimal sha256 of the weights; data and checkpoints are compatible only if it is equal.
    """

    name: str
    fingerprint: str

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float in [−1, 1], H and W multiples of 16 → (B, H/16, W/16) int64 ids."""

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """(B, h, w) integer ids → (B, 3, 16h, 16w) float in [−1, 1]. Raises ValueError for an illegal id."""


class NoTokenizer(PictureTokenizer):
    """For data sets without picture tokens. Encoding and decoding raise ValueError."""

    name = "none"
    fingerprint = ""

    def encode(self, pixels: Tensor) -> Tensor:
        raise ValueError("tokenizer=none makes no picture tokens; choose tokenizer=mini or tokenizer=cosmos")

    def decode(self, ids: Tensor) -> Tensor:
        raise ValueError("tokenizer=none decodes no picture tokens; choose the tokenizer that made the data")


def check_pixels(pixels: Tensor) -> None:
    """Raises ValueError unless pixels are (B, 3, H, W) with H and W multiples of 16."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or any(side == 0 or side % PICTURE_STRIDE for side in pixels.shape[2:]):
        raise ValueError(
            f"pixels of shape {tuple(pixels.shape)}: need (B, 3, H, W), H and W multiples of {PICTURE_STRIDE}"
        )


def to_pixels(frames: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [−1, 1]."""
    return torch.as_tensor(frames, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_frames(pixels: Tensor) -> np.ndarray:
    """(B, 3, H, W) float in [−1, 1] → (B, H, W, 3) uint8, rounded to nearest."""
    scaled = ((pixels.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
