"""Label files with rendered pictures and generated clips as one source."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from m3.clips.demo import Demo
from m3.clips.poses import Poses
from m3.core.types import Clip

_POSES, _DEMO = "poses_", "demo_"


class PosesAndDemo:
    """The clips of `Poses`, then those of `Demo`, with "poses_" and "demo_" before their ids.

    Args:
        labels, max_clips, max_side: see `Poses`.
        root, num_clips, num_frames, height, width: see `Demo`.
        seed: of both.
        name: name of the data set, for the manifest and the default output folder.
    """

    def __init__(
        self,
        labels: str | Path,
        max_clips: int | None,
        max_side: int | None,
        root: str | Path,
        num_clips: int,
        num_frames: int,
        height: int,
        width: int,
        seed: int = 0,
        name: str = "poses_and_demo",
    ) -> None:
        self.name = name
        self._poses = Poses(labels, max_clips, max_side, seed)
        self._demo = Demo(root, num_clips, num_frames, height, width, seed)

    def __len__(self) -> int:
        return len(self._poses) + len(self._demo)

    def clip_ids(self) -> list[str]:
        poses = [_POSES + clip_id for clip_id in self._poses.clip_ids()]
        return poses + [_DEMO + clip_id for clip_id in self._demo.clip_ids()]

    def fingerprint(self) -> str:
        """sha256 over the fingerprints of both."""
        return hashlib.sha256(f"{self._poses.fingerprint()} {self._demo.fingerprint()}".encode()).hexdigest()

    def read(self, clip_id: str) -> Clip:
        if clip_id.startswith(_DEMO):
            return replace(self._demo.read(clip_id.removeprefix(_DEMO)), id=clip_id)
        return replace(self._poses.read(clip_id.removeprefix(_POSES)), id=clip_id)
