"""Video files as clips, in any format that PyAV decodes."""

from __future__ import annotations

import glob
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from m3.clips.base import (
    ClipError,
    JointFile,
    WholeClip,
    check_num_frames,
    evenly_spaced,
    file_identity,
    replace_unencodable,
)
from m3.clips.clip_list import ClipList, ListedClip, read_clip_list
from m3.clips.joint_options import USUAL_OPTIONS, JointFileOptions
from m3.clips.joint_paths import JOINT_SUFFIXES, JointsBeside, joint_identity
from m3.clips.names import ids_from_paths
from m3.clips.sidecar import Sidecar, read_sidecar, sidecar_paths
from m3.clips.video_frames import MAX_FPS, FrameIndex, VideoFrames, scan
from m3.core.joints import Joints
from m3.core.reading import shown
from m3.core.types import Clip
from m3.core.validation import check

_MAX_RESAMPLED = 2**22
"""Frames: 38 hours at 30 frames per second. Time stamps of a file may say anything."""

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".avi", ".webm", ".mkv", ".m4v", ".gif", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob", ".wmv",
    ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogm", ".mk3d", ".qt", ".divx", ".mxf", ".nut", ".ivf", ".dv",
    ".y4m",
)  # fmt: skip
"""Of the containers that `m3.clips.video_frames` opens."""


class VideoFiles:
    """One clip per video file, rotated as its metadata ask.

    A clip's rate is `fps`, or else the average of its frames' time stamps.
    Joints are read from the file beside the video if there is one (`walk.csv` for `walk.mp4`, see
    `m3.clips.joint_paths`): here if it is one of m3's own (`m3.clips.sidecar`), those of other programs by
    `m3.annotation.divided_source`. Of a damaged video the frames before the damage are used. Videos with more than
    `m3.clips.base.MAX_FRAME_PIXELS` per frame are rejected.

    Args:
        root: a folder, searched at any depth; a file; or a pattern like "/data/**/run_*.mp4".
        fps: resample to this many frames per second, each the nearest frame in time; a video with fewer frames
            repeats some. None keeps all frames.
        cuts: a video is divided where the picture jumps, see `m3.annotation.divided_source`.
        clips: a table of clips, see `m3.clips.clip_list`: parts of the videos, with their labels and splits; None: each
            video is a clip.
        max_clips: use that many, evenly spaced over the sorted ids; None for all.
        joint_files: how joint files of other programs are understood.
        name: name of the data set, for the manifest and the default output folder.

    left_out: the number of files that are no videos by their names, by suffix, as text; "" for none.
    ownerless: names of files that could hold joints and belong to no video.
    missing: what the table calls videos that are not there, of each of its rows.

    Raises FileNotFoundError where there is no video, ValueError where the table cannot be used.
    """

    def __init__(
        self,
        root: str | Path,
        fps: float | None = None,
        cuts: bool = False,
        clips: str | Path | None = None,
        max_clips: int | None = None,
        joint_files: JointFileOptions = USUAL_OPTIONS,
        name: str = "video_files",
    ) -> None:
        if fps is not None:
            check("source.fps", fps, float, low=0.001, high=MAX_FPS)
        if not isinstance(cuts, bool):
            raise ValueError(f"source.cuts={cuts!r}: choose true or false")
        self.finds_cuts = cuts
        self.joint_files = joint_files
        self.fps = fps
        self.name = name
        base, videos, rest = _find_videos(str(root))
        others = _counted(rest)
        if not videos:
            raise FileNotFoundError(
                f"source.root={root}: no video there ({', '.join(VIDEO_SUFFIXES)}){others and f', only {others}'}; "
                "give a folder or a pattern in quotes"
            )
        relative = [path.relative_to(base).as_posix() for path in videos]
        self._all_names = relative
        listed = ClipList((), ()) if clips is None else read_clip_list(Path(clips), base, relative)
        if clips is not None and not listed.clips:
            raise FileNotFoundError(
                f"source.clips={clips}: none of the videos of its {len(listed.missing)} rows is in source.root={root}, "
                f"the first is {shown(listed.missing[0]) if listed.missing else 'none'}"
            )
        rows = [ListedClip(path, 0.0, math.inf, None, None) for path in relative] if clips is None else listed.clips
        by_key = {_key_of(row): row for row in rows}
        named = ids_from_paths({key: _name_of(row) for key, row in by_key.items()})
        self._rows = {clip_id: by_key[named[clip_id]] for clip_id in evenly_spaced(list(named), max_clips)}
        self._has_test = any(row.split == "test" for row in rows)
        self._is_listed = clips is not None
        self._base, self.missing = base, listed.missing
        self._beside = JointsBeside({name: base / name for name in relative})
        rest = [path for path in rest if clips is None or not path.samefile(clips)]
        self.ownerless = self._beside.paths.unclaimed(rest)
        self.left_out = _counted(path for path in rest if path.suffix.lower() not in JOINT_SUFFIXES)

    def __len__(self) -> int:
        return len(self._rows)

    def clip_ids(self) -> list[str]:
        return list(self._rows)

    def fingerprint(self) -> str:
        """sha256 over ids, names, and `file_identity` of videos and sidecars."""
        digest = hashlib.sha256()
        for clip_id, row in self._rows.items():
            name = row.path
            digest.update(f"{clip_id} {_key_of(row)}\n".encode(errors="surrogateescape"))
            plain = sidecar_paths(self._base / name)
            for path in (self._base / name, *plain):
                digest.update(file_identity(path))
            for file in self.files_beside(clip_id):
                if file.path not in plain:
                    digest.update(f"{file.name}\n".encode(errors="surrogateescape") + joint_identity(file))
        return digest.hexdigest()

    def identity(self, clip_id: str) -> bytes:
        """`file_identity` of the video, and the part of it that is the clip."""
        row = self._rows[clip_id]
        return file_identity(self._base / row.path) + (b"" if row.is_whole else f"{row.start} {row.end}\n".encode())

    def files_beside(self, clip_id: str) -> list[JointFile]:
        """The files beside the video that hold its joints, by their names."""
        return self._beside.files(self._rows[clip_id].path)

    def has_foreign_joints(self, clip_id: str) -> bool:
        """Whether the joints beside the video are another program's."""
        return self._beside.is_foreign(self._rows[clip_id].path)

    def whole(self, clip_id: str) -> WholeClip:
        """All frames of a clip, whatever `fps`, and the joints beside it."""
        self._check_owner(clip_id)
        name = self._rows[clip_id].path
        index = scan(self._base / name, name)
        first, _ = _span(self._rows[clip_id], index)
        clip = self._read(clip_id, self._beside.own(name), None, None)
        return WholeClip(clip, first, self._beside.foreign(name), len(index.ticks))

    def whole_without_joints(self, clip_id: str) -> Clip:
        """All frames of a clip, whatever `fps` and whatever is beside the video."""
        return self._read(clip_id, None, None, None)

    def read(self, clip_id: str, annotations: Path | None = None, frames: tuple[int, int] | None = None) -> Clip:
        """One clip, or a part of it.

        annotations: path of its joints, in one of m3's own formats; None for those beside the video.
        frames: numbers of the first of the clip's own frames (whatever `fps`) that is read, and of the one after the
            last; None: all.

        Raises ClipError also where the joints beside the video are another program's, and `annotations` is None.
        """
        if annotations is None:
            self._check_owner(clip_id)
            if (file := self._beside.foreign(self._rows[clip_id].path)) is not None:
                raise ClipError(f"{file.name}: joints of another program, which m3.annotation.divided_source reads")
        return self._read(
            clip_id,
            annotations or self._beside.own(self._rows[clip_id].path),
            frames,
            self.fps,
            annotations is not None,
        )

    def _read(
        self,
        clip_id: str,
        joint_file: Path | None,
        frames: tuple[int, int] | None,
        fps: float | None,
        is_partial: bool = False,
    ) -> Clip:
        row = self._rows[clip_id]
        name = row.path
        path = self._base / name
        index = scan(path, name)
        num_frames = len(index.ticks)
        sidecar = Sidecar(None)
        if joint_file is not None:
            sidecar = read_sidecar(joint_file, num_frames, index.size, is_partial)
        num_frames = num_frames if sidecar.joints is None else len(sidecar.joints.xy)
        start, stop = _span(row, index)
        first, end = start, min(stop, num_frames)
        if frames is not None:
            first, end = start + frames[0], min(start + frames[1], end)
        check_num_frames(name, max(0, end - first))
        seconds = index.seconds[first:end] - index.seconds[first]
        order, notes = _resample(seconds, fps, name)
        order = order + first
        check_num_frames(name, len(order))
        joints = sidecar.joints and Joints(sidecar.joints.xy[order], sidecar.joints.is_visible[order])
        return Clip(
            id=clip_id,
            frames=VideoFrames(path, name, index, order),
            size=index.size,
            joints=joints,
            action=row.label or sidecar.action,
            is_train=sidecar.is_train if row.split is None else row.split == "train" or self._is_eval(row),
            is_eval=self._is_eval(row),
            notes=tuple(map(replace_unencodable, (*index.notes, *sidecar.notes, *notes))),
            fps=index.fps if fps is None else float(fps),
            video=replace_unencodable(row.path) if self._is_listed else None,
        )

    def _is_eval(self, row: ListedClip) -> bool:
        """Whether a clip is of the table's validation, which is the test where the table has no other."""
        return row.split == "eval" and self._has_test

    def _check_owner(self, clip_id: str) -> None:
        """Raises ClipError where the joint file of a video could be that of another video, too."""
        path = self._base / self._rows[clip_id].path
        twins = {each.name for each in self._twins.get(path.with_suffix(""), ())}
        for file in self.files_beside(clip_id):
            if twins and not any(name.lower() in file.name.lower() for name in twins):
                names = " and ".join(sorted(twins))
                raise ClipError(f"{file.name}: whose joints are they, of {names}? give the videos different names")

    @cached_property
    def _twins(self) -> dict[Path, list[Path]]:
        """Path without suffix → the videos that have it, where there are several."""
        videos: dict[Path, list[Path]] = {}
        for name in self._all_names:
            videos.setdefault((self._base / name).with_suffix(""), []).append(self._base / name)
        return {stem: paths for stem, paths in videos.items() if len(paths) > 1}


def _key_of(row: ListedClip) -> str:
    """Unique for each clip; the path alone for a whole video without a table."""
    known = [] if row.is_whole else [f"{row.start:g}", f"{row.end:g}"]
    return " ".join([row.path, *known, *([row.label] if row.label else []), *([row.split] if row.split else [])])


def _name_of(row: ListedClip) -> str:
    """What the clip's id is made of."""
    span = "" if row.is_whole else f"-{row.start:g}" + (f"-{row.end:g}" if math.isfinite(row.end) else "")
    return os.path.splitext(row.path)[0] + span.replace(".", "_")


def _span(row: ListedClip, index: FrameIndex) -> tuple[int, int]:
    """Numbers of the first frame of a clip in its video, and of the one after the last."""
    first, end = np.searchsorted(index.seconds, np.array([row.start, row.end]) - 1e-3)
    return int(first), int(end)


def _resample(seconds: np.ndarray, fps: float | None, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Indices into frames with (T,) time stamps that are nearest to the times of `fps`, and a note on repeated frames.

    Of two equally near frames the earlier one is chosen.
    """
    if fps is None:
        return np.arange(len(seconds)), ()
    is_long = len(seconds) > 1 and seconds[-1] > 0
    end = seconds[-1] + (np.median(np.diff(seconds)) if is_long else 0.0)  # the last frame has a duration, too
    if not end * fps <= _MAX_RESAMPLED:
        raise ClipError(
            f"{name}: {end:,.0f} s long by its time stamps, more than {_MAX_RESAMPLED:,} frames of source.fps"
        )
    wanted = np.arange(max(1, int(np.ceil(end * fps - 1e-3)))) / fps
    middles = (seconds[1:] + seconds[:-1]) / 2
    order = np.searchsorted(middles, wanted - 1e-3)  # containers may round time stamps to milliseconds
    num_repeats = int((np.diff(order) == 0).sum())
    note = f"{name}: at source.fps={fps:g} {num_repeats} of {len(order)} frames repeat the one before"
    return order, (note,) if num_repeats else ()


def _counted(paths: Iterable[Path]) -> str:
    """The number of files by suffix, as text."""
    counts = Counter(path.suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{num} {suffix}" for suffix, num in sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _find_videos(root: str) -> tuple[Path, list[Path], list[Path]]:
    """The folder that names are relative to, the paths of the videos, and those of other files that are no sidecars.

    Hidden files and folders are ignored; linked folders are followed.
    """
    if os.path.isdir(root):
        base, found = Path(root), list(_files_below(root))
    elif os.path.isfile(root):
        base, found = Path(root).parent, [Path(root)]
    else:
        fixed = []
        for part in Path(root).parts[:-1]:
            if glob.has_magic(part):
                break
            fixed.append(part)
        base, found = Path(*fixed), [Path(path) for path in glob.glob(root, recursive=True)]
    visible = [path for path in found if path.name[0] != "."]
    videos = [path for path in visible if path.suffix.lower() in VIDEO_SUFFIXES]
    sidecars = {sidecar for video in videos for sidecar in sidecar_paths(video)}
    rest = [
        path
        for path in visible
        if path not in sidecars and path.suffix.lower() not in VIDEO_SUFFIXES and path.is_file()
    ]
    return base, sorted(videos), rest


def _files_below(root: str) -> Iterator[Path]:
    """Files of a folder and of the folders below it, linked ones too; each folder once, however it is reached."""
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if name[0] != ".")
        yield from (Path(folder) / name for name in names)
