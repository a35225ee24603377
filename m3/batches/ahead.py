"""Preparation of items on another thread, before the loop asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_DEPTH = 2
_END = object()


def ahead(items: Iterable[Any], prepare: Callable[[Any], T]) -> Iterator[T]:
    """`prepare(item)` of each item, in order; up to two items are read and prepared before they are asked for.

    What `items` or `prepare` raises is raised where that item would have come. One thread does all of it, so neither
    has to be thread-safe.
    """
    source = iter(items)

    def next_one() -> Any:
        item = next(source, _END)
        return _END if item is _END else prepare(item)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting: deque[Future] = deque(thread.submit(next_one) for _ in range(_DEPTH))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next_one))
                yield item
        finally:
            thread.shutdown(wait=True, cancel_futures=True)
