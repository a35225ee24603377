"""Reads the files of a data set from a local folder or a remote address.

A root is a folder, `http://…`, `https://…`, any address that fsspec supports (`s3://bucket/…`, `gs://bucket/…`), or
`pipe:COMMAND {}`: a command that prints a file, in which {} is replaced by the file's name. It runs without a shell.

The root is the user's own, everything behind it is not trusted: names are plain, no more bytes are read than the caller
allows, files of a folder are regular ones inside it, and a server may not hand a request on to another one.
"""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from m3.core.reading import open_regular

_PIPE = "pipe:"
_WAITS_S = (0.5, 2.0)
"""Before the second and the third attempt at a remote file."""

_CONNECT_S, _SILENCE_S = 30.0, 60.0
"""HTTP timeouts in seconds for connecting and between two packets; a whole file, which may be large, has none."""

MAX_BYTES = 2**26
"""Of the manifest and the text tokenizer. A manifest that lists 100,000 rejected clips has about 20 MB."""

_GRACE_S, _SLOWEST_BYTES_PER_S = 60.0, 1024
"""A remote file that comes more slowly than that, after a start of 60 seconds, is given up."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
"""Of a file of a data set. No shell, and no shell behind ssh, reads it as anything but a name."""

_Read = TypeVar("_Read")


class _Refused(ValueError):
    """A file that is not read any further, whatever the number of attempts."""


class _Bounded:
    """A binary file of which at most `max_bytes` bytes are read.

    Reading raises _Refused where it has more, and TimeoutError where a remote one comes too slowly.
    """

    def __init__(self, file: IO[bytes], max_bytes: int, is_remote: bool) -> None:
        self._file, self._max_bytes, self._is_remote = file, max_bytes, is_remote
        self._num_bytes, self._start = 0, time.monotonic()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, all of them by default."""
        parts = []
        while size != 0:
            part = self._file.read(2**20 if size < 0 else min(size, 2**20))
            if not part:
                break
            self._num_bytes += len(part)
            if self._num_bytes > self._max_bytes:
                raise _Refused(f"more than {self._max_bytes:,} bytes")
            elapsed_s = time.monotonic() - self._start
            if self._is_remote and elapsed_s > _GRACE_S + self._num_bytes / _SLOWEST_BYTES_PER_S:
                raise TimeoutError(f"{self._num_bytes:,} bytes in {elapsed_s:.0f} s")
            parts.append(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)


def is_local(root: str | Path) -> bool:
    """Whether the root is a folder of this machine."""
    return isinstance(root, Path) or not (root.startswith(_PIPE) or "://" in root)


def address(root: str | Path, name: str) -> str:
    """Path or address of the file `name` of a data set, for opening it and for messages."""
    if is_local(root):
        return str(Path(root) / name)
    root = str(root)
    if not root.startswith(_PIPE):
        return f"{root.rstrip('/')}/{name}"
    if "{}" not in root or not _arguments(root):
        raise ValueError(f"{root}: a command needs {{}} in place of the file's name, as in pipe:cat data/{{}}")
    return root.replace("{}", name)


def read_stored(root: str | Path, name: str, read: Callable[[IO[bytes]], _Read], max_bytes: int = MAX_BYTES) -> _Read:
    """Returns `read(file)`. Remote files are tried three times, each time from the start.

    read: reads by `file.read(size)` alone.
    max_bytes: of the file.
    Raises FileNotFoundError for a file that is not there, OSError naming the file where it cannot be read, ValueError
    where the protocol is unknown or a package for it is missing, for a name that no file of a data set has, for a file
    of more than `max_bytes` bytes, one that is no regular file inside the folder, and where a server hands the request
    on to another host or protocol.
    """
    where = _checked_address(root, name)
    waits = () if is_local(root) or str(root).startswith(_PIPE) else _WAITS_S
    for attempt, wait_s in enumerate((*waits, None), start=1):
        try:
            with _opened(root, name, where) as file:
                return read(cast(IO[bytes], _Bounded(file, max_bytes, is_remote=not is_local(root))))
        except FileNotFoundError as error:
            if isinstance(error.__cause__, _Refused):  # fsspec takes every failed request for a missing file
                raise ValueError(f"{where}: {error.__cause__}") from None
            if not isinstance(error.__cause__, OSError):  # it does so, too, where there is no connection
                raise FileNotFoundError(f"{where}: no such file") from None
            failure: Exception = error.__cause__
        except _Refused as error:
            raise ValueError(f"{where}: {error}") from None
        except (ImportError, ValueError) as error:
            needs = "HTTP and S3 need the extra m3-motion[stream], GCS needs m3-motion[gcs]"
            raise ValueError(f"{where}: {error} ({needs})") from error
        except Exception as error:  # each protocol has its own: aiohttp's and botocore's are no OSError
            failure = error
        if wait_s is None or isinstance(failure, PermissionError):
            tried = f", tried {attempt} times" if attempt > 1 else ""
            raise OSError(
                f"{where}: cannot be read{tried} ({type(failure).__name__}: {failure}); see that it can be "
                "reached from here, then continue the run with resume=auto"
            ) from failure
        time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def is_stored(root: str | Path, name: str) -> bool:
    """Whether the file is there, without reading it. Raises OSError naming it where that cannot be determined."""
    where = _checked_address(root, name)
    if is_local(root):
        return Path(where).is_file()
    try:
        filesystem, path = _filesystem(where)
        return filesystem.isfile(path)
    except Exception as error:
        raise OSError(f"{where}: cannot be looked for ({type(error).__name__}: {error})") from error


def _checked_address(root: str | Path, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r}: no name of a file of a data set, which has letters, digits and _ . - only")
    return address(root, name)


def _filesystem(where: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of an address, and the path in it. Raises ImportError where the package for it is missing."""
    if not where.startswith("http"):
        return fsspec.core.url_to_fs(where)
    import aiohttp  # of m3-motion[stream]

    # Its default is five minutes for a whole file, however large the file and however busy the server.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    client_kwargs = {"timeout": timeout, "trace_configs": [_redirects_refused()]}
    return fsspec.core.url_to_fs(where, client_kwargs=client_kwargs)


@functools.cache
def _redirects_refused() -> Any:
    """Lets a server redirect to itself alone: another host could be one that only this machine can reach."""
    import aiohttp
    from yarl import URL

    async def check(_session: Any, _context: Any, params: Any) -> None:
        headers = params.response.headers
        there = params.url.join(URL(headers.get("Location", headers.get("URI", ""))))
        if (there.scheme, there.host, there.port) != (params.url.scheme, params.url.host, params.url.port):
            shown = f"{there.scheme}://{there.host or ''}{f':{there.port}' if there.port else ''}"
            raise _Refused(f"redirected to {shown}; if you trust that address, give it as data.root")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    return trace


@contextmanager
def _opened(root: str | Path, name: str, where: str) -> Iterator[IO[bytes]]:
    if is_local(root):
        with _open_inside(Path(root), name) as file:
            yield file
    elif where.startswith(_PIPE):
        yield from _output_of(_arguments(where))
    else:
        filesystem, path = _filesystem(where)
        if isinstance(filesystem, LocalFileSystem):
            with _open_inside(Path(path.removesuffix(name)), name) as file:
                yield file
            return
        # One plain request: not every HTTP server supports ranges.
        options = {"block_size": 0} if where.startswith("http") else {}
        with filesystem.open(path, "rb", **options) as file:
            yield cast(IO[bytes], file)


def _open_inside(root: Path, name: str) -> IO[bytes]:
    """Opens a regular file of a folder. Raises _Refused for others, and where a link leads out of the folder."""
    try:
        file = open_regular(root / name)
    except ValueError as error:
        raise _Refused(str(error).rpartition(": ")[2]) from None
    if not is_inside(root, root / name):
        file.close()
        raise _Refused(f"a link that leads out of {root}; copy the file, or give the folder that it leads to")
    return file


def is_inside(root: Path, path: Path) -> bool:
    """Whether a path, with all its links followed, is in the folder `root`.

    Of a snapshot in the cache of huggingface_hub, the files are links into the folder `blobs` beside the snapshots.
    """
    folder, found = root.resolve(), path.resolve()
    if folder.parent.name == "snapshots" and found.is_relative_to(folder.parent.parent / "blobs"):
        return True
    return found.is_relative_to(folder)


def _arguments(command: str) -> list[str]:
    """The words of a command, divided as a shell divides them. Raises ValueError for an open quotation mark."""
    try:
        return shlex.split(command.removeprefix(_PIPE))
    except ValueError as error:
        raise ValueError(f"{command}: no command ({error})") from error


def _output_of(command: list[str]) -> Iterator[IO[bytes]]:
    """What a command prints. Raises OSError where it fails; a command that prints too much is ended."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise OSError(f"no command {command[0]}") from None
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout
            process.stdout.close()
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    if status:
        raise OSError(f"the command ends with exit {status}; it runs without a shell: pipe:sh -c '… {{}}' has one")
