"""A folder of numbered pictures per clip."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from m3.clips.base import (
    ClipError,
    JointFile,
    WholeClip,
    check_num_frames,
    evenly_spaced,
    file_identity,
    reason_of,
    replace_unencodable,
)
from m3.clips.joint_options import USUAL_OPTIONS, JointFileOptions
from m3.clips.joint_paths import JointsBeside, joint_identity
from m3.clips.names import ids_from_paths
from m3.clips.picture_files import PICTURE_SUFFIXES, PictureFiles, display_name, picture_size
from m3.clips.sidecar import Sidecar, read_sidecar, sidecar_paths
from m3.core.joints import Joints
from m3.core.types import Clip


class FrameFolders:
    """One clip per folder of jpg, png or webp pictures: `root` itself and the folders below it, at any depth.

    Pictures are sorted by the numbers in their names (2 before 10), whatever the first number is; gaps in the
    numbering are noted and otherwise ignored. EXIF orientation is applied. All pictures of a clip need one size.
    Joints are read from the file beside the clip's folder if there is one (`walk.csv` for `walk/`, see
    `m3.clips.joint_paths`): here if it is one of m3's own (`m3.clips.sidecar`), those of other programs by
    `m3.annotation.divided_source`.

    Args:
        root: the folder.
        max_clips: use that many, evenly spaced over the sorted ids; None for all.
        joint_files: how joint files of other programs are understood.
        name: name of the data set, for the manifest and the default output folder.

    Raises FileNotFoundError where there is no such folder, or no picture in it or below it.
    """

    finds_cuts = False

    def __init__(
        self,
        root: str | Path,
        max_clips: int | None = None,
        joint_files: JointFileOptions = USUAL_OPTIONS,
        name: str = "frame_folders",
    ) -> None:
        self.root = Path(root)
        self.joint_files = joint_files
        self.name = name
        if not self.root.is_dir():
            raise FileNotFoundError(f"source.root={root}: no such folder; give one with a folder of pictures per clip")
        root_path = Path(os.path.abspath(self.root))
        folders, num_pictures = _clip_folders(root_path)
        if not num_pictures:
            raise FileNotFoundError(f"source.root={root}: no {', '.join(PICTURE_SUFFIXES)} files in it or below it")
        below = {path: path.relative_to(root_path).as_posix() for path in folders if path != root_path}
        named = ids_from_paths(
            {name: name for name in below.values()} | ({".": root_path.name} if root_path in folders else {})
        )
        self._folders = {clip_id: root_path / named[clip_id] for clip_id in evenly_spaced(list(named), max_clips)}
        self._beside = JointsBeside(self._folders, is_folder=True)

    def __len__(self) -> int:
        return len(self._folders)

    def clip_ids(self) -> list[str]:
        return list(self._folders)

    def fingerprint(self) -> str:
        """sha256 over ids, names and sizes of all pictures, and `file_identity` of first pictures and sidecars."""
        digest = hashlib.sha256()
        for clip_id, folder in self._folders.items():
            digest.update(f"{clip_id}\n".encode() + self.identity(clip_id))
            plain = sidecar_paths(folder)
            for path in plain:
                digest.update(file_identity(path))
            for file in self.files_beside(clip_id):
                if file.path not in plain:
                    digest.update(f"{file.name}\n".encode(errors="surrogateescape") + joint_identity(file))
        return digest.hexdigest()

    def identity(self, clip_id: str) -> bytes:
        """Names and sizes of all pictures, and `file_identity` of the first one."""
        try:
            pictures = _pictures(self._folders[clip_id])
            listing = "".join(f"{path.name} {path.stat().st_size}\n" for path in pictures)
        except (OSError, ClipError) as error:
            return type(error).__name__.encode()
        return listing.encode(errors="surrogateescape") + b"".join(map(file_identity, pictures[:1]))

    def files_beside(self, clip_id: str) -> list[JointFile]:
        """The files beside the folder that hold the clip's joints, by their names."""
        return self._beside.files(clip_id)

    def has_foreign_joints(self, clip_id: str) -> bool:
        """Whether the joints beside the folder are another program's."""
        return self._beside.is_foreign(clip_id)

    def whole(self, clip_id: str) -> WholeClip:
        own = self._beside.own(clip_id)
        return WholeClip(self._read(clip_id, own, None, False), 0, self._beside.foreign(clip_id))

    def read(self, clip_id: str, annotations: Path | None = None, frames: tuple[int, int] | None = None) -> Clip:
        """One clip, or a part of it, cut off before the first picture without a readable header.

        annotations: path of its joints, in one of m3's own formats; None for those beside the folder.
        frames: numbers of the first picture and of the one after the last; None for all.

        Raises ClipError also where the joints beside the folder are another program's, and `annotations` is None.
        """
        if annotations is None and (file := self._beside.foreign(clip_id)) is not None:
            raise ClipError(f"{file.name}: joints of another program, which m3.annotation.divided_source reads")
        return self._read(clip_id, annotations or self._beside.own(clip_id), frames, annotations is not None)

    def _read(self, clip_id: str, path: Path | None, frames: tuple[int, int] | None, is_partial: bool) -> Clip:
        folder = self._folders[clip_id]
        pictures, order_notes = sort_by_number(_pictures(folder), folder.name)
        size, num_frames, damage_notes = _common_size(pictures)
        sidecar = Sidecar(None)
        if path is not None:
            sidecar = read_sidecar(path, num_frames, size, is_partial)
        num_frames = num_frames if sidecar.joints is None else len(sidecar.joints.xy)
        first, end = (0, num_frames) if frames is None else (frames[0], min(frames[1], num_frames))
        check_num_frames(folder.name, max(0, end - first))
        joints = sidecar.joints and Joints(sidecar.joints.xy[first:end], sidecar.joints.is_visible[first:end])
        return Clip(
            id=clip_id,
            frames=PictureFiles(pictures[first:end], size, "the first picture", is_upright=True),
            size=size,
            joints=joints,
            action=sidecar.action,
            is_train=sidecar.is_train,
            notes=tuple(map(replace_unencodable, (*order_notes, *damage_notes, *sidecar.notes))),
        )


def sort_by_number(paths: Sequence[Path], folder: str) -> tuple[list[Path], tuple[str, ...]]:
    """Pictures sorted by the numbers in their names, and notes on pictures without a number and gaps in the numbering.

    Raises ClipError where no name has a number, or two names have the same ("1.jpg" and "01.png").
    """
    notes: tuple[str, ...] = ()
    numbered = sorted(
        (path for path in paths if re.search("[0-9]", path.stem)), key=lambda p: (_natural_key(p), p.name)
    )
    if not numbered:
        raise ClipError(f"{folder}: no pictures" + "".join(f" with a number, only {path.name}" for path in paths[:1]))
    for path, following in zip(numbered, numbered[1:]):
        if _natural_key(path) == _natural_key(following):
            raise ClipError(f"{folder}: {path.name} and {following.name} have the same number")
    if left_out := sorted({path.name for path in paths} - {path.name for path in numbered}):
        notes += (f"{folder}: {left_out[0]} has no number ({len(left_out)} such pictures): left out",)
    numbers = [int(re.findall("[0-9]+", path.stem)[-1]) for path in numbered]
    steps = [following - number for number, following in zip(numbers, numbers[1:])]
    if len(set(steps)) > 1:
        usual = min(set(steps), key=lambda step: (-steps.count(step), step))
        gap = next(index for index, step in enumerate(steps) if step != usual)
        between = f"{numbered[gap].name} is followed by {numbered[gap + 1].name}"
        notes += (f"{folder}: {sum(step != usual for step in steps)} holes in the numbering, {between}",)
    return numbered, notes


def _natural_key(path: Path) -> tuple[str | int, ...]:
    """Text and numbers of a name in turn, so that 2 comes before 10."""
    return tuple(int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", path.stem)))


def _common_size(pictures: Sequence[Path]) -> tuple[tuple[int, int], int, tuple[str, ...]]:
    """(height, width) of all pictures, the number of them that can be used, and a note on the first that cannot."""
    size = (0, 0)
    for index, path in enumerate(pictures):
        try:
            found = picture_size(path, is_upright=True)
            size = size if index else found
        except ClipError as error:
            if index < 2:
                raise ClipError(f"{error}; a pair needs 2 frames, {index} came before it") from error
            return size, index, (f"{error}: used the {index} frames before it",)
        if found != size:
            raise ClipError(
                f"{display_name(path)}: {found[0]} x {found[1]} px (height x width), {pictures[0].name} has "
                f"{size[0]} x {size[1]}; a clip's pictures need one size"
            )
    return size, len(pictures), ()


def _clip_folders(root: Path) -> tuple[list[Path], int]:
    """Folders with pictures or without subfolders, and the number of pictures in all of them.

    Empty and unreadable folders are among them, so that they are reported as rejected clips. A linked folder is
    listed, the folders below it are not.
    """
    folders: list[Path] = []
    num_pictures = 0
    for path, below, files in os.walk(root, onerror=lambda error: folders.append(Path(error.filename))):
        below[:] = [name for name in below if name[0] != "."]
        found = sum(map(_is_picture, files))
        num_pictures += found
        if found or not below:
            folders.append(Path(path))
        for link in (Path(path) / name for name in below):
            if link.is_symlink():
                folders.append(link)
                num_pictures += sum(map(_is_picture, os.listdir(link)))
    return folders, num_pictures


def _is_picture(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(PICTURE_SUFFIXES)


def _pictures(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if _is_picture(name)]
    except OSError as error:
        raise ClipError(f"{folder.name}: not readable ({reason_of(error, folder)})") from error
