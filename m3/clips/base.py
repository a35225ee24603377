"""What every source of clips does."""

from __future__ import annotations

from typing import Protocol

from m3.records import Clip


class ClipError(ValueError):
    """A clip or label that cannot be used; its message is the reason, and names the file."""


class ClipSource(Protocol):
    """Clips of one data set, known by their ids and read one by one."""

    def clip_ids(self) -> list[str]:
        """Ids in a fixed order, each a valid file name without "/" and "."."""

    def read(self, clip_id: str) -> Clip:
        """One clip. Raises ClipError where it cannot be used."""

    def __len__(self) -> int:
        """Number of clips, good or bad."""
