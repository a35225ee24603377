"""Training pictures for a tokenizer: poses of label files and generated motion, drawn by m3's renderer."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from m3.batches.datamodule import ResumableLoader
from m3.clips.canvas import CropCanvas
from m3.clips.demo import demo_clip
from m3.clips.poses import Poses
from m3.core.files import atomic_file
from m3.core.progress import track
from m3.core.rng import numpy_generator

_DEMO_LENGTH = 30  # frames of a generated clip, of which random ones are used
_JOBS_WORTH_A_PROCESS = 200
_HELD_OUT = 10  # every tenth label file is used for evaluation only


def held_out(clip_ids: Sequence[str]) -> list[str]:
    """The evaluation clips among the sorted clips of a folder: every tenth."""
    return list(clip_ids[::_HELD_OUT])


def pose_frames(labels: str, clip_id: str, seed: int, num_frames: int, size: int) -> np.ndarray:
    """(num_frames, size, size, 3) uint8 pictures of random frames of one label file, as drawn by `source=poses`."""
    clip = Poses(labels, seed=seed).read(clip_id)
    chosen = numpy_generator(seed, "frames", clip_id).choice(len(clip.frames), num_frames)
    frames = [clip.frames[int(t)] for t in np.sort(chosen)]
    window = CropCanvas(size).window(frames[0].shape[:2])
    return np.stack([window.picture(frame) for frame in frames])


def demo_frames(number: int, seed: int, num_frames: int, size: int) -> np.ndarray:
    """(num_frames, size, size, 3) uint8 pictures of random frames of one generated clip."""
    clip = demo_clip(seed, number, _DEMO_LENGTH, (size, size))
    chosen = numpy_generator(seed, "frames", number).choice(_DEMO_LENGTH, num_frames)
    return np.stack([clip.render(int(t), (size, size)) for t in np.sort(chosen)])


def resized(frames: Tensor, size: int) -> Tensor:
    """(B, 3, H, H) uint8 → (B, 3, size, size) uint8, antialiased."""
    if frames.shape[-1] == size:
        return frames
    pixels = F.interpolate(frames.float(), (size, size), mode="bicubic", antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8)


class TrainFrames(Dataset):
    """Item i is the batch of step i, (B, 3, size, size) uint8: frames scaled or cropped to one size, half mirrored.

    Size, crop and mirroring are drawn per step; B is chosen for about `pixels_per_batch` pixels per step.
    """

    def __init__(self, frames: np.ndarray, canvas_sizes: Sequence[int], pixels_per_batch: int, steps: int, seed: int):
        self.frames, self.canvas_sizes = frames, list(canvas_sizes)
        self.pixels_per_batch, self.steps, self.seed = pixels_per_batch, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Tensor:
        rng = numpy_generator(self.seed, "step", step)
        size = int(rng.choice(self.canvas_sizes))
        rows = rng.integers(len(self.frames), size=max(1, self.pixels_per_batch // size**2))
        frames = torch.from_numpy(self.frames[rows]).permute(0, 3, 1, 2)
        room = self.frames.shape[1] - size
        if rng.uniform() < 0.5:
            frames = resized(frames, size)
        else:
            top, left = rng.integers(room + 1, size=2)
            frames = frames[:, :, top : top + size, left : left + size]
        return frames.flip(-1) if rng.uniform() < 0.5 else frames


class EvalFrames(Dataset):
    """All frames in order, once per size, in batches (8, 3, size, size) uint8; the last one may be smaller."""

    def __init__(self, frames: np.ndarray, sizes: Sequence[int], batch_size: int = 8) -> None:
        self.frames = frames
        self.batches = [(size, first) for size in sizes for first in range(0, len(frames), batch_size)]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Tensor:
        size, first = self.batches[index]
        return resized(torch.tensor(self.frames[first : first + self.batch_size]).permute(0, 3, 1, 2), size)


class RenderedFrames(pl.LightningDataModule):
    """Renders all frames once into `root`, and serves batches that are a pure function of (seed, step).

    Args:
        root: folder for the rendered frames, about 200 kB each at 256 px.
        labels: folder of Penn Action label files, every tenth for evaluation only; None for generated motion only.
        looks_per_clip: number of appearances (body, background) per label file. frames_per_look: frames of each.
        num_demo_clips: number of generated training clips, with `frames_per_look` frames each.
        size: side of the rendered frames, px. canvas_sizes: sides of training pictures, multiples of 16 up to `size`.
        pixels_per_batch: approximate height · width · frames of a batch.
        steps: number of training batches.
        seed: of frames, appearances and order.

    Raises FileNotFoundError where `labels` has no label files, ValueError for impossible sizes and without any clips.
    """

    def __init__(
        self,
        root: str,
        labels: str | None,
        looks_per_clip: int,
        frames_per_look: int,
        num_demo_clips: int,
        size: int,
        canvas_sizes: Sequence[int],
        pixels_per_batch: int,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        wrong = [side for side in canvas_sizes if side % 16 or not 16 <= side <= size]
        if wrong or not canvas_sizes:
            raise ValueError(f"data.canvas_sizes={list(canvas_sizes)}: need multiples of 16, at most data.size={size}")
        self.root, self.labels, self.size = Path(root), labels, size
        self.looks_per_clip, self.frames_per_look, self.num_demo_clips = looks_per_clip, frames_per_look, num_demo_clips
        self.canvas_sizes, self.pixels_per_batch = list(canvas_sizes), pixels_per_batch
        self.steps, self.seed = steps, seed
        self.clip_ids = [] if labels is None else Poses(labels).clip_ids()
        if not self.clip_ids and not num_demo_clips:
            raise ValueError("data.labels=null and data.num_demo_clips=0: nothing to train on")

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that the rendered frames and their order depend on."""
        return {
            "clips": hashlib.sha256("\n".join(self.clip_ids).encode()).hexdigest(),
            "looks_per_clip": self.looks_per_clip,
            "frames_per_look": self.frames_per_look,
            "num_demo_clips": self.num_demo_clips,
            "size": self.size,
            "seed": self.seed,
        }

    def setup(self, stage: str | None = None) -> None:
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.train_frames = self._rendered(f"train-{key}.npy", self._train_jobs)
        self.eval_frames = self._rendered(f"eval-{key}.npy", self._eval_jobs)

    def _train_jobs(self) -> list[tuple]:
        excluded = set(held_out(self.clip_ids))
        ids = [clip_id for clip_id in self.clip_ids if clip_id not in excluded]
        looks = range(self.seed + 1, self.seed + 1 + self.looks_per_clip)
        poses = [(pose_frames, self.labels, i, look, self.frames_per_look, self.size) for look in looks for i in ids]
        demo = [(demo_frames, k, self.seed + 1, self.frames_per_look, self.size) for k in range(self.num_demo_clips)]
        return poses + demo

    def _eval_jobs(self) -> list[tuple]:
        poses = [(pose_frames, self.labels, i, self.seed, 1, self.size) for i in held_out(self.clip_ids)]
        return poses or [(demo_frames, k, self.seed, 1, self.size) for k in range(96)]

    def _rendered(self, name: str, jobs: Callable[[], list[tuple]]) -> np.ndarray:
        """(N, size, size, 3) uint8, memory-mapped; rendered first if the file is missing."""
        path = self.root / name
        if not path.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            frames = _render(jobs(), f"rendering {path}")
            with atomic_file(path) as file:
                np.save(file, frames, allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def train_dataloader(self) -> ResumableLoader:
        batches = TrainFrames(self.train_frames, self.canvas_sizes, self.pixels_per_batch, self.steps, self.seed)
        return ResumableLoader(batches, num_workers=0, pin_memory=False)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(EvalFrames(self.eval_frames, (self.size // 2, self.size)), batch_size=None)


def _render(jobs: list[tuple], description: str) -> np.ndarray:
    """The concatenated frames of all jobs, in order; several processes where there are enough jobs."""
    if len(jobs) < _JOBS_WORTH_A_PROCESS:
        return np.concatenate([_run(job) for job in jobs])
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return np.concatenate(list(track(pool.map(_run, jobs, chunksize=8), len(jobs), description)))


def _run(job: tuple) -> np.ndarray:
    function, *arguments = job
    return function(*arguments)
