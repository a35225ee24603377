"""Clips → staged clips on this machine; `m3.preprocessing.ray_executor` does the same on a cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from m3.annotation.survey import Survey, Surveyor
from m3.clips.base import ClipError
from m3.core.types import Rejection
from m3.preprocessing.encode import ClipEncoder
from m3.preprocessing.prepare import PreparedClip
from m3.preprocessing.staging import StagedClip, Unreadable
from m3.preprocessing.workers import prepare_clips
from m3.tokens.encoding import torch_threads


class Encoded(NamedTuple):
    """clip: all of it, or why it is not used. num_frames: T of the clip, 0 where it could not be prepared."""

    clip: StagedClip | Rejection
    num_frames: int


class Executor(Protocol):
    """Runs the work on clips. The result for a clip depends on nothing but the clip."""

    def encoded(
        self, encoder: ClipEncoder, encode_threads: int, clip_ids: Sequence[str]
    ) -> Generator[Encoded, None, None]:
        """Each of these clips once, in the order in which they are finished.

        encoder: with the networks of this process.
        encode_threads: CPU threads of the tokenizer.
        """
        ...

    def surveyed(self, surveyor: Surveyor, clip_ids: Sequence[str]) -> Generator[Survey | Rejection, None, None]:
        """The survey of each of these clips, in the order in which they are finished."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Surveys and prepares clips in worker processes and encodes them in this one.

    num_workers: worker processes; 0 works in this process; None: one per CPU core.
    """

    num_workers: int | None

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"workers={self.num_workers}: need 0 or more, or null for one per CPU core")

    def encoded(
        self, encoder: ClipEncoder, encode_threads: int, clip_ids: Sequence[str]
    ) -> Generator[Encoded, None, None]:
        with torch_threads(encode_threads):
            for item in prepare_clips(encoder.preparer, clip_ids, min(self._num_workers, len(clip_ids))):
                yield encode_clip(encoder, item)

    def surveyed(self, surveyor: Surveyor, clip_ids: Sequence[str]) -> Generator[Survey | Rejection, None, None]:
        yield from prepare_clips(surveyor, clip_ids, min(self._num_workers, len(clip_ids)))

    @property
    def _num_workers(self) -> int:
        return (os.cpu_count() or 1) if self.num_workers is None else self.num_workers


def encode_clip(encoder: ClipEncoder, item: PreparedClip | Rejection) -> Encoded:
    """Rejects the clip where a picture can no longer be read."""
    if isinstance(item, Rejection):
        return Encoded(item, 0)
    try:
        return Encoded(encoder(item), item.num_frames)
    except ClipError as error:
        return Encoded(Unreadable(item.staged.clip, str(error)), item.num_frames)
