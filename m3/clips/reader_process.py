"""Reads files with compiled libraries in a process of its own.

Damaged files can crash such a library, or lead it to allocate any amount of memory. The process is started for the
first file, and again after it has died; it ends with the process that started it.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

SECONDS = 60.0
"""A file that takes longer is given up."""

_MAX_BYTES = 2**31
"""Address space of the process."""

_LENGTH_BYTES = 8


class ReaderProcess:
    """The process, and the requests to it, one at a time.

    library: whose reader it runs, for errors ("SciPy").
    module: its function `serve` is what the process runs; it calls `answer_requests`.
    """

    def __init__(self, library: str, module: str) -> None:
        self._library = library
        self._start = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import serve; serve()"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def read(self, content: bytes, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The arrays that `answer_requests` gets from its function for the content of a file and these names.

        Raises ValueError with the reason where the file cannot be read.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            is_late = threading.Event()

            def give_up() -> None:
                is_late.set()
                process.kill()

            timer = threading.Timer(SECONDS, give_up)
            timer.start()
            try:
                _send(process.stdin, " ".join(names).encode())
                _send(process.stdin, content)
                error, answer = _receive(process.stdout), _receive(process.stdout)
            except (OSError, EOFError) as lost:
                self._process = None
                process.kill()
                raise ValueError(self._how_it_ended(process.wait(), is_late.is_set())) from lost
            finally:
                timer.cancel()
        if error:
            raise ValueError(error.decode(errors="replace"))
        return _unpacked(answer)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            # In a session of its own: a terminal's Ctrl-C is for the process that decides.
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._start, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            self._owner = os.getpid()
        return self._process

    def _how_it_ended(self, code: int, is_late: bool) -> str:
        if is_late:
            return f"{self._library}'s reader did not finish it within {SECONDS:.0f} s"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{self._library}'s reader crashes on it: {how}"


def answer_requests(load: Callable[[bytes, Sequence[str]], dict[str, Any]]) -> None:
    """The process: answers each file with an error, empty if there is none, and its arrays as an `.npz`."""
    _limit_memory()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            names, content = _receive(requests).decode().split(), _receive(requests)
        except EOFError:
            return
        error, answer = b"", b""
        try:
            answer = _packed(load(content, names))
        except Exception as reason:  # libraries raise errors of many types for damaged files
            error = f"{type(reason).__name__}: {reason}"[:500].encode(errors="replace")
        _send(answers, error)
        _send(answers, answer)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    except (ValueError, OSError):  # macOS has no such limit
        pass


def _packed(arrays: dict[str, Any]) -> bytes:
    """Arrays as an `.npz` without pickles. Their names are a list in it: a name may hold what no file name may."""
    content = io.BytesIO()
    values = {f"a{number}": np.asarray(value) for number, value in enumerate(arrays.values())}
    np.savez(content, allow_pickle=False, names=np.array(list(arrays), dtype=str), **values)
    return content.getvalue()


def _unpacked(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {str(name): stored[f"a{number}"] for number, name in enumerate(stored["names"])}


def _send(file: BinaryIO | Any, content: bytes) -> None:
    file.write(len(content).to_bytes(_LENGTH_BYTES, "little"))
    file.write(content)
    file.flush()


def _receive(file: BinaryIO | Any) -> bytes:
    """Raises EOFError at the end of the other side."""
    length = int.from_bytes(_exactly(file, _LENGTH_BYTES), "little")
    return _exactly(file, length)


def _exactly(file: BinaryIO | Any, length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:
        raise EOFError
    return content
