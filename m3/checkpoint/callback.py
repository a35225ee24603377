"""The callback that saves checkpoints, keeps the newest and the best, and stops a run at a signal."""

from __future__ import annotations

import math
import signal
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from m3.checkpoint.files import (
    BEST,
    AtomicCheckpointIO,
    CheckpointWriteError,
    checkpoint_path,
    copy_checkpoint,
    numbered_checkpoints,
    set_aside,
)
from m3.core.signals import Interrupted, StopRequest
from m3.training.ranks import StopVote


class Checkpoints(Checkpoint):
    """Saves every `every_n_steps` steps, after the last step and at a signal; keeps the newest and the best checkpoint.

    A checkpoint is saved between two optimizer steps, after an evaluation that is due at that step, so that a continued
    run goes on like an uninterrupted one. At a signal a due evaluation is finished first.

    Args:
        folder: for the checkpoints.
        every_n_steps: steps between checkpoints; the last step and a lower eval loss are saved too.
        eval_every_n_steps: steps between evaluations.
        keep: number of newest checkpoints to keep.

    Attributes:
        best_loss, best_step: lowest eval loss so far, that of `best.ckpt`, and its step; inf and None before the first.
        last_eval_loss: latest eval loss of this fit, None before the first evaluation.
    """

    def __init__(self, folder: Path, every_n_steps: int, eval_every_n_steps: int, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.every_n_steps, self.eval_every_n_steps = every_n_steps, eval_every_n_steps
        self.best_loss = math.inf
        self.best_step: int | None = None
        self.last_eval_loss: float | None = None
        self._newest_step: int | None = None  # step of the newest checkpoint
        self._is_stopping = False
        self._request = StopRequest()
        self._vote = StopVote()

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._newest_step = checkpoint["global_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning asks all ranks for a SIGTERM in every step, which waits for the device; this callback at log steps.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if trainer.is_global_zero:
            for unfinished in self.folder.glob("*.tmp"):
                unfinished.unlink()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._request.listen()  # replaces Lightning's handler, which is installed before
        if trainer.is_global_zero:  # not before: a sharded model is restored after the start of the fit
            set_aside(self.folder, trainer.global_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._is_stopping:  # at the end of the previous step its logs would be lost
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == trainer.max_steps:
            trainer.should_stop = True  # Lightning then evaluates before it leaves the loop
            return
        # All ranks must stop at the same step; asking them waits for the device.
        if trainer.world_size == 1:
            self._ask_to_stop(trainer)
        elif self._vote.is_due(step):
            self._is_stopping = self._vote.any_rank(self._request.signal is not None, step, trainer)
        if step % self.eval_every_n_steps:
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        loss, step = float(trainer.callback_metrics["eval/loss"]), trainer.global_step
        self.last_eval_loss = loss
        if is_best := loss < self.best_loss:
            self.best_loss, self.best_step = loss, step
        if step == trainer.max_steps:
            return
        self._ask_to_stop(trainer)
        if is_best and not self._is_due(step):
            self._write(trainer, self.folder / BEST)
        self._save_if_due(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._newest_step != trainer.global_step:
            self._save(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._request.stop_listening()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._request.stop_listening()

    def _is_due(self, step: int) -> bool:
        return self._is_stopping or step % self.every_n_steps == 0

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if not self._is_due(trainer.global_step):
            return
        self._save(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        number = self._request.signal or signal.SIGTERM  # another rank got the signal
        path = checkpoint_path(self.folder, trainer.global_step)
        if trainer.is_global_zero:
            step = f"{number.name}: stopped after step {trainer.global_step:,}"
            print(f"{step}; {path} is complete: resume=auto continues", file=sys.stderr, flush=True)
        raise Interrupted(number)

    def _save(self, trainer: pl.Trainer) -> None:
        path = checkpoint_path(self.folder, trainer.global_step)
        self._write(trainer, path)
        self._newest_step = trainer.global_step
        failure = None
        if trainer.is_global_zero:
            try:
                if self.best_step == trainer.global_step:
                    copy_checkpoint(path, self.folder / BEST)
                for old in numbered_checkpoints(self.folder)[: -self.keep]:
                    old.unlink(missing_ok=True)
            except CheckpointWriteError as error:
                failure = error
        _raise_on_all_ranks(trainer, failure)

    def _write(self, trainer: pl.Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)
        io = trainer.strategy.checkpoint_io
        _raise_on_all_ranks(trainer, io.failure if isinstance(io, AtomicCheckpointIO) else None)

    def _ask_to_stop(self, trainer: pl.Trainer) -> None:
        was_asked = self._request.signal is not None
        self._is_stopping = trainer.strategy.reduce_boolean_decision(was_asked, all=False)


def _raise_on_all_ranks(trainer: pl.Trainer, failure: CheckpointWriteError | None) -> None:
    """Raises the failure of the first rank there, and ends the others without a word: none waits for another."""
    if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(failure is not None, all=False):
        raise failure or SystemExit(1)
    if failure is not None:
        raise failure
