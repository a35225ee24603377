"""Signals that ask a process to stop: at once, or when its work can be saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from m3.core.jobs import PREEMPTION

STOPPING = (*PREEMPTION, signal.SIGINT)
"""Signals that ask to stop: a cluster's, and Ctrl-C."""


class Interrupted(SystemExit):
    """A signal stopped the run, during training after a checkpoint. Exits with 128 + the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


@contextmanager
def interruptible(numbers: Sequence[signal.Signals] = STOPPING) -> Iterator[None]:
    """In the block these signals raise `Interrupted` at once. Does nothing outside the main thread."""
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Interrupted(number)
        os._exit(128 + number)  # in a child process, which inherits the handler

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class StopRequest:
    """Handles the signals that ask a run to stop: SIGINT (Ctrl-C) and those of clusters.

    A second SIGINT or SIGTERM ends the process at once. Warning signals of a cluster do not, since they may repeat.

    Attributes:
        signal: the first signal, None before it.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._process = 0

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._handlers = {number: signal.signal(number, self._note) for number in STOPPING}

    def stop_listening(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # loader processes inherit the handler, and end with the run
            return
        if number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if self.signal is None:
            self.signal = signal.Signals(number)
            words = "stops after this step; Ctrl-C or SIGTERM once more stops at once"
            print(f"\n{self.signal.name}: {words}", file=sys.stderr, flush=True)
