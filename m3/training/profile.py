"""Profilers: the time that a training waits for data, and the time of each part of a step.

Lightning and `MaskedTraining` report the start and the end of each action, by name, to the trainer's profiler.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import Profiler
from rich.table import Table

from m3.core.files import write_text_atomic
from m3.core.terminal import PlainConsole
from m3.core.validation import check
from m3.model.encoder_decoder import EncoderDecoder

_NEXT_BATCH = "[_TrainingEpochLoop].train_dataloader_next"

_PARTS = {
    "train_dataloader_next": "waiting for data",
    "batch_to_device": "copy to the device",
    "masks": "masks and packing",
    "encoder": "forward: encoder",
    "decoder": "forward: decoder",
    "head and loss": "heads and loss",
    "scores": "accuracies for the log",
    "training_step": "rest of the training step",
    "backward": "backward",
    "configure_gradient_clipping": "gradient norm and clipping",
    "optimizer_step": "optimizer",
}
"""Last part of an action's name → the part of a step. The time of nested parts is not counted twice."""

_REST = "Lightning, callbacks, logs"


def profiler_of(trainer: pl.Trainer) -> Profiler:
    return trainer.profiler  # pyright: ignore[reportAttributeAccessIssue] (set outside of the class)


class DataWait(Profiler):
    """Measures how long the training loop waits for its loader.

    Args:
        clock: returns seconds.

    Attributes:
        waited_s: sum of all waits so far.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.clock = clock
        self.waited_s = 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:
        if action_name == _NEXT_BATCH:
            self._since = self.clock()

    def stop(self, action_name: str) -> None:
        if action_name == _NEXT_BATCH:
            self.waited_s += self.clock() - self._since


@dataclass
class _Span:
    """One part of a step. begin, end: from `_mark`. parent: the innermost span around it, None at the top level."""

    part: str
    begin: Any
    parent: _Span | None
    end: Any = None


class StepProfile(DataWait):
    """Prints a table of the time of each part of a step, and writes it to a file. The parts add up to the whole step.

    On a GPU the times are those of CUDA events, without synchronization; on a CPU those of the clock.

    Args:
        path: the file for the table.
        num_warmup_steps: steps at the start that are not counted. The last step is not counted either: its end is not
            reported.
        clock: returns seconds.
    Raises:
        ValueError naming the key.
    """

    def __init__(self, path: str, num_warmup_steps: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(clock)
        check("trainer.profiler.num_warmup_steps", num_warmup_steps, int, low=0)
        self.path, self.num_warmup_steps = Path(path), num_warmup_steps
        self._steps: list[Any] = []  # start of each step, from `_mark`
        self._spans: list[list[_Span]] = []  # the spans of each step
        self._open: list[_Span] = []

    def start(self, action_name: str) -> None:
        super().start(action_name)
        if action_name == _NEXT_BATCH:
            self._steps.append(self._mark())
            self._spans.append([])
        part = _PARTS.get(action_name.split(".")[-1])
        if part is not None and self._steps:
            self._open.append(_Span(part, self._mark(), self._open[-1] if self._open else None))
            self._spans[-1].append(self._open[-1])

    def stop(self, action_name: str) -> None:
        super().stop(action_name)
        part = _PARTS.get(action_name.split(".")[-1])
        if self._open and self._open[-1].part == part:
            self._open.pop().end = self._mark()

    def announce_forward(self, model: EncoderDecoder) -> None:
        """Registers hooks that report the encoder's and the decoder's part of each forward pass.

        The projection of the context is the end of the encoder.
        """

        def hook(*reports: tuple[Callable[[str], None], str]) -> Callable[..., None]:
            def report(*_: Any) -> None:
                for start_or_stop, part in reports:
                    start_or_stop(part)

            return report

        model.register_forward_pre_hook(hook((self.start, "encoder")))
        model.dec_context_proj.register_forward_hook(hook((self.stop, "encoder"), (self.start, "decoder")))
        model.register_forward_hook(hook((self.stop, "decoder")))

    def describe(self) -> None:
        """Reports and forgets the steps so far; Lightning calls it at the end of each fit or evaluation."""
        first, num_steps = self.num_warmup_steps, len(self._steps) - 1 - self.num_warmup_steps
        if num_steps > 0 and self.local_rank == 0:
            whole_s = self._seconds(self._steps[first], self._steps[-1])
            self._report(self._parts_s(self._spans[first:-1]), whole_s, num_steps)
        self._steps, self._spans, self._open = [], [], []

    def _parts_s(self, steps: list[list[_Span]]) -> dict[str, float]:
        """Seconds of each part, without those of nested parts."""
        parts: dict[str, float] = defaultdict(float)
        for span in (span for spans in steps for span in spans):
            seconds = self._seconds(span.begin, span.end)
            parts[span.part] += seconds
            if span.parent is not None:
                parts[span.parent.part] -= seconds
        return parts

    def _report(self, parts: dict[str, float], whole_s: float, num_steps: int) -> None:
        table = Table(title=f"a training step: {1000 * whole_s / num_steps:,.1f} ms, mean of {num_steps}")
        for heading in ("part", "ms", "share"):
            table.add_column(heading, justify="left" if heading == "part" else "right")
        known = {part: parts[part] for part in _PARTS.values() if part in parts}
        for part, seconds in {**known, _REST: whole_s - sum(known.values())}.items():
            table.add_row(part, f"{1000 * seconds / num_steps:,.2f}", f"{seconds / whole_s:.1%}")
        PlainConsole().print(table)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = StringIO()
        PlainConsole(file=text, width=100).print(table)
        write_text_atomic(self.path, text.getvalue())
        print(f"written to {self.path}", flush=True)

    def _mark(self) -> Any:
        """The present time: a CUDA event where a GPU is in use, else the clock's seconds."""
        if not torch.cuda.is_initialized():
            return self.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, begin: Any, end: Any) -> float:
        if isinstance(begin, float):
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1000
