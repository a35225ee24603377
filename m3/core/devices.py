"""The device to compute on."""

from __future__ import annotations

import functools
import logging
from typing import Literal

import torch

_log = logging.getLogger(__name__)

_NO_MPS = "Apple's GPU (mps) has no float64, which masks and roll-outs are computed in"


def default_device() -> Literal["cuda", "cpu"]:
    """What "auto" means: the GPU if there is one. Not Apple's, as the log then says once."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        _say_no_mps()
    return "cpu"


@functools.cache
def _say_no_mps() -> None:
    _log.warning("%s: the processor is used", _NO_MPS)


def has_fast_bf16(kind: str) -> bool:
    """Whether a "cuda" or "cpu" device multiplies matrices faster in bfloat16 than in float32."""
    if kind == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def torch_device(key: str, name: str) -> torch.device:
    """The device of this name, or the default one for "auto".

    Raises ValueError naming the key where there is no such device, and for Apple's GPU.
    """
    if str(name).partition(":")[0] == "mps":
        raise ValueError(f"{key}={name}: {_NO_MPS}; choose cpu")
    device = default_device() if name == "auto" else name
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{key}={name}: {str(error).splitlines()[0]}") from error
    return torch.device(device)


def lightning_accelerator(name: str) -> str:
    """Lightning's name of an accelerator, "cpu" or "gpu"; the default device's for "auto".

    Raises ValueError for Apple's GPU.
    """
    if name == "mps" or name == "gpu" and not torch.cuda.is_available() and torch.backends.mps.is_available():
        raise ValueError(f"hardware.accelerator={name}: {_NO_MPS}; choose auto or cpu")
    if name != "auto":
        return name
    return "gpu" if default_device() == "cuda" else "cpu"
