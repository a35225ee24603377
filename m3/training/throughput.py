"""What a run logs about itself besides its losses: time, speed, learning rate."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl

from m3.training.optim import Recipe


class Throughput(pl.Callback):
    """Logs `time/train_s` (training only, over all resumed parts), `speed/samples_per_s`, `speed/tokens_per_s`
    (nominal, over all devices) and `train/lr`; the progress bar shows tokens/s.

    Times come from the host's clock between log points, without waiting for the device at each step.
    """

    def __init__(self, optim: Recipe) -> None:
        self.optim = optim
        self._train_s = 0.0
        self._steps_since = 0
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"train_s": self._train_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_s = state_dict["train_s"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart_clock()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._steps_since += 1
        if trainer.global_step % trainer.log_every_n_steps and trainer.global_step < trainer.max_steps:
            return
        steps, elapsed_s = self._steps_since, self._bank_time()
        samples_per_s = steps * self.optim.samples_per_step(trainer.world_size) / elapsed_s
        tokens_per_s = samples_per_s * self.optim.num_tokens_per_sample
        pl_module.log_dict(
            {
                "time/train_s": self._train_s,
                "speed/samples_per_s": samples_per_s,
                "speed/tokens_per_s": tokens_per_s,
                "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )
        pl_module.log("tokens/s", tokens_per_s, prog_bar=True, logger=False)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.training:
            self._bank_time()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart_clock()

    def _bank_time(self) -> float:
        elapsed_s = max(time.perf_counter() - self._since, 1e-9)
        self._train_s += elapsed_s
        self._restart_clock()
        return elapsed_s

    def _restart_clock(self) -> None:
        self._since, self._steps_since = time.perf_counter(), 0
