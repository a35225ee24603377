"""The loss of a flat head: time, memory and exactness of m3's own function and of libraries.

    python bench/loss.py [--device cuda] [--rows 20000] [--width 512] [--ids 64000] [--rounds 10]

Forward and backward of the cross-entropy of `hidden @ weight.T`, for bfloat16 vectors and float32 weights of a GPU, or
float32 of a processor. Errors are those of both gradients against float64 (of 512 rows), relative to their norm. Memory
is the most that is allocated beside inputs and gradients (a GPU only). Libraries that are not installed are left out:
`liger-kernel`, `cut-cross-entropy`; `torch.nn.functional.linear_cross_entropy` needs torch 2.13.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from m3.loss import weighted_cross_entropy  # noqa: E402
from m3.model.heads import FlatHead  # noqa: E402

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(R, D) hidden, (V, D) weight, (R,) ids → the mean loss."""


class _Head(FlatHead):
    """A head around a weight that is given."""

    def __init__(self, weight: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.num_ids, self.weight = len(weight), weight  # pyright: ignore[reportAttributeAccessIssue]


def own(is_compiled: bool) -> Loss:
    def loss(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
        weights = torch.full((len(ids),), 1 / len(ids), device=ids.device)
        return weighted_cross_entropy(hidden, ids, weights, _Head(weight), is_compiled=is_compiled)[0]

    return loss


def plain(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), ids)


def candidates(is_gpu: bool) -> dict[str, Loss]:
    found: dict[str, Loss] = {"logits as a whole": plain, "m3": own(False), "m3, compiled": own(True)}
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=4096 if is_gpu else 384)
        found["torch linear_cross_entropy"] = lambda h, w, y: F.linear_cross_entropy(
            h, w.to(h.dtype), y, options=options
        )
    if is_gpu and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()
        found["liger-kernel"] = lambda h, w, y: liger(w.to(h.dtype), h, y)
    if is_gpu and importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        found["cut-cross-entropy"] = lambda h, w, y: linear_cross_entropy(h, w.to(h.dtype), y)
    return found


def measured(loss: Loss, hidden: Tensor, weight: Tensor, ids: Tensor, rounds: int) -> tuple[float, float]:
    """Median seconds, and MiB beside inputs and gradients (NaN on a processor)."""
    is_gpu = hidden.is_cuda
    seconds, extra = [], float("nan")
    for _ in range(rounds + 2):
        hidden.grad = weight.grad = None
        if is_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=is_gpu):
            value = loss(hidden, weight, ids)
        value.backward()
        if is_gpu:
            torch.cuda.synchronize()
            gradients = sum(each.grad.nbytes for each in (hidden, weight) if each.grad is not None)
            extra = (torch.cuda.max_memory_allocated() - before - gradients) / 2**20
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:]), extra


def errors(loss: Loss, hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[float, float]:
    """Relative errors of the gradients of `hidden` and of `weight` against float64."""
    own = hidden.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    exact = own[0].detach().double().requires_grad_(), own[1].detach().double().requires_grad_()
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=hidden.is_cuda):
        value = loss(*own, ids)
    value.backward()
    plain(*exact, ids).backward()
    pairs = [(a.grad, b.grad) for a, b in zip(own, exact)]
    found = [float((a.double() - b).norm() / b.norm()) for a, b in pairs if a is not None and b is not None]
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--ids", type=int, default=64_000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    is_gpu = arguments.device == "cuda"
    torch.manual_seed(0)
    dtype = torch.bfloat16 if is_gpu else torch.float32
    hidden = torch.randn(arguments.rows, arguments.width, device=arguments.device, dtype=dtype).requires_grad_()
    weight = (torch.randn(arguments.ids, arguments.width, device=arguments.device) / 8).requires_grad_()
    ids = torch.randint(0, arguments.ids, (arguments.rows,), device=arguments.device)
    machine = torch.cuda.get_device_name() if is_gpu else "processor"
    table = Table(
        title=f"loss of {arguments.rows:,} rows and {arguments.ids:,} ids: {machine}, torch {torch.__version__}"
    )
    for heading in ("", "ms", "MiB", "error of hidden", "error of weight"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, loss in candidates(is_gpu).items():
        try:
            seconds, extra = measured(loss, hidden, weight, ids, arguments.rounds)
            wrong = errors(loss, hidden[:512], weight, ids[:512])
            table.add_row(name, f"{seconds * 1e3:.1f}", f"{extra:,.0f}", *(f"{each:.1e}" for each in wrong))
        except (RuntimeError, torch.OutOfMemoryError) as error:
            table.add_row(name, f"failed: {str(error).splitlines()[0][:60]}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
