"""Samples for direct forecasts: a pose, how far ahead to look, and the pose there."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from m3.batches.datamodule import EvalBatches, ResumableLoader, SampleRows, TokenDataModule, TrainBatches
from m3.batches.jitter import Jitter
from m3.batches.table import TokenTable
from m3.modalities import COORDS_LENGTH, NUM_HORIZON_IDS, ModalityTable
from m3.records import NUM_JOINTS, TokenBatch
from m3.seeds import SampleGenerator

FORECAST_MODALITIES = ("coords", "horizon", "coords_next")
HORIZON_LENGTH = 2
"""Tokens of the horizon: the horizon itself, and the clip's step in frames."""

NUM_HORIZONS = 16


def clip_step(num_frames: int, num_horizons: int = NUM_HORIZONS) -> int:
    """Frames from one horizon to the next: (T − 1) // (horizons + 1); 0 in a clip too short for that."""
    return (num_frames - 1) // (num_horizons + 1)


def horizon_tokens(horizon: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(…) horizons from 1 and steps in frames → (…, 2) ids."""
    return np.stack(np.broadcast_arrays(horizon, np.minimum(step, NUM_HORIZON_IDS - 1)), axis=-1)


class FutureFrames:
    """Every frame of the clips of a split, and the poses that follow it.

    Sample n is a frame; sequences start at every frame. Horizon h is the frame h steps later, or the clip's last.

    Args:
        split: made with `pairs=stride pairs.step=1`, from which every frame of a clip can be read.
    Raises:
        ValueError where a clip's pairs do not follow each other frame by frame.
    """

    def __init__(self, split: TokenTable, name: str) -> None:
        rows = SampleRows(split, _STORED)
        order = sorted(range(len(rows)), key=lambda n: (split.pairs[n].clip, split.pairs[n].reference))
        tokens = rows.read(np.array(order, dtype=np.int64)).numpy().reshape(-1, 2, 3, NUM_JOINTS)
        poses, last, step = [], [], []
        for clip, members in groupby(range(len(order)), key=lambda place: split.pairs[order[place]].clip):
            places = list(members)
            pairs = [split.pairs[order[place]] for place in places]
            if [(pair.reference, pair.successor) for pair in pairs] != [(t, t + 1) for t in range(len(pairs))]:
                raise ValueError(
                    f"data.root: clip {clip} of {name} is not stored frame by frame; make the data with "
                    "`python preprocess.py … pairs=stride pairs.step=1`"
                )
            num_frames, first = len(pairs) + 1, sum(map(len, poses))
            poses.append(np.concatenate([tokens[places, 0], tokens[places[-1:], 1]]))
            last += [first + num_frames - 1] * num_frames
            step += [clip_step(num_frames)] * num_frames
        self.poses = np.concatenate(poses) if poses else tokens[:, 0]  # (num_frames, 3, 13)
        self.last, self.step = np.array(last, dtype=np.int64), np.array(step, dtype=np.int64)  # (num_frames,)

    def __len__(self) -> int:
        return len(self.poses)

    def read(self, sample: np.ndarray, is_flipped: np.ndarray | None = None) -> Tensor:
        """(B, 39) tokens of the frames themselves."""
        return torch.from_numpy(self.poses[sample].reshape(-1, COORDS_LENGTH))

    def futures(self, sample: np.ndarray, horizon: np.ndarray) -> np.ndarray:
        """(B,) samples, (B,) horizons → (B, 3, 13) tokens of the poses there."""
        return self.poses[np.minimum(sample + horizon * self.step[sample], self.last[sample])]


class FutureBatches(Dataset):
    """Batches of (pose, horizon, pose at that horizon) for the samples of `batches`.

    Horizon and jitter of a sample are a pure function of seed, epoch and sample.

    jitter: None to leave the poses where they are.
    """

    def __init__(
        self, batches: TrainBatches | EvalBatches, frames: FutureFrames, seed: int, jitter: Jitter | None
    ) -> None:
        self.batches, self.frames, self.seed, self.jitter = batches, frames, seed, jitter

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> TokenBatch:
        batch: TokenBatch = self.batches[index]
        sample = batch.sample.numpy()
        uniform = SampleGenerator(self.seed, "horizon", batch.sample, batch.epoch).uniform(1).numpy()[:, 0]
        horizon = 1 + (uniform * NUM_HORIZONS).astype(np.int64)  # (B,)
        poses = np.stack([self.frames.poses[sample], self.frames.futures(sample, horizon)], axis=1)  # (B, 2, 3, 13)
        if self.jitter is not None:
            poses = self.jitter(poses, SampleGenerator(self.seed, "jitter", batch.sample, batch.epoch))
        here, there = poses.reshape(len(sample), 2, COORDS_LENGTH).swapaxes(0, 1)
        tokens = np.concatenate([here, horizon_tokens(horizon, self.frames.step[sample]), there], axis=1)
        return TokenBatch(torch.from_numpy(tokens.astype(np.int64)), batch.sample, batch.epoch)


class FutureDataModule(TokenDataModule):
    """Forecasting samples from a data set of `preprocess.py pairs=stride pairs.step=1`.

    Args:
        root, batch_size, accumulation, eval_batch_size, seed, num_workers, repeat_batches: see `TokenDataModule`.
        table: of the modalities coords, horizon, coords_next.
        jitter: of the training samples.
    Raises:
        ValueError for another table, and where the data set does not hold its clips frame by frame.
    """

    def __init__(
        self,
        root: str,
        table: ModalityTable,
        batch_size: int,
        jitter: Jitter,
        eval_batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        repeat_batches: int | None = None,
        accumulation: int = 1,
    ) -> None:
        check_forecast_table(table)
        super().__init__(root, _STORED, batch_size, eval_batch_size, seed, num_workers, repeat_batches,
                         accumulation=accumulation)  # fmt: skip
        self.jitter = jitter
        self.train_frames = FutureFrames(self.train_split, "train")
        self.eval_frames = FutureFrames(TokenTable.open(root, "eval"), "eval")

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "canvas": self.train_split.manifest.canvas["mode"]}

    def train_dataloader(self) -> ResumableLoader:
        rank, num_ranks, num_steps = self.trainer.global_rank, self.trainer.world_size, self.trainer.max_steps
        batches = TrainBatches(
            self.train_frames, self.batch_size, num_steps, self.seed, rank, num_ranks, self.repeat_batches
        )
        futures = FutureBatches(batches, self.train_frames, self.seed, self.jitter)
        return ResumableLoader(futures, self.num_workers, self._pin_memory)

    def val_dataloader(self) -> DataLoader:
        batches = EvalBatches(self.eval_frames, self.eval_batch_size, self.trainer.global_rank, self.trainer.world_size)
        futures = FutureBatches(batches, self.eval_frames, 0, None)  # the same horizons whatever the run's seed
        return DataLoader(futures, batch_size=None, num_workers=self.num_workers, pin_memory=self._pin_memory)


def check_forecast_table(table: ModalityTable) -> None:
    """Raises ValueError for a table of other modalities or lengths than the samples here have."""
    lengths = (COORDS_LENGTH, HORIZON_LENGTH, COORDS_LENGTH)
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
"""What is read of a data set; its alphas and ranges mean nothing here."""
