"""Reads the files of a data set from a local folder or a remote address.

A root is a folder, `http://…`, `https://…`, any address that fsspec supports (`s3://bucket/…`, `gs://bucket/…`), or
`pipe:COMMAND {}`: a shell command that prints a file, in which {} is replaced by the file's name.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar, cast

import fsspec
from webdataset.gopen import gopen

_PIPE = "pipe:"
_WAITS_S = (0.5, 2.0)
"""Before the second and the third attempt at a remote file."""

_CONNECT_S, _SILENCE_S = 30.0, 60.0
"""HTTP timeouts in seconds for connecting and between two packets; a whole file, which may be large, has none."""

_Read = TypeVar("_Read")


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
    if "{}" not in root:
        raise ValueError(f"{root}: a command needs {{}} in place of the file's name, as in pipe:cat data/{{}}")
    return root.replace("{}", shlex.quote(name))


def read_stored(root: str | Path, name: str, read: Callable[[IO[bytes]], _Read]) -> _Read:
    """Returns `read(file)`. Remote files are tried three times, each time from the start.

    Raises FileNotFoundError for a file that is not there, OSError naming the file where it cannot be read, ValueError
    where the protocol is unknown or a package for it is missing.
    """
    where = address(root, name)
    waits = () if is_local(root) or str(root).startswith(_PIPE) else _WAITS_S
    for attempt, wait_s in enumerate((*waits, None), start=1):
        try:
            with _opened(root, where) as file:
                return read(file)
        except FileNotFoundError:
            raise FileNotFoundError(f"{where}: no such file") from None
        except (ImportError, ValueError) as error:
            needs = "HTTP and S3 need the extra m3-motion[stream], GCS needs m3-motion[gcs]"
            raise ValueError(f"{where}: {error} ({needs})") from error
        except Exception as error:  # each protocol has its own: aiohttp's and botocore's are no OSError
            if wait_s is None or isinstance(error, PermissionError):
                tried = f", tried {attempt} times" if attempt > 1 else ""
                raise OSError(
                    f"{where}: cannot be read{tried} ({type(error).__name__}: {error}); see that it can be "
                    "reached from here, then continue the run with resume=auto"
                ) from error
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def is_stored(root: str | Path, name: str) -> bool:
    """Whether the file is there, without reading it. Raises OSError naming it where that cannot be determined."""
    where = address(root, name)
    if is_local(root):
        return Path(where).is_file()
    try:
        filesystem, path = _filesystem(where)
        return filesystem.isfile(path)
    except Exception as error:
        raise OSError(f"{where}: cannot be looked for ({type(error).__name__}: {error})") from error


def _filesystem(where: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of an address, and the path in it. Raises ImportError where the package for it is missing."""
    if not where.startswith("http"):
        return fsspec.core.url_to_fs(where)
    import aiohttp  # of m3-motion[stream]

    # Its default is five minutes for a whole file, however large the file and however busy the server.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    return fsspec.core.url_to_fs(where, client_kwargs={"timeout": timeout})


@contextmanager
def _opened(root: str | Path, where: str) -> Iterator[IO[bytes]]:
    if is_local(root):
        with open(where, "rb") as file:
            yield file
    elif where.startswith(_PIPE):
        with gopen(where, "rb") as file:  # raises OSError where the command fails
            yield cast(IO[bytes], file)
    else:
        filesystem, path = _filesystem(where)
        # One plain request: not every HTTP server supports ranges.
        options = {"block_size": 0} if where.startswith("http") else {}
        with filesystem.open(path, "rb", **options) as file:
            yield cast(IO[bytes], file)
