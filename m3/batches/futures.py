"""Samples for direct forecasts: a pose, the step of its clip, and the motion of its joints over 1 … 16 steps."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from m3.batches.datamodule import (
    EvalBatches,
    PreparedLoader,
    ResumableLoader,
    SampleRows,
    TokenDataModule,
    TrainBatches,
)
from m3.batches.table import TokenTable
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import COORDS_LENGTH, MOTION_LENGTH, NUM_HORIZONS, NUM_STEP_IDS, ModalityTable
from m3.core.rng import SampleGenerator
from m3.core.types import TokenBatch
from m3.core.validation import check
from m3.tokens.motion import encode_motion
from m3.tokens.pose_box import PoseBox, has_place, mirrored

FORECAST_MODALITIES = ("coords", "step", "motion")


def clip_step(num_frames: int) -> int:
    """Frames from one horizon to the next: (T − 1) // (horizons + 1); 0 in a clip too short for that."""
    return (num_frames - 1) // (NUM_HORIZONS + 1)


def given_tokens(poses: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The input of a forecast: (B, 3, 13) joint tokens, steps in frames (B,) or () → (B, 40) int64 ids.

    The pose is relative to the box around it (`m3.tokens.pose_box`).
    """
    normalized = PoseBox.around(poses).normalize(poses).reshape(len(poses), COORDS_LENGTH)
    steps = np.broadcast_to(np.minimum(step, NUM_STEP_IDS - 1), len(poses))
    return np.concatenate([normalized, steps[:, None]], axis=1).astype(np.int64)


def motion_tokens(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(B, 3, 13) joint tokens of poses and (B, 16, 3, 13) of the poses that follow → (B, 208) ids."""
    side = PoseBox.around(here).side[:, None, None, None]
    moved = (there[:, :, :2].astype(np.float64) - here[:, None, :2]) / side  # (B, 16, 2, 13)
    is_seen = (there[:, :, 2] > 0) & has_place(here)[:, None]
    return encode_motion(moved.swapaxes(2, 3), is_seen).reshape(len(here), MOTION_LENGTH)


class FutureFrames:
    """The frames of the clips of a split, each with the 16 poses that follow it.

    A sample is a frame; frames without any joint that is visible at one of the 16 horizons are left out. Horizon h is
    the frame h steps later, or the last one of the clip.

    Args:
        token_table: of a data set made with `pairs=stride pairs.step=1`, whose pairs hold every frame of a clip.
        split: its name, for messages.
    Raises:
        ValueError where a clip's pairs do not follow each other frame by frame.
    """

    def __init__(self, token_table: TokenTable, split: str) -> None:
        rows, infos = SampleRows(token_table, _STORED), token_table.pairs
        order = sorted(range(len(rows)), key=lambda n: (infos[n].clip, infos[n].reference))
        tokens = rows.read(np.array(order, dtype=np.int64))[0].numpy().reshape(-1, 2, 3, NUM_JOINTS)
        poses, last, step = [], [], []
        for clip, members in groupby(range(len(order)), key=lambda place: infos[order[place]].clip):
            places = list(members)
            pairs = [infos[order[place]] for place in places]
            if [(pair.reference, pair.successor) for pair in pairs] != [(t, t + 1) for t in range(len(pairs))]:
                raise ValueError(
                    f"data.root: clip {clip} of {split} is not stored frame by frame; make the data with "
                    "`python preprocess.py … pairs=stride pairs.step=1`"
                )
            num_frames, first = len(pairs) + 1, sum(map(len, poses))
            poses.append(np.concatenate([tokens[places, 0], tokens[places[-1:], 1]]))
            last += [first + num_frames - 1] * num_frames
            step += [clip_step(num_frames)] * num_frames
        self.poses = np.concatenate(poses) if poses else tokens[:, 0]  # (num_frames, 3, 13)
        self.last = np.array(last, dtype=np.int64)  # (num_frames,)
        self.frame, self.step = np.arange(len(last)), np.array(step, dtype=np.int64)  # (num_samples,) from here on
        is_seen = (self.futures(self.frame)[:, :, 2] > 0) & has_place(self.poses)[:, None]  # (num_frames, 16, 13)
        self.frame = np.flatnonzero(is_seen.any((1, 2)))
        self.step = self.step[self.frame]

    def __len__(self) -> int:
        return len(self.frame)

    def read(self, sample: np.ndarray, is_flipped: np.ndarray | None = None) -> tuple[Tensor, None]:
        """(B, 39) tokens of the poses themselves; `is_flipped` has no effect."""
        return torch.from_numpy(self.here(sample).reshape(-1, COORDS_LENGTH)), None

    def here(self, sample: np.ndarray) -> np.ndarray:
        """(B,) samples → (B, 3, 13) tokens of their poses."""
        return self.poses[self.frame[sample]]

    def futures(self, sample: np.ndarray) -> np.ndarray:
        """(B,) samples → (B, 16, 3, 13) tokens of the poses that follow."""
        frame = self.frame[sample, None]
        ahead = np.arange(1, NUM_HORIZONS + 1) * self.step[sample, None]
        return self.poses[np.minimum(frame + ahead, self.last[frame])]


class FutureBatches(Dataset):
    """Batches of (normalized pose, step, motion at 16 horizons) for the samples of `batches`.

    flip: share of the samples that are mirrored, 0 … 1; which ones is a function of (seed, epoch, sample).
    """

    def __init__(
        self, batches: TrainBatches | EvalBatches, frames: FutureFrames, seed: int = 0, flip: float = 0.0
    ) -> None:
        self.batches, self.frames, self.seed, self.flip = batches, frames, seed, flip

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> TokenBatch:
        batch: TokenBatch = self.batches[index]
        sample = batch.sample.numpy()
        here, there = self.frames.here(sample), self.frames.futures(sample)  # (B, 3, 13), (B, 16, 3, 13)
        uniform = SampleGenerator(self.seed, "flip", batch.sample, batch.epoch).uniform(1).numpy()  # (B, 1)
        is_flipped = (uniform < self.flip)[:, :, None]  # (B, 1, 1)
        here = np.where(is_flipped, mirrored(here), here)
        there = np.where(is_flipped[:, None], mirrored(there), there)
        tokens = np.concatenate([given_tokens(here, self.frames.step[sample]), motion_tokens(here, there)], axis=1)
        return TokenBatch(torch.from_numpy(tokens), batch.sample, batch.epoch)


class FutureDataModule(TokenDataModule):
    """Forecasting samples from a data set of `preprocess.py pairs=stride pairs.step=1`.

    Args:
        root, batch_size, accumulation, eval_batch_size, seed, num_workers, repeat_batches: see `TokenDataModule`.
        table: of the modalities coords, step, motion.
        flip: share of the training samples that are mirrored, 0 … 1; evaluation mirrors none.
    Raises:
        ValueError for another table, and where the data set does not hold its clips frame by frame.
    """

    def __init__(
        self,
        root: str,
        table: ModalityTable,
        batch_size: int,
        eval_batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        repeat_batches: int | None = None,
        accumulation: int = 1,
        flip: float = 0.5,
    ) -> None:
        check("data.flip", flip, float, low=0, high=1)
        check_forecast_table(table)
        super().__init__(root, _STORED, batch_size, eval_batch_size, seed, num_workers, repeat_batches,
                         accumulation=accumulation)  # fmt: skip
        self.flip_share = flip
        self.train_frames = FutureFrames(self.train_table, "train")
        self.eval_frames = FutureFrames(TokenTable.open(root, "eval"), "eval")

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "canvas": self.train_table.manifest.canvas["mode"]}

    def train_dataloader(self) -> ResumableLoader:
        rank, num_ranks, num_steps = self.trainer.global_rank, self.trainer.world_size, self.trainer.max_steps
        batches = TrainBatches(
            self.train_frames, self.batch_size, num_steps, self.seed, rank, num_ranks, self.repeat_batches
        )
        futures = FutureBatches(batches, self.train_frames, self.seed, self.flip_share)
        return ResumableLoader(futures, self.num_workers, self._is_on_gpu, self._preparation("train"))

    def val_dataloader(self) -> PreparedLoader:
        batches = EvalBatches(self.eval_frames, self.eval_batch_size, self.trainer.global_rank, self.trainer.world_size)
        futures = FutureBatches(batches, self.eval_frames)
        return PreparedLoader(futures, self.num_workers, self._is_on_gpu, self._preparation("eval"))


def check_forecast_table(table: ModalityTable) -> None:
    """Raises ValueError for a table of other modalities or lengths than the samples here have."""
    lengths = (COORDS_LENGTH, 1, MOTION_LENGTH)
    if (tuple(table.modalities), tuple(table.max_seq_lens)) != (FORECAST_MODALITIES, lengths):
        raise ValueError(
            f"modalities.modalities={list(table.modalities)}, max_seq_lens={list(table.max_seq_lens)}: forecasts need "
            f"{list(FORECAST_MODALITIES)} with {list(lengths)} tokens: choose modalities=forecast"
        )


_STORED = ModalityTable(
    modalities=("coords", "coords_next"),
    vocab_sizes=(8192, 8192),
    max_seq_lens=(COORDS_LENGTH, COORDS_LENGTH),
    input_alphas=(1, 1),
    target_alphas=(1, 1),
    input_tokens_range=(1, 1),
    target_tokens_range=(1, 1),
)
"""The modalities that are read from a data set; alphas and ranges are not used."""
