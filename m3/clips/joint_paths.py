"""Finds the joint file of a clip among the files beside it, by its name alone.

What a file holds is for its reader to say. Of a clip `walk.mp4` or a folder `walk/` it is one of

* `walk.csv`, `walk.mp4.csv`, `walk.MP4.CSV`; `walk_keypoints.json`, `walk_landmarks.csv` and the like;
* DeepLabCut's `walkDLC_resnet50_….h5`, SLEAP's `labels.v001.000_walk.analysis.h5`, MMPose's `results_walk.json`;
* a folder with a file per frame, `walk_000000000000_keypoints.json` …, or of any frame numbers in a folder named
  `walk`, `walk_json` or the like; a folder `walk` with AlphaPose's `alphapose-results.json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from m3.clips.base import ClipError, JointFile, file_identity
from m3.clips.sidecar import is_own

JOINT_SUFFIXES = (".mat", ".npz", ".csv", ".tsv", ".json", ".h5", ".hdf5", ".npy")

_ENDING = re.compile(
    "(.+)[_.-](keypoints?|landmarks?|joints?|poses?|predictions?|results?|openpose|alphapose|mmpose|mediapipe|json|coco)",
    re.IGNORECASE,
)
_BEGINNING = re.compile("(?:results_|alphapose-results[_-])(.+)", re.IGNORECASE)
_PER_FRAME = re.compile("(?P<clip>.*?)[_.-]?(?P<number>[0-9]+)(?P<end>_keypoints)?[.]json", re.IGNORECASE)
_MIN_FRAME_FILES, _MIN_DIGITS = 2, 6
_ALPHAPOSE = "alphapose-results.json"


def frame_number(name: str) -> int:
    """The number in the name of a file per frame."""
    match = _PER_FRAME.fullmatch(name)
    return int(match["number"]) if match else -1


def joint_identity(file: JointFile) -> bytes:
    """Changes when the file does: `file_identity`; of files per frame, names and sizes, and that of the first one."""
    if not file.frames:
        return file_identity(file.path)
    try:
        listing = "".join(f"{name} {(file.path / name).stat().st_size}\n" for name in file.frames)
    except OSError as error:
        return type(error).__name__.encode()
    return listing.encode(errors="surrogateescape") + file_identity(file.files[0])


class JointsBeside:
    """The joint files beside the clips of a source.

    Args:
        clips: id → path of the video, or of the folder with the pictures.
        is_folder: whether these are folders.

    paths: where they were looked for.
    """

    def __init__(self, clips: Mapping[str, Path], is_folder: bool = False) -> None:
        self.paths = JointPaths()
        self._files = {clip_id: self.paths.find(path, is_folder) for clip_id, path in clips.items()}
        self._is_foreign = {
            clip_id: len(files) == 1 and (bool(files[0].frames) or not is_own(files[0].path))
            for clip_id, files in self._files.items()
        }

    def files(self, clip_id: str) -> list[JointFile]:
        """All files of the clip."""
        return self._files[clip_id]

    def is_foreign(self, clip_id: str) -> bool:
        """Whether the clip has one file, of another program."""
        return self._is_foreign[clip_id]

    def own(self, clip_id: str) -> Path | None:
        """The clip's file in one of m3's own formats, or None. Raises ClipError where there are several files."""
        files = self._one(clip_id)
        return files[0].path if files and not self._is_foreign[clip_id] else None

    def foreign(self, clip_id: str) -> JointFile | None:
        """The clip's file of another program, or None. Raises ClipError where there are several files."""
        files = self._one(clip_id)
        return files[0] if files and self._is_foreign[clip_id] else None

    def _one(self, clip_id: str) -> list[JointFile]:
        files = self._files[clip_id]
        if len(files) > 1:
            raise ClipError(
                f"{files[0].name} and {files[1].name}: two files with joints of one clip, remove one of them"
            )
        return files


class JointPaths:
    """The joint files beside clips. Each folder is listed once."""

    def __init__(self) -> None:
        self._listings: dict[Path, _Listing] = {}
        self._claimed: set[Path] = set()

    def find(self, clip: Path, is_folder: bool = False) -> list[JointFile]:
        """The joint files of a video, or of a folder with its pictures, by their names; more than one is an error of
        the user's. Of DeepLabCut's two files with the same content the `.csv` is taken."""
        listing = self._listing(clip.parent)
        stem, suffix = (clip.name, "") if is_folder else (clip.stem, clip.suffix)
        keys = dict.fromkeys((stem, stem + suffix, stem + suffix.lower()))
        names = dict.fromkeys(name for key in keys for name in listing.files.get(key, ()))
        found = [JointFile(clip.parent / name) for name in names]
        found += [file for key in keys for file in listing.folders.get(key, ()) if file.path.parent != clip]
        self._claimed.update(path for each in found for path in each.files)
        kept = [each for each in found if each.path.suffix != ".h5" or each.path.with_suffix(".csv").name not in names]
        return list(dict.fromkeys(kept))

    def unclaimed(self, paths: Iterable[Path]) -> list[str]:
        """Of some files those that could hold joints by their suffix and were found for no clip, by name."""
        counts: dict[str, int] = {}
        for path in paths:
            if path.suffix.lower() in JOINT_SUFFIXES and path not in self._claimed:
                match = _PER_FRAME.fullmatch(path.name)
                name = path.name if match is None else f"{path.parent.name}/{match['clip']}*.json"
                counts[name] = counts.get(name, 0) + 1
        return [name if count == 1 else f"{name} ({count} files)" for name, count in sorted(counts.items())]

    def _listing(self, folder: Path) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = _listing_of(folder)
        return self._listings[folder]


class _Listing(NamedTuple):
    """What is beside the clips of a folder, by the names of the clips: files, and folders with files per frame."""

    files: dict[str, list[str]]
    folders: dict[str, list[JointFile]]


def _listing_of(folder: Path) -> _Listing:
    names = _names(folder)
    found = _Listing({}, {})
    for prefix, each in _frame_files(names).items():
        if prefix and _is_certain(each):
            found.folders.setdefault(prefix, []).append(JointFile(folder, each))
    per_frame = {name for files in found.folders.values() for file in files for name in file.frames}
    for name in names:
        base, suffix = os.path.splitext(name)
        if (folder / name).is_dir():
            inside = _names(folder / name)
            groups = _frame_files(inside)
            for prefix, each in groups.items():
                clips = {prefix} if prefix and _is_certain(each) else set()
                for clip in clips | (_clips_of(name) if len(groups) == 1 else set()):
                    found.folders.setdefault(clip, []).append(JointFile(folder / name, each))
            if _ALPHAPOSE in inside:
                for clip in _clips_of(name):
                    found.folders.setdefault(clip, []).append(JointFile(folder / name / _ALPHAPOSE))
        elif suffix.lower() in JOINT_SUFFIXES and name not in per_frame:
            for clip in _clips_of(base) | (_clips_of_programs(base) if suffix.lower() in (".csv", ".h5") else set()):
                found.files.setdefault(clip, []).append(name)
    return found


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError:
        return []


def _frame_files(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Beginning of the names → the names of files per frame, by their numbers."""
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _PER_FRAME.fullmatch(name):
            found.setdefault(match["clip"], []).append(name)
    return {
        clip: tuple(sorted(each, key=lambda name: (frame_number(name), name)))
        for clip, each in found.items()
        if len(each) >= _MIN_FRAME_FILES
    }


def _is_certain(names: Sequence[str]) -> bool:
    """Whether the numbers are those of frames: `walk_1.json` may belong to the video `walk_1.mp4`."""
    match = _PER_FRAME.fullmatch(names[0])
    return match is not None and (match["end"] is not None or len(match["number"]) >= _MIN_DIGITS)


def _clips_of(base: str) -> set[str]:
    """Names of clips, with and without suffix, that a file or folder of this name (without suffix) may belong to."""
    found = {base}
    for pattern in (_ENDING, _BEGINNING):
        found |= {match[1] for each in found if (match := pattern.fullmatch(each))}
    return found | {stem + suffix.lower() for stem, suffix in map(os.path.splitext, found)}


def _clips_of_programs(base: str) -> set[str]:
    """As `_clips_of`, for the names that DeepLabCut and SLEAP give."""
    found = {base[: match.start()] for match in re.finditer("DLC", base) if match.start()}
    if base.endswith(".analysis"):
        rest = base.removesuffix(".analysis").removesuffix(".predictions")
        found |= {rest, *(rest[match.end() :] for match in re.finditer("[_.]", rest))}
    return found
