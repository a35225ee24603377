"""Clips whose tokens are ready but whose split is not yet known, one file each, so that a build can be resumed."""

from __future__ import annotations

import hashlib
import json
import shutil
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from m3.clips.names import is_clip_id
from m3.core.files import write_atomic, write_text_atomic
from m3.core.modalities import frame_of
from m3.core.types import FramePair, Rejection, TokenizedPair
from m3.shards.meta import pair_meta


@dataclass(frozen=True)
class Unreadable(Rejection):
    """A rejection whose cause may be repaired (a file, a disk, memory): a resumed build tries the clip again."""


@dataclass(frozen=True)
class StagedClip:
    """All pairs of one clip.

    clip, action, is_train, notes, fps, video, is_eval: as in the clip.
    has_joints: False for a clip without annotations, which has no tokens of joints.
    canvas: mode, size in pixels, and the source rectangle it shows (left, top, width, height).
    pose_extent_px: see `m3.core.types.PairInfo`.
    pairs: in order.
    captions: one per pair.
    frames: F indices of the frames that occur in pairs, ascending.
    tokens: of these frames, each (F, …) uint16: "tok_rgb" and "coords", where they are stored and the clip has them,
        and their mirror images "tok_rgb.flip" and "coords.flip".
    """

    clip: str
    action: str | None
    is_train: bool | None
    notes: tuple[str, ...]
    has_joints: bool
    canvas: dict[str, Any]
    pose_extent_px: float | None
    pairs: tuple[FramePair, ...]
    captions: tuple[str | None, ...]
    frames: tuple[int, ...]
    tokens: dict[str, np.ndarray]
    fps: float | None = None
    video: str | None = None
    is_eval: bool = False

    def sample(self, index: int, members: Sequence[str]) -> TokenizedPair:
        """Pair `index` as it goes into a shard, with those of these token members ("coords_next", "tok_rgb_prev.flip",
        …) that it has: none of joints in a clip without them, none of a previous frame at the clip's start."""
        pair, caption, tokens = self.pairs[index], self.captions[index], {}
        frames = {-1: pair.previous, 0: pair.reference, 1: pair.successor}
        for member in members:
            modality, dot, variant = member.partition(".")
            kind, place = frame_of(modality)
            if (frame := frames[place]) is None or (kind == "coords" and not self.has_joints):
                continue
            of_frames = self.tokens[kind + dot + variant]  # (F, …)
            tokens[member] = of_frames[bisect_left(self.frames, frame)]
        return TokenizedPair(
            key=f"{self.clip}-{pair.reference:06d}",
            tokens=tokens,
            captions=() if caption is None else (caption,),
            meta=pair_meta(pair, self.clip, self.action, self.canvas, self.pose_extent_px, self.fps),
        )


_MARKER = "identity.json"


def _marker_text(identity: dict[str, Any]) -> str:
    return json.dumps(identity, indent=1, sort_keys=True)


def _belongs_to(root: Path, identity: dict[str, Any]) -> bool:
    marker = root / _MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == _marker_text(identity)


class Staging:
    """A folder of staged and rejected clips that belong to one `identity` (settings and fingerprints).

    Files of another identity are removed, and so are the unreadable clips of an earlier run, to be tried again.
    """

    def __init__(self, root: Path, identity: dict[str, Any]) -> None:
        self.root = root
        self._clips = root / "clips"
        if not _belongs_to(root, identity):
            self._clear()
            self._clips.mkdir(parents=True)
            write_text_atomic(root / _MARKER, _marker_text(identity))
        for path in self._clips.glob("*.unreadable.json"):
            path.unlink()

    names = ("clips", _MARKER)
    """Names in the folder besides the parts of the data set."""

    @staticmethod
    def discard(root: Path, identity: dict[str, Any]) -> None:
        """Delete the folder if it belongs to this identity."""
        if _belongs_to(root, identity):
            shutil.rmtree(root)

    def __contains__(self, clip: str) -> bool:
        return any(path.exists() for path in (self._path(clip), *self._rejection_paths(clip)))

    def add(self, clip: StagedClip | Rejection) -> None:
        if isinstance(clip, Rejection):
            path = self._rejection_paths(clip.clip)[isinstance(clip, Unreadable)]
            write_text_atomic(path, json.dumps(asdict(clip)))
            return
        fields = {name: value for name, value in vars(clip).items() if name != "tokens"}
        content = BytesIO()
        record = np.frombuffer(json.dumps(fields).encode("utf-8"), dtype=np.uint8)
        arrays: dict[str, Any] = {"record": record, **clip.tokens}
        np.savez(content, **arrays)
        write_atomic(self._path(clip.clip), content.getvalue())

    def read(self, clip: str) -> StagedClip | Rejection:
        """The clip as it was added. Raises ValueError where its file is damaged."""
        path = next((path for path in self._rejection_paths(clip) if path.exists()), self._path(clip))
        try:
            if path != self._path(clip):
                return Rejection(**json.loads(path.read_text(encoding="utf-8")))
            with np.load(path, allow_pickle=False) as stored:
                fields = json.loads(stored["record"].tobytes().decode("utf-8"))
                tokens = {name: stored[name] for name in stored.files if name != "record"}
            fields["pairs"] = tuple(FramePair(*pair) for pair in fields["pairs"])
            for name in ("notes", "captions", "frames"):
                fields[name] = tuple(fields[name])
            return StagedClip(**fields, tokens=tokens)
        except Exception as error:  # zip, header, JSON and type errors of all kinds
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}: damaged ({reason}); delete it and run the same command again") from error

    def num_bytes(self) -> int:
        """Size of all staged clips."""
        return sum(path.stat().st_size for path in self._clips.iterdir())

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.root)

    def _clear(self) -> None:
        """Delete the content of the folder; the folder itself is locked."""
        for path in self.root.iterdir() if self.root.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _path(self, clip: str) -> Path:
        return self._clips / f"{_stem(clip)}.npz"

    def _rejection_paths(self, clip: str) -> tuple[Path, Path]:
        return self._clips / f"{_stem(clip)}.rejected.json", self._clips / f"{_stem(clip)}.unreadable.json"


def _stem(clip: str) -> str:
    """The name of a clip's file: its id, or for a text that is none, and is rejected, its sha256."""
    if is_clip_id(clip):
        return clip
    return hashlib.sha256(clip.encode(errors="surrogatepass")).hexdigest()
