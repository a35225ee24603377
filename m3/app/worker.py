"""The process that computes for the page: one job at a time, stopped when late, started again when it has died.

Jobs and answers are lines of JSON. Files, not arrays, hold what is large.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

_log = logging.getLogger(__name__)

_START = "import sys; sys.path[:] = sys.argv[2:]; from m3.app.worker import serve; serve(sys.argv[1])"

_START_SECONDS = 300.0
"""Until the model is there: PyTorch may be imported from a slow disk, a model may be downloaded."""


class JobError(Exception):
    """A job that failed; the message is for the user."""


class Worker:
    """The process, and the jobs for it.

    Args:
        setup: arguments of `m3.app.jobs.setup`, JSON values.
        seconds: a job that takes longer is stopped, and the process with it.
    """

    def __init__(self, setup: Mapping[str, Any], seconds: float) -> None:
        self._setup, self._seconds = json.dumps(setup), seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_closed = self._is_ready = False
        with self._lock:
            self._start()

    def call(self, job: str, **arguments: Any) -> Any:
        """The answer of a job of `m3.app.jobs.JOBS`.

        Raises JobError for what a user can mend, a job that took too long, and a process that died.
        """
        with self._lock:
            if self._is_closed:
                raise JobError("the page is being closed")
            process = self._running()
            seconds = self._seconds + (0 if self._is_ready else _START_SECONDS)
            is_late = threading.Event()

            def give_up() -> None:
                is_late.set()
                process.kill()

            timer = threading.Timer(seconds, give_up)
            timer.start()
            try:
                answer = _asked(process, {"job": job, "arguments": arguments})
            except (OSError, EOFError, ValueError) as error:
                process.kill()
                code = process.wait()
                if not self._is_closed:
                    self._start()
                if is_late.is_set():
                    raise JobError(
                        f"stopped after {seconds:.0f} s: a shorter video or fewer futures take less"
                    ) from error
                raise JobError(f"the process that computes ended (status {code}); it was started again") from error
            finally:
                timer.cancel()
            self._is_ready = True
        if "error" in answer:
            raise JobError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Ends the process, and a job that it is at."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        return self._process

    def _start(self) -> None:
        self._is_ready = False
        # In a session of its own: a terminal's Ctrl-C is for the process that serves.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, self._setup, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )


def _asked(process: subprocess.Popen[str], request: Mapping[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith("\n"):
        raise EOFError
    return json.loads(line)


def serve(setup: str) -> None:
    """The loop of the process: reads jobs until its input ends. setup: JSON."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not become part of an answer
    from m3.app.jobs import JOBS, Desk
    from m3.core.errors import USER_ERRORS, message_of

    desk: Desk | None = None
    failure = ""
    try:
        desk = Desk(**json.loads(setup))
    except USER_ERRORS as error:
        failure = message_of(error)
    for line in sys.stdin:
        request = json.loads(line)
        if desk is None:
            answer: dict[str, Any] = {"error": failure}
        else:
            answer = _answer(JOBS[request["job"]], desk, request["arguments"], USER_ERRORS, message_of)
        _send(answers, answer)


def _answer(
    job: Callable[..., Any],
    desk: Any,
    arguments: Mapping[str, Any],
    user_errors: Sequence[type[Exception]],
    message_of: Callable[[Exception], str],
) -> dict[str, Any]:
    try:
        return {"result": job(desk, **arguments)}
    except tuple(user_errors) as error:
        return {"error": message_of(error)}
    except Exception as error:  # whatever a job does, the next one is served
        _log.exception("job failed")
        return {"error": f"{type(error).__name__}: this is a fault of m3; the terminal of m3-app shows where"}


def _send(answers: IO[str], answer: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
