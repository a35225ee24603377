"""What a run has learned so far, to look at: a few roll-outs of the eval split with their scores, in every logger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from m3.batches.table import TokenTable
from m3.core.frames import Frames
from m3.core.modalities import PICTURE_STRIDE, ModalityTable
from m3.core.validation import check
from m3.generation.rollout import SUCCESSOR_OF, check_schemes, decode, find_chains, roll_out, true_frames
from m3.metrics import Score, score
from m3.model.encoder_decoder import EncoderDecoder
from m3.reporting.figures import choose_samples, panels, rollout_sheet, write_png
from m3.sampling.settings import Sampling
from m3.shards.manifest import MANIFEST_NAME
from m3.tokens.base import PictureTokenizer
from m3.tokens.joints import JointCodec

_KEY = "callbacks.preview"

SCORES = ("pck@0.05", "pck@0.1", "joint_error", "visibility_f1", "psnr", "ssim")
"""What is logged, where it is known."""

_OF_PICTURES = ("psnr", "ssim")


class BlankPictures(PictureTokenizer):
    """Stands in for a tokenizer that is not at hand: every picture is of one dark grey."""

    name = "blank"
    fingerprint = ""

    def encode(self, pixels: Tensor) -> Tensor:
        raise ValueError("blank pictures have no tokens")

    def decode(self, ids: Tensor) -> Tensor:
        return torch.full((len(ids), 3, *(PICTURE_STRIDE * side for side in ids.shape[1:])), -0.75)


@dataclass(frozen=True)
class Samples:
    """N samples to roll out from and their truth.

    row: (N,) of the eval split. titles: one each.
    reference: modality of a frame → (N, L) int64 tokens.
    truth: (N, T + 1) frames. extent: (N,) pose_extent_px, NaN where unknown.
    """

    row: Tensor
    titles: list[str]
    reference: dict[str, Tensor]
    truth: Frames
    extent: np.ndarray


class Preview(pl.Callback):
    """After evaluations rolls the evaluated model out, on the first rank.

    Writes `folder`/step_{optimizer steps:08d}.png and logs `preview/{score}/{horizon}`, the picture and a table of the
    scores where a logger takes them. Training is the same to the bit with and without: every draw is a function of
    `seed`. What the run has no data or modalities for is left out, which a line at the start says.

    Args:
        folder: of the pictures.
        root: the data set whose eval split is rolled out; None where there is none.
        table: the run's modalities.
        tokenizer: draws the pictures if it is the one that made the data; else skeletons are drawn without.
        sampling: how the successor is generated.
        every_n_evaluations: the first and the last are drawn in any case.
        num_samples, num_frames: N and T.
        cell_px: side of a frame in the picture.
        seed: of the sampling.
    Raises:
        ValueError naming the key of an impossible value.
    """

    def __init__(
        self,
        folder: str,
        root: str | None,
        table: ModalityTable,
        tokenizer: PictureTokenizer,
        sampling: Sampling,
        every_n_evaluations: int = 1,
        num_samples: int = 4,
        num_frames: int = 3,
        cell_px: int = 128,
        seed: int = 0,
    ) -> None:
        check(f"{_KEY}.every_n_evaluations", every_n_evaluations, int, low=1)
        check(f"{_KEY}.num_samples", num_samples, int, low=1)
        check(f"{_KEY}.num_frames", num_frames, int, low=1)
        check(f"{_KEY}.cell_px", cell_px, int, low=16)
        check(f"{_KEY}.seed", seed, int, low=0)
        self.folder = Path(folder)
        self.every_n_evaluations, self.num_frames, self.cell_px, self.seed = (
            every_n_evaluations, num_frames, cell_px, seed)  # fmt: skip
        self.scores: list[Score] = []
        self._is_announced = False
        self.obstacle = _obstacle(root, table)
        self.has_pictures = False
        if self.obstacle is not None:
            return
        try:
            self.schemes = sampling.for_table(table)
            check_schemes(self.schemes, table)
        except ValueError as error:
            raise ValueError(f"{_KEY}.{error}; callbacks=none draws no previews") from None
        split = TokenTable.open(root, "eval")
        stored = split.manifest.tokenizer
        self.has_pictures = (tokenizer.name, tokenizer.fingerprint) == (stored["name"], stored["fingerprint"])
        self.tokenizer = tokenizer if self.has_pictures else BlankPictures()
        self.data_tokenizer = stored["name"]
        self.canvas_size = split.manifest.canvas_size
        self.codec = JointCodec(self.canvas_size)
        self.samples = self._samples(split, table, num_samples)

    def _samples(self, split: TokenTable, table: ModalityTable, num_samples: int) -> Samples:
        chains = find_chains(split.pairs, self.num_frames, "first")
        chains = [chains[n] for n in choose_samples(chains, num_samples)]
        tokens = true_frames(split.columns(table), table, chains, self.num_frames)
        return Samples(
            torch.tensor([chain.rows[0] for chain in chains]),
            [chain.title for chain in chains],
            {name: torch.as_tensor(getattr(tokens, name)[:, 0]) for name in SUCCESSOR_OF},
            decode(tokens, self.tokenizer, self.codec, self.canvas_size),
            np.array([chain.pairs[0].pose_extent_px or math.nan for chain in chains]),
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.obstacle is None and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            self.obstacle = "hardware.strategy divides the weights, no rank has all of them to roll out"
        if trainer.is_global_zero and not self._is_announced:
            self._is_announced = True
            if self.obstacle is not None:
                print(f"no previews: {self.obstacle} (callbacks=none says that you know)", flush=True)
            elif not self.has_pictures:
                print(
                    f"previews show skeletons without pictures: those are tokens of another tokenizer, "
                    f"{self.data_tokenizer}; tokenizer@{_KEY}.tokenizer={self.data_tokenizer} draws them",
                    flush=True,
                )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The other ranks meanwhile wait where the ranks exchange something next.
        if self.obstacle is None and trainer.is_global_zero and self._is_due(trainer):
            self.draw(pl_module.evaluated_model, trainer.global_step, trainer.loggers)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        if trainer.state.fn != "fit" or step == trainer.max_steps:
            return True
        return step // trainer.val_check_interval % self.every_n_evaluations == 0

    def draw(self, model: EncoderDecoder, step: int, loggers: Sequence[Logger]) -> None:
        """One preview of a model that has been trained for `step` steps."""
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        reference = {name: ids.to(device) for name, ids in self.samples.reference.items()}
        row = self.samples.row.to(device)
        made = roll_out(model, reference, self.schemes, self.num_frames, self.seed, row, len(row))
        model.train(was_training)
        predicted = decode(made, self.tokenizer, self.codec, self.canvas_size)
        known = [name for name in SCORES if self.has_pictures or name not in _OF_PICTURES]
        scores = score(predicted, self.samples.truth, self.samples.extent)
        self.scores = [s for s in scores if s.name in known]
        picture = rollout_sheet(panels(predicted, self.samples.truth), self.samples.titles, self.cell_px)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_png(self.folder / f"step_{step:08d}.png", picture)
        for logger in loggers:
            _log(logger, self.scores, picture, step)


def _obstacle(root: str | None, table: ModalityTable) -> str | None:
    """Why nothing can be rolled out, if that is so."""
    if root is None:
        return "the data have no eval split of pairs"
    wanted = [*SUCCESSOR_OF, *SUCCESSOR_OF.values()]
    if lacking := [name for name in wanted if name not in table.modalities]:
        return f"modalities.modalities={list(table.modalities)} lacks {', '.join(lacking)}"
    if not (Path(root) / MANIFEST_NAME).is_file():
        return f"data.root={root} is no data set on this machine"
    return None


def _log(logger: Logger, scores: Sequence[Score], picture: Image.Image, step: int) -> None:
    values = {f"preview/{s.name}/{k}": v for s in scores for k, v in enumerate(s.model, 1) if v is not None}
    logger.log_metrics(values, step=step)
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image("preview/rollouts", np.asarray(picture), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image("preview/rollouts", [picture], step=step)
        columns = ["score", "unit", "horizon", "num_samples", "model", "nothing_moves"]
        rows = [[s.name, s.unit, k, *line] for s in scores
                for k, line in enumerate(zip(s.num_samples, s.model, s.nothing_moves), 1)]  # fmt: skip
        logger.log_table("preview/scores", columns, rows, step=step)
