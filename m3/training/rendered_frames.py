"""Training pictures for a tokenizer: poses of labels and generated motion, drawn by m3's renderer, and photographs.

A training item is a pair of frames of one clip, a few frames apart, so that a tokenizer can learn to give the same
tokens to what did not move.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from m3.batches.datamodule import ResumableLoader
from m3.clips.canvas import Canvas, CropCanvas, ZoomCanvas
from m3.clips.demo import demo_clip
from m3.clips.poses import Poses
from m3.core.files import atomic_file
from m3.core.joints import Joints
from m3.core.progress import track
from m3.core.rng import numpy_generator
from m3.core.validation import check

PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
"""Pictures that scikit-image brings along, all free of rights."""

_DEMO_LENGTH = 20  # frames of a generated clip, of which random ones are used
_MAX_GAP = 4  # frames from the first to the second of a pair
_JOBS_WORTH_A_PROCESS = 200
_HELD_OUT = 10  # every tenth label file is used for evaluation only
_BOX_MARGIN = 0.1  # around the visible joints, in sides of the square that holds them


def held_out(clip_ids: Sequence[str]) -> list[str]:
    """The evaluation clips among the sorted clips of a folder: every tenth."""
    return list(clip_ids[::_HELD_OUT])


class FramePair(NamedTuple):
    """Two frames of a clip.

    frames: (2, size, size, 3) uint8.
    boxes: (2, 4) float32 left, top, right, bottom in sides of the picture: `person_box` of each.
    """

    frames: np.ndarray
    boxes: np.ndarray


def person_box(joints: Joints, frame: int, size: int) -> np.ndarray:
    """(4,) float32 left, top, right, bottom of the visible joints with a margin, 0 … 1; zeros where none is visible.

    joints: in pixels of a picture of `size` × `size`.
    """
    seen = joints.xy[frame][joints.is_visible[frame]] / size  # (N, 2)
    if not len(seen):
        return np.zeros(4, np.float32)
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = _BOX_MARGIN * (high - low).max()
    return np.concatenate([low - margin, high + margin]).clip(0, 1).astype(np.float32)


def pose_pair(labels: str, clip_id: str, seed: int, canvas: Canvas) -> FramePair:
    """Two frames of one label file, as drawn by `source=poses`; a clip of one frame gives it twice."""
    clip = Poses(labels, seed=seed).read(clip_id)
    first, second = _frame_numbers(len(clip.frames), seed, clip_id)
    assert clip.joints is not None  # a label file has them
    window = canvas.window(clip.size, clip.joints)
    joints = window.joints(clip.joints)
    return FramePair(
        np.stack([window.picture(clip.frames[t]) for t in (first, second)]),
        np.stack([person_box(joints, t, canvas.size) for t in (first, second)]),
    )


def demo_pair(number: int, seed: int, canvas: Canvas) -> FramePair:
    """Two frames of one generated clip."""
    size = (canvas.size, canvas.size)
    clip = demo_clip(seed, number, _DEMO_LENGTH, size)
    window = canvas.window(size, clip.joints)
    joints, numbers = window.joints(clip.joints), _frame_numbers(_DEMO_LENGTH, seed, str(number))
    return FramePair(
        np.stack([window.picture(clip.render(t, size)) for t in numbers]),
        np.stack([person_box(joints, t, canvas.size) for t in numbers]),
    )


def photograph_pair(name: str, number: int, seed: int, canvas: Canvas) -> FramePair:
    """A random square of a photograph, twice, without a person's box."""
    photograph = np.atleast_3d(getattr(skimage.data, name)())[..., :3]
    picture = np.ascontiguousarray(np.broadcast_to(photograph, (*photograph.shape[:2], 3)))
    rng = numpy_generator(seed, "photograph", name, number)
    height, width = picture.shape[:2]
    side = int(rng.integers(min(height, width) // 3, min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    square = Image.fromarray(picture[top : top + side, left : left + side])
    frame = np.asarray(square.resize((canvas.size, canvas.size), Image.Resampling.BICUBIC))
    return FramePair(np.stack([frame, frame]), np.zeros((2, 4), np.float32))


def _frame_numbers(num_frames: int, seed: int, clip_id: str) -> tuple[int, int]:
    rng = numpy_generator(seed, "frames", clip_id)
    gap = min(int(rng.integers(1, _MAX_GAP + 1)), num_frames - 1)
    first = int(rng.integers(num_frames - gap))
    return first, first + gap


def resized(frames: Tensor, size: int) -> Tensor:
    """(B, 3, H, H) uint8 → (B, 3, size, size) uint8, antialiased."""
    if frames.shape[-1] == size:
        return frames
    pixels = F.interpolate(frames.float(), (size, size), mode="bicubic", antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8)


class TrainPairs(NamedTuple):
    """A batch for the tokenizer's training.

    frames: (B, 3, H, W) uint8.
    neighbors: (B, 3, H, W) uint8, frames of the same clips, close in time, noisier.
    boxes: (B, 4) float32 left, top, right, bottom of the person in `frames`, pixels; zeros where nobody is seen.
    """

    frames: Tensor
    neighbors: Tensor
    boxes: Tensor


class TrainFrames(Dataset):
    """Item i is the batch of step i: pairs scaled or cropped to one size, half mirrored, a quarter brighter or darker.

    Size, crop, mirroring, brightness and noise are drawn per step; B is chosen for about `pixels_per_batch` pixels.
    Half of the neighbors are as a video codec leaves them (JPEG), all have noise of a camera.

    pairs: (N, 2, S, S, 3) uint8. boxes: (N, 2, 4) float32 in sides of the picture.
    """

    def __init__(
        self,
        pairs: np.ndarray,
        boxes: np.ndarray,
        canvas_sizes: Sequence[int],
        pixels_per_batch: int,
        steps: int,
        seed: int,
    ) -> None:
        self.pairs, self.boxes, self.canvas_sizes = pairs, boxes, list(canvas_sizes)
        self.pixels_per_batch, self.steps, self.seed = pixels_per_batch, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> TrainPairs:
        rng = numpy_generator(self.seed, "step", step)
        size = int(rng.choice(self.canvas_sizes))
        rows = rng.integers(len(self.pairs), size=max(1, self.pixels_per_batch // size**2))
        order = int(rng.integers(2))  # which of the two is the one that is reconstructed
        frames, neighbors = (torch.from_numpy(self.pairs[rows, k]).permute(0, 3, 1, 2) for k in (order, 1 - order))
        side = self.pairs.shape[2]
        boxes = torch.from_numpy(self.boxes[rows, order])
        if rng.uniform() < 0.5:
            frames, neighbors, boxes = resized(frames, size), resized(neighbors, size), boxes * size
        else:
            top, left = rng.integers(side - size + 1, size=2)
            frames, neighbors = (each[:, :, top : top + size, left : left + size] for each in (frames, neighbors))
            boxes = (boxes * side - torch.tensor([left, top, left, top])).clamp(0, size)
        if rng.uniform() < 0.5:
            frames, neighbors = frames.flip(-1), neighbors.flip(-1)
            boxes = torch.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], dim=1)
        if rng.uniform() < 0.25:
            gain = torch.from_numpy(rng.uniform(0.85, 1.15, size=(len(rows), 1, 1, 1))).float()
            frames, neighbors = ((each * gain).clamp(0, 255).byte() for each in (frames, neighbors))
        return TrainPairs(frames, _filmed(neighbors, rng), boxes)


def _filmed(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, 3, H, W) uint8 with noise of a camera and, half of them, of a codec."""
    noise = rng.standard_normal(tuple(frames.shape), np.float32) * np.float32(rng.uniform(0, 3))
    noisy = (frames + torch.from_numpy(noise)).round().clamp(0, 255).byte()
    pictures = noisy.permute(0, 2, 3, 1).numpy()
    coded = [_coded(picture, int(rng.integers(70, 96))) if rng.uniform() < 0.5 else picture for picture in pictures]
    return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2)


def _coded(picture: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, 3) uint8 as it is after JPEG compression."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


class EvalFrames(Dataset):
    """The first frames of all pairs in order, once per size, as batches of up to 8 `TrainPairs` without noise."""

    def __init__(self, pairs: np.ndarray, boxes: np.ndarray, sizes: Sequence[int], batch_size: int = 8) -> None:
        self.pairs, self.boxes = pairs, boxes
        self.batches = [(size, first) for size in sizes for first in range(0, len(pairs), batch_size)]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> TrainPairs:
        size, first = self.batches[index]
        rows = slice(first, first + self.batch_size)
        frames, neighbors = (resized(torch.tensor(self.pairs[rows, k]).permute(0, 3, 1, 2), size) for k in (0, 1))
        return TrainPairs(frames, neighbors, torch.tensor(self.boxes[rows, 0]) * size)


class RenderedFrames(pl.LightningDataModule):
    """Renders all pairs once into `root`, and serves batches that are a pure function of (seed, step).

    A label file is drawn on two canvases, `crop` and `zoom`, a generated clip on `zoom`.

    Args:
        root: folder for the rendered pairs, about 400 kB each at 256 px.
        labels: folder of Penn Action label files, every tenth for evaluation only; None for generated motion only.
        looks_per_clip: number of appearances (body, background) per label file and canvas.
        num_demo_clips: number of generated training clips.
        num_photographs: squares of photographs.
        size: side of the rendered frames, px. canvas_sizes: sides of training pictures, multiples of 16 up to `size`.
        pixels_per_batch: approximate height · width · frames of a batch.
        steps: number of training batches.
        seed: of frames, appearances and order.
        num_workers: processes that prepare batches; 0 for none, 12 feed a large GPU.

    Raises FileNotFoundError where `labels` has no label files, ValueError for impossible sizes and without any clips.
    """

    def __init__(
        self,
        root: str,
        labels: str | None,
        looks_per_clip: int,
        num_demo_clips: int,
        num_photographs: int,
        size: int,
        canvas_sizes: Sequence[int],
        pixels_per_batch: int,
        steps: int,
        seed: int,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check("data.num_workers", num_workers, int, low=0)
        wrong = [side for side in canvas_sizes if side % 16 or not 16 <= side <= size]
        if wrong or not canvas_sizes:
            raise ValueError(f"data.canvas_sizes={list(canvas_sizes)}: need multiples of 16, at most data.size={size}")
        self.root, self.labels, self.size = Path(root), labels, size
        self.looks_per_clip, self.num_demo_clips = looks_per_clip, num_demo_clips
        self.num_photographs = num_photographs
        self.canvas_sizes, self.pixels_per_batch = list(canvas_sizes), pixels_per_batch
        self.steps, self.seed, self.num_workers = steps, seed, num_workers
        self.clip_ids = [] if labels is None else Poses(labels).clip_ids()
        if not self.clip_ids and not num_demo_clips:
            raise ValueError("data.labels=null and data.num_demo_clips=0: nothing to train on")

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that the rendered frames and their order depend on."""
        return {
            "clips": hashlib.sha256("\n".join(self.clip_ids).encode()).hexdigest(),
            "looks_per_clip": self.looks_per_clip,
            "num_demo_clips": self.num_demo_clips,
            "num_photographs": self.num_photographs,
            "size": self.size,
            "seed": self.seed,
        }

    def setup(self, stage: str | None = None) -> None:
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.train_pairs = self._rendered(f"train-{key}", self._train_jobs)
        self.eval_pairs = self._rendered(f"eval-{key}", self._eval_jobs)

    def _train_jobs(self) -> list[tuple]:
        excluded = set(held_out(self.clip_ids))
        ids = [clip_id for clip_id in self.clip_ids if clip_id not in excluded]
        canvases = CropCanvas(self.size), ZoomCanvas(self.size)
        looks = range(self.seed + 1, self.seed + 1 + self.looks_per_clip)
        appearances = [(2 * look + k, canvas) for look in looks for k, canvas in enumerate(canvases)]
        poses = [(pose_pair, self.labels, i, look, canvas) for look, canvas in appearances for i in ids]
        demo = [(demo_pair, k, self.seed + 1, canvases[1]) for k in range(self.num_demo_clips)]
        numbered = [(PHOTOGRAPHS[k % len(PHOTOGRAPHS)], k) for k in range(self.num_photographs)]
        return poses + demo + [(photograph_pair, name, k, self.seed, canvases[0]) for name, k in numbered]

    def _eval_jobs(self) -> list[tuple]:
        canvas = ZoomCanvas(self.size)
        poses = [(pose_pair, self.labels, i, self.seed, canvas) for i in held_out(self.clip_ids)]
        return poses or [(demo_pair, k, self.seed, canvas) for k in range(96)]

    def _rendered(self, name: str, jobs: Callable[[], list[tuple]]) -> FramePair:
        """(N, 2, size, size, 3) uint8, memory-mapped, and (N, 2, 4) float32; rendered first if a file is missing."""
        paths = self.root / f"{name}-boxes.npy", self.root / f"{name}.npy"
        if not all(path.exists() for path in paths):
            self.root.mkdir(parents=True, exist_ok=True)
            pairs = _render(jobs(), f"rendering {paths[1]}")
            for path, part in zip(paths, ("boxes", "frames")):
                with atomic_file(path) as file:
                    np.save(file, np.stack([getattr(pair, part) for pair in pairs]), allow_pickle=False)
        boxes, frames = paths
        return FramePair(np.load(frames, mmap_mode="r", allow_pickle=False), np.load(boxes, allow_pickle=False))

    def train_dataloader(self) -> ResumableLoader:
        batches = TrainFrames(*self.train_pairs, self.canvas_sizes, self.pixels_per_batch, self.steps, self.seed)
        return ResumableLoader(batches, self.num_workers, pin_memory=self.num_workers > 0 and torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader:
        return DataLoader(EvalFrames(*self.eval_pairs, (self.size // 2, self.size)), batch_size=None)


def _render(jobs: list[tuple], description: str) -> list[FramePair]:
    """The pairs of all jobs, in order; several processes where there are enough jobs."""
    if len(jobs) < _JOBS_WORTH_A_PROCESS:
        return [_run(job) for job in jobs]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(track(pool.map(_run, jobs, chunksize=8), len(jobs), description))


def _run(job: tuple) -> FramePair:
    function, *arguments = job
    return function(*arguments)
