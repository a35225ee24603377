"""Penn Action label files with rendered pictures: for annotated motion whose video frames are not available."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from m3.clips.base import LazyFrames, check_frame_size, check_num_frames, evenly_spaced, replace_unencodable
from m3.clips.names import ids_from_paths
from m3.clips.penn_action import label_files, label_identity, read_label
from m3.core.joints import Joints
from m3.core.rng import numpy_generator
from m3.core.types import Clip
from m3.rendering.render import Scene, random_scene, render_frame


class RenderedFrames(LazyFrames):
    """Pictures of one clip's joints, rendered when indexed.

    Args:
        joints: joints in pixels of the rendered pictures.
        size: (height, width) of the pictures, pixels.
        seed, clip_id: determine body, clothes and background, which are the same in all frames.
    """

    def __init__(self, joints: Joints, size: tuple[int, int], seed: int, clip_id: str) -> None:
        self._joints = joints
        self._size = size
        self._seed = seed
        self._clip_id = clip_id

    def __len__(self) -> int:
        return len(self._joints.xy)

    def frame(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8. Raises ClipError for pictures that are too large."""
        check_frame_size(f"{self._clip_id}.mat", self._size)
        return render_frame(self._joints.xy[index], self._joints.is_visible[index], self._size, self._scene)

    @cached_property
    def _scene(self) -> Scene:
        """Sampled for the first picture: many uses of a clip need none."""
        return random_scene(
            numpy_generator(self._seed, "scene", self._clip_id), _feet_height(self._joints, self._size[0])
        )


class Poses:
    """Clips rendered from a folder of Penn Action label files.

    Args:
        labels: the folder with the `.mat` files.
        max_clips: use that many, evenly spaced over the sorted ids; None for all.
        max_side: longest side of the pictures, pixels; larger frame sizes are scaled down. None for no limit.
        seed: seed of bodies, clothes and backgrounds.
        name: name of the data set, for the manifest and the default output folder.

    Raises FileNotFoundError where the folder holds no label files.
    """

    def __init__(
        self,
        labels: str | Path,
        max_clips: int | None = None,
        max_side: int | None = None,
        seed: int = 0,
        name: str = "poses",
    ) -> None:
        if max_side is not None and max_side < 16:
            raise ValueError(f"source.max_side={max_side}: need at least 16 px, or null for no limit")
        self.labels = Path(labels)
        self.max_side = max_side
        self.seed = seed
        self.name = name
        named = ids_from_paths({path.stem: path.stem for path in label_files(self.labels)})
        if not named:
            raise FileNotFoundError(f"source.labels={labels}: no *.mat files there; give Penn Action's labels/ folder")
        self._names = {clip_id: named[clip_id] for clip_id in evenly_spaced(list(named), max_clips)}

    def __len__(self) -> int:
        return len(self._names)

    def clip_ids(self) -> list[str]:
        return list(self._names)

    def fingerprint(self) -> str:
        """sha256 over ids and label files."""
        digest = hashlib.sha256()
        for clip_id, name in self._names.items():
            digest.update(f"{clip_id}\n".encode() + label_identity(self.labels / f"{name}.mat"))
        return digest.hexdigest()

    def read(self, clip_id: str) -> Clip:
        name = self._names[clip_id]
        label = read_label(self.labels / f"{name}.mat")
        check_num_frames(f"{name}.mat", label.num_frames)
        size = self._render_size(label.size)
        factor = np.array([size[1] / label.size[1], size[0] / label.size[0]])  # along x and y
        joints = Joints(label.joints.xy * factor, label.joints.is_visible)
        return Clip(
            id=clip_id,
            frames=RenderedFrames(joints, size, self.seed, clip_id),
            size=size,
            joints=joints,
            action=label.action,
            is_train=label.is_train,
            notes=tuple(map(replace_unencodable, label.notes)),
        )

    def _render_size(self, size: tuple[int, int]) -> tuple[int, int]:
        longest = max(size)
        if self.max_side is None or longest <= self.max_side:
            return size
        return max(1, round(size[0] * self.max_side / longest)), max(1, round(size[1] * self.max_side / longest))


def _feet_height(joints: Joints, height: int) -> float:
    """Median over frames of the lowest visible joint, as a fraction of the height: 0 top … 1 bottom."""
    y = np.where(joints.is_visible, joints.xy[..., 1], -np.inf).max(axis=1)  # (T,)
    is_seen = y >= 0
    return float(np.median(y[is_seen]) / height) if is_seen.any() else 0.85
