"""How a signal stops a sweep: its trials save a checkpoint first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from m3.core.jobs import PREEMPTION, WARNING, requeue_submitit


def end(process: subprocess.Popen) -> None:
    """Kills a session leader that is still running, and the processes that it started."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows: what the process has started ends by itself
        process.kill()


class SweepStop:
    """In its block, forwards signals to the processes of trials as SIGUSR1, which stops them after a checkpoint.

    The processes are in sessions of their own, so that they do not also get a terminal's Ctrl-C. A second SIGINT or
    SIGTERM of the same kind kills them.

    number: the first signal, None before it.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._noted: set[int] = set()
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> SweepStop:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._note) for n in (*PREEMPTION, signal.SIGINT)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def add(self, process: subprocess.Popen) -> None:
        """Registers a process; may be called from any thread."""
        self._processes.append(process)
        if self.number is not None:  # the signal came while the process was started
            process.send_signal(WARNING)

    def remove(self, process: subprocess.Popen) -> None:
        self._processes.remove(process)

    def leave(self, rank: int) -> None:
        """Ends this process, after a requeue of its submitit job unless at Ctrl-C; returns if that is refused."""
        if self.number != signal.SIGINT:
            try:
                requeue_submitit(self._handlers)
            except Exception as error:  # no failure of submitit may lose the other trials of the sweep
                print(error, file=sys.stderr, flush=True)
                return
            if rank:
                time.sleep(60)  # the first process requeues the job; SLURM would end it if this process ended before
        raise SystemExit(128 + (self.number or 0))

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_urgent = number in self._noted and number in (signal.SIGINT, signal.SIGTERM)
        self._noted.add(number)
        self.number = self.number or signal.Signals(number)
        for process in tuple(self._processes):
            if is_urgent:
                end(process)
            else:
                process.send_signal(WARNING)  # a repeated SIGUSR1 does not end a training
