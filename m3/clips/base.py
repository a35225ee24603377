"""What every source of clips does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from m3.records import Clip


class ClipError(ValueError):
    """A clip or label that cannot be used; its message is the reason, and names the file."""


class ClipSource(Protocol):
    """Clips of one data set, known by their ids and read one by one."""

    name: str
    """Of the data set, for the manifest."""

    def clip_ids(self) -> list[str]:
        """Ids in a fixed order, each a valid file name without "/" and "."."""

    def read(self, clip_id: str) -> Clip:
        """One clip. Raises ClipError where it cannot be used."""

    def fingerprint(self) -> str:
        """sha256 over what the clips are made of, hexadecimal: other data, other fingerprint."""

    def __len__(self) -> int:
        """Number of clips, good or bad."""


class RecentFrames(Sequence):
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

    def is_held(self, index: int) -> bool:
        """Whether a frame costs nothing to read again."""
        return index in self._held


def spread(ids: list[str], max_clips: int | None) -> list[str]:
    """At most `max_clips` ids, evenly spread over the list: data sets are often sorted by action."""
    if max_clips is None or max_clips >= len(ids):
        return ids
    if max_clips < 1:
        raise ValueError(f"source.max_clips={max_clips}: need at least 1, or null for all")
    return [ids[i * len(ids) // max_clips] for i in range(max_clips)]
