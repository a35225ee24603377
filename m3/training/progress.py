"""Progress of a training as lines, for logs; with the time that is left, from the first step on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from m3.training.logs import is_log_step
from m3.training.run_log import note, say

_SECONDS_BETWEEN_LINES = 10.0
_LONG_S = 24 * 3600.0
_NUM_STEPS_TO_JUDGE = 3
"""Steps after which a long run is warned of; the first one is slower than those that follow."""


def duration(seconds: float) -> str:
    """In the unit that reads best: "45 s", "12 min", "3.4 h", "2.1 days"."""
    for limit, unit, digits, name in ((90, 1, 0, "s"), (5400, 60, 0, "min"), (48 * 3600, 3600, 1, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86400:.1f} days"


class ProgressLines(pl.Callback):
    """Lines with step, losses, speed and remaining time: after the first step, then at log steps.

    A line is written at most every 10 seconds, and at the last step. Once it warns of a run that will take longer than
    a day.

    Args:
        is_printed: print the lines, as where no progress bar shows the same; they are in train.log in any case.
        clock: returns seconds.
    """

    def __init__(self, is_printed: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = say if is_printed else note
        self._clock = clock
        self._first_step = 0
        self._start = self._first_end = self._last_line = 0.0
        self._paused_s = self._paused_at = 0.0
        self._has_judged = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first_step, self._start = trainer.global_step, self._clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        done = step - self._first_step
        if not trainer.is_global_zero or done < 1:
            return
        now = self._clock()
        if done == 1:
            self._first_end, self._paused_s = now, 0.0
        left_s = (trainer.max_steps - step) * self._seconds_per_step(done, now)
        if done == _NUM_STEPS_TO_JUDGE and left_s > _LONG_S and not self._has_judged:
            self._has_judged = True
            self._warn(trainer, left_s)
        is_due = is_log_step(trainer, step) and now - self._last_line >= _SECONDS_BETWEEN_LINES
        if done > 1 and step != trainer.max_steps and not is_due:
            return
        self._last_line = now
        values = {name: float(value) for name, value in trainer.progress_bar_metrics.items() if name != "tokens/s"}
        losses = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items()]
        speed = f"{1 / self._seconds_per_step(done, now):.3g} steps/s"
        rest = [] if step == trainer.max_steps else [f"ETA {duration(left_s)}"]
        self._write(", ".join([f"step {step:,}/{trainer.max_steps:,}", *losses, speed, *rest]))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused_at = self._clock()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        self._paused_s += self._clock() - self._paused_at
        if trainer.is_global_zero:
            self._write(f"step {trainer.global_step:,}: eval loss {float(trainer.callback_metrics['eval/loss']):.3f}")

    def _seconds_per_step(self, done: int, now: float) -> float:
        """Of the steps after the first one, which is slower; without evaluations."""
        if done == 1:
            return max(now - self._start, 1e-9)
        return max((now - self._first_end - self._paused_s) / (done - 1), 1e-9)

    def _warn(self, trainer: pl.Trainer, left_s: float) -> None:
        line = (
            f"this run takes about {duration(left_s)} here: {trainer.max_steps - self._first_step:,} steps at "
            f"{left_s / (trainer.max_steps - trainer.global_step):.2g} s. optim.total_tokens=… or trainer.max_steps=… "
            "makes it shorter, model=tiny or experiment=demo smaller"
        )
        if self._write is note and trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.print(line)
            note(line)
        else:
            say(line)
