"""What a run logs about itself besides its losses: time, speed, waiting, memory, gradient, learning rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from m3.model.encoder_decoder import EncoderDecoder
from m3.model.flops import train_step_flops
from m3.training.device_flops import Peak, peak_of
from m3.training.memory import peak_bytes
from m3.training.optim import OptimConfig
from m3.training.profile import DataWait
from m3.training.ranks import sum_over_ranks


@dataclass
class _Window:
    """The steps of this rank since the latest log point or evaluation.

    since: the clock then. waited_s: all that the profiler had then counted as waiting for data.
    num_tokens: real inputs and targets. lengths: of each step, see `train_step_flops`.
    """

    since: float
    waited_s: float
    num_steps: int = 0
    num_tokens: int = 0
    lengths: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def flops(self, model: EncoderDecoder) -> float:
        """Waits for the device."""
        inputs, targets, counts = zip(*self.lengths)
        return train_step_flops(model, torch.cat(inputs).cpu(), torch.cat(targets).cpu(), sum(counts).cpu())


class Throughput(pl.Callback):
    """Logs at each log point, of the training since the one before, over all ranks:

    `time/train_s`: all training so far, resumed parts too, evaluations not.
    `speed/samples_per_s`, `speed/tokens_per_s` (nominal), `speed/real_tokens_per_s` (inputs and targets).
    `speed/flops_per_s`: what the real tokens need (m3/model/flops.py). `speed/mfu`: share of what the devices can do.
    `speed/data_wait_share`: share of the time in which the loop waited for the loader.
    `memory/peak_mib`: of the first rank's process so far; on a GPU what is allocated there, else the resident set.
    `train/grad_norm`: of the latest step, before clipping. `train/lr`: of the next step.

    Times come from the host's clock; for these values the host waits for the device at log points alone.

    Args:
        optim: the recipe.
        clock: seconds.
    """

    def __init__(self, optim: OptimConfig, clock: Callable[[], float] = time.perf_counter) -> None:
        self.optim, self.clock = optim, clock
        self._train_s = 0.0
        self._window = _Window(0.0, 0.0)
        self._peak: Peak | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"train_s": self._train_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_s = state_dict["train_s"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._peak = peak_of(pl_module.device, trainer.precision)
        if trainer.is_global_zero:
            print(f"speed/mfu is the share of {self._peak.flops_per_s / 1e12:.3g} TFLOP/s a device "
                  f"({self._peak.source})", flush=True)  # fmt: skip
        self._open_window(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        window, step = self._window, pl_module.last_step
        window.num_steps += 1
        window.num_tokens += step.num_inputs + step.num_targets
        window.lengths.append((step.input_lengths, step.target_lengths, step.counts))
        if trainer.global_step % trainer.log_every_n_steps and trainer.global_step < trainer.max_steps:
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

    def _speeds(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
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
    """NaN where nobody counts it."""
    return trainer.profiler.waited_s if isinstance(trainer.profiler, DataWait) else float("nan")
