"""Previews of a training run: a few roll-outs of the eval split with their scores, in every logger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy

from m3.batches.table import TokenTable
from m3.core.frames import rolled_modalities
from m3.core.modalities import ModalityTable, frame_of
from m3.core.validation import check
from m3.generation.prompts import prompts_of_split
from m3.generation.rollout import check_schemes, find_chains, roll_out
from m3.metrics import Comparison, Score, score
from m3.model.encoder_decoder import EncoderDecoder
from m3.reporting.figures import WITHOUT_PICTURE, choose_samples, panels, rollout_sheet
from m3.reporting.files import write_png
from m3.sampling.settings import AUTO, Sampling
from m3.shards.manifest import MANIFEST_NAME
from m3.tokens.base import PictureTokenizer
from m3.training.module import MaskedTraining
from m3.vocabularies import DecodingContext, decode, interpreters_of, metrics_of, without_interpreter
from m3.vocabularies.picture import PictureInterpreter

_KEY = "callbacks.preview"


class Preview(pl.Callback):
    """After evaluations rolls the evaluated model out, on the first rank.

    Writes `folder`/step_{optimizer steps:08d}.png and logs `preview/{score}/{horizon}`, the picture and a table of the
    scores where a logger takes them. Training is the same to the bit with and without: all random numbers are a
    function of `seed`. Missing data or modalities are announced at the start.

    Args:
        folder: of the pictures.
        root: the data set whose eval split is rolled out; None where there is none.
        table: the run's modalities.
        tokenizer: decodes the pictures if it made the data; else skeletons are drawn without pictures.
        sampling: how the successor is generated.
        every_n_evaluations: the first and the last are drawn in any case.
        num_samples, num_frames: N and T.
        cell_px: side of a frame in the picture.
        seed: of the sampling.
        damping: of roll-outs without history, see `m3.generation.rollout.roll_out`.
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
        damping: float = 1.0,
    ) -> None:
        check(f"{_KEY}.every_n_evaluations", every_n_evaluations, int, low=1)
        check(f"{_KEY}.num_samples", num_samples, int, low=1)
        check(f"{_KEY}.num_frames", num_frames, int, low=1)
        check(f"{_KEY}.cell_px", cell_px, int, low=16)
        check(f"{_KEY}.seed", seed, int, low=0)
        check(f"{_KEY}.damping", damping, float, low=0, high=1)
        self.folder = Path(folder)
        self.every_n_evaluations, self.num_frames, self.cell_px, self.seed = (
            every_n_evaluations, num_frames, cell_px, seed)  # fmt: skip
        self.damping = damping
        self.scores: list[Score] = []
        self._is_announced = False
        self.obstacle = _obstacle(root, table, sampling)
        self.has_pictures, self.undecoded = False, dict[str, str]()
        if root is None or self.obstacle is not None:
            return
        try:
            sampling = sampling.for_model(table)
            self.schemes = sampling.for_table(table)
            check_schemes(self.schemes, table)
        except ValueError as error:
            raise ValueError(f"{_KEY}.{error}; callbacks=none draws no previews") from None
        split = TokenTable.open(root, "eval")
        stored = split.manifest.tokenizer
        self.has_pictures = (tokenizer.name, tokenizer.fingerprint) == (stored["name"], stored["fingerprint"])
        self.data_tokenizer = stored["name"]
        self.context = DecodingContext(tokenizer, split.manifest.canvas_size)
        self.undecoded = without_interpreter(table)
        self.interpreters = {name: each for name, each in interpreters_of(table).items() if name not in WITHOUT_PICTURE}
        if not self.has_pictures:
            self.interpreters = {
                name: each for name, each in self.interpreters.items() if not isinstance(each, PictureInterpreter)
            }
        rolled = rolled_modalities(table)
        self.metrics = {
            name: spec for name, spec in metrics_of(table).items() if spec.in_preview and spec.modality in rolled
        }
        takes_history = any(name.endswith("_prev") for name in table.modalities)
        chains = find_chains(split.pairs, num_frames, "history") if takes_history else []
        chains = chains or find_chains(split.pairs, num_frames, "first")
        chains = [chains[n] for n in choose_samples(chains, num_samples)]
        self.prompts = prompts_of_split(split, table, chains, num_frames)
        self.given, self.history = self.prompts.given(sampling.is_given(table), table)
        self.truth = decode(self.prompts.tokens, self.interpreters, self.context)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.obstacle is None and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            self.obstacle = "hardware.strategy divides the weights, no rank has all of them to roll out"
        if trainer.is_global_zero and not self._is_announced:
            self._is_announced = True
            if self.obstacle is not None:
                print(f"no previews: {self.obstacle} (callbacks=none silences this)", flush=True)
            for name, reason in self.undecoded.items():
                print(f"previews: {name}: {reason}", flush=True)
            if self.obstacle is None and not self.has_pictures:
                print(
                    f"previews show skeletons without pictures: the data have tokens of another tokenizer, "
                    f"{self.data_tokenizer}; tokenizer@{_KEY}.tokenizer={self.data_tokenizer} draws them",
                    flush=True,
                )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The other ranks wait at their next collective operation.
        assert isinstance(pl_module, MaskedTraining)
        if self.obstacle is None and trainer.is_global_zero and self._is_due(trainer):
            self.draw(pl_module.evaluated_model, trainer.global_step, trainer.loggers)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        if trainer.state.fn != "fit" or step == trainer.max_steps:
            return True
        return step // trainer.val_check_interval % self.every_n_evaluations == 0

    def draw(self, model: EncoderDecoder, step: int, loggers: Sequence[Logger]) -> None:
        """One preview of a model that has been trained for `step` steps."""
        was_training, sample = model.training, self.prompts.sample_ids().to(next(model.parameters()).device)
        model.eval()
        made = roll_out(model, self.given, self.schemes, self.num_frames, self.seed, sample, len(sample),
                        history=self.history, damping=self.damping)  # fmt: skip
        model.train(was_training)
        predicted = decode(made, self.interpreters, self.context)
        self.scores = score(Comparison(predicted, self.truth, self.prompts.extent), self.metrics)
        shown = panels([("predicted", predicted), ("truth", self.truth)], self.interpreters, self.context.canvas_size)
        picture = rollout_sheet(shown, [chain.title for chain in self.prompts.chains], self.cell_px)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_png(self.folder / f"step_{step:08d}.png", picture)
        for logger in loggers:
            _log(logger, self.scores, picture, step)


def _obstacle(root: str | None, table: ModalityTable, sampling: Sampling) -> str | None:
    """Why nothing can be rolled out, if that is so."""
    if root is None:
        return "the data have no eval split of pairs"
    if not rolled_modalities(table):
        return f"modalities.modalities={list(table.modalities)} has no successor to roll out"
    never = [name for name in rolled_modalities(table).values() if not table.is_ever_target(name)]
    if sampling.generate == AUTO and never:
        return f"modalities.target_alphas: {', '.join(never)} of the successor is never a target"
    generated = () if sampling.generate == AUTO else sampling.generate
    wanted = [name for modality in generated for name in (frame_of(modality)[0], modality)]
    if lacking := [name for name in wanted if name not in (*table.modalities, "motion")]:
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
        rows = [[s.name, s.spec.unit, k, *line] for s in scores
                for k, line in enumerate(zip(s.num_samples, s.model, s.nothing_moves), 1)]  # fmt: skip
        logger.log_table("preview/scores", columns, rows, step=step)
