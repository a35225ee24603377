"""How the threads of matrix products wait for each other on a machine that does other things.

OpenMP's threads spin for some milliseconds while they wait, which is fastest where nothing else runs. Where something
does, they spin for threads that have lost their core, and take the time from those that have work.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

CHOSEN_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables by which users say how threads wait; with one of them nothing is changed."""

_SECONDS_BETWEEN_LOOKS = 1.0
_BUSY, _QUIET = 0.15, 0.05
"""Seconds per second that the threads of this process wait for a core, above and below which they change."""

_OWN = "m3-own-threads"

_LARGE = 1 << 18
"""Elements of a tensor that torch divides among threads."""


def wait_politely_when_busy() -> threading.Thread | None:
    """Watches, from a thread in the background, whether this process has to wait for cores, and changes how it waits.

    Torch's OpenMP on Linux, libgomp, hardly spins while it manages more threads than there are cores. So while others
    want the cores, some threads of this process have OpenMP threads of their own, which sleep.

    Returns:
        The thread; None where nothing can be watched or changed: by the user's choice, with one thread, without
        Linux's account of waiting times.
    """
    import torch

    if any(name in os.environ for name in CHOSEN_BY_USER) or torch.get_num_threads() < 2 or waited_s() is None:
        return None
    watched = (threading.Event(), torch.get_num_threads())
    thread = threading.Thread(target=_watch, args=watched, daemon=True, name="m3-wait-politely")
    thread.start()
    return thread


def waited_s() -> float | None:
    """Seconds that the threads of this process were ready to run without a core, so far; None where that is unknown."""
    try:
        accounts = [(task / "schedstat").read_text().split() for task in Path("/proc/self/task").iterdir()]
    except OSError:  # also: a thread has ended in between
        return None
    return sum(float(account[1]) for account in accounts) / 1e9


def _watch(is_over: threading.Event, num_threads: int) -> None:
    held: _OwnThreads | None = None
    before, then = waited_s(), time.monotonic()
    while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
        waited, now = waited_s(), time.monotonic()
        if waited is not None and before is not None and waited >= before:  # less: a thread has ended
            share = (waited - before) / (now - then)
            if held is None and share > _BUSY:
                held = _OwnThreads(num_threads)
            elif held is not None and share < _QUIET:
                held.end()
                held = None
        before, then = waited, now
    if held is not None:
        held.end()


class _OwnThreads:
    """Threads with OpenMP threads of their own, which sleep until `end`; so many that all are more than the cores.

    num_threads: OpenMP threads of each, as of the main thread.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._is_over = threading.Event()
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for _ in range(max((num_cores - 1) // (num_threads - 1), 1)):
            threading.Thread(target=self._run, daemon=True, name=_OWN).start()

    def end(self) -> None:
        self._is_over.set()

    def _run(self) -> None:
        import torch

        torch.set_num_threads(self._num_threads)  # of this thread
        torch.zeros(_LARGE).add_(1.0)
        self._is_over.wait()
