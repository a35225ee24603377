"""The work on a clip that needs neither tokenizer nor captioner and can run in worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from m3.clips.base import ClipError, ClipSource, DamagedFrame, FrameCache, check_clip_id, first_frames, frames_before
from m3.clips.canvas import Canvas, Window
from m3.core.joints import Joints, mirror_joints, pose_extent
from m3.core.modalities import frame_of
from m3.core.types import Clip, FramePair, Rejection
from m3.preprocessing.staging import StagedClip, Unreadable
from m3.shards.manifest import PAIR_MODALITIES
from m3.tokens.joints import JointCodec

MAX_BYTES_OF_PICTURES = 32 * 2**20
"""Upper bound for the canvas pictures in a prepared clip, so that memory does not grow with the length of clips."""


class PairMiner(Protocol):
    """Finds the pairs of a clip.

    needs_pictures: False where it depends only on the number of frames.
    """

    needs_pictures: bool

    def pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        """Pairs in order; the frames read last are the cheapest to read again."""
        ...


@dataclass(frozen=True)
class PreparedClip:
    """A clip without picture tokens and captions.

    staged: the clip without these.
    num_frames: T of the clip.
    shown: indices of the frames whose pictures are needed, ascending.
    pictures: frame index → canvas picture, (size, size, 3) uint8, for the first of them; `ClipPreparer.pictures` reads
        the others again.
    """

    staged: StagedClip
    num_frames: int
    shown: tuple[int, ...] = ()
    pictures: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipPreparer:
    """Clip id → pairs, joint tokens and canvas pictures. Picklable, for worker processes.

    modalities: names of the stored modalities of a pair; those of the previous frame need `has_history`.
    has_flip: also make the tokens of the mirrored joints.
    is_captioned_by_sight: the captioner needs the pictures of reference frames, even if no picture tokens are stored.
    has_history: keep the previous frame of each pair, as the miner found it.
    """

    source: ClipSource
    canvas: Canvas
    miner: PairMiner
    modalities: Sequence[str] = PAIR_MODALITIES
    has_flip: bool = False
    is_captioned_by_sight: bool = False
    has_history: bool = True

    def __call__(self, clip_id: str) -> PreparedClip | Rejection:
        """The clip, or why it is not used."""
        try:
            check_clip_id(clip_id)
            clip = self.source.read(clip_id)
            while True:
                try:
                    return self._prepare(clip)
                except DamagedFrame as damage:
                    clip = frames_before(clip, damage)
        except Exception as error:  # raised by a library for a clip that passed all checks
            return Unreadable(clip_id, _reason(error))

    @property
    def modules(self) -> list[str]:
        """Names of the modules of its parts."""
        return sorted({type(part).__module__ for part in (self.source, self.canvas, self.miner)})

    def pictures(self, prepared: PreparedClip) -> Iterator[tuple[int, np.ndarray]]:
        """Index and canvas picture, (size, size, 3) uint8, of all frames in `shown`, in order.

        Pictures that the clip does not carry are read again, one frame at a time. Raises ClipError where that fails.
        """
        try:
            if all(index in prepared.pictures for index in prepared.shown):
                yield from ((index, prepared.pictures[index]) for index in prepared.shown)
                return
            clip = first_frames(self.source.read(prepared.staged.clip), prepared.num_frames)
            window = self.canvas.window(clip.size, clip.joints)
            for index in prepared.shown:
                held = prepared.pictures.get(index)
                yield index, window.picture(clip.frames[index]) if held is None else held
        except Exception as error:
            raise ClipError(_reason(error)) from error

    def stores(self, kind: str) -> bool:
        """Whether a modality of this kind ("tok_rgb", "coords"), of any frame of a pair, is stored."""
        return any(frame_of(name)[0] == kind for name in self.modalities)

    def _prepare(self, clip: Clip) -> PreparedClip | Rejection:
        if clip.joints is None and not self.stores("tok_rgb"):
            return Rejection(clip.id, "no joints, and without picture tokens there is nothing else to store")
        window = self.canvas.window(clip.size, clip.joints)
        pairs, pictures = self._mine(clip, window)
        if not pairs:
            return Rejection(clip.id, "; ".join((self._no_pair(len(clip.frames)), *clip.notes)))
        if not self.has_history:
            pairs = [pair._replace(previous=None) for pair in pairs]
        frames = self._stored_frames(pairs)
        shown = self._shown(pairs, frames)
        joints = None if clip.joints is None else window.joints(clip.joints)
        staged = StagedClip(
            clip=clip.id,
            action=clip.action,
            is_train=clip.is_train,
            notes=clip.notes,
            has_joints=joints is not None,
            canvas={"mode": self.canvas.mode, "size": self.canvas.size, "window": _rectangle(window)},
            pose_extent_px=None if joints is None else pose_extent(joints),
            pairs=tuple(pairs),
            captions=(),
            frames=tuple(frames),
            tokens=self._joint_tokens(joints, frames) if joints is not None and self.stores("coords") else {},
            fps=clip.fps,
            video=clip.video,
            is_eval=clip.is_eval,
        )
        return PreparedClip(staged, len(clip.frames), shown, self._carried(clip, window, shown, pictures))

    def _no_pair(self, num_frames: int) -> str:
        if num_frames > 1 and self.miner.needs_pictures:
            return f"no pair in its {num_frames} frames: none differs enough from the first"
        return f"no pair: too few frames ({num_frames})"

    def _mine(self, clip: Clip, window: Window) -> tuple[list[FramePair], dict[int, np.ndarray]]:
        """The pairs, and the pictures of those of their frames that need not be decoded again."""
        if not self.miner.needs_pictures:
            return list(self.miner.pairs(clip.frames)), {}
        frames, pairs, pictures = FrameCache(clip.frames), [], {}

        def take(index: int) -> None:
            if index not in pictures and len(pictures) < self._max_pictures and frames.is_cached(index):
                pictures[index] = window.picture(frames[index])

        needs_all = self.stores("tok_rgb")
        needs_any = needs_all or self.is_captioned_by_sight
        if needs_any:
            frames[0]  # the first reference, which is then in the cache
            take(0)
        for pair in self.miner.pairs(frames):
            pairs.append(pair)
            if needs_any:
                take(pair.reference)
            if needs_all:
                take(pair.successor)
        return pairs, pictures

    def _stored_frames(self, pairs: Sequence[FramePair]) -> list[int]:
        """Indices of the frames of which tokens are stored, ascending."""
        frames = {index for pair in pairs for index in (pair.reference, pair.successor)}
        if any(frame_of(name)[1] == -1 for name in self.modalities):
            frames |= {pair.previous for pair in pairs if pair.previous is not None}
        return sorted(frames)

    def _shown(self, pairs: Sequence[FramePair], frames: Sequence[int]) -> tuple[int, ...]:
        if self.stores("tok_rgb"):
            return tuple(frames)
        return tuple(sorted({pair.reference for pair in pairs})) if self.is_captioned_by_sight else ()

    def _carried(
        self, clip: Clip, window: Window, shown: Sequence[int], pictures: dict[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """The `pictures` of shown frames, and those of further shown frames up to the upper bound."""
        pictures = {index: pictures[index] for index in shown if index in pictures}
        for index in shown:
            if len(pictures) >= self._max_pictures:
                break
            if index not in pictures:
                pictures[index] = window.picture(clip.frames[index])
        return pictures

    @property
    def _max_pictures(self) -> int:
        return max(1, MAX_BYTES_OF_PICTURES // (3 * self.canvas.size**2))

    def _joint_tokens(self, joints: Joints, frames: Sequence[int]) -> dict[str, np.ndarray]:
        """ "coords", and "coords.flip" with `has_flip`: (F, 3, 13) uint16."""
        names = ("coords", "coords.flip") if self.has_flip else ("coords",)
        codec, tokens = JointCodec(self.canvas.size), {}
        for name, seen in zip(names, (joints, mirror_joints(joints, self.canvas.size))):
            tokens[name] = codec.encode(seen.xy[frames], seen.is_visible[frames])
        return tokens


def _reason(error: Exception) -> str:
    """The message without folders: manifests hold no paths."""
    if isinstance(error, ClipError):
        return str(error)
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return f"{os.path.basename(error.filename)}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


def _rectangle(window: Window) -> list[float]:
    return [float(side) for side in (window.left, window.top, window.width, window.height)]
