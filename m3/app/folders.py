"""The page's own folder: uploads and results, removed at the end."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from m3.app.limits import MAX_TEXT, MAX_UPLOADS, MAX_WORK_FOLDERS


class OwnFolder:
    """A folder that is removed when the process ends.

    path: Gradio's folder too, which puts each upload into a folder of its own there. results: a folder for each result.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="m3-app-"))
        self.results = self.path / "results"
        self.results.mkdir()
        self._owner = os.getpid()
        atexit.register(self.remove)

    def remove(self) -> None:
        if os.getpid() == self._owner:  # not in a child that inherited it
            shutil.rmtree(self.path, ignore_errors=True)

    def new_result(self) -> Path:
        """An empty folder for a result. The oldest beyond `MAX_WORK_FOLDERS` are removed."""
        keep_newest(self.results, MAX_WORK_FOLDERS - 1, ())
        return Path(tempfile.mkdtemp(prefix="r", dir=self.results))

    def make_room(self) -> None:
        """Removes the oldest uploads beyond `MAX_UPLOADS`."""
        keep_newest(self.path, MAX_UPLOADS - 1, ("results", "annotations"))


def keep_newest(folder: Path, number: int, kept: Collection[str]) -> None:
    """Removes all but the newest entries of a folder. kept: names of those that stay in any case."""
    entries = [entry for entry in folder.iterdir() if entry.name not in kept]
    entries.sort(key=lambda entry: entry.lstat().st_mtime_ns, reverse=True)
    for entry in entries[number:]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def inside(root: Path, text: str) -> Path:
    """The path that a user typed, in the folder that the page was started for.

    text: relative to the root, or absolute in it; links are followed.
    Raises ValueError for a path that leads out of the root, and for a text that is no path.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT or "\0" in text:
        raise ValueError("choose a folder or a file of the list")
    base = root.resolve()
    try:
        found = (base / text.strip()).resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{text}: not a path here") from error
    if not found.is_relative_to(base):
        raise ValueError(f"{text}: outside of {root}, the folder that m3-app was started for (--root)")
    return found
