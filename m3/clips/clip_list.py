"""Tables of clips, as Kinetics and data sets like it come: which parts of which videos, what is done in them, and their
split."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m3.clips.sidecar import decoded_text, separator_of
from m3.core.reading import MAX_LABEL_LENGTH, read_file, shown

_MAX_BYTES, _MAX_ROWS = 2**28, 2**22

_COLUMNS = {
    "path": ("path", "video", "video_path", "file", "filename", "file_name", "filepath", "video_id", "youtube_id"),
    "start": ("start", "time_start", "start_time", "start_s", "begin"),
    "end": ("end", "time_end", "end_time", "end_s", "stop"),
    "label": ("label", "action", "class", "class_name", "label_name"),
    "split": ("split", "subset", "set"),
}
"""Column → its names, in any case."""

_SPLITS = {"train": "train", "training": "train", "val": "eval", "validate": "eval", "validation": "eval",
           "eval": "eval", "dev": "eval", "test": "test", "testing": "test"}  # fmt: skip


@dataclass(frozen=True)
class ListedClip:
    """A row.

    path: of the video, relative to the folder of the videos.
    start, end: seconds from the video's first frame; the end is not part of the clip. Infinite: the video's end.
    label: what is done, or None. split: "train", "eval" or "test", or None.
    """

    path: str
    start: float
    end: float
    label: str | None
    split: str | None

    @property
    def is_whole(self) -> bool:
        return self.start <= 0 and math.isinf(self.end)


@dataclass(frozen=True)
class ClipList:
    """The rows of a table whose video is there, in order, and the paths of those whose video is not."""

    clips: tuple[ListedClip, ...]
    missing: tuple[str, ...]


def read_clip_list(path: Path, root: Path, videos: Sequence[str]) -> ClipList:
    """The clips of a table with the columns path (or youtube_id), and perhaps start, end, label and split.

    root: the folder of the videos. videos: their paths in it, with "/". A path in the table is one of these, with or
    without its suffix and its folders where only one video is called so; of a `youtube_id` the video is ID, or
    ID_000010_000020 as Kinetics' downloaders call it, which is cut already.

    Raises ValueError naming the file, the row and what to do: for other columns, numbers that are none, paths out of
    the folder, rows that occur twice.
    """
    try:
        text = decoded_text(read_file(path, _MAX_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(f"source.clips={path}: not readable ({error})") from error
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        columns = _places(header, path)
        names = _Names(root, videos)
        clips: dict[ListedClip, None] = {}
        missing: list[str] = []
        for number, row in enumerate(rows, start=2):
            if not any(cell.strip() for cell in row):
                continue
            if number > _MAX_ROWS or len(row) != len(header):
                raise ValueError(f"source.clips={path}: row {number} has {len(row)} cells, the header {len(header)}")
            cells = {name: row[place].strip() for name, place in columns.items()}
            where = f"source.clips={path}: row {number}"
            start, end = _seconds(cells, "start", 0.0, where), _seconds(cells, "end", math.inf, where)
            if not 0 <= start < end:
                raise ValueError(f"{where}: start {start:g} and end {end:g}, need 0 ≤ start < end")
            found, is_cut = names.find(cells["path"], start, end, where)
            if found is None:
                missing.append(cells["path"])
                continue
            span = (0.0, math.inf) if is_cut else (start, end)
            clip = ListedClip(found, *span, _label(cells, where), _split(cells, where))
            if clip in clips:
                raise ValueError(f"{where}: the clip occurs twice; remove one of the rows")
            clips[clip] = None
    except csv.Error as error:
        raise ValueError(f"source.clips={path}: not a readable table ({error})") from error
    return ClipList(tuple(clips), tuple(missing))


def _places(header: Sequence[str], path: Path) -> dict[str, int]:
    found = {
        column: next(header.index(name) for name in names if name in header)
        for column, names in _COLUMNS.items()
        if any(name in header for name in names)
    }
    if "path" not in found:
        raise ValueError(
            f"source.clips={path}: columns {shown(', '.join(header))}, need path, and perhaps start, end, label, split"
        )
    return found


class _Names:
    """Finds the video that a table means."""

    def __init__(self, root: Path, videos: Sequence[str]) -> None:
        self._root = root
        self._all = {*videos}
        self._by_end: dict[str, set[str]] = {}
        for video in videos:
            base = video.rpartition("/")[2]
            for name in {os.path.splitext(video)[0], base, os.path.splitext(base)[0]}:
                self._by_end.setdefault(name, set()).add(video)

    def find(self, name: str, start: float, end: float, where: str) -> tuple[str | None, bool]:
        """The video's path, or None where it is not there; and whether it is cut out of the whole video already."""
        if not name or "\0" in name:
            raise ValueError(f"{where}: path is {shown(name)}")
        if os.path.isabs(name):
            try:
                name = Path(os.path.normpath(name)).relative_to(os.path.abspath(self._root)).as_posix()
            except ValueError:
                raise ValueError(f"{where}: {shown(name)} is not in source.root={self._root}") from None
        name = os.path.normpath(name).replace(os.sep, "/")
        if name == ".." or name.startswith("../"):
            raise ValueError(f"{where}: {shown(name)} is not in source.root={self._root}")
        cut = f"{name}_{start:06.0f}_{end:06.0f}" if math.isfinite(end) else name
        for wanted in (name, cut):
            found = {name} if wanted in self._all else self._by_end.get(wanted, set())
            if len(found) > 1:
                both = " and ".join(sorted(found)[:2])
                raise ValueError(f"{where}: {shown(name)} may be {both}; write the path")
            if found:
                return next(iter(found)), wanted == cut != name
        return None, False


def _seconds(cells: Mapping[str, str], column: str, default: float, where: str) -> float:
    cell = cells.get(column, "")
    try:
        value = float(cell) if cell else default
    except ValueError:
        value = math.nan
    if cell and not math.isfinite(value):
        raise ValueError(f"{where}: {column} is {shown(cell)}, need seconds")
    return value


def _label(cells: Mapping[str, str], where: str) -> str | None:
    label = cells.get("label", "")
    if len(label) > MAX_LABEL_LENGTH:
        raise ValueError(f"{where}: label is {shown(label)}, need at most {MAX_LABEL_LENGTH} characters")
    return label or None


def _split(cells: Mapping[str, str], where: str) -> str | None:
    split = cells.get("split", "")
    if split and split.lower() not in _SPLITS:
        raise ValueError(f"{where}: split is {shown(split)}, need train, val or test")
    return _SPLITS[split.lower()] if split else None
