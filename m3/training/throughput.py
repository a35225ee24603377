"""The metrics of a run besides its losses: time, speed, data wait, memory, gradient norm, learning rate.

Not Lightning's `ThroughputMonitor`: it synchronizes with the device in every step, takes one FLOP count per batch of a
fixed size, and does not log the time spent waiting for data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from m3.core.types import TokenBatch
from m3.model.encoder_decoder import EncoderDecoder
from m3.model.flops import train_step_flops
from m3.training.device_flops import Peak, device_peak
from m3.training.logs import is_log_step
from m3.training.memory import peak_bytes
from m3.training.optim import OptimConfig
from m3.training.profile import DataWait, profiler_of
from m3.training.ranks import sum_over_ranks


@dataclass
class _Window:
    """The steps of this rank since the latest log step or evaluation.

    since: the clock at its start. waited_s: the profiler's count of data wait at its start.
    num_tokens: real inputs and targets. lengths: the last three arguments of `train_step_flops` for each step.
    """

    since: float
    waited_s: float
    num_steps: int = 0
    num_tokens: int = 0
    lengths: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def flops(self, model: EncoderDecoder) -> float:
        """Operations that the steps needed. Waits for the device."""
        inputs, targets, counts = zip(*self.lengths)
        lengths = (torch.cat(inputs), torch.cat(targets), torch.stack(counts).sum(0))
        return train_step_flops(model, *(each.cpu() for each in lengths))


class Throughput(pl.Callback):
    """Logs these metrics at each log step, for the training since the previous log step, over all ranks:

    `time/train_s`: duration of all training so far, with the runs that this one continues, without evaluations.
    `speed/samples_per_s`, `speed/tokens_per_s` (nominal), `speed/real_tokens_per_s` (inputs and targets).
    `speed/flops_per_s`: operations for the real tokens (m3/model/flops.py). `speed/mfu`: their share of the peak.
    `speed/data_wait_share`: share of the time that the loop waited for the loader.
    `memory/peak_mib`: peak memory of the first rank's process so far, on the GPU or, on a CPU, resident.
    `train/grad_norm`: gradient norm of the latest step, before clipping. `train/lr`: learning rate of the next step.

    Times are those of the host's clock. The host waits for the device at log steps only.

    Args:
        optim: optimizer settings.
        clock: returns seconds.
    """

    def __init__(self, optim: OptimConfig, clock: Callable[[], float] = time.perf_counter) -> None:
        self.optim, self.clock = optim, clock
        self._train_s = 0.0
        self._window = _Window(0.0, 0.0)
        self._peak = Peak(float("nan"), "unknown before the training starts")

    def state_dict(self) -> dict[str, Any]:
        return {"train_s": self._train_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_s = state_dict["train_s"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._peak = device_peak(pl_module.device, trainer.precision)
        if trainer.is_global_zero:
            print(f"speed/mfu is the share of {self._peak.flops_per_s / 1e12:.3g} TFLOP/s a device "
                  f"({self._peak.source})", flush=True)  # fmt: skip
        self._open_window(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: TokenBatch, batch_idx: int
    ) -> None:
        """pl_module: a `MaskedTraining`."""
        window, step = self._window, pl_module.last_step
        window.num_steps += 1
        window.num_tokens += step.num_inputs + step.num_targets
        window.lengths.append((step.input_lengths, step.target_lengths, step.counts))
        if not is_log_step(trainer, trainer.global_step):
            return
        values = self._speeds(trainer, pl_module)
        pl_module.log_dict(
            {
                **values,
                "time/train_s": self._train_s,
                "memory/peak_mib": peak_bytes(pl_module.device) / 2**20,
                "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
                "train/grad_norm": step.grad_norm,
            }
        )
        pl_module.log("tokens/s", values["speed/tokens_per_s"], prog_bar=True, logger=False)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._bank_time()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open_window(trainer)

    def _speeds(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        """Closes the window and opens the next."""
        window, flops = self._window, self._window.flops(pl_module.model)
        elapsed_s, waited_s = self._bank_time(), _waited_s(trainer) - window.waited_s
        own = torch.tensor([window.num_tokens, flops, waited_s], dtype=torch.float64, device=pl_module.device)
        num_tokens, flops, waited_s = sum_over_ranks(own).tolist()
        samples_per_s = window.num_steps * self.optim.samples_per_step(trainer.world_size) / elapsed_s
        self._open_window(trainer)
        return {
            "speed/samples_per_s": samples_per_s,
            "speed/tokens_per_s": samples_per_s * self.optim.num_tokens_per_sample,
            "speed/real_tokens_per_s": num_tokens / elapsed_s,
            "speed/flops_per_s": flops / elapsed_s,
            "speed/mfu": flops / elapsed_s / (self._peak.flops_per_s * trainer.world_size),
            "speed/data_wait_share": waited_s / elapsed_s / trainer.world_size,
        }

    def _bank_time(self) -> float:
        elapsed_s = max(self.clock() - self._window.since, 1e-9)
        self._train_s += elapsed_s
        return elapsed_s

    def _open_window(self, trainer: pl.Trainer) -> None:
        self._window = _Window(self.clock(), _waited_s(trainer))


def _waited_s(trainer: pl.Trainer) -> float:
    """Seconds of data wait so far; NaN under a profiler that does not measure it."""
    profiler = profiler_of(trainer)
    return profiler.waited_s if isinstance(profiler, DataWait) else float("nan")
