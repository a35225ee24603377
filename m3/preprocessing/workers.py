"""Works on clips in several processes, which end when the main process ends, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, Generic, Protocol, TypeVar

import torch

from m3.core.types import Rejection
from m3.preprocessing.staging import Unreadable

MAX_DEATHS_IN_A_ROW = 4
"""Abort after this many consecutive worker crashes: the cause is then the machine, not a clip."""

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class ClipWork(Protocol[Result_co]):
    """Work on single clips. Picklable.

    modules: names of those that it needs, which are imported before the processes start.
    """

    @property
    def modules(self) -> list[str]: ...

    def __call__(self, clip_id: str) -> Result_co | Rejection: ...


_DIED = (
    "its worker process died, and two more that worked on nothing else: a damaged file that crashes its decoder, or "
    "too little memory"
)


def prepare_clips(work: ClipWork[Result], clip_ids: Iterable[str], num_workers: int) -> Iterator[Result | Rejection]:
    """`work(clip)` of each clip, in the order in which they are finished; at most two clips per worker in memory.

    When a worker crashes, the clips in progress are tried again one by one; a clip that crashes two more workers is
    rejected. Raises ChildProcessError after `MAX_DEATHS_IN_A_ROW` such clips in a row.

    num_workers: processes; 0 works in this one.
    """
    if num_workers == 0:
        yield from map(work, clip_ids)
        return
    to_do, deaths_in_a_row = iter(clip_ids), 0
    while suspects := (yield from _in_pool(work, to_do, num_workers)):
        for clip_id in suspects:
            dies = True
            for _ in range(2):  # the first crash may have been another clip's fault
                dies = dies and bool((yield from _in_pool(work, iter([clip_id]), 1)))
            deaths_in_a_row = deaths_in_a_row + 1 if dies else 0
            if deaths_in_a_row == MAX_DEATHS_IN_A_ROW:
                raise workers_die(clip_id)
            if dies:
                yield Unreadable(clip_id, _DIED)


def workers_die(clip_id: str) -> ChildProcessError:
    """The error for repeated crashes; `clip_id`: the clip of the last one."""
    return ChildProcessError(
        f"worker processes die, the last one on clip {clip_id}: is there enough memory? Run the same command again, "
        "with fewer workers=… or in one process with workers=0 executor=local; finished clips are kept"
    )


def is_death(item: object) -> bool:
    """Whether the clip was rejected because worker processes crashed on it."""
    return isinstance(item, Rejection) and item.reason == _DIED


def _in_pool(
    work: ClipWork[Result], to_do: Iterator[str], num_workers: int
) -> Generator[Result | Rejection, None, list[str]]:
    """Yields the results; returns the clips that were under way when a worker died, or [] when all are done."""
    context = _worker_context(work)
    stop_reader, stop_writer = context.Pipe(duplex=False)
    waiting: dict[Future, str] = {}
    lost: list[str] = []
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (work, stop_reader))
    try:
        while not lost or waiting:
            for clip_id in islice(to_do, 0 if lost else 2 * num_workers - len(waiting)):
                try:
                    waiting[pool.submit(_work_on, clip_id)] = clip_id
                except BrokenProcessPool:
                    lost.append(clip_id)
                    break
            if not waiting:
                break
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                clip_id = waiting.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(clip_id)
                else:
                    yield future.result()
    except BaseException:
        stop_writer.close()  # interrupted: the workers stop at once
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        stop_writer.close()
        stop_reader.close()
    return lost


class ClipWorker(Generic[Result]):
    """One process that works on one clip at a time; another one takes its place when it dies.

    It ends with the process that called, however that ends.
    """

    def __init__(self, work: ClipWork[Result]) -> None:
        self._context = _worker_context(work)
        self._work = work
        self._stop_reader, self._stop_writer = self._context.Pipe(duplex=False)
        self._pool = self._start()

    def __call__(self, clip_id: str) -> Result | Rejection:
        for _ in range(3):
            try:
                return self._pool.submit(_work_on, clip_id).result()
            except BrokenProcessPool:
                self._pool.shutdown()
                self._pool = self._start()
        return Unreadable(clip_id, _DIED)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._context, _start_worker, (self._work, self._stop_reader))


_work: ClipWork[Any]
"""The work of this worker process."""


def _start_worker(work: ClipWork[Any], stop: Connection) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one decides
    torch.set_num_threads(1)
    threading.Thread(target=_exit_when_closed, args=(stop,), daemon=True).start()


def _exit_when_closed(stop: Connection) -> None:
    """Ends the process when the other end of the pipe is closed, as it also is when the main process is killed."""
    stop.poll(None)
    os._exit(1)


def _work_on(clip_id: str) -> Any:
    return _work(clip_id)


def _worker_context(work: ClipWork[Any]) -> BaseContext:
    """Workers must not be forked from a process that has run torch threads."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *work.modules])
        return context
    return multiprocessing.get_context("spawn")
