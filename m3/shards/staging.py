"""Clips whose tokens are ready but whose split is not yet known, one file each, so that a build can be resumed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3.records import FramePair, Rejection, TokenizedPair


@dataclass(frozen=True)
class StagedClip:
    """All pairs of one clip.

    clip, action, is_train, notes: as in the clip.
    canvas: mode, size in pixels, and the source rectangle it shows (left, top, width, height).
    pose_extent_px: see `records.PairInfo`.
    pairs: in order.
    captions: one per pair.
    frames: F indices of the frames that occur in pairs, ascending.
    coords: (F, 3, 13) uint16 tokens of their joints.
    pictures: (F, h, w) uint16 tokens of their pictures, once the tokenizer has seen them.
    """

    clip: str
    action: str | None
    is_train: bool | None
    notes: tuple[str, ...]
    canvas: dict[str, Any]
    pose_extent_px: float
    pairs: tuple[FramePair, ...]
    captions: tuple[str | None, ...]
    frames: tuple[int, ...]
    coords: np.ndarray
    pictures: np.ndarray | None = None

    def sample(self, index: int) -> TokenizedPair:
        """Pair `index` as it goes into a shard."""
        if self.pictures is None:
            raise ValueError(f"clip {self.clip} has no picture tokens yet")
        pair = self.pairs[index]
        reference, successor = self.frames.index(pair.reference), self.frames.index(pair.successor)
        return TokenizedPair(
            key=f"{self.clip}-{pair.reference:06d}",
            tokens={
                "tok_rgb": self.pictures[reference],
                "coords": self.coords[reference],
                "tok_rgb_next": self.pictures[successor],
                "coords_next": self.coords[successor],
            },
            caption=self.captions[index],
            meta={
                "clip": self.clip,
                **pair._asdict(),
                "action": self.action,
                "canvas": self.canvas,
                "pose_extent_px": self.pose_extent_px,
            },
        )


class Staging:
    """A folder of staged and rejected clips that belong to one `identity` (settings and fingerprints).

    What another identity left there is removed.
    """

    def __init__(self, root: Path, identity: dict[str, Any]) -> None:
        self.root = root
        self._clips = root / "clips"
        text = json.dumps(identity, indent=1, sort_keys=True)
        marker = root / "identity.json"
        if not marker.is_file() or marker.read_text(encoding="utf-8") != text:
            self.remove()
            self._clips.mkdir(parents=True)
            _replace(marker, text.encode("utf-8"))

    def __contains__(self, clip: str) -> bool:
        return self._path(clip).exists() or self._rejection_path(clip).exists()

    def add(self, clip: StagedClip | Rejection) -> None:
        if isinstance(clip, Rejection):
            _replace(self._rejection_path(clip.clip), json.dumps(asdict(clip)).encode("utf-8"))
            return
        fields = {name: value for name, value in vars(clip).items() if name not in ("coords", "pictures")}
        record = np.frombuffer(json.dumps(fields).encode("utf-8"), dtype=np.uint8)
        path = self._path(clip.clip)
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "wb") as file:
            np.savez(file, record=record, coords=clip.coords, pictures=clip.pictures)
        os.replace(temporary, path)

    def read(self, clip: str) -> StagedClip | Rejection:
        if self._rejection_path(clip).exists():
            return Rejection(**json.loads(self._rejection_path(clip).read_text(encoding="utf-8")))
        with np.load(self._path(clip), allow_pickle=False) as stored:
            fields = json.loads(stored["record"].tobytes().decode("utf-8"))
            coords, pictures = stored["coords"], stored["pictures"]
        fields["pairs"] = tuple(FramePair(*pair) for pair in fields["pairs"])
        for name in ("notes", "captions", "frames"):
            fields[name] = tuple(fields[name])
        return StagedClip(**fields, coords=coords, pictures=pictures)

    def remove(self) -> None:
        """Delete the folder."""
        if self.root.exists():
            shutil.rmtree(self.root)

    def _path(self, clip: str) -> Path:
        return self._clips / f"{clip}.npz"

    def _rejection_path(self, clip: str) -> Path:
        return self._clips / f"{clip}.rejected.json"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
