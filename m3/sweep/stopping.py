"""A sweep that a signal stops: its trials save a checkpoint first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from m3.core.jobs import PREEMPTION, requeue_submitit


def end(process: subprocess.Popen) -> None:
    """Kills what is left of a process that leads a session, and of those that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


class SweepStop:
    """In its block notes the first signal, and hands it on to processes as one that stops them after a checkpoint.

    These have sessions of their own, so that no Ctrl-C of a terminal comes to them twice. The same SIGINT or SIGTERM
    once more ends them at once.

    number: of the first signal, None before it.
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
        """From any thread."""
        self._processes.append(process)
        if self.number is not None:  # between the decision to start the process and its start
            process.send_signal(signal.SIGUSR1)

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
        is_urgent = number in self._noted and number in (signal.SIGINT, signal.SIGTERM)
        self._noted.add(number)
        self.number = self.number or signal.Signals(number)
        for process in tuple(self._processes):
            if is_urgent:
                end(process)
            else:
                process.send_signal(signal.SIGUSR1)  # of which a training may get several
