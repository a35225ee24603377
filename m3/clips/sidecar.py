"""Sidecar files: joints beside a video or a folder of pictures, in m3's own formats (.mat, .npz or .csv).

`m3.annotation.formats` reads those of other programs.

`.mat`  Penn Action's fields (see `m3.clips.penn_action`): 1-based pixels, one row per frame from the first on.
`.npz`  arrays `x`, `y` (T, 13), joints in m3's order (see `m3.core.joints.JOINT_NAMES`); optional `visibility`
        (T, 13) of 0 and 1, `frame` (T,), `action` (one word).
`.csv`  a header and a row per frame: `head_x`, `head_y`, … `right_ankle_y`; optional `head_visibility` …, `frame`,
        `action`. Cells are separated by commas, or by semicolons or tabs: then numbers may have decimal commas. UTF-8,
        or UTF-16 with a byte order mark.

x and y of `.npz` and `.csv` are continuous pixels of the picture as displayed (after rotation by its metadata): (0, 0)
is its top-left corner, the center of its first pixel (0.5, 0.5). NaN or an empty cell is an unknown position, and the
joint is invisible; so are (0, 0) and (-1, -1), with a note. Without visibilities every joint with a position is
visible. `frame` is the index from 0 of a video's own frames (before `source.fps`) or of a folder's sorted pictures;
frames without a row have all joints invisible. Frames 1 … T of a clip of T frames are taken as counted from 1, with a
note. Without `frame` row t is frame t, and there have to be about as many rows as frames.
"""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3.clips.base import ClipError, reason_of
from m3.clips.joint_faults import SHARE_OUTSIDE, crossed, is_share_of_sides, no_place, outside_fault
from m3.clips.penn_action import read_label
from m3.clips.sanitize_joints import is_valid_position, sanitize_joints
from m3.core.joints import JOINT_NAMES, NUM_JOINTS, Joints
from m3.core.reading import MAX_LABEL_LENGTH, open_regular, read_file, read_npy, shown

_AXES = ("x", "y", "visibility")

_MAX_ROWS = 2**20
"""Frames with joints: 9 hours at 30 frames per second."""

_MAX_CSV_BYTES = 2**27
"""300,000 rows of 39 cells."""

_MAX_ROWS_OFF, _MAX_SHARE_OFF = 3, 0.05
"""Rows more or less than frames, in rows and as a share: readers of videos count a little differently."""

_MIN_SIZE = 8
"""Pixels of a frame's side, of whose coordinates it can be told that they are shares."""


@dataclass(frozen=True)
class Sidecar:
    """Annotations of a clip.

    joints: joints of the clip's first `len(joints.xy)` frames, pixels of the frame; None without annotations.
    action, is_train: see `Clip`.
    notes: irregularities of the file that did not prevent its use, for the manifest.
    """

    joints: Joints | None
    action: str | None = None
    is_train: bool | None = None
    notes: tuple[str, ...] = ()


def sidecar_paths(clip: Path) -> list[Path]:
    """The plain paths of the sidecar of a clip's file or folder: its path with each of the three suffixes."""
    stem = clip if clip.is_dir() else clip.with_suffix("")
    return [stem.with_name(stem.name + suffix) for suffix in (".mat", ".npz", ".csv")]


def is_own(path: Path) -> bool:
    """Whether a joint file is in one of m3's own formats, by what it holds: a `.csv` with head_x and left_shoulder_x in
    its header, a `.npz` with x and y, any `.mat`. An unreadable `.csv` or `.npz` is not. A pipe or a device is: the
    reader of m3's own formats refuses it."""
    suffix = path.suffix.lower()
    if suffix == ".mat" or not path.is_file():
        return True
    try:
        if suffix in (".csv", ".tsv"):
            with open_regular(path) as file:
                text = decoded_text(file.read(2**16), is_whole=False)
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text)), [])
            return {"head_x", "left_shoulder_x"} <= {name.strip() for name in header}
        if suffix == ".npz":
            with open_regular(path) as file, zipfile.ZipFile(file) as archive:
                return {"x.npy", "y.npy"} <= {*archive.namelist()[:100]}
    except Exception:  # file, encoding, csv and zip errors: the reader names them
        pass
    return False


def decoded_text(content: bytes, is_whole: bool = True) -> str:
    """The text of a table: UTF-8 with or without a byte order mark, or UTF-16 with one. Raises UnicodeDecodeError.

    is_whole: False where the content may end inside a character.
    """
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return codecs.getincrementaldecoder(encoding)().decode(content, final=is_whole)


def separator_of(text: str) -> str:
    """What separates the cells of a table: the most frequent one of comma, semicolon and tab in its first line."""
    first = text.lstrip("\r\n").partition("\n")[0]
    return max(",;\t", key=first.count)


def read_sidecar(path: Path, num_frames: int, size: tuple[int, int], is_partial: bool = False) -> Sidecar:
    """The annotations of a clip of `num_frames` frames of (height, width) pixels.

    is_partial: rows of some of the frames are what the file is expected to hold: no note says so.

    Raises ClipError where the file is damaged, or has other columns, another frame size or another number of joints,
    and where its coordinates, sides or frames cannot be those of the clip.
    """
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return _from_label(path, num_frames, size)
    columns = _npz_columns(path) if suffix == ".npz" else _csv_columns(path)
    x, y = (_joint_array(columns, axis, path) for axis in ("x", "y"))
    if not len(x) == len(y) or not len(x):
        raise ClipError(f"{path.name}: x of {len(x)} frames, y of {len(y)}")
    xy = np.stack([x, y], axis=-1)  # (rows, 13, 2)
    is_visible = _visibility(columns, xy, path)
    is_missing = no_place(xy) & np.isfinite(xy).all(-1) & is_valid_position(xy)
    xy, is_visible = np.where(is_missing[..., None], np.nan, xy), is_visible & ~is_missing
    _check_places(xy, is_visible, size, path, is_partial)
    frames, notes = _frame_numbers(columns, len(xy), num_frames, path)
    if is_missing.any():
        notes += (f"{path.name}: {int(is_missing.sum())} joints at (0, 0) or the like: taken as missing",)
    is_used = frames < num_frames
    length = min(len(xy), num_frames) if "frame" not in columns else num_frames
    all_xy, all_visible = np.full((length, NUM_JOINTS, 2), np.nan), np.zeros((length, NUM_JOINTS), dtype=bool)
    all_xy[frames[is_used]], all_visible[frames[is_used]] = xy[is_used], is_visible[is_used]
    joints, joint_notes = sanitize_joints(all_xy, all_visible, size, path.name)
    return Sidecar(joints, _action(columns, path), notes=(*(() if is_partial else notes), *joint_notes))


def _check_places(xy: np.ndarray, is_visible: np.ndarray, size: tuple[int, int], path: Path, is_found: bool) -> None:
    """Raises ClipError where the (rows, 13) visible joints cannot be those of a clip of this size.

    is_found: by an annotator, which knows sides.
    """
    known = xy[is_visible & is_valid_position(xy)]  # (k, 2)
    if is_share_of_sides(known) and min(size) > _MIN_SIZE:
        raise ClipError(
            f"{path.name}: coordinates of at most {np.abs(known).max():.3g}, perhaps shares of width and height; "
            "m3's own are pixels: multiply x by the width and y by the height"
        )
    if fault := outside_fault(known, size, SHARE_OUTSIDE):
        remedy = "exchange the columns" if fault[1] else "scale them to the pixels of this video"
        raise ClipError(f"{path.name}: {fault[0]}? {remedy}")
    if not is_found and (reason := crossed(xy, is_visible)):
        raise ClipError(f"{path.name}: {reason}: exchange left and right of one of them")


def _from_label(path: Path, num_frames: int, size: tuple[int, int]) -> Sidecar:
    label = read_label(path)
    if label.size != size:
        raise ClipError(
            f"{path.name}: frames of {label.size[0]} x {label.size[1]} px (height x width), the pictures beside it "
            f"have {size[0]} x {size[1]}"
        )
    common = min(label.num_frames, num_frames)
    notes = label.notes
    if label.num_frames != num_frames:
        notes += (_common_note(path, label.num_frames, num_frames),)
    joints = Joints(label.joints.xy[:common], label.joints.is_visible[:common])
    return Sidecar(joints, label.action, label.is_train, notes)


def _common_note(path: Path, num_rows: int, num_frames: int) -> str:
    return f"{path.name}: joints of {num_rows} frames for {num_frames}: used the first {min(num_rows, num_frames)}"


def _npz_columns(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of a `.npz`, each at most as large as the joints of `_MAX_ROWS` frames."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            unknown = sorted({*names} - {*_AXES, "frame", "action"})
            if not unknown and len(names) == len({*names}):
                return {name: _npz_array(archive, member) for name, member in zip(names, archive.namelist())}
    except Exception as error:  # zip, header, dtype and memory errors of all kinds
        raise ClipError(f"{path.name}: not a readable .npz file ({reason_of(error, path)})") from error
    if unknown:
        raise ClipError(
            f"{path.name}: unknown array {shown(unknown[0])}; need x, y and perhaps visibility, frame, action"
        )
    raise ClipError(f"{path.name}: an array occurs twice")


def _npz_array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as file:
        return read_npy(file, _MAX_ROWS * NUM_JOINTS * 8)


def _csv_columns(path: Path) -> Mapping[str, np.ndarray]:
    """The columns of a `.csv` as the arrays of an `.npz`."""
    known = {f"{joint}_{axis}" for joint in JOINT_NAMES for axis in _AXES} | {"frame", "action"}
    try:
        text = decoded_text(read_file(path, _MAX_CSV_BYTES))
        separator = separator_of(text)
        table = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = (row for row in table if row)
        header = [name.strip() for name in next(lines, [])]
        if not header:
            raise ValueError("no header")
    except Exception as error:  # csv, encoding and file errors
        raise ClipError(f"{path.name}: not a readable .csv file ({reason_of(error, path)})") from error
    if unknown := [name for name in header if name not in known]:
        raise ClipError(
            f"{path.name}: unknown column {shown(unknown[0])}; need head_x, head_y … and perhaps frame, action"
        )
    if len(set(header)) < len(header):
        raise ClipError(f"{path.name}: column {Counter(header).most_common(1)[0][0]!r} occurs twice")
    numeric = [name for name in header if name != "action"]
    values, words, num_rows = array("d"), set[str](), 0
    try:
        for num_rows, row in enumerate(lines, start=1):
            if len(row) != len(header):
                comma = "; with decimal commas, separate cells by semicolons" if len(row) > len(header) else ""
                raise ClipError(
                    f"{path.name}: row {num_rows + 1} does not have {len(header)} cells like the header{comma}"
                )
            if num_rows > _MAX_ROWS:
                raise ClipError(f"{path.name}: more than {_MAX_ROWS:,} rows")
            cells = dict(zip(header, row))
            words.add(cells.get("action", "").strip()[: MAX_LABEL_LENGTH + 1])
            values.extend(_number(cells[name], name, path, separator) for name in numeric)
    except csv.Error as error:
        raise ClipError(f"{path.name}: not a readable .csv file ({error})") from error
    table = dict(zip(numeric, np.array(values).reshape(num_rows, len(numeric)).T))
    columns = {"frame": table["frame"]} if "frame" in table else {}
    if "action" in header:
        columns["action"] = np.array(sorted(words)[:3])  # more than one is an error
    for axis in _AXES:
        names = [f"{joint}_{axis}" for joint in JOINT_NAMES]
        if axis == "visibility" and not any(name in table for name in names):
            continue
        if not num_rows or (missing := [name for name in names if name not in table]):
            raise ClipError(f"{path.name}: no column {(missing if num_rows else names)[0]!r}, or no row")
        columns[axis] = np.stack([table[name] for name in names], axis=1)  # (rows, 13)
    return columns


def _number(cell: str, name: str, path: Path, separator: str) -> float:
    if separator != "," and "." not in cell:
        cell = cell.replace(",", ".")
    try:
        return float(cell.strip() or "nan")
    except ValueError:
        axis = name.rpartition("_")[2]
        raise ClipError(f"{path.name}: {axis} holds no numbers (column {name} has {shown(cell)})") from None


def _numbers(columns: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    try:
        return columns[name].astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ClipError(f"{path.name}: {name} holds no numbers ({error})") from error


def _joint_array(columns: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if name not in columns:
        raise ClipError(f"{path.name}: no array {name!r}")
    values = _numbers(columns, name, path)
    if values.ndim != 2 or values.shape[1] != NUM_JOINTS:
        raise ClipError(f"{path.name}: {name} has shape {values.shape}, need (frames, {NUM_JOINTS})")
    return values


def _visibility(columns: Mapping[str, np.ndarray], xy: np.ndarray, path: Path) -> np.ndarray:
    """(rows, 13) bool."""
    if "visibility" not in columns:
        return ~np.any(np.isnan(xy), axis=-1)
    values = _joint_array(columns, "visibility", path)
    if len(values) != len(xy):
        raise ClipError(f"{path.name}: x of {len(xy)} frames, visibility of {len(values)}")
    if not np.isin(values, (0, 1)).all():
        raise ClipError(
            f"{path.name}: visibility must be 0 or 1, found {values[~np.isin(values, (0, 1))][0]:g}; write 1 where a "
            "confidence is at least 0.3"
        )
    return values.astype(bool)


def _frame_numbers(
    columns: Mapping[str, np.ndarray], num_rows: int, num_frames: int, path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows,) int64 frame of each row, and a note unless rows and frames match one to one."""
    if "frame" not in columns:
        if abs(num_rows - num_frames) > max(_MAX_ROWS_OFF, _MAX_SHARE_OFF * num_frames):
            raise ClipError(
                f"{path.name}: {num_rows} rows for {num_frames} frames: of another frame rate? a column frame says of "
                "which frame (from 0) each row is"
            )
        notes = () if num_rows == num_frames else (_common_note(path, num_rows, num_frames),)
        return np.arange(num_rows), notes
    values = _numbers(columns, "frame", path)
    if values.shape != (num_rows,):
        raise ClipError(f"{path.name}: frame has shape {values.shape}, need ({num_rows},)")
    is_bad = ~((values >= 0) & (values < 2**53) & (values == np.round(values)))
    if is_bad.any():
        raise ClipError(f"{path.name}: frame {values[is_bad][0]:g}, need whole numbers from 0")
    if len(np.unique(values)) < num_rows:
        found, counts = np.unique(values, return_counts=True)
        raise ClipError(
            f"{path.name}: frame {found[counts > 1][0]:g} has several rows; a file has the joints of one person"
        )
    first_note: tuple[str, ...] = ()
    if values.min() == 1 and values.max() == num_frames:
        values = values - 1
        first_note = (f"{path.name}: frames 1 … {num_frames} are taken as counted from 1",)
    num_used = int((values < num_frames).sum())
    if not num_used:
        raise ClipError(f"{path.name}: frames {values.min():g} … {values.max():g} of a clip of {num_frames}")
    if num_used == num_rows == num_frames:
        return values.astype(np.int64), first_note
    return values.astype(np.int64), (
        *first_note,
        f"{path.name}: joints of {num_used} of {num_frames} frames"
        + f", {num_rows - num_used} rows of frames not there" * (num_used < num_rows),
    )


def _action(columns: Mapping[str, np.ndarray], path: Path) -> str | None:
    if "action" not in columns:
        return None
    words = {str(word).strip() for word in columns["action"].ravel()} - {""}
    if len(words) > 1 or columns["action"].dtype.kind != "U" or any(len(word) > MAX_LABEL_LENGTH for word in words):
        raise ClipError(f"{path.name}: action is {shown(sorted(words))}, need one word for the whole clip")
    return words.pop() if words else None
