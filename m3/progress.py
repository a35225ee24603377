"""Progress of a loop with its ETA: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[Item], total: int, description: str, console: Console | None = None) -> Iterator[Item]:
    """The items of a loop of `total` steps, while their progress is shown."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield from _track_in_log(items, total, description, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _track_in_log(items: Iterable[Item], total: int, description: str, console: Console) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            last, elapsed = now, now - start
            eta = elapsed / done * (total - done)
            console.print(f"{description}: {done}/{total}, {elapsed:.0f} s, ETA {eta:.0f} s", highlight=False)


@contextmanager
def counted(total: int, description: str, console: Console | None = None) -> Iterator[Callable[[], None]]:
    """A function to call after each of `total` steps, for work that calls back instead of yielding."""
    ticks = track(range(total), total, description, console)
    next(ticks)
    try:
        yield lambda: next(ticks, None)
    finally:
        ticks.close()
