"""Penn Action on disk: `frames/0001/000001.jpg …` and `labels/0001.mat` (Zhang, Zhu & Derpanis, ICCV 2013)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from m3.clips.base import ClipError, spread
from m3.records import NUM_JOINTS, Clip, Joints


@dataclass(frozen=True)
class Label:
    """What one label file says.

    joints: of T frames, continuous pixels of the source frame (a 1-based label x is x − 0.5 here).
        Joints labelled visible outside the frame are invisible here.
    size: (height, width) in pixels.
    action: as the data set spells it ("golf_swing").
    is_train: the data set's own split.
    num_frames: T, frames that have joints.
    notes: what was odd about the file, for the manifest.
    """

    joints: Joints
    size: tuple[int, int]
    action: str
    is_train: bool
    num_frames: int
    notes: tuple[str, ...] = ()


def read_label(path: str | Path) -> Label:
    """One Penn Action label file. Raises ClipError naming file and field where it cannot be used."""
    path = Path(path)
    if not path.is_file():
        raise ClipError(f"{path.name}: no such label file")
    try:
        fields = scipy.io.loadmat(path)
    except Exception as error:  # scipy answers damaged files with whatever its parser stumbles over
        raise ClipError(f"{path.name}: not a readable .mat file ({type(error).__name__}: {error})") from error
    x, y = _joint_array(fields, "x", path), _joint_array(fields, "y", path)
    visibility = _joint_array(fields, "visibility", path)
    if not len(x) == len(y) == len(visibility):
        raise ClipError(f"{path.name}: x, y, visibility have {len(x)}, {len(y)}, {len(visibility)} frames")
    if not np.isin(visibility, (0, 1)).all():
        raise ClipError(f"{path.name}: visibility must be 0 or 1, found {visibility[~np.isin(visibility, (0, 1))][0]}")
    height, width = _frame_size(fields, path)
    num_frames, notes = _num_frames(fields, len(x), path)
    xy = np.stack([x, y], axis=-1)[:num_frames] - 0.5  # (T, 13, 2): 1-based pixel centres → continuous pixels
    is_inside = ((xy >= 0) & (xy <= (width, height))).all(axis=-1)  # (T, 13)
    return Label(
        joints=Joints(xy, visibility[:num_frames].astype(bool) & is_inside),
        size=(height, width),
        action=_text(fields, "action", path),
        is_train=_is_train(fields, path),
        num_frames=num_frames,
        notes=notes,
    )


def _field(fields: dict[str, Any], name: str, path: Path) -> np.ndarray:
    if name not in fields:
        raise ClipError(f"{path.name}: no field {name!r}")
    return np.asarray(fields[name])


def _numbers(fields: dict[str, Any], name: str, path: Path) -> np.ndarray:
    """A field as finite float64, whatever MATLAB stored it as (coordinates that are all whole numbers are bytes)."""
    value = _field(fields, name, path)
    if value.dtype.kind not in "biuf":
        raise ClipError(f"{path.name}: {name} holds {value.dtype}, not numbers")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise ClipError(f"{path.name}: {name} holds {value[~np.isfinite(value)][0]} at {_first(~np.isfinite(value))}")
    return value


def _first(is_bad: np.ndarray) -> str:
    return "[" + ", ".join(str(int(i)) for i in np.argwhere(is_bad)[0]) + "]"


def _joint_array(fields: dict[str, Any], name: str, path: Path) -> np.ndarray:
    value = _numbers(fields, name, path)
    if value.ndim != 2 or value.shape[1] != NUM_JOINTS:
        raise ClipError(f"{path.name}: {name} has shape {value.shape}, need (nframes, {NUM_JOINTS})")
    return value


def _frame_size(fields: dict[str, Any], path: Path) -> tuple[int, int]:
    dimensions = _numbers(fields, "dimensions", path).ravel()
    if dimensions.size not in (2, 3) or (dimensions[:2] < 1).any() or (dimensions != dimensions.round()).any():
        found = dimensions.tolist()
        raise ClipError(f"{path.name}: dimensions {found}, need [height, width] or [height, width, nframes]")
    return int(dimensions[0]), int(dimensions[1])


def _num_frames(fields: dict[str, Any], num_rows: int, path: Path) -> tuple[int, tuple[str, ...]]:
    """Frames that both `nframes` and the joint arrays have, with a note where these differ."""
    value = _numbers(fields, "nframes", path)
    if value.size != 1 or value.item() != round(value.item()):
        raise ClipError(f"{path.name}: nframes is {value.tolist()}, need one whole number")
    claimed = int(value.item())
    if min(claimed, num_rows) < 1:
        raise ClipError(f"{path.name}: no frames (nframes {claimed}, joints of {num_rows})")
    if claimed == num_rows:
        return claimed, ()
    common = min(claimed, num_rows)
    return common, (f"nframes says {claimed}, joints of {num_rows} frames: used the first {common}",)


def _text(fields: dict[str, Any], name: str, path: Path) -> str:
    value = _field(fields, name, path)
    if value.size != 1 or value.dtype.kind != "U" or not value.item().strip():
        raise ClipError(f"{path.name}: {name} is not a word: {value.tolist()}")
    return value.item().strip()


def _is_train(fields: dict[str, Any], path: Path) -> bool:
    value = _numbers(fields, "train", path)
    if value.size != 1 or value.item() not in (1, -1):
        raise ClipError(f"{path.name}: train is {value.tolist()}, need 1 (train) or -1 (test)")
    return value.item() == 1


class FrameFolder(Sequence):
    """JPEGs of one clip, decoded when indexed.

    Args:
        paths: in order.
        size: (height, width) that each must have.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        self._paths = paths
        self._size = size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8. Raises ClipError for a file that is damaged or of another size."""
        path = self._paths[index]
        try:
            with Image.open(path) as picture:
                frame = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ClipError(f"{path.parent.name}/{path.name}: not a readable picture ({error})") from error
        if frame.shape[:2] != self._size:
            raise ClipError(
                f"{path.parent.name}/{path.name}: {frame.shape[0]} x {frame.shape[1]} px (height x width), "
                f"the label says {self._size[0]} x {self._size[1]}"
            )
        return frame


class PennAction:
    """Clips of a folder with `frames/` and `labels/`.

    Args:
        root: the folder.
        max_clips: use that many, evenly spread over the sorted ids; None for all.
        name: of the data set, for the manifest and the default output folder.

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
        labelled = {path.stem for path in (self.root / "labels").glob("*.mat")}
        filmed = {path.name for path in (self.root / "frames").iterdir() if path.is_dir() and path.name[0] != "."}
        if not labelled | filmed:
            raise FileNotFoundError(f"source.root={root}: no labels/*.mat and no folders in frames/")
        self._ids = spread(sorted(labelled | filmed), max_clips)

    def __len__(self) -> int:
        return len(self._ids)

    def clip_ids(self) -> list[str]:
        return self._ids

    def fingerprint(self) -> str:
        """sha256 over ids, label files, and names and sizes of the JPEGs."""
        digest = hashlib.sha256()
        for clip_id in self._ids:
            digest.update(f"{clip_id}\n".encode())
            label = self.root / "labels" / f"{clip_id}.mat"
            digest.update(label.read_bytes() if label.exists() else b"")
            for path in _pictures(self.root / "frames" / clip_id):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def read(self, clip_id: str) -> Clip:
        if "." in clip_id:
            raise ClipError(f'{clip_id}: a clip\'s name must be free of "."')
        label = read_label(self.root / "labels" / f"{clip_id}.mat")
        pictures = _pictures(self.root / "frames" / clip_id)
        num_frames = min(label.num_frames, len(pictures))
        if not num_frames:
            raise ClipError(f"frames/{clip_id}: no JPEGs")
        for number, path in enumerate(pictures[:num_frames], start=1):
            if not path.stem.isdecimal() or int(path.stem) != number:
                raise ClipError(f"frames/{clip_id}: expected {number:06d}.jpg, found {path.name}")
        notes = label.notes
        if len(pictures) != label.num_frames:
            notes += (f"labels of {label.num_frames} frames, {len(pictures)} JPEGs: used the first {num_frames}",)
        return Clip(
            id=clip_id,
            frames=FrameFolder(pictures[:num_frames], label.size),
            size=label.size,
            joints=Joints(label.joints.xy[:num_frames], label.joints.is_visible[:num_frames]),
            action=label.action,
            is_train=label.is_train,
            notes=notes,
        )


def _pictures(folder: Path) -> list[Path]:
    """JPEGs of a clip by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg") and p.name[0] != ".")
