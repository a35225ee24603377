"""Video files as clips, in any format that PyAV decodes."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from m3.clips.base import ClipError, WholeClip, check_num_frames, evenly_spaced, file_identity, replace_unencodable
from m3.clips.names import ids_from_paths
from m3.clips.sidecar import Sidecar, find_sidecar, read_sidecar, sidecar_paths
from m3.clips.video_frames import MAX_FPS, VideoFrames, scan
from m3.core.joints import Joints
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
    Joints are read from a sidecar beside the video if there is one (`walk.csv` for `walk.mp4`, see
    `m3.clips.sidecar`). Of a damaged video the frames before the damage are used. Videos with more than
    `m3.clips.base.MAX_FRAME_PIXELS` per frame are rejected.

    Args:
        root: a folder, searched at any depth; a file; or a pattern like "/data/**/run_*.mp4".
        fps: resample to this many frames per second, each the nearest frame in time; a video with fewer frames
            repeats some. None keeps all frames.
        cuts: a video is divided where the picture jumps, see `m3.annotation.divided_source`.
        max_clips: use that many, evenly spaced over the sorted ids; None for all.
        name: name of the data set, for the manifest and the default output folder.

    left_out: the number of files that are no videos by their names, by suffix, as text; "" for none.

    Raises FileNotFoundError where there is no video.
    """

    def __init__(
        self,
        root: str | Path,
        fps: float | None = None,
        cuts: bool = False,
        max_clips: int | None = None,
        name: str = "video_files",
    ) -> None:
        if fps is not None:
            check("source.fps", fps, float, low=0.001, high=MAX_FPS)
        if not isinstance(cuts, bool):
            raise ValueError(f"source.cuts={cuts!r}: choose true or false")
        self.finds_cuts = cuts
        self.fps = fps
        self.name = name
        base, videos, others = _find_videos(str(root))
        if not videos:
            raise FileNotFoundError(
                f"source.root={root}: no video there ({', '.join(VIDEO_SUFFIXES)}){others and f', only {others}'}; "
                "give a folder or a pattern in quotes"
            )
        self._base, self.left_out = base, others
        relative = [path.relative_to(base).as_posix() for path in videos]
        self._all_names = relative
        named = ids_from_paths({path: os.path.splitext(path)[0] for path in relative})
        self._names = {clip_id: named[clip_id] for clip_id in evenly_spaced(list(named), max_clips)}

    def __len__(self) -> int:
        return len(self._names)

    def clip_ids(self) -> list[str]:
        return list(self._names)

    def fingerprint(self) -> str:
        """sha256 over ids, names, and `file_identity` of videos and sidecars."""
        digest = hashlib.sha256()
        for clip_id, name in self._names.items():
            digest.update(f"{clip_id} {name}\n".encode(errors="surrogateescape"))
            for path in (self._base / name, *sidecar_paths(self._base / name)):
                digest.update(file_identity(path))
        return digest.hexdigest()

    def identity(self, clip_id: str) -> bytes:
        """`file_identity` of the video."""
        return file_identity(self._base / self._names[clip_id])

    def whole(self, clip_id: str) -> WholeClip:
        """All frames of a clip, whatever `fps`, and the joints of the sidecar beside it."""
        return WholeClip(self._read(clip_id, None, None, None), 0)

    def read(self, clip_id: str, annotations: Path | None = None, frames: tuple[int, int] | None = None) -> Clip:
        """One clip, or a part of it.

        annotations: path of its joints; None for the sidecar beside the video.
        frames: numbers of the first of the video's own frames that is read, and of the one after the last; None: all.
        """
        return self._read(clip_id, annotations, frames, self.fps)

    def _read(self, clip_id: str, annotations: Path | None, frames: tuple[int, int] | None, fps: float | None) -> Clip:
        name = self._names[clip_id]
        path = self._base / name
        index = scan(path, name)
        num_frames = len(index.ticks)
        beside = annotations or self._beside(path)
        sidecar = Sidecar(None)
        if beside is not None:
            sidecar = read_sidecar(beside, num_frames, index.size, is_partial=annotations is not None)
        num_frames = num_frames if sidecar.joints is None else len(sidecar.joints.xy)
        first, end = (0, num_frames) if frames is None else (frames[0], min(frames[1], num_frames))
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
            action=sidecar.action,
            is_train=sidecar.is_train,
            notes=tuple(map(replace_unencodable, (*index.notes, *sidecar.notes, *notes))),
            fps=index.fps if fps is None else float(fps),
        )

    def _beside(self, path: Path) -> Path | None:
        """The sidecar of a video. Raises ClipError where it could be that of another video, too."""
        sidecar = find_sidecar(path)
        if sidecar is not None and (twins := self._twins.get(path.with_suffix(""), ())):
            names = " and ".join(twin.name for twin in twins)
            raise ClipError(f"{sidecar.name}: whose joints are they, of {names}? give the videos different names")
        return sidecar

    @cached_property
    def _twins(self) -> dict[Path, list[Path]]:
        """Path without suffix → the videos that have it, where there are several."""
        videos: dict[Path, list[Path]] = {}
        for name in self._all_names:
            videos.setdefault((self._base / name).with_suffix(""), []).append(self._base / name)
        return {stem: paths for stem, paths in videos.items() if len(paths) > 1}


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


def _find_videos(root: str) -> tuple[Path, list[Path], str]:
    """The folder that names are relative to, the paths of the videos, and the number of other files by suffix, as text.

    Hidden files and folders are ignored, and so are sidecars; linked folders are followed.
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
    shown = [path for path in found if path.name[0] != "."]
    videos = [path for path in shown if path.suffix.lower() in VIDEO_SUFFIXES]
    sidecars = {sidecar for video in videos for sidecar in sidecar_paths(video)}
    rest = Counter(
        path.suffix.lower() or "without suffix"
        for path in shown
        if path not in sidecars and path.suffix.lower() not in VIDEO_SUFFIXES and path.is_file()
    )
    others = ", ".join(f"{num} {suffix}" for suffix, num in sorted(rest.items(), key=lambda each: (-each[1], each[0])))
    return base, sorted(videos), others


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
