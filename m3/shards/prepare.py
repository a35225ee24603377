"""All of the work on a clip that needs no picture tokenizer, in worker processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from m3.captions import Captioner
from m3.clips.base import ClipError, ClipSource, RecentFrames
from m3.clips.canvas import Canvas, Window
from m3.records import Clip, FramePair, Joints, Rejection
from m3.shards.staging import StagedClip
from m3.tokens.joints import JointCodec


class PairMiner(Protocol):
    """Finds the pairs of a clip."""

    def pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        """Pairs in order; the frames read last are the cheapest to read again."""


@dataclass(frozen=True)
class ClipPreparer:
    """Clip id → pairs, canvas pictures, joint tokens and captions; picklable, it goes to the workers."""

    source: ClipSource
    canvas: Canvas
    miner: PairMiner
    captioner: Captioner

    def __call__(self, clip_id: str) -> tuple[StagedClip, np.ndarray] | Rejection:
        """A clip without its picture tokens, and its (F, size, size, 3) uint8 pictures; or why it is not used."""
        try:
            clip = self.source.read(clip_id)
            if clip.joints is None:
                raise ClipError("no joints")
            return self._prepare(clip, clip.joints)
        except ClipError as error:
            return Rejection(clip_id, str(error))
        except (ValueError, OSError, MemoryError) as error:  # of a library, on a clip that no check foresaw
            return Rejection(clip_id, f"{type(error).__name__}: {error}")

    def _prepare(self, clip: Clip, source_joints: Joints) -> tuple[StagedClip, np.ndarray]:
        frames = RecentFrames(clip.frames)
        window = self.canvas.window(clip.size, source_joints)
        pairs, pictures = self._mine(frames, window)
        joints = window.joints(source_joints)
        used = sorted(pictures)
        coords = JointCodec(self.canvas.size).encode(joints.xy[used], joints.is_visible[used])  # (F, 3, 13)
        staged = StagedClip(
            clip=clip.id,
            action=clip.action,
            is_train=clip.is_train,
            notes=clip.notes,
            canvas={"mode": self.canvas.mode, "size": self.canvas.size, "window": _rectangle(window)},
            pose_extent_px=_pose_extent(joints),
            pairs=tuple(pairs),
            captions=self._captions(clip.action, pairs, pictures),
            frames=tuple(used),
            coords=coords,
        )
        return staged, np.stack([pictures[index] for index in used])

    def _captions(
        self, action: str | None, pairs: Sequence[FramePair], pictures: dict[int, np.ndarray]
    ) -> tuple[str | None, ...]:
        """One per pair."""
        references = list(dict.fromkeys(pair.reference for pair in pairs))
        shown = np.stack([pictures[index] for index in references]) if self.captioner.needs_pictures else None
        caption_of = dict(zip(references, self.captioner.captions(action, len(references), shown)))
        return tuple(caption_of[pair.reference] for pair in pairs)

    def _mine(self, frames: Sequence[np.ndarray], window: Window) -> tuple[list[FramePair], dict[int, np.ndarray]]:
        """The pairs, and the canvas pictures of the frames that occur in them."""
        pairs, pictures = [], {0: window.picture(frames[0])}
        for pair in self.miner.pairs(frames):
            pairs.append(pair)
            for index in (pair.reference, pair.successor):
                if index not in pictures:
                    pictures[index] = window.picture(frames[index])
        if not pairs:
            raise ClipError(f"no pair in its {len(frames)} frames: none differs enough from the first")
        used = {index for pair in pairs for index in (pair.reference, pair.successor)}
        return pairs, {index: pictures[index] for index in used}


def _pose_extent(joints: Joints) -> float:
    """Larger side of the box around all joints, visible or not, of all frames, in canvas pixels."""
    corners = joints.xy.max(axis=(0, 1)) - joints.xy.min(axis=(0, 1))  # (2,)
    return round(float(corners.max()), 6)


def _rectangle(window: Window) -> list[float]:
    return [window.left, window.top, window.width, window.height]


def prepare_clips(
    preparer: ClipPreparer, clip_ids: Iterable[str], num_workers: int
) -> Iterator[tuple[StagedClip, np.ndarray] | Rejection]:
    """What `preparer` makes of each clip, in order, with at most a few clips per worker in memory.

    num_workers: processes; 0 works in this one.
    """
    if num_workers == 0:
        yield from map(preparer, clip_ids)
        return
    waiting: deque = deque()
    with ProcessPoolExecutor(num_workers, mp_context=_worker_context(), initializer=_init_worker) as pool:
        try:
            for clip_id in clip_ids:
                waiting.append(pool.submit(preparer, clip_id))
                if len(waiting) > 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _worker_context() -> multiprocessing.context.BaseContext:
    """Workers must not be forked from a process that has run torch threads."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


def _init_worker() -> None:
    torch.set_num_threads(1)
