"""The device to compute on."""

from __future__ import annotations

from typing import Literal

import torch


def default_device() -> Literal["cuda", "cpu"]:
    """What "auto" means: the GPU if there is one. Not Apple's MPS, which has no float64."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_fast_bf16(kind: str) -> bool:
    """Whether a "cuda" or "cpu" device multiplies matrices faster in bfloat16 than in float32."""
    if kind == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def torch_device(key: str, name: str) -> torch.device:
    """The device of this name, or the default one for "auto".

    Raises ValueError naming the key where there is no such device.
    """
    device = default_device() if name == "auto" else name
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{key}={name}: {str(error).splitlines()[0]}") from error
    return torch.device(device)


def lightning_accelerator(name: str) -> str:
    """Lightning's name of an accelerator, "cpu" or "gpu"; the default device's for "auto"."""
    if name != "auto":
        return name
    return "gpu" if default_device() == "cuda" else "cpu"
