"""The interface of clip sources, lazily decoded frames, and checks that sources share."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, overload, runtime_checkable

import numpy as np

from m3.clips.joint_options import JointFileOptions
from m3.clips.names import is_clip_id
from m3.core.joints import Joints
from m3.core.reading import open_regular
from m3.core.types import Clip

MAX_FRAME_PIXELS = 2**24
"""Frames with more pixels than 4,096 × 4,096 are refused before they are decoded (5K video has 14.7 million)."""


def replace_unencodable(text: str) -> str:
    """`text` with "?" for every character that UTF-8 cannot encode: file names may hold any bytes, manifests UTF-8."""
    return text.encode(errors="replace").decode()


class ClipError(ValueError):
    """A clip or label that cannot be used. Its message is the reason and names the file."""

    def __init__(self, reason: str) -> None:
        super().__init__(replace_unencodable(reason))


class DamagedFrame(ClipError):
    """A frame that cannot be decoded.

    index: index of the frame in its clip. The frames before it can still be used: see `frames_before`.
    """

    def __init__(self, reason: str, index: int) -> None:
        super().__init__(reason)
        self.index = index


@dataclass(frozen=True)
class JointFile:
    """Where the joints of a clip are.

    path: a file, or the folder with a file per frame.
    frames: names of the files in the folder, in the order of their numbers; () for one file.
    """

    path: Path
    frames: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.name + ("/" if self.frames else "")

    @property
    def files(self) -> list[Path]:
        """All files."""
        return [self.path / name for name in self.frames] if self.frames else [self.path]


class ClipSource(Protocol):
    """The clips of one data set, listed by id and read one at a time."""

    name: str
    """Name of the data set, for the manifest."""

    def clip_ids(self) -> list[str]:
        """Ids in a fixed order; of which characters: see `Clip.id`."""
        ...

    def read(self, clip_id: str) -> Clip:
        """One clip.

        Raises ClipError where the clip cannot be used. Indexing its frames raises ClipError too, DamagedFrame where
        one frame cannot be decoded.
        """
        ...

    def fingerprint(self) -> str:
        """Hexadecimal sha256 over everything that the clips are read from; it changes when the data changes."""
        ...

    def __len__(self) -> int:
        """Number of clips, usable or not."""
        ...


class WholeClip(NamedTuple):
    """All frames of a clip, before any are left out to reach a frame rate.

    clip: with the joints of the file beside it, if there is one in m3's own formats.
    first: number of its first frame in joint files.
    joint_file: the one of another program beside it; None for none.
    num_video_frames: of the video that the clip is a part of, which `joint_file` speaks of; None: it is all of it.
    """

    clip: Clip
    first: int
    joint_file: JointFile | None = None
    num_video_frames: int | None = None


@runtime_checkable
class VideoSource(ClipSource, Protocol):
    """A source whose clips may be divided, and may lack joints.

    finds_cuts: whether a clip is divided where the picture jumps.
    joint_files: how joint files of other programs are understood.
    """

    finds_cuts: bool
    joint_files: JointFileOptions

    def files_beside(self, clip_id: str) -> list[JointFile]:
        """The files beside the clip that hold its joints, by their names; more than one makes `whole` raise."""
        ...

    def has_foreign_joints(self, clip_id: str) -> bool:
        """Whether the joints beside the clip are another program's, which `m3.annotation.formats` reads."""
        ...

    def whole(self, clip_id: str) -> WholeClip:
        """Raises ClipError where the clip cannot be used."""
        ...

    def read(self, clip_id: str, annotations: Path | None = None, frames: tuple[int, int] | None = None) -> Clip:
        """One clip.

        annotations: its joint file; None for the one beside it, if there is one.
        frames: numbers of the first of its frames that is read and of the one after the last; None for all.
        """
        ...

    def identity(self, clip_id: str) -> bytes:
        """Changes when the pictures of the clip change, not with its joints."""
        ...


class LazyFrames(Sequence[np.ndarray]):
    """Frames of a clip, (height, width, 3) uint8 RGB each, decoded or rendered when indexed."""

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return [self.frame(number) for number in range(len(self))[index]]
        return self.frame(range(len(self))[index])

    @abstractmethod
    def frame(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8 frame with an index of 0 … len − 1. Raises DamagedFrame or ClipError."""


class FrameCache(LazyFrames):
    """Frames of a clip with a least-recently-used cache, so that a frame just read is not decoded again.

    Args:
        frames: decoded (or rendered) when indexed.
        capacity: number of cached frames.
    """

    def __init__(self, frames: Sequence[np.ndarray], capacity: int = 2) -> None:
        self._frames = frames
        self._capacity = capacity
        self._cache: dict[int, np.ndarray] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, index: int) -> np.ndarray:
        frame = self._cache.pop(index) if index in self._cache else self._frames[index]
        self._cache[index] = frame
        if len(self._cache) > self._capacity:
            del self._cache[next(iter(self._cache))]
        return frame

    def is_cached(self, index: int) -> bool:
        """Whether a frame can be read without decoding it again."""
        return index in self._cache


class FirstFrames(LazyFrames):
    """The first `num_frames` of `frames`."""

    def __init__(self, frames: Sequence[np.ndarray], num_frames: int) -> None:
        self._frames = frames
        self._length = num_frames

    def __len__(self) -> int:
        return self._length

    def frame(self, index: int) -> np.ndarray:
        return self._frames[index]


class LaterFrames(LazyFrames):
    """The frames from number `start` on."""

    def __init__(self, frames: Sequence[np.ndarray], start: int) -> None:
        self._frames, self._start = frames, start

    def __len__(self) -> int:
        return len(self._frames) - self._start

    def frame(self, index: int) -> np.ndarray:
        return self._frames[self._start + index]


class EarlierFrames(LazyFrames):
    """Frame number `start` and those before it, in reverse order.

    The first access decodes the `_NUM_HELD` frames before it in order, because a video is slow to read backward.
    """

    _NUM_HELD = 24

    def __init__(self, frames: Sequence[np.ndarray], start: int) -> None:
        self._frames, self._start = FrameCache(frames, self._NUM_HELD), start

    def __len__(self) -> int:
        return self._start + 1

    def frame(self, index: int) -> np.ndarray:
        number = self._start - index
        if not self._frames.is_cached(number):
            for earlier in range(max(0, number - self._NUM_HELD + 1), number):
                self._frames[earlier]
        return self._frames[number]


def first_frames(clip: Clip, num_frames: int) -> Clip:
    """The clip, cut off after its first `num_frames` frames."""
    if num_frames >= len(clip.frames):
        return clip
    joints = clip.joints and Joints(clip.joints.xy[:num_frames], clip.joints.is_visible[:num_frames])
    return replace(clip, frames=FirstFrames(clip.frames, num_frames), joints=joints)


def frames_before(clip: Clip, damage: DamagedFrame) -> Clip:
    """The clip, cut off before its damaged frame, with a note. Raises ClipError where fewer than 2 frames are left."""
    if damage.index < 2:
        raise ClipError(f"{damage}; a pair needs 2 frames, {damage.index} came before it")
    note = f"{damage}: used the {damage.index} frames before it"
    return replace(first_frames(clip, damage.index), notes=(*clip.notes, note))


def check_clip_id(clip_id: str) -> None:
    """Raises ClipError for what cannot be an id: the name of a file or folder is used as it is."""
    if not is_clip_id(clip_id):
        raise ClipError(f'{clip_id}: a clip\'s name must be free of "." and have letters, digits and _+=,@- only')


def check_num_frames(where: str, num_frames: int) -> None:
    """Raises ClipError for a clip of fewer than 2 frames."""
    if num_frames < 2:
        raise ClipError(f"{where}: {num_frames} frame{'s' * (num_frames != 1)}, a pair needs 2")


def check_frame_size(where: str, size: tuple[int, int]) -> None:
    """Raises ClipError for frames of (height, width) pixels that are empty or too large."""
    height, width = size
    if min(size) < 1 or height * width > MAX_FRAME_PIXELS:
        raise ClipError(f"{where}: frames of {width} x {height} px, need 1 … {MAX_FRAME_PIXELS:,} pixels; scale them")


def reason_of(error: Exception, path: Path) -> str:
    """The message of a library's error about a file, without the file's folder: manifests hold no paths."""
    if strerror := getattr(error, "strerror", None):  # of OSError, and of libav's errors
        return strerror
    return str(error).replace(str(path), path.name) or type(error).__name__


def found_instead(content: bytes) -> str | None:
    """What a file is that took the place of another one when it was fetched; None for others."""
    if content.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself; fetch it with `git lfs pull`"
    if content.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not the file itself: its download failed"
    return None


def file_identity(path: Path, block: int = 65_536) -> bytes:
    """An identity of a file without reading all of it: its size, and sha256 of its first and last `block` bytes.

    A change in the middle of a long file that keeps its size goes unnoticed. Of an unreadable file it is the error.
    """
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            digest = hashlib.sha256(file.read(block))
            file.seek(max(block, size - block))
            digest.update(file.read(block))
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}\n".encode()
    return f"{size} {digest.hexdigest()}\n".encode()


def evenly_spaced(ids: list[str], max_clips: int | None) -> list[str]:
    """At most `max_clips` ids, evenly spread over the list: data sets are often sorted by action."""
    if max_clips is None or max_clips >= len(ids):
        return ids
    if max_clips < 1:
        raise ValueError(f"source.max_clips={max_clips}: need at least 1, or null for all")
    return [ids[i * len(ids) // max_clips] for i in range(max_clips)]
