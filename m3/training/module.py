"""The training and evaluation step: masks, packing, model, loss."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from m3.loss import average, summed_cross_entropy
from m3.masking.select import choose, pack
from m3.modalities import ModalityTable
from m3.model.encoder_decoder import EncoderDecoder
from m3.records import TokenBatch
from m3.seeds import SampleGenerator
from m3.settings import require
from m3.training.optim import PRECISION_OF, Recipe
from m3.training.throughput import Throughput


class MaskedTraining(pl.LightningModule):
    """Trains an `EncoderDecoder` on masked budgets.

    Args:
        table: modalities and the law of their budgets.
        model: made for the same table.
        optim: the recipe.
        loss_average: see `m3.loss.average`; of the training loss.
        seed: of the training masks.
        eval_seed: of the evaluation masks, which are the same in every evaluation.

    Attributes:
        identity: plain values (config, data) that a checkpoint carries under "m3", for `m3.checkpoint`.
        clip_grad, precision: for the trainer.
    """

    def __init__(
        self,
        table: ModalityTable,
        model: EncoderDecoder,
        optim: Recipe,
        loss_average: Literal["present", "all", "token"] = "present",
        seed: int = 0,
        eval_seed: int = 0,
    ) -> None:
        super().__init__()
        require("seed", seed, int, low=0)
        require("loss.eval_seed", eval_seed, int, low=0)
        if loss_average not in ("present", "all", "token"):
            raise ValueError(f"loss.average={loss_average!r}: choose present, all or token")
        self.table = table
        self.model = model
        self.optim = optim
        self.loss_average = loss_average
        self.seed = seed
        self.eval_seed = eval_seed
        self.identity: dict[str, Any] = {}
        self.clip_grad = optim.clip_grad
        self.precision = PRECISION_OF[optim.dtype]

    def num_steps(self, num_devices: int) -> int:
        return self.optim.schedule(num_devices).num_steps

    def plan(self, num_devices: int) -> str:
        """A line that says how long the training is."""
        samples = f"{self.optim.batch_size} × {num_devices} samples"
        return f"{self.optim.total_tokens:g} M nominal tokens = {self.num_steps(num_devices):,} steps of {samples}"

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Throughput(self.optim)]

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        sums, counts = self.sums_and_counts(batch, SampleGenerator(self.seed, "train", batch.sample, batch.epoch))
        # The gradient of DDP is the mean over ranks: global counts and a factor make it that of the joint batch.
        global_counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        loss = average(sums * self.trainer.world_size, global_counts, self.loss_average)
        self._log_losses("train", loss.detach(), sums.detach(), counts)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._eval_sums = torch.zeros(self.table.num_modalities, dtype=torch.float64, device=self.device)
        self._eval_counts = torch.zeros_like(self._eval_sums)

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        sums, counts = self.sums_and_counts(batch, SampleGenerator(self.eval_seed, "eval", batch.sample))
        self._eval_sums += sums
        self._eval_counts += counts

    def on_validation_epoch_end(self) -> None:
        """Per modality the mean over all its targets of the split, then the mean over modalities."""
        sums = self.trainer.strategy.reduce(self._eval_sums, reduce_op="sum")
        counts = self.trainer.strategy.reduce(self._eval_counts, reduce_op="sum")
        self._log_losses("eval", average(sums, counts, "present"), sums, counts)

    def sums_and_counts(self, batch: TokenBatch, generator: SampleGenerator) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy and number of targets per modality, (K,) float32 and (K,) int64."""
        is_input, is_target = choose(batch.tokens, self.table, generator)
        targets = pack(batch.tokens, is_target, self.table)
        hidden = self.model(pack(batch.tokens, is_input, self.table), targets)  # (M, D)
        sums, counts = [], []
        for k in range(self.table.num_modalities):
            rows = (targets.modality == k).nonzero().squeeze(1)
            counts.append(len(rows))
            if len(rows):
                sums.append(summed_cross_entropy(hidden[rows], targets.ids[rows], self.model.head_of(k)))
            else:
                sums.append(hidden.new_zeros((), dtype=torch.float32))
        return torch.stack(sums), torch.tensor(counts, device=hidden.device)

    def _log_losses(self, stage: str, loss: Tensor, sums: Tensor, counts: Tensor) -> None:
        values = {f"{stage}/loss": loss}
        for name, mean in zip(self.table.modalities, sums / counts):  # NaN where the batch has no target of it
            values[f"{stage}/loss_{name}"] = mean
        self.log_dict({name: value.float() for name, value in values.items()}, batch_size=1)
        self.log(f"{stage}_loss", loss.float(), prog_bar=True, logger=False, batch_size=1)

    def configure_optimizers(self) -> dict[str, Any]:
        schedule = self.optim.schedule(self.trainer.world_size)
        # A fused step unscales the gradients of fp16 itself, too late for them to be clipped.
        optimizer = self.optim.optimizer(self.model, is_fused=self.trainer.precision != "16-mixed")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: schedule.lr_at(i) / self.optim.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the norm of the whole gradient; Lightning's own way refuses every fused optimizer in bf16."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["m3"] = self.identity
