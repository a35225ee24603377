"""Signals that ask to stop."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from m3.core.signals import STOPPING, Interrupted, StopRequest, interruptible


@pytest.mark.parametrize("number", STOPPING)
def test_a_block_is_left_at_once_with_the_status_of_a_shell(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOPPING]
    with pytest.raises(Interrupted) as stopped, interruptible():
        os.kill(os.getpid(), number)
        pytest.fail("went on")
    assert (stopped.value.code, stopped.value.signal) == (128 + number, number)
    assert [signal.getsignal(each) for each in STOPPING] == before


def test_only_the_signals_that_are_named() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with interruptible((signal.SIGTERM,)):
        assert signal.getsignal(signal.SIGUSR1) == before and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL


def test_a_child_process_ends_with_the_same_status() -> None:
    with interruptible():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM


def test_other_threads_have_no_handlers() -> None:
    def enter() -> None:
        with interruptible():
            entered.append(signal.getsignal(signal.SIGTERM))

    entered: list = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]


def test_a_request_is_noted_and_the_second_one_ends_the_process(capfd) -> None:
    child = os.fork()
    if child == 0:
        request = StopRequest()
        request.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)  # a cluster's warning may come more than once
        os.kill(os.getpid(), signal.SIGTERM)
        if request.signal != signal.SIGUSR1:
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert "SIGUSR1: stops after this step" in capfd.readouterr().err


def test_handlers_are_those_of_before_when_nobody_listens_any_more() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    request = StopRequest()
    request.listen()
    assert [signal.getsignal(number) for number in STOPPING] != before
    request.stop_listening()
    assert [signal.getsignal(number) for number in STOPPING] == before
