"""What a device can do at most, for the share of it that a training uses (MFU)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache

import torch

_TERA = 1e12

_PEAKS = (
    # NVIDIA V100 Tensor Core GPU data sheet (2020)
    (r"V100S", {"fp32": 16.4, "fp16": 130}),
    (r"V100.*PCIE", {"fp32": 14, "fp16": 112}),
    (r"V100", {"fp32": 15.7, "fp16": 125}),
    # NVIDIA A100 Tensor Core GPU data sheet (2021)
    (r"A100", {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312}),
    # NVIDIA H100 Tensor Core GPU architecture white paper (2022), table 2; NVL: H100 data sheet (2024)
    (r"H100 NVL", {"fp32": 60, "tf32": 417.5, "fp16": 835.5, "bf16": 835.5}),
    (r"H100.*PCIe", {"fp32": 51.2, "tf32": 378, "fp16": 756, "bf16": 756}),
    (r"H100", {"fp32": 66.9, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4}),
    # NVIDIA H200 Tensor Core GPU data sheet (2024)
    (r"H200 NVL", {"fp32": 60, "tf32": 417.5, "fp16": 835.5, "bf16": 835.5}),
    (r"H200", {"fp32": 66.9, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4}),
)
"""A pattern of the device's name and its dense TFLOP/s (data sheets print twice that, "with sparsity"), SXM by default;
the first pattern that is found counts."""

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Peak:
    """flops_per_s: of matrix products. source: where the number is from, in words."""

    flops_per_s: float
    source: str


def arithmetic(precision: str, device: torch.device) -> str:
    """fp32, tf32, fp16 or bf16: in what a precision of Lightning's ("32-true", "bf16-mixed", …) multiplies matrices."""
    name = {"16": "fp16", "bf16": "bf16"}.get(precision.split("-")[0], "fp32")
    uses_tf32 = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if name == "fp32" and uses_tf32 else name


def published_peak(device_name: str, kind: str) -> Peak | None:
    """Of a GPU's name as `torch.cuda.get_device_name` gives it; None where the table has no such GPU or arithmetic."""
    for pattern, peaks in _PEAKS:
        if re.search(pattern, device_name, re.IGNORECASE):
            return Peak(peaks[kind] * _TERA, f"{device_name}'s data sheet, {kind}") if kind in peaks else None
    return None


def peak_of(device: torch.device, precision: str) -> Peak:
    """The maker's number where it is known, else, and on a CPU, the measured rate of large matrix products."""
    kind = arithmetic(precision, device)
    if device.type == "cuda" and (published := published_peak(torch.cuda.get_device_name(device), kind)):
        return published
    return _measured_once(device, kind, torch.get_num_threads())


@cache
def _measured_once(device: torch.device, kind: str, num_threads: int) -> Peak:
    size = 8192 if device.type == "cuda" else 1024
    rate = matmul_flops(device, _DTYPES[kind], size, warmup_s=0.05, measured_s=0.2)
    where = f"with {num_threads} threads" if device.type == "cpu" else f"on {device}"
    return Peak(rate, f"matrix products of {size} × {size}, measured {where}, {kind}")


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int, warmup_s: float, measured_s: float) -> float:
    """FLOP/s of square matrix products: the median of those that begin within `measured_s` after the warm-up."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    out, rates = torch.empty_like(a), []
    start = time.perf_counter()
    while (begin := time.perf_counter()) < start + warmup_s + measured_s or not rates:
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if begin > start + warmup_s:
            rates.append(2 * size**3 / (time.perf_counter() - begin))
    return sorted(rates)[len(rates) // 2]
