"""One measurement of bench/step.py, in a process of its own: `python bench/step_worker.py SPEC.json RESULT.json`."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from nano4m import MaskedSamples, Nano4M, padded_like, published_weights, train_steps
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from m3.batches.table import TokenTable
from m3.model.encoder_decoder import EncoderDecoder
from m3.model.flops import train_step_flops
from m3.training.device_flops import matmul_flops
from m3.training.memory import peak_bytes, return_freed_memory

if TYPE_CHECKING:  # loaded only where needed: the baseline's process is not to hold Lightning
    import pytorch_lightning as pl

    import train

ROOT = Path(__file__).resolve().parent.parent
LOADER_WORKERS = 10  # nano4M's own default; never more than CPU cores
CHECKED_SAMPLES = 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Spec:
    """What to measure.

    kind: "matmul", "check", "flat", "factorized", "nano4m" or "tuned".
    data: folder of shards. folder: for the files of a run.
    num_steps: measured, after num_warmup_steps.
    hardware: of conf/hardware.
    """

    kind: str
    data: str
    folder: str
    model: str
    modalities: str
    clamped: str
    batch_size: int
    num_steps: int
    num_warmup_steps: int
    threads: int
    device: str
    dtype: str
    hardware: str


class Steps:
    """Ends of steps, without waiting for the device, and what the steps did."""

    NUM_PROFILED = 5

    def __init__(self, spec: Spec) -> None:
        self.is_cuda = spec.device == "cuda"
        self.num_warmup_steps, self.num_steps = spec.num_warmup_steps, spec.num_steps
        self.num_graphs = 0
        self.profiler: torch.profiler.profile | None = None
        self.peak_bytes = 0
        self.ends: list[Any] = []
        self.lengths: list[tuple[Tensor, Tensor, Tensor]] = []  # of inputs (B,), of targets (B,), of modalities (K,)

    def done(self, input_lengths: Tensor, target_lengths: Tensor, target_counts: Tensor) -> None:
        if self.is_cuda:
            self.ends.append(torch.cuda.Event(enable_timing=True))
            self.ends[-1].record()
        else:
            self.ends.append(time.perf_counter())
        self.lengths.append((input_lengths, target_lengths, target_counts))
        if len(self.ends) == self.num_warmup_steps:
            self.num_graphs = num_compiled_graphs()
        if len(self.ends) == self.num_warmup_steps + self.num_steps:
            self.peak_bytes = peak_bytes(torch.device("cuda" if self.is_cuda else "cpu"))
            if self.is_cuda:
                torch.cuda.synchronize()
                self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
                self.profiler.start()
        if self.profiler is not None and len(self.ends) == self.num_warmup_steps + self.num_steps + self.NUM_PROFILED:
            torch.cuda.synchronize()
            self.profiler.stop()

    @property
    def num_all(self) -> int:
        """Steps to do: warm-up, measured, and on a GPU those that are profiled."""
        return self.num_warmup_steps + self.num_steps + (self.NUM_PROFILED if self.is_cuda else 0)

    def kernels(self) -> dict[str, Any]:
        """Time and launches of a step's kernels, and those that take longest: (name, ms, launches) of a step."""
        if self.profiler is None:
            return {}
        events = [event for event in self.profiler.key_averages() if event.self_device_time_total > 0]
        n = self.NUM_PROFILED
        per_step = [(event.key, event.self_device_time_total / 1000 / n, event.count / n) for event in events]
        return {
            "kernel_s": sum(ms for _, ms, _ in per_step) / 1000,
            "launches": sum(count for _, _, count in per_step),
            "kernels": sorted(per_step, key=lambda each: -each[1])[:40],
        }

    def durations_s(self) -> list[float]:
        """Of the measured steps: from the end of one to the end of the next, loading and all."""
        ends = self.ends[self.num_warmup_steps - 1 : self.num_warmup_steps + self.num_steps]
        if not self.is_cuda:
            return [b - a for a, b in zip(ends, ends[1:])]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in zip(ends, ends[1:])]

    def facts(self, model: torch.nn.Module) -> dict[str, Any]:
        """Times, tokens and operations of the measured steps, and the peak memory of the process until now."""
        measured = self.lengths[self.num_warmup_steps : self.num_warmup_steps + self.num_steps]
        return {
            "step_s": self.durations_s(),
            "real_tokens": [int(n.sum() + m.sum()) for n, m, _ in measured],
            "real_flops": [train_step_flops(model, *lengths) for lengths in measured],
            "peak_bytes": self.peak_bytes,
            "late_graphs": num_compiled_graphs() - self.num_graphs,
            **self.kernels(),
        }


def num_compiled_graphs() -> int:
    """Graphs that `torch.compile` has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"] if "torch._dynamo" in sys.modules else 0


def composed(spec: Spec, *overrides: str) -> DictConfig:
    """conf/train.yaml as `python train.py` would compose it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [
            f"model={spec.model}", "model.aligned=false", f"hardware={spec.hardware}", f"modalities={spec.modalities}",
            f"modalities.clamped={spec.clamped}", f"data.root={spec.data}",
            f"run_dir={spec.folder}/{spec.kind}", f"optim.batch_size={spec.batch_size}", f"optim.dtype={spec.dtype}",
            f"hardware.accelerator={'gpu' if spec.device == 'cuda' else 'cpu'}",
            f"trainer.max_steps={Steps(spec).num_all}", "trainer.eval_every_tokens=1000000",
            *overrides,
        ])  # fmt: skip


def measure_matmul(spec: Spec) -> dict[str, Any]:
    """FLOP/s of large square products in the precision of the run; the median of 2 s of them."""
    size = 8192 if spec.device == "cuda" else 2048
    return {"flops_per_s": matmul_flops(torch.device(spec.device), DTYPES[spec.dtype], size, 0.5, 2.0)}


def processor() -> str:
    """The CPU's name, from /proc/cpuinfo where there is one."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def measure_m3(spec: Spec) -> dict[str, Any]:
    """Steps of what train.py assembles: its trainer, module, data module and callbacks but the checkpoints."""
    import pytorch_lightning as pl

    import train

    parts = train.assemble(composed(spec, "model.logits=legal", f"model.head={spec.kind}"))
    steps, samples = Steps(spec), []

    class Clock(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            facts = pl_module.last_step
            steps.done(facts.input_lengths, facts.target_lengths, facts.counts)
            samples.append(batch.sample)

    fit(parts, Clock())
    return {
        **steps.facts(parts.module.model),
        "samples": torch.cat(samples).tolist(),
        "tokens_per_step": spec.batch_size * parts.module.optim.num_tokens_per_sample,
        "machine": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lightning": pl.__version__,
            "device": torch.cuda.get_device_name() if steps.is_cuda else processor(),
        },
    }


def fit(parts: train.Assembled, witness: pl.Callback) -> None:
    """Trains as train.py does, seen by `witness`; without checkpoints, which no step waits for."""
    import pytorch_lightning as pl

    kept = [callback for callback in parts.trainer.callbacks if not isinstance(callback, pl.callbacks.Checkpoint)]
    parts.trainer.callbacks = [*kept, witness]
    return_freed_memory()
    parts.trainer.fit(parts.module, datamodule=parts.datamodule)


def measure_nano4m(spec: Spec, samples: list[int]) -> dict[str, Any]:
    """Steps of the baseline on `samples`, in this order."""
    cfg = composed(spec)
    table, optim = instantiate(cfg.modalities), instantiate(cfg.optim)
    torch.manual_seed(cfg.seed)
    model = Nano4M(table, **architecture(cfg), is_tuned=spec.kind == "tuned").to(spec.device)
    loader = DataLoader(
        MaskedSamples(TokenTable.open(spec.data, "train").columns(table.modalities), table, cfg.seed),
        batch_size=spec.batch_size,
        sampler=samples,
        num_workers=min(LOADER_WORKERS, os.cpu_count()),
        pin_memory=spec.device == "cuda",
    )
    steps = Steps(spec)

    def after_step(batch, loss: float | Tensor) -> None:
        modalities = torch.arange(table.num_modalities, device=batch.is_target.device)
        is_of = (batch.target_modalities[..., None] == modalities) & batch.is_target[..., None]  # (B, M, K)
        counts = is_of.sum((0, 1))  # without a wait for the device
        steps.done(batch.is_input.sum(1), batch.is_target.sum(1), counts)

    train_steps(model, loader, optim, torch.device(spec.device), DTYPES[spec.dtype], after_step)
    with torch.device("meta"):
        same_architecture = EncoderDecoder(table, **architecture(cfg), logits="table")
    longest_input, longest_target = table.input_tokens_range[1], table.target_tokens_range[1]
    executed = train_step_flops(
        same_architecture,
        [longest_input] * spec.batch_size,
        [longest_target] * spec.batch_size,
        [longest_target * spec.batch_size] + [0] * (table.num_modalities - 1),
    )
    return {**steps.facts(same_architecture), "executed_flops": executed}


def architecture(cfg: DictConfig) -> dict[str, Any]:
    return {key: cfg.model[key] for key in ("width", "encoder_depth", "decoder_depth", "head_width", "mlp_ratio")}


def check(spec: Spec) -> dict[str, Any]:
    """Loss and gradients of m3's training step and of the baseline, from the same weights, samples and masks.

    `logits=table`, `loss.reduction=all`, fp32 on the CPU. What m3 packed in its step is padded for the baseline.
    """
    import pytorch_lightning as pl

    import train

    size = min(CHECKED_SAMPLES, spec.batch_size)
    spec = replace(spec, batch_size=size, num_steps=1, num_warmup_steps=0, device="cpu", dtype="fp32", hardware="cpu")
    as_published = ("model.logits=table", "model.head=flat", "model.joints=table", "model.positions=1d")
    cfg = composed(spec, *as_published, "loss.reduction=all")
    parts = train.assemble(cfg)
    model, table = parts.module.model, parts.module.table
    torch.nn.init.normal_(model.head_of(0).weight, std=0.1)  # zeros would make every loss the same
    other = Nano4M(table, **architecture(cfg))
    other.load_state_dict(published_weights(model.state_dict()) | dict(other.named_buffers()))
    seen = {}

    class Witness(pl.Callback):
        def on_after_backward(self, *_: Any) -> None:
            gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
            seen["gradients"] = published_weights(gradients)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            seen["loss"], seen["tokens"] = outputs["loss"].item(), batch.tokens

    model.register_forward_pre_hook(lambda _, packed: seen.update(packed=packed))
    fit(parts, Witness())
    other_loss = other.loss(padded_like(seen["tokens"], *seen["packed"], table))
    other_loss.backward()
    gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
    differences = [float((seen["gradients"][name] - g).norm() / g.norm()) for name, g in gradients.items()]
    return {
        "loss": other_loss.item(),
        "loss_difference": abs(seen["loss"] - other_loss.item()),
        "gradient_difference": max(differences),
    }


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    samples = given.pop("samples")
    spec = Spec(**given)
    torch.set_num_threads(spec.threads)
    if spec.kind == "matmul":
        result = measure_matmul(spec)
    elif spec.kind == "check":
        result = check(spec)
    elif spec.kind in ("nano4m", "tuned"):
        result = measure_nano4m(spec, samples)
    else:
        result = measure_m3(spec)
    Path(sys.argv[2]).write_text(json.dumps({**asdict(spec), **result}), encoding="utf-8")


if __name__ == "__main__":
    main()
