"""Peak FLOP/s of a device, for the model FLOP/s utilization (MFU) of a training.

Not Lightning's `get_available_flops`: it does not recognize "NVIDIA H200", and its numbers for H200 and H100 NVL are
those with sparsity, twice the dense ones. The tests compare the others.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache

import torch

_TERA = 1e12

_DENSE_TFLOPS = (
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
"""Pattern of the device's name, and its dense TFLOP/s by dtype (data sheets also print twice that, "with sparsity").
The first match counts; patterns without a form factor are those of SXM modules."""

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Peak:
    """flops_per_s: peak rate of matrix products. source: where the number comes from, for people."""

    flops_per_s: float
    source: str


def matmul_dtype(precision: str, device: torch.device) -> str:
    """Dtype of matrix products under a Lightning precision ("32-true", "bf16-mixed", …): fp32, tf32, fp16 or bf16."""
    name = {"16": "fp16", "bf16": "bf16"}.get(precision.split("-")[0], "fp32")
    uses_tf32 = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if name == "fp32" and uses_tf32 else name


def published_peak(device_name: str, dtype: str) -> Peak | None:
    """The data sheet's peak of the GPU of this name (`torch.cuda.get_device_name`); None where the table has none."""
    for pattern, peaks in _DENSE_TFLOPS:
        if re.search(pattern, device_name, re.IGNORECASE):
            return Peak(peaks[dtype] * _TERA, f"{device_name}'s data sheet, {dtype}") if dtype in peaks else None
    return None


def device_peak(device: torch.device, precision: str) -> Peak:
    """The data sheet's peak of a GPU in the table; for other devices the measured rate of large matrix products."""
    dtype = matmul_dtype(precision, device)
    if device.type == "cuda" and (published := published_peak(torch.cuda.get_device_name(device), dtype)):
        return published
    return _measured_once(device, dtype, torch.get_num_threads())


@cache
def _measured_once(device: torch.device, dtype: str, num_threads: int) -> Peak:
    size = 8192 if device.type == "cuda" else 1024
    rate = matmul_flops(device, _DTYPES[dtype], size, warmup_s=0.05, measured_s=0.2)
    where = f"with {num_threads} threads" if device.type == "cpu" else f"on {device}"
    return Peak(rate, f"matrix products of {size} × {size}, measured {where}, {dtype}")


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int, warmup_s: float, measured_s: float) -> float:
    """FLOP/s of (size, size) matrix products: the median over `measured_s` seconds after `warmup_s` seconds."""
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
