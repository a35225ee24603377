"""A sweep that a signal stops: its trials save a checkpoint first."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from m3.cluster import PREEMPTION, requeue_submitit


class SweepStop:
    """In its block notes the first signal, and hands it on to processes as one that stops them after a checkpoint.

    number: of that signal, None before it.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> SweepStop:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._note) for n in (*PREEMPTION, signal.SIGINT)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def add(self, process: subprocess.Popen) -> None:
        """From any thread."""
        self._processes.append(process)
        if self.number is not None:  # between the decision to start the process and its start
            process.send_signal(signal.SIGINT if self.number == signal.SIGINT else signal.SIGUSR1)

    def remove(self, process: subprocess.Popen) -> None:
        self._processes.remove(process)

    def leave(self, rank: int) -> None:
        """Ends this process; returns where submitit may not run the job again, as it does after all but Ctrl-C."""
        if self.number != signal.SIGINT:
            try:
                requeue_submitit(self._handlers)
            except Exception as error:  # submitit's own, which would cost the sweep its other trials
                print(error, file=sys.stderr, flush=True)
                return
            if rank:
                time.sleep(60)  # the job's first process requeues it; were this one to end before, SLURM would end all
        raise SystemExit(128 + self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            return
        self.number = signal.Signals(number)
        if number != signal.SIGINT:  # which a terminal sends to all; a second one would stop them at once
            for process in tuple(self._processes):
                process.send_signal(signal.SIGUSR1)
