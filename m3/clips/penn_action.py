"""Penn Action on disk: `frames/0001/000001.jpg …` and `labels/0001.mat` (Zhang, Zhu & Derpanis, ICCV 2013)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3.clips.base import ClipError, check_frame_size, evenly_spaced, found_instead, reason_of, replace_unencodable
from m3.clips.mat_process import read_mat
from m3.clips.names import ids_from_paths
from m3.clips.picture_files import PictureFiles
from m3.clips.sanitize_joints import is_valid_position, sanitize_joints
from m3.core.joints import NUM_JOINTS, Joints
from m3.core.reading import MAX_LABEL_LENGTH, read_file, shown
from m3.core.types import Clip


@dataclass(frozen=True)
class Label:
    """The contents of one label file.

    joints: joints of T frames in continuous pixels of the source frame (a 1-based label x is x − 0.5 here).
        Joints labeled visible outside the frame are invisible here.
    size: (height, width) of the frames, pixels.
    action: the label as the data set spells it ("golf_swing"), or None where the file has none.
    is_train: the data set's own split, or None where the file has none.
    num_frames: T, number of frames with joints.
    is_annotated: (T, 13) bool, joints that the file labels visible with a valid position, inside the frame or not.
    notes: irregularities of the file that did not prevent its use, for the manifest.
    """

    joints: Joints
    size: tuple[int, int]
    action: str | None
    is_train: bool | None
    num_frames: int
    is_annotated: np.ndarray
    notes: tuple[str, ...] = ()


MAX_LABEL_BYTES = 2**26
"""Of a label file. Those of Penn Action have 20 kB, an hour at 60 frames per second 70 MB uncompressed."""

_FIELDS = ("x", "y", "visibility", "nframes", "dimensions", "action", "train")


def read_label(path: str | Path) -> Label:
    """One Penn Action label file. Raises ClipError naming file and field where it cannot be used."""
    path = Path(path)
    fields = _load(path)
    x, y = _joint_array(fields, "x", path), _joint_array(fields, "y", path)
    visibility = _joint_array(fields, "visibility", path)
    if not len(x) == len(y) == len(visibility):
        raise ClipError(f"{path.name}: x, y, visibility have {len(x)}, {len(y)}, {len(visibility)} frames")
    if not np.isin(visibility, (0, 1)).all():
        raise ClipError(f"{path.name}: visibility must be 0 or 1, found {visibility[~np.isin(visibility, (0, 1))][0]}")
    size = _frame_size(fields, path)
    num_frames, frame_notes = _num_frames(fields, len(x), path)
    xy = np.stack([x, y], axis=-1)[:num_frames] - 0.5  # (T, 13, 2): 1-based pixel centers → continuous pixels
    is_visible = visibility[:num_frames].astype(bool)
    joints, joint_notes = sanitize_joints(xy, is_visible, size, path.name)
    is_annotated = is_visible & is_valid_position(xy)
    action, action_notes = _action(fields, path)
    is_train, train_notes = _is_train(fields, path)
    notes = (*frame_notes, *joint_notes, *action_notes, *train_notes)
    return Label(joints, size, action, is_train, num_frames, is_annotated, notes)


def _load(path: Path) -> dict[str, Any]:
    """The file's fields. Raises ClipError where it cannot be read or is no .mat file of a supported version."""
    try:
        content = read_file(path, MAX_LABEL_BYTES)
    except FileNotFoundError:
        raise ClipError(f"{path.name}: no such label file") from None
    except (OSError, ValueError) as error:
        raise ClipError(f"{path.name}: not readable ({reason_of(error, path)})") from error
    if b"\x89HDF\r\n\x1a\n" in (content[:8], content[512:520]):
        raise ClipError(f"{path.name}: a MATLAB v7.3 (HDF5) file; save it with MATLAB's -v7 option")
    if (instead := found_instead(content)) is not None:
        raise ClipError(f"{path.name}: {instead}")
    try:
        return read_mat(content, _FIELDS)
    except ValueError as error:
        raise ClipError(f"{path.name}: not a readable .mat file ({error})") from error


def _field(fields: dict[str, Any], name: str, path: Path) -> np.ndarray:
    if name not in fields:
        raise ClipError(f"{path.name}: no field {name!r}")
    return np.asarray(fields[name])


def _numbers(fields: dict[str, Any], name: str, path: Path) -> np.ndarray:
    """A field as float64, whatever its stored type (MATLAB stores coordinates that are all whole numbers as bytes)."""
    value = _field(fields, name, path)
    if value.dtype.kind not in "biuf":
        raise ClipError(f"{path.name}: {name} holds {value.dtype}, not numbers")
    return value.astype(np.float64)


def _joint_array(fields: dict[str, Any], name: str, path: Path) -> np.ndarray:
    value = _numbers(fields, name, path)
    if value.ndim != 2 or value.shape[1] != NUM_JOINTS:
        raise ClipError(f"{path.name}: {name} has shape {value.shape}, need (nframes, {NUM_JOINTS})")
    return value


def _frame_size(fields: dict[str, Any], path: Path) -> tuple[int, int]:
    dimensions = _numbers(fields, "dimensions", path).ravel()
    if dimensions.size not in (2, 3) or not (dimensions[:2] >= 1).all() or not _are_whole(dimensions):
        found = dimensions.tolist()
        raise ClipError(f"{path.name}: dimensions {found}, need [height, width] or [height, width, nframes]")
    return int(dimensions[0]), int(dimensions[1])


def _are_whole(values: np.ndarray) -> bool:
    return bool((np.isfinite(values) & (values == values.round())).all())


def _num_frames(fields: dict[str, Any], num_rows: int, path: Path) -> tuple[int, tuple[str, ...]]:
    """The smaller of `nframes` and the length of the joint arrays, with a note where they differ."""
    value = _numbers(fields, "nframes", path)
    if value.size != 1 or not _are_whole(value):
        raise ClipError(f"{path.name}: nframes is {value.tolist()}, need one whole number")
    claimed = int(value.item())
    if min(claimed, num_rows) < 1:
        raise ClipError(f"{path.name}: no frames (nframes {claimed}, joints of {num_rows})")
    if claimed == num_rows:
        return claimed, ()
    common = min(claimed, num_rows)
    return common, (f"nframes says {claimed}, joints of {num_rows} frames: used the first {common}",)


def _action(fields: dict[str, Any], path: Path) -> tuple[str | None, tuple[str, ...]]:
    """The action, or None and a note: the action is optional."""
    if "action" not in fields:
        return None, (f"{path.name}: no field 'action'",)
    value = np.asarray(fields["action"])
    if value.size != 1 or value.dtype.kind != "U" or not 0 < len(value.item().strip()) <= MAX_LABEL_LENGTH:
        return None, (f"{path.name}: action is not a word: {shown(value.tolist())}",)
    return value.item().strip(), ()


def _is_train(fields: dict[str, Any], path: Path) -> tuple[bool | None, tuple[str, ...]]:
    """The split, or None and a note: only split=official needs it."""
    if "train" not in fields:
        return None, (f"{path.name}: no field 'train'",)
    value = np.asarray(fields["train"])
    if value.size != 1 or value.item() not in (1, -1):
        return None, (f"{path.name}: train is {value.tolist()}, not 1 (train) or -1 (test)",)
    return value.item() == 1, ()


class PennAction:
    """Clips of a folder with `frames/` and `labels/`.

    Numbers may be without zeros before them (`frames/1/1.jpg` for `0001.mat`); JPEGs whose names are no numbers (copies
    that an operating system made) are left out. EXIF orientation is ignored: the labels are in pixels of the pictures
    as stored.

    Args:
        root: the folder.
        max_clips: use that many, evenly spaced over the sorted ids; None for all.
        name: name of the data set, for the manifest and the default output folder.

    Raises FileNotFoundError where the folder does not have that layout.
    """

    def __init__(self, root: str | Path, max_clips: int | None = None, name: str = "penn_action") -> None:
        self.root = Path(root)
        self.name = name
        for folder in ("frames", "labels"):
            if not (self.root / folder).is_dir():
                raise FileNotFoundError(
                    f"source.root={root}: no folder {folder}/ in it; "
                    "Penn Action has frames/0001/000001.jpg … and labels/0001.mat …"
                )
        labeled = {path.stem for path in label_files(self.root / "labels")}
        filmed = {path.name for path in (self.root / "frames").iterdir() if path.is_dir() and path.name[0] != "."}
        by_number = {int(name): name for name in labeled if _is_number(name)}
        self._folders = {by_number.get(int(name), name) if _is_number(name) else name: name for name in sorted(filmed)}
        filmed = {*self._folders}
        if not labeled | filmed:
            raise FileNotFoundError(f"source.root={root}: no labels/*.mat and no folders in frames/")
        named = ids_from_paths({name: name for name in labeled | filmed})
        self._names = {clip_id: named[clip_id] for clip_id in evenly_spaced(list(named), max_clips)}

    def __len__(self) -> int:
        return len(self._names)

    def clip_ids(self) -> list[str]:
        return list(self._names)

    def _folder(self, name: str) -> Path:
        """Of the JPEGs of a clip: "frames/1" where the label is 0001.mat and there is no "frames/0001"."""
        return self.root / "frames" / self._folders.get(name, name)

    def fingerprint(self) -> str:
        """sha256 over ids, label files, and names and sizes of the JPEGs."""
        digest = hashlib.sha256()
        for clip_id, name in self._names.items():
            digest.update(f"{clip_id}\n".encode() + label_identity(self.root / "labels" / f"{name}.mat"))
            try:
                pictures, _ = _pictures(self._folder(name))
                listing = "".join(f"{path.name} {path.stat().st_size}\n" for path in pictures)
                digest.update(listing.encode(errors="surrogateescape"))
            except (OSError, ClipError) as error:
                digest.update(type(error).__name__.encode())
        return digest.hexdigest()

    def read(self, clip_id: str) -> Clip:
        """One clip: the frames that have both joints and a JPEG, up to the first missing JPEG."""
        name = self._names[clip_id]
        label = read_label(self.root / "labels" / f"{name}.mat")
        check_frame_size(f"{name}.mat", label.size)
        pictures, picture_notes = _pictures(self._folder(name))
        if not pictures:
            raise ClipError("; ".join((f"frames/{name}: no JPEGs", *picture_notes)))
        num_frames, notes = min(label.num_frames, len(pictures)), (*label.notes, *picture_notes)
        gap = _first_gap(pictures[:num_frames])
        if gap is not None:
            num_frames = gap
            found = f"expected {gap + 1:06d}.jpg, found {pictures[gap].name}"
            notes += (f"frames/{name}: {found}: used the {gap} frames before it",)
        elif len(pictures) != label.num_frames:
            notes += (f"labels of {label.num_frames} frames, {len(pictures)} JPEGs: used the first {num_frames}",)
        if num_frames < 2:
            raise ClipError("; ".join((f"frames/{name}: a pair needs 2 frames", *notes)))
        return Clip(
            id=clip_id,
            frames=PictureFiles(pictures[:num_frames], label.size, "the label"),
            size=label.size,
            joints=Joints(label.joints.xy[:num_frames], label.joints.is_visible[:num_frames]),
            action=label.action,
            is_train=label.is_train,
            notes=tuple(map(replace_unencodable, notes)),
        )


def _is_number(name: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", name) is not None


def label_files(folder: Path) -> list[Path]:
    """The `.mat` files of a folder, without hidden ones: macOS puts a `._0001.mat` beside a copied `0001.mat`."""
    return [path for path in folder.glob("*.mat") if path.name[0] != "."]


def label_identity(path: Path) -> bytes:
    """A label file's content, for fingerprints; of an unreadable file the type of the error."""
    try:
        return read_file(path, MAX_LABEL_BYTES)
    except (OSError, ValueError) as error:
        return type(error).__name__.encode()


def _first_gap(pictures: Sequence[Path]) -> int | None:
    """Index of the first of these numbered pictures whose number is another one than 1, 2, …, or None."""
    for index, path in enumerate(pictures):
        if int(path.stem) != index + 1:
            return index
    return None


def _pictures(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """JPEGs of a clip, sorted by number ("2.jpg" before "10.jpg"), and a note on those whose name is no number.

    There are none where there is no such folder.
    """
    try:
        if not folder.is_dir():
            return [], ()
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg") and p.name[0] != ".")
    except OSError as error:
        raise ClipError(f"frames/{folder.name}: not readable ({reason_of(error, folder)})") from error
    others = [path.name for path in found if not _is_number(path.stem)]
    notes = (f"frames/{folder.name}: {others[0]} is no number ({len(others)} such JPEGs): left out",) if others else ()
    return sorted(
        (path for path in found if _is_number(path.stem)), key=lambda path: (int(path.stem), path.name)
    ), notes
