"""Where the time of a training goes, by the calls that Lightning and `MaskedTraining` announce to a profiler."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler
from rich.console import Console
from rich.table import Table

from m3.core.files import write_text_atomic
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
"""The part of a step that an action belongs to, by the last word of its name. A part's time is without those in it."""

_REST = "Lightning, callbacks, logs"


class DataWait(Profiler):
    """Adds up the time that the training loop waits for its loader: `waited_s`.

    Args:
        clock: seconds.
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
    """A part's beginning and end, as marks; `inside`: the innermost span around it, None for the step itself."""

    part: str
    begin: Any
    inside: _Span | None
    end: Any = None


class StepProfile(DataWait):
    """Prints where the time of a step goes, as a table, and writes it to a file. The parts add up to the whole.

    On a GPU the times are the device's, between marks in its queue, without waiting for it; on a CPU the clock's.

    Args:
        path: of the table.
        num_warmup_steps: at the start, not counted. Nor is the last one, whose end is that of the run.
        clock: seconds.
    Raises:
        ValueError naming the key.
    """

    def __init__(self, path: str, num_warmup_steps: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(clock)
        check("trainer.profiler.num_warmup_steps", num_warmup_steps, int, low=0)
        self.path, self.num_warmup_steps = Path(path), num_warmup_steps
        self._steps: list[Any] = []  # marks of the beginnings
        self._spans: list[list[_Span]] = []  # of each step
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
        """Has the model's forward passes announce their two halves; the context for the decoder is the encoder's."""

        def is_at(*changes: tuple[Callable[[str], None], str]) -> Callable[..., None]:
            def tell(*_: Any) -> None:
                for change, part in changes:
                    change(part)

            return tell

        model.register_forward_pre_hook(is_at((self.start, "encoder")))
        model.dec_context_proj.register_forward_hook(is_at((self.stop, "encoder"), (self.start, "decoder")))
        model.register_forward_hook(is_at((self.stop, "decoder")))

    def describe(self) -> None:
        """Lightning asks at the end of each of its runs; only a training has something to tell."""
        first, num_steps = self.num_warmup_steps, len(self._steps) - 1 - self.num_warmup_steps
        if num_steps > 0 and self.local_rank == 0:
            whole_s = self._seconds(self._steps[first], self._steps[-1])
            self._report(self._parts_s(self._spans[first:-1]), whole_s, num_steps)
        self._steps, self._spans, self._open = [], [], []

    def _parts_s(self, steps: list[list[_Span]]) -> dict[str, float]:
        """Seconds of each part without the parts inside it."""
        parts: dict[str, float] = defaultdict(float)
        for span in (span for spans in steps for span in spans):
            seconds = self._seconds(span.begin, span.end)
            parts[span.part] += seconds
            if span.inside is not None:
                parts[span.inside.part] -= seconds
        return parts

    def _report(self, parts: dict[str, float], whole_s: float, num_steps: int) -> None:
        table = Table(title=f"a training step: {1000 * whole_s / num_steps:,.1f} ms, mean of {num_steps}")
        for heading in ("part", "ms", "share"):
            table.add_column(heading, justify="left" if heading == "part" else "right")
        known = {part: parts[part] for part in _PARTS.values() if part in parts}
        for part, seconds in {**known, _REST: whole_s - sum(known.values())}.items():
            table.add_row(part, f"{1000 * seconds / num_steps:,.2f}", f"{seconds / whole_s:.1%}")
        Console().print(table)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = StringIO()
        Console(file=text, width=100).print(table)
        write_text_atomic(self.path, text.getvalue())
        print(f"written to {self.path}", flush=True)

    def _mark(self) -> Any:
        """A moment: of the device's queue where a GPU computes, else the clock's."""
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
