"""Progress of a loop with its ETA: a bar on a terminal, otherwise a line at most every 10 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from m3.core.terminal import PlainConsole

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 10.0


def track(
    items: Iterable[Item],
    total: int,
    description: str,
    console: Console | None = None,
    status: Callable[[], str] = lambda: "",
) -> Generator[Item, None, None]:
    """Yields the items of a loop and shows the progress after each.

    Args:
        items: what to loop over.
        total: number of items.
        description: name of the work, before the bar.
        console: where to show the progress; None for stderr.
        status: text beside the count, read after each item ("310 pairs, 2 rejected").
    """
    console = console or PlainConsole(stderr=True)
    if not console.is_terminal:
        yield from _track_in_log(items, total, description, console, status)
        return
    description_column, status_column = (
        TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[status]}")
    )
    columns = (description_column, BarColumn(), MofNCompleteColumn(), status_column,
               TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, status=status())
        for item in items:
            yield item
            progress.update(task, advance=1, status=status())


def _track_in_log(
    items: Iterable[Item], total: int, description: str, console: Console, status: Callable[[], str]
) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            last, elapsed = now, now - start
            eta = elapsed / done * (total - done)
            words = [f"{description}: {done}/{total}", status(), f"{elapsed:.0f} s", f"ETA {eta:.0f} s"]
            console.print(", ".join(filter(None, words)), highlight=False, soft_wrap=True, markup=False)


@contextmanager
def progress_callback(total: int, description: str, console: Console | None = None) -> Iterator[Callable[[], object]]:
    """Shows the progress of work that calls the given function after each of `total` steps."""
    ticks = track(range(total), total, description, console)
    next(ticks)
    try:
        yield lambda: next(ticks, None)
    finally:
        ticks.close()
