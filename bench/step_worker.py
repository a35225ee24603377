"""One measurement of bench/step.py, in a process of its own: `python bench/step_worker.py SPEC.json RESULT.json`."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from nano4m import MaskedSamples, Nano4M, padded_sample, published_weights, train_steps
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from m3.batches.table import TokenTable
from m3.loss import average
from m3.masking.select import choose
from m3.modalities import ModalityTable
from m3.model.encoder_decoder import EncoderDecoder
from m3.model.flops import train_step_flops
from m3.records import TokenBatch
from m3.seeds import SampleGenerator
from m3.training.memory import return_freed_memory

ROOT = Path(__file__).resolve().parent.parent
LOADER_WORKERS = 10  # nano4M's own default; never more than CPU cores
CHECKED_SAMPLES = 4


@dataclass(frozen=True)
class Spec:
    """What to measure.

    kind: "matmul", "check", "flat", "factorized" or "nano4m".
    data: folder of shards. folder: for the files of a run.
    num_steps: measured, after num_warmup_steps.
    """

    kind: str
    data: str
    folder: str
    model: str
    modalities: str
    batch_size: int
    num_steps: int
    num_warmup_steps: int
    threads: int
    device: str
    dtype: str


class Steps:
    """Ends of steps, without waiting for the device, and what the steps did."""

    def __init__(self, spec: Spec) -> None:
        self.is_cuda = spec.device == "cuda"
        self.num_warmup_steps = spec.num_warmup_steps
        self.ends: list[Any] = []
        self.lengths: list[tuple[Tensor, Tensor, Tensor]] = []  # of inputs (B,), of targets (B,), of modalities (K,)

    def done(self, input_lengths: Tensor, target_lengths: Tensor, target_counts: Tensor) -> None:
        if self.is_cuda:
            self.ends.append(torch.cuda.Event(enable_timing=True))
            self.ends[-1].record()
        else:
            self.ends.append(time.perf_counter())
        self.lengths.append((input_lengths, target_lengths, target_counts))

    def durations_s(self) -> list[float]:
        """Of the measured steps: from the end of one to the end of the next, loading and all."""
        ends = self.ends[self.num_warmup_steps - 1 :]
        if not self.is_cuda:
            return [b - a for a, b in zip(ends, ends[1:])]
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in zip(ends, ends[1:])]

    def facts(self, model: torch.nn.Module) -> dict[str, Any]:
        """Times, tokens and operations of the measured steps, and the peak memory of the process until now."""
        measured = self.lengths[self.num_warmup_steps :]
        return {
            "step_s": self.durations_s(),
            "real_tokens": [int(n.sum() + m.sum()) for n, m, _ in measured],
            "real_flops": [train_step_flops(model, *lengths) for lengths in measured],
            "peak_bytes": torch.cuda.max_memory_allocated() if self.is_cuda else peak_resident_bytes(),
        }


def peak_resident_bytes() -> int:
    """Largest resident set of this process so far; its children are not in it."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had, too
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def composed(spec: Spec, *overrides: str) -> DictConfig:
    """conf/train.yaml as `python train.py` would compose it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [
            f"model={spec.model}", f"modalities={spec.modalities}", f"data.root={spec.data}",
            f"run_dir={spec.folder}/{spec.kind}", f"optim.batch_size={spec.batch_size}", f"optim.dtype={spec.dtype}",
            f"hardware.accelerator={'gpu' if spec.device == 'cuda' else 'cpu'}",
            f"trainer.max_steps={spec.num_warmup_steps + spec.num_steps}", "trainer.eval_every_n_steps=1000000000",
            *overrides,
        ])  # fmt: skip


def measure_matmul(spec: Spec) -> dict[str, Any]:
    """FLOP/s of large square products in the precision of the run; the median of 2 s of them."""
    size = 8192 if spec.device == "cuda" else 2048
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.dtype]
    a, b = torch.randn(2, size, size, device=spec.device).to(dtype)
    out, rates = torch.empty_like(a), []
    start = time.perf_counter()
    while (begin := time.perf_counter()) < start + 2.5:
        torch.mm(a, b, out=out)
        if spec.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if begin > start + 0.5:
            rates.append(2 * size**3 / (now - begin))
    return {"flops_per_s": sorted(rates)[len(rates) // 2]}


def processor() -> str:
    """The CPU's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def measure_m3(spec: Spec) -> dict[str, Any]:
    """Steps of what train.py assembles: its trainer, module, data module and callbacks but the checkpoints."""
    import pytorch_lightning as pl

    import train

    parts = train.assemble(composed(spec, "model.logits=legal", f"model.head={spec.kind}"))
    steps, samples, lengths = Steps(spec), [], []
    num_modalities = parts.module.table.num_modalities

    def remember(_: torch.nn.Module, arguments: tuple) -> None:
        inputs, targets = arguments
        counts = torch.bincount(targets.modality, minlength=num_modalities)
        lengths.append((inputs.lengths, targets.lengths, counts))

    class Clock(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            steps.done(*lengths[-1])
            samples.append(batch.sample)

    parts.module.model.register_forward_pre_hook(remember)
    kept = [callback for callback in parts.trainer.callbacks if not isinstance(callback, pl.callbacks.Checkpoint)]
    parts.trainer.callbacks = [*kept, Clock()]
    return_freed_memory()
    parts.trainer.fit(parts.module, datamodule=parts.datamodule)
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


def measure_nano4m(spec: Spec, samples: list[int]) -> dict[str, Any]:
    """Steps of the baseline on `samples`, in this order."""
    cfg = composed(spec)
    table, optim = instantiate(cfg.modalities), instantiate(cfg.optim)
    torch.manual_seed(cfg.seed)
    model = baseline(cfg, table).to(spec.device)
    loader = DataLoader(
        MaskedSamples(TokenTable.open(spec.data, "train").columns(table), table, cfg.seed),
        batch_size=spec.batch_size,
        sampler=samples,
        num_workers=min(LOADER_WORKERS, os.cpu_count()),
        pin_memory=spec.device == "cuda",
    )
    steps = Steps(spec)

    def after_step(batch, loss: float) -> None:
        counts = torch.bincount(batch.target_modalities[batch.is_target], minlength=table.num_modalities)
        steps.done(batch.is_input.sum(1), batch.is_target.sum(1), counts)

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.dtype]
    train_steps(model, loader, optim, torch.device(spec.device), dtype, after_step)
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


def baseline(cfg: DictConfig, table: ModalityTable) -> Nano4M:
    return Nano4M(table, **architecture(cfg))


def check(spec: Spec) -> dict[str, Any]:
    """Loss and gradients of both from the same weights, samples and masks; `logits=table`, `loss.average=all`."""
    import train

    cfg = composed(spec, "model.logits=table", "model.head=flat", "model.joints=table", "model.positions=1d")
    parts = train.assemble(cfg)
    module, table = parts.module, parts.module.table
    torch.nn.init.normal_(module.model.head_of(0).weight, std=0.1)  # zeros would make every loss the same
    other = baseline(cfg, table)
    missing, unexpected = other.load_state_dict(published_weights(module.model.state_dict()), strict=False)
    if unexpected or any(not name.endswith("bias") and name != "pos_emb" for name in missing):
        raise ValueError(f"m3 and the baseline differ in their parameters: {missing}, {unexpected}")

    sample = torch.arange(min(CHECKED_SAMPLES, spec.batch_size))
    tokens = torch.from_numpy(parts.datamodule.train_rows[sample.numpy()].astype("int64"))  # (B, S)
    batch = TokenBatch(tokens, sample, torch.zeros_like(sample))
    masks = choose(tokens, table, SampleGenerator(0, "bench", sample))
    columns = [[mask[b].nonzero().squeeze(1).numpy() for mask in masks] for b in range(len(sample))]
    padded = default_collate([padded_sample(row.numpy(), *both, table) for row, both in zip(tokens, columns)])

    loss = average(*module.sums_and_counts(batch, SampleGenerator(0, "bench", sample)), "all")
    loss.backward()
    other_loss = other.loss(padded)
    other_loss.backward()
    ours = published_weights({name: p.grad for name, p in module.model.named_parameters()})
    theirs = {name: p.grad for name, p in other.named_parameters()}
    return {
        "loss": other_loss.item(),
        "loss_difference": abs(loss.item() - other_loss.item()),
        "gradient_difference": max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs),
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
    elif spec.kind == "nano4m":
        result = measure_nano4m(spec, samples)
    else:
        result = measure_m3(spec)
    Path(sys.argv[2]).write_text(json.dumps({**asdict(spec), **result}), encoding="utf-8")


if __name__ == "__main__":
    main()
