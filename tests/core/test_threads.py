"""How threads wait on a busy machine: who decides, and when it changes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from m3.core import threads


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def own_threads() -> int:
    return sum(each.name == "m3-own-threads" for each in threading.enumerate())


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_are_held_while_others_want_the_cores(monkeypatch) -> None:
    account, is_busy = [0.0], [False]

    def waited() -> float:
        account[0] += 1.0 if is_busy[0] else 0.0
        return account[0]

    monkeypatch.setattr(threads, "waited_s", waited)
    monkeypatch.setattr(threads, "_SECONDS_BETWEEN_LOOKS", 0.02)
    is_over = threading.Event()
    watcher = threading.Thread(target=threads._watch, args=(is_over, 2))
    watcher.start()
    time.sleep(0.2)
    assert own_threads() == 0
    is_busy[0] = True
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert eventually(lambda: own_threads() == max(num_cores - 1, 1))
    is_busy[0] = False
    assert eventually(lambda: own_threads() == 0)
    is_busy[0] = True
    assert eventually(lambda: own_threads() > 0)
    is_over.set()
    watcher.join()
    assert eventually(lambda: own_threads() == 0)


@pytest.mark.parametrize("name", threads.CHOSEN_BY_USER)
def test_the_users_choice_stays(monkeypatch, two_threads, name: str) -> None:
    for each in threads.CHOSEN_BY_USER:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "1")
    assert threads.wait_politely_when_busy() is None


def test_one_thread_waits_for_nobody(monkeypatch) -> None:
    for each in threads.CHOSEN_BY_USER:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert threads.wait_politely_when_busy() is None


def test_waiting_is_counted_where_the_system_counts_it() -> None:
    first = threads.waited_s()
    assert (first is not None) == Path("/proc/self/schedstat").exists()
    assert first is None or 0 <= first <= (threads.waited_s() or 0)
