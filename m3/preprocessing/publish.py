"""Uploads a data set to an address that fsspec can write (`s3://bucket/…`).

The manifest is uploaded last: an address without it is no data set.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from m3.core.progress import track
from m3.preprocessing.folder import existing_manifest
from m3.shards.manifest import MANIFEST_NAME, Manifest
from m3.shards.transport import address, is_inside, is_local

_PROBE = ".m3-write-test"
_WAITS_S = (0.5, 2.0)
"""Before the second and the third attempt at a file."""


def working_folder(out: str, scratch: str) -> Path:
    """The folder in which the data set `out` is made: itself, or a folder in `scratch` where it is an address."""
    if is_local(out):
        return Path(out)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", out).strip("-")
    return Path(scratch) / f"{name}-{hashlib.sha256(out.encode()).hexdigest()[:8]}"


def find_published(out: str, identity: dict[str, Any], overwrite: bool) -> Manifest | None:
    """The manifest of the complete data set of this identity at an address; None where it still has to be made.

    Raises ValueError where another data set is there and `overwrite` is False, OSError where the address cannot be
    written.
    """
    filesystem, path = _open(out)
    if not overwrite and (existing := existing_manifest(out, identity)) is not None:
        return existing
    probe = f"{path}/{_PROBE}"

    def write_and_delete() -> None:
        _make_parent(filesystem, probe)
        filesystem.pipe_file(probe, b"m3")
        filesystem.rm_file(probe)

    _try(write_and_delete, address(out, _PROBE))
    return None


def publish(folder: Path, out: str) -> None:
    """Copy the complete data set `folder` to the address `out`; all other files of an older data set there are deleted.

    Raises OSError naming the file where one cannot be written, ValueError where a link in a local folder leads out.
    """
    filesystem, path = _open(out)
    stale = _files_of_older(out)
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    names = [name for name in names if name != MANIFEST_NAME] + [MANIFEST_NAME]
    if isinstance(filesystem, LocalFileSystem):
        _check_no_links(Path(path), {*stale, *names})
    for name in (MANIFEST_NAME, *sorted(stale - set(names))):
        _try(partial(_remove, filesystem, f"{path}/{name}"), address(out, name))
    for name in track(names, len(names), f"files to {out}"):
        _try(partial(_put, filesystem, folder / name, f"{path}/{name}"), address(out, name))


def _remove(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    if isinstance(filesystem, LocalFileSystem):
        Path(path).unlink(missing_ok=True)  # of a link, the link
    elif filesystem.exists(path):
        filesystem.rm_file(path)


def _check_no_links(out: Path, names: set[str]) -> None:
    """Raises ValueError for files that are elsewhere: they would be overwritten or deleted there."""
    for name in sorted(names):
        if not is_inside(out, out / name):
            raise ValueError(f"out=file://{out}: {name} is a link that leads out of it; remove the link")


def _put(filesystem: fsspec.AbstractFileSystem, source: Path, path: str) -> None:
    _make_parent(filesystem, path)
    filesystem.put_file(str(source), path)
    filesystem.invalidate_cache()
    found, size = filesystem.info(path)["size"], source.stat().st_size
    if found != size:
        raise OSError(f"{found:,} bytes arrived, {size:,} were sent")


def _files_of_older(out: str) -> set[str]:
    """The files that the manifest at the address lists; none where there is no manifest that can be read."""
    try:
        manifest = Manifest.load(out)
    except (FileNotFoundError, ValueError):
        return set()
    names = {shard.name for shards in manifest.shards.values() for shard in shards}
    return names | ({manifest.text_tokenizer["file"]} if manifest.text_tokenizer else set())


def _open(out: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of an address, and the path in it."""
    if out.startswith(("pipe:", "http:", "https:")):
        raise ValueError(f"out={out}: cannot be written; choose a folder, or an address such as s3://BUCKET/NAME")
    try:
        filesystem, path = fsspec.core.url_to_fs(out)
    except (ImportError, ValueError) as error:
        raise ValueError(f"out={out}: {error} (pip install 'm3-motion[stream]' has what S3 needs)") from error
    return filesystem, path.rstrip("/")


def _make_parent(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    """Only in local file systems: object stores have no folders, and `makedirs` might make a bucket."""
    if isinstance(filesystem, LocalFileSystem):
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)


def _try(work: Callable[[], Any], where: str) -> None:
    """Call `work`, up to three times. Raises OSError naming the file `where` after the last failure."""
    for wait_s in (*_WAITS_S, None):
        try:
            work()
            return
        except Exception as error:  # each protocol has its own
            if wait_s is None or isinstance(error, FileNotFoundError | PermissionError):
                raise OSError(
                    f"{where}: cannot be written ({type(error).__name__}: {error}); the data set is kept: run the "
                    "same command again"
                ) from error
            time.sleep(wait_s)
