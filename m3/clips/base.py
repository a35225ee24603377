"""What every source of clips does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from m3.core.joints import Joints
from m3.core.types import Clip

MAX_FRAME_PIXELS = 2**24
"""Larger frames (4,096 × 4,096 px; 5K video has 14.7 million) are refused before they are decoded."""


def replace_unencodable(text: str) -> str:
    """`text` with "?" for what UTF-8 cannot write: file names may hold any bytes, manifests not."""
    return text.encode(errors="replace").decode()


class ClipError(ValueError):
    """A clip or label that cannot be used; its message is the reason, and names the file."""

    def __init__(self, reason: str) -> None:
        super().__init__(replace_unencodable(reason))


class DamagedFrame(ClipError):
    """A frame that cannot be decoded.

    index: of the frame in its clip. Those before it may be good: see `frames_before`.
    """

    def __init__(self, reason: str, index: int) -> None:
        super().__init__(reason)
        self.index = index


class ClipSource(Protocol):
    """Clips of one data set, known by their ids and read one by one."""

    name: str
    """Of the data set, for the manifest."""

    def clip_ids(self) -> list[str]:
        """Ids in a fixed order, each a valid file name without "/" and "."."""

    def read(self, clip_id: str) -> Clip:
        """One clip. Raises ClipError where it cannot be used, and so do its frames: DamagedFrame where one is bad."""

    def fingerprint(self) -> str:
        """sha256 over what the clips are made of, hexadecimal: other data, other fingerprint."""

    def __len__(self) -> int:
        """Number of clips, good or bad."""


class FrameCache(Sequence):
    """Frames of a clip, the last few of them kept, so that a frame just read is not decoded again.

    Args:
        frames: decoded (or rendered) when indexed.
        keep: how many to hold.
    """

    def __init__(self, frames: Sequence[np.ndarray], keep: int = 2) -> None:
        self._frames = frames
        self._keep = keep
        self._held: dict[int, np.ndarray] = {}  # the one used last is last

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> np.ndarray:
        frame = self._held.pop(index) if index in self._held else self._frames[index]
        self._held[index] = frame
        if len(self._held) > self._keep:
            del self._held[next(iter(self._held))]
        return frame

    def is_cached(self, index: int) -> bool:
        """Whether a frame costs nothing to read again."""
        return index in self._held


class FirstFrames(Sequence):
    """The first `num_frames` of `frames`."""

    def __init__(self, frames: Sequence[np.ndarray], num_frames: int) -> None:
        self._frames = frames
        self._length = num_frames

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        return self._frames[range(self._length)[index]]


def first_frames(clip: Clip, num_frames: int) -> Clip:
    """The clip without what comes after its first `num_frames`."""
    if num_frames >= len(clip.frames):
        return clip
    joints = clip.joints and Joints(clip.joints.xy[:num_frames], clip.joints.is_visible[:num_frames])
    return replace(clip, frames=FirstFrames(clip.frames, num_frames), joints=joints)


def frames_before(clip: Clip, damage: DamagedFrame) -> Clip:
    """The clip up to its damaged frame, with a note. Raises ClipError where too few frames come before it."""
    if damage.index < 2:
        raise ClipError(f"{damage}; a pair needs 2 frames, {damage.index} came before it")
    note = f"{damage}: used the {damage.index} frames before it"
    return replace(first_frames(clip, damage.index), notes=(*clip.notes, note))


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
    """What a library says is wrong with a file, without the folders that lead to it: manifests hold no paths."""
    if strerror := getattr(error, "strerror", None):  # of OSError, and of libav's errors
        return strerror
    return str(error).replace(str(path), path.name) or type(error).__name__


def file_identity(path: Path, block: int = 65_536) -> bytes:
    """What tells a file from another without reading all of it: its size, and sha256 of its first and last `block`.

    A change in the middle of a long file that keeps its size goes unnoticed. An unreadable file has an identity too.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest = hashlib.sha256(file.read(block))
            file.seek(max(block, size - block))
            digest.update(file.read(block))
    except OSError as error:
        return f"{type(error).__name__}\n".encode()
    return f"{size} {digest.hexdigest()}\n".encode()


def evenly_spaced(ids: list[str], max_clips: int | None) -> list[str]:
    """At most `max_clips` ids, evenly spread over the list: data sets are often sorted by action."""
    if max_clips is None or max_clips >= len(ids):
        return ids
    if max_clips < 1:
        raise ValueError(f"source.max_clips={max_clips}: need at least 1, or null for all")
    return [ids[i * len(ids) // max_clips] for i in range(max_clips)]
