"""Joint files that are tables: DeepLabCut's CSV, and tables whose columns are called after keypoints."""

from __future__ import annotations

import csv
import io
import math
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from m3.annotation.formats.detections import MAX_NUMBERS, UNKNOWN, Detections, FormatError, PoseList
from m3.clips.sidecar import decoded_text, separator_of
from m3.core.keypoints import Layout, layout_of_names, layout_of_number
from m3.core.reading import shown

_X, _Y = ("x",), ("y",)
_DEPTH = ("z",)
_SURE = ("visibility", "vis", "v", "confidence", "conf", "c", "likelihood", "score", "s", "presence", "p", "prob")
_AXES = "|".join(sorted({*_X, *_Y, *_DEPTH, *_SURE}, key=len, reverse=True))
_NAMED = re.compile(
    rf"(?P<name>.+?)[\s_.:-]+(?P<axis>{_AXES})|(?P<axis2>{_AXES})[\s_.:-]+(?P<name2>.+)|(?P<axis3>[xyzvcsp])(?P<name3>[0-9]+)",
    re.IGNORECASE,
)
_FRAME = ("frame", "frame_id", "frame_number", "frame_index", "frame_idx", "frame_num", "frameid", "image", "image_id")
_PERSON = ("person", "person_id", "track_id", "track", "id", "instance", "individual", "subject")
_POINT = ("landmark", "landmark_id", "landmark_name", "landmark_index", "keypoint", "keypoint_id", "keypoint_name",
          "joint", "joint_id", "joint_name", "bodypart", "name", "point", "kp", "index")  # fmt: skip
_HIDES = ("visibility", "vis", "v")


def read_table(content: bytes) -> Detections:
    """The poses of a `.csv` or `.tsv`, with points or commas as decimal marks. Raises FormatError."""
    text = decoded_text(content)
    separator = separator_of(text)
    number = _number_with_comma if separator != "," else float
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = (row for row in rows if any(cell.strip() for cell in row))
        header = [cell.strip() for cell in next(lines, [])]
        if header and header[0].lower() == "scorer":
            return _deeplabcut(header, lines, number)
        lowered = [name.lower() for name in header]
        if any(name in _POINT for name in lowered) and "x" in lowered and "y" in lowered:
            return _long(lowered, lines, number)
        return _wide(header, lines, number)
    except csv.Error as error:
        raise FormatError(f"not a readable table ({error})") from error


def _number_with_comma(cell: str) -> float:
    return float(cell.replace(",", ".")) if "," in cell and "." not in cell else float(cell)


def _cells(lines: object, header: Sequence[str], number: Callable[[str], float], skipped: set[int]) -> np.ndarray:
    """(rows, columns) numbers; NaN in columns of `skipped`, and for empty cells."""
    values, num_rows = array("d"), 0
    for num_rows, row in enumerate(lines, start=1):  # type: ignore[arg-type]
        if len(row) != len(header):
            comma = "; decimal commas need another separator between the cells" if len(row) > len(header) else ""
            raise FormatError(f"row {num_rows + 1} has {len(row)} cells, the header has {len(header)}{comma}")
        if len(values) > 3 * MAX_NUMBERS:
            raise FormatError(f"more than {MAX_NUMBERS:,} keypoints; divide video and file")
        for place, cell in enumerate(row):
            values.append(math.nan if place in skipped else _value(cell, header[place], num_rows, number))
    if not num_rows:
        raise FormatError("no row below its header")
    return np.array(values).reshape(num_rows, len(header))


def _value(cell: str, name: str, row: int, number: Callable[[str], float]) -> float:
    cell = cell.strip()
    if cell.lower() in ("", "nan", "na", "none", "null", "-"):
        return math.nan
    try:
        return number(cell)
    except ValueError:
        raise FormatError(f"column {name[:40]} of row {row + 1} has {shown(cell)}, need a number") from None


def _deeplabcut(scorer: list[str], lines: object, number: Callable[[str], float]) -> Detections:
    """Rows of scorer, perhaps individuals, bodyparts and coords above the numbers."""
    heads: dict[str, list[str]] = {}
    rows = iter(lines)  # type: ignore[arg-type]
    while "coords" not in heads:
        row = next(rows, None)
        if row is None or len(row) != len(scorer) or len(heads) > 3:
            raise FormatError("begins like DeepLabCut's tables, but has no rows `bodyparts` and `coords`")
        heads[row[0].strip().lower()] = [cell.strip() for cell in row]
    if "bodyparts" not in heads:
        raise FormatError("begins like DeepLabCut's tables, but has no row `bodyparts`")
    who = heads.get("individuals", [""] * len(scorer))
    labels = list(zip(who, heads["bodyparts"], heads["coords"]))[1:]
    index = {0}
    cells = _cells(rows, [scorer[0], *(f"{part} {axis}" for _, part, axis in labels)], number, index)
    return from_labels("DeepLabCut", labels, cells[:, 1:])


def from_labels(format: str, labels: Sequence[tuple[str, str, str]], values: np.ndarray) -> Detections:
    """The poses of DeepLabCut's columns.

    labels: individual ("" where there is only one), body part, and "x", "y" or "likelihood" of each column.
    values: (T, columns).
    """
    places = {label: number for number, label in enumerate(labels)}
    individuals = list(dict.fromkeys(who for who, _, _ in labels))
    parts = list(dict.fromkeys(part for who, part, _ in labels if who == individuals[0]))
    frames = np.arange(len(values))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for who in individuals:
        if {part for w, part, _ in labels if w == who} != {*parts}:
            continue  # "single": points of the scene, not of an individual
        columns = []
        for axis in ("x", "y", "likelihood"):
            chosen = [places.get((who, part, axis)) for part in parts]
            if axis == "likelihood" and None in chosen:
                columns.append(np.ones((len(values), len(parts))))
            elif None in chosen:
                raise FormatError(f"no column {axis} of the body part {parts[chosen.index(None)][:40]!r}")
            else:
                columns.append(values[:, [place for place in chosen if place is not None]])
        found.append((np.stack(columns[:2], axis=-1), columns[2]))
    xy = np.concatenate([each for each, _ in found])
    people = np.repeat(np.arange(len(found)), len(values))
    is_there = np.isfinite(xy).any(axis=(1, 2))
    layout, notes = _named_layout(parts)
    return Detections(
        format, layout, np.tile(frames, len(found))[is_there], people[is_there], xy[is_there],
        np.concatenate([sure for _, sure in found])[is_there], span=(0, len(values)), is_one_person=len(found) == 1,
        notes=notes,
    )  # fmt: skip


def _named_layout(names: Sequence[str]) -> tuple[Layout | str, tuple[str, ...]]:
    named = layout_of_names(names)
    if named is None:
        listed = ", ".join(name[:30] for name in names[:12])
        return f"keypoints {listed}{' …' * (len(names) > 12)}, too few of which are called like joints of a person", ()
    return named[0], (named[1],) * bool(named[1])


@dataclass(frozen=True)
class _Columns:
    """Places of the columns of one keypoint."""

    x: int
    y: int
    sure: int | None


def _wide(header: list[str], lines: object, number: Callable[[str], float]) -> Detections:
    """A row per frame (and person); columns `NAME_x`, `NAME_y`, perhaps `NAME_visibility`, or `x0`, `y0`, …"""
    points: dict[str, dict[str, int]] = {}
    others: dict[str, int] = {}
    for place, name in enumerate(header):
        match = _NAMED.fullmatch(name)
        if match is None or name.lower() in (*_FRAME, *_PERSON):
            others[name.lower().replace(" ", "_")] = place
            continue
        point = match["name"] or match["name2"] or match["name3"]
        axis = (match["axis"] or match["axis2"] or match["axis3"]).lower()
        points.setdefault(point.lower() if point.isupper() else point, {})[axis] = place
    named = {
        name: _Columns(axes["x"], axes["y"], next((axes[axis] for axis in _SURE if axis in axes), None))
        for name, axes in points.items()
        if "x" in axes and "y" in axes
    }
    if len(named) < 6:
        raise FormatError(
            f"a table with the columns {', '.join(name[:20] for name in header[:6])} …: of no format that m3 knows; "
            "need head_x, head_y … as m3's own, DeepLabCut's, or columns called after keypoints (docs/joints.md); move "
            "it away if it holds no joints"
        )
    frame, person = (next((others[name] for name in group if name in others), None) for group in (_FRAME, _PERSON))
    read = {place for each in named.values() for place in (each.x, each.y, each.sure)} | {frame, person}
    cells = _cells(lines, header, number, {*range(len(header))} - {place for place in read if place is not None})
    xy = np.stack([cells[:, [each.x for each in named.values()]], cells[:, [each.y for each in named.values()]]], -1)
    sure = np.stack(
        [np.ones(len(cells)) if each.sure is None else cells[:, each.sure] for each in named.values()], axis=1
    )
    frames, is_numbered = _whole(cells, frame, np.arange(len(cells)), header), frame is not None
    people = _whole(cells, person, np.full(len(cells), UNKNOWN), header)
    several = len(np.unique(frames)) < len(frames)
    names = list(named)
    hides = any(axis in _HIDES for axes in points.values() for axis in axes)
    if all(re.search("[0-9]+$", name) for name in names) and len({re.sub("[0-9]+$", "", n) for n in names}) == 1:
        order = np.argsort([int(re.findall("[0-9]+$", name)[0]) for name in names])
        xy, sure = xy[:, order], sure[:, order]
        layout, notes = layout_of_number(len(names), xy), ()
    else:
        layout, notes = _named_layout(names)
    is_mediapipe = len(names) == 33
    return Detections(
        "MediaPipe" if is_mediapipe else "table", layout, frames, people, xy, sure,
        span=None if is_numbered else (0, len(cells)), is_numbered=is_numbered,
        is_one_person=not several and person is None, is_visibility=is_mediapipe and hides, notes=notes,
    )  # fmt: skip


def _long(header: list[str], lines: object, number: Callable[[str], float]) -> Detections:
    """A row per frame and keypoint: `frame`, `landmark` (number or name), `x`, `y`, perhaps `visibility`."""
    place = {name: column for column, name in enumerate(header)}
    point = next(name for name in _POINT if name in place)
    frame = next((name for name in _FRAME if name in place), None)
    if frame is None:
        raise FormatError(f"a row per {point} without a column `frame`")
    person = next((name for name in _PERSON if name in place and name != point), None)
    sure = next((name for name in _SURE if name in place), None)
    poses: dict[tuple[int, int], dict[str, tuple[float, float, float]]] = {}
    order: dict[str, None] = {}
    num_values = 0
    for row_number, row in enumerate(lines, start=1):  # type: ignore[arg-type]
        if len(row) != len(header):
            raise FormatError(f"row {row_number + 1} has {len(row)} cells, the header has {len(header)}")
        num_values += 1
        if num_values > MAX_NUMBERS:
            raise FormatError(f"more than {MAX_NUMBERS:,} keypoints; divide video and file")
        x, y, t = (_value(row[place[name]], name, row_number, number) for name in ("x", "y", frame))
        certainty = 1.0 if sure is None else _value(row[place[sure]], sure, row_number, number)
        who = UNKNOWN if person is None else _value(row[place[person]], person, row_number, number)
        if not t == round(t) >= 0 if math.isfinite(t) else True:
            raise FormatError(f"frame {t:g} of row {row_number + 1}, need whole numbers from 0")
        name = row[place[point]].strip()[:100]
        order.setdefault(name)
        poses.setdefault((int(t), int(who) if math.isfinite(who) else UNKNOWN), {})[name] = (x, y, certainty)
    names = sorted(order, key=int) if all(name.isdigit() for name in order) else list(order)
    collected = PoseList(len(names))
    unknown = (math.nan, math.nan, 0.0)
    for (t, who), points in poses.items():
        collected.add(t, who, *zip(*(points.get(name, unknown) for name in names)))
    if not len(collected):
        raise FormatError("no row below its header")
    frames, people, xy, certainties = collected.arrays()
    layout, notes = (layout_of_number(len(names), xy), ()) if all(n.isdigit() for n in names) else _named_layout(names)
    is_mediapipe = len(names) == 33
    return Detections(
        "MediaPipe" if is_mediapipe else "table", layout, frames, people, xy, certainties, is_numbered=True,
        is_one_person=person is None, is_visibility=is_mediapipe and sure in _HIDES, notes=notes,
    )  # fmt: skip


def _whole(cells: np.ndarray, column: int | None, otherwise: np.ndarray, header: Sequence[str]) -> np.ndarray:
    if column is None:
        return otherwise
    values = cells[:, column]
    is_bad = ~((values >= 0) & (values < 2**40) & (values == np.round(values)))
    if is_bad.any():
        raise FormatError(f"column {header[column][:40]} has {values[is_bad][0]:g}, need whole numbers from 0")
    return values.astype(np.int64)
