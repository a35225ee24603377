"""The training and evaluation step: masks, packing, model, loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from m3.core.modalities import MOTION, ModalityTable
from m3.core.rng import SampleGenerator
from m3.core.types import PackedTokens, TokenBatch
from m3.core.validation import check
from m3.loss import (
    REDUCTIONS,
    modality_scores,
    num_targets,
    reduce_losses,
    target_weights,
    training_loss,
)
from m3.masking.select import choose, choose_and_pack
from m3.model.attention import Kernel
from m3.model.encoder_decoder import EncoderDecoder
from m3.training.guards import Guard, NonFiniteError, save_bad_batch
from m3.training.logs import is_log_step
from m3.training.optim import OptimConfig, ema_update
from m3.training.profile import StepProfile, profiler_of
from m3.training.ranks import sum_over_ranks
from m3.training.sharding import dummy_forward, full_tensor, reshard, shard
from m3.training.throughput import Throughput


class StepFacts(NamedTuple):
    """Facts about the latest training step of this rank; tensors are detached and on its device.

    sums: (K,) float32 training loss of each modality, summed over its targets. counts: (K,) int64 targets.
    grad_norm: () float32 norm of the gradient of all ranks, before clipping; None until the backward pass is done.
    num_inputs, num_targets: input and target tokens.
    input_lengths, target_lengths: (B,) int64 tokens of each sample.
    batch: the samples.
    """

    sums: Tensor
    counts: Tensor
    grad_norm: Tensor | None
    num_inputs: int
    num_targets: int
    input_lengths: Tensor
    target_lengths: Tensor
    batch: TokenBatch

    @staticmethod
    def of(
        sums: Tensor, counts: Tensor, packed: Sequence[tuple[PackedTokens, PackedTokens]], batch: TokenBatch
    ) -> StepFacts:
        """packed: inputs and targets of each micro-batch."""
        input_lengths, target_lengths = (torch.cat([side.lengths for side in sides]) for sides in zip(*packed))
        num_inputs, num_targets = (sum(len(side.ids) for side in sides) for sides in zip(*packed))
        return StepFacts(sums, counts, None, num_inputs, num_targets, input_lengths, target_lengths, batch)


class MaskedTraining(pl.LightningModule):
    """Trains an `EncoderDecoder` on masked budgets.

    Args:
        table: modalities and the distribution of their token budgets.
        model: made for the same table.
        optim: optimizer settings and durations.
        reduction: of the training loss, see `m3.loss.target_weights`.
        label_smoothing: see `m3.loss.weighted_cross_entropy`; of the training loss only.
        motion_blur: see `m3.loss.training_loss`; of the training loss only, for tables with the modality motion.
        seed: of the training masks.
        eval_seed: of the evaluation masks, which are the same in every evaluation.
        attention, compile: see `EncoderDecoder.choose_kernels`.

    Attributes:
        identity: plain values (config, data) that a checkpoint carries under "m3", for `m3.checkpoint`.
        ema_model: exponential moving average of `model` (see `optim.ema_decay`), or None.
        last_step: facts about the latest training step, None before the first.
        clip_grad, precision: arguments for the trainer.
    """

    def __init__(
        self,
        table: ModalityTable,
        model: EncoderDecoder,
        optim: OptimConfig,
        reduction: str = "present",
        label_smoothing: float = 0.0,
        motion_blur: float = 0.0,
        seed: int = 0,
        eval_seed: int = 0,
        attention: Kernel = "auto",
        compile: bool = False,
    ) -> None:
        super().__init__()
        check("seed", seed, int, low=0)
        check("loss.eval_seed", eval_seed, int, low=0)
        check("loss.label_smoothing", label_smoothing, float, low=0, high=1)
        check("loss.motion_blur", motion_blur, float, low=0, high=1)
        if motion_blur and MOTION not in model.vocabularies:
            raise ValueError(f"loss.motion_blur={motion_blur}: needs the modality motion, and model.logits=legal")
        if reduction not in REDUCTIONS:
            raise ValueError(f"loss.reduction={reduction!r}: choose {', '.join(REDUCTIONS)}")
        self.table = table
        self.model = model
        # `ema_model`, under the name that its weights have in checkpoints.
        self.average = None if optim.ema_decay is None else copy.deepcopy(model).requires_grad_(False)
        for each in self._models:
            each.choose_kernels(attention, compile)
        self.last_step: StepFacts | None = None
        self._guard = Guard(table.modalities)
        self.optim = optim
        self.reduction: str = reduction
        self.label_smoothing, self.motion_blur = label_smoothing, motion_blur
        self.seed = seed
        self.eval_seed = eval_seed
        self.identity: dict[str, Any] = {}
        self.clip_grad = optim.clip_grad
        self.precision = optim.precision

    def num_steps(self, num_devices: int) -> int:
        return self.optim.schedule(num_devices).num_steps

    def tokens_per_step(self, num_devices: int) -> int:
        return self.optim.tokens_per_step(num_devices)

    def plan(self, num_devices: int) -> str:
        """One line on the length of the training: tokens, steps, samples per step."""
        samples = f"{self.optim.batch_size} × {num_devices} samples"
        if self.optim.accumulation > 1:
            samples = f"{self.optim.accumulation} × {samples}"
        plan = f"{self.optim.total_tokens:g} M nominal tokens = {self.num_steps(num_devices):,} steps of {samples}"
        nominal = self.optim.num_tokens_per_sample
        most = max(each.input_tokens_range[1] + each.target_tokens_range[1] for each in self.table.alpha_sets)
        if most != nominal:
            plan += f" (optim.num_tokens_per_sample={nominal}, the budgets give up to {most})"
        return plan

    @property
    def ema_model(self) -> EncoderDecoder | None:
        return self.average

    @property
    def evaluated_model(self) -> EncoderDecoder:
        """The model to evaluate: `ema_model` where there is one, else `model`."""
        return self.model if self.ema_model is None else self.ema_model

    @property
    def _models(self) -> list[EncoderDecoder]:
        return [self.model] if self.ema_model is None else [self.model, self.ema_model]

    def configure_model(self) -> None:
        """Shards the models under a model-parallel strategy; Lightning calls this once per fit or evaluation."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            for each in self._models:
                shard(each, self.trainer.strategy.device_mesh["data_parallel"])

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Throughput(self.optim)]

    def on_fit_start(self) -> None:
        if isinstance(profiler := profiler_of(self.trainer), StepProfile):
            profiler.announce_forward(self.model)

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """One optimizer step on an item of the loader, which holds `optim.accumulation` micro-batches.

        The targets of the global batch are counted before the first forward pass, so that the loss and its gradient are
        those of the global batch, however ranks and micro-batches divide it.
        """
        span = profiler_of(self.trainer).profile
        with span("masks"):
            packed = batch.packed or self.masked(batch, "train").packed
            assert packed is not None  # `masked` gives it
        is_on_gpu = self.device.type == "cuda"
        if not is_on_gpu:  # here, so that no gradients exist beside the activations
            self._clear_gradients()
        counts = torch.stack([num_targets(targets) for _, targets in packed]).sum(0)  # (K,)
        global_counts = sum_over_ranks(counts)
        # DDP takes the mean over ranks of what they back-propagate.
        weights = target_weights(global_counts, self.reduction).float() * self.trainer.world_size
        is_logged = is_log_step(self.trainer, self.trainer.global_step + 1)
        sums, num_right = torch.zeros_like(counts, dtype=torch.float32), torch.zeros_like(counts)
        loss = sums.new_zeros(())
        for index, (inputs, targets) in enumerate(packed):
            hidden = self.model(inputs, targets)  # (M, D)
            with span("head and loss"):
                loss, part_sums = training_loss(
                    self.model, hidden, targets, weights, self.label_smoothing, self.motion_blur
                )
            sums += part_sums
            if is_on_gpu and not index:  # here, since it waits for the last step: the GPU has this forward pass to do
                self._clear_gradients()
            if is_logged:
                with span("scores"):
                    num_right += modality_scores(self.model, hidden.detach(), targets)[1]
            if index + 1 < len(packed):
                with span("backward"):
                    self._backward_locally(loss)
        self.last_step = StepFacts.of(sums, counts, packed, batch)
        if is_logged:
            global_sums, global_right = sum_over_ranks(torch.stack([sums.double(), num_right.double()]))
            self._log("train", self.reduction, global_sums, global_right, global_counts)
        return loss

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Does nothing: `training_step` has cleared the gradients."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Updates `ema_model` after the weights, before a checkpoint of this step can be saved."""
        super().optimizer_step(*args, **kwargs)
        if self.ema_model is not None and self.optim.ema_decay is not None:
            ema_update(self.ema_model, self.model, self.optim.ema_decay)

    def on_validation_model_zero_grad(self) -> None:
        """Check the last step while its gradients still exist: Lightning zeroes them in this hook."""
        self._check_last_step()
        super().on_validation_model_zero_grad()

    def on_validation_epoch_start(self) -> None:
        # (3, K): summed cross-entropy, number of right tokens, number of tokens.
        self._eval = torch.zeros(3, self.table.num_modalities, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        model = self.evaluated_model
        if not len(batch.sample):  # this rank has run out of samples before others
            dummy_forward(model)
            return
        packed = batch.packed or self.masked(batch, "eval").packed
        assert packed is not None  # `masked` gives it
        ((inputs, targets),) = packed
        sums, num_right = modality_scores(model, model(inputs, targets), targets)
        self._eval += torch.stack([sums.double(), num_right, num_targets(targets)])

    def on_validation_epoch_end(self) -> None:
        """Logs the mean loss of each modality over its targets in the split, and the mean of these over modalities."""
        self._log("eval", "present", *sum_over_ranks(self._eval))
        for each in self._models:
            reshard(each)

    def masked(self, batch: TokenBatch, purpose: Literal["train", "eval"]) -> TokenBatch:
        """The batch with the inputs and targets of its micro-batches, chosen on its device.

        Choosing waits for the sizes. So on a GPU the loader calls this ahead, for a batch on the host, where it takes
        less time than the launches of its kernels would.
        """
        if not len(batch.sample):
            return batch
        is_training = purpose == "train"
        parts = _micro_batches(batch, self.optim.batch_size) if is_training else [batch]
        seed = self.seed if is_training else self.eval_seed

        def packed(part: TokenBatch) -> tuple[PackedTokens, PackedTokens]:
            generator = SampleGenerator(seed, purpose, part.sample, part.epoch if is_training else 0)
            return choose_and_pack(part.tokens, self.table, generator, part.lengths)

        return batch._replace(packed=tuple(map(packed, parts)))

    def _backward_locally(self, loss: Tensor) -> None:
        """Adds to this rank's gradients; DDP exchanges them only in the backward pass after `training_step`."""
        with torch.autocast(self.device.type, enabled=False):
            self.trainer.strategy.backward(loss, None)

    def _log(self, stage: str, reduction: str, sums: Tensor, num_right: Tensor, counts: Tensor) -> None:
        """sums, num_right, counts: (K,) over the global batch or the split. A modality without targets logs NaN."""
        loss = reduce_losses(sums, counts, reduction)
        values = {f"{stage}/loss": loss}
        for k, name in enumerate(self.table.modalities):
            values[f"{stage}/loss_{name}"] = sums[k] / counts[k]
            values[f"{stage}/accuracy_{name}"] = num_right[k] / counts[k]
        options = {"batch_size": 1, "sync_dist": stage == "eval"}  # already equal on all ranks; sync avoids a warning
        self.log_dict({name: value.float() for name, value in values.items()}, **options)
        self.log(f"{stage}_loss", loss.float(), prog_bar=True, logger=False, **options)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        schedule = self.optim.schedule(self.trainer.world_size)
        # A fused optimizer unscales fp16 gradients in its own step, after they are clipped.
        optimizer = self.optim.optimizer(self.model, is_fused=self.trainer.precision != "16-mixed")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: schedule.lr_at(i) / self.optim.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of the whole gradient; Lightning's own clipping refuses fused optimizers in bf16.

        A gradient that is not finite is left as it is, and the optimizer skips its step, without the host waiting.
        """
        gradients = {p: p.grad for p in self.model.parameters() if p.grad is not None}
        norm = full_tensor(torch.nn.utils.get_total_norm(list(gradients.values())))
        max_norm = self.clip_grad if gradient_clip_val is None else gradient_clip_val
        torch.nn.utils.clip_grads_with_norm_(list(gradients), max_norm, norm.nan_to_num(0.0, 0.0))
        assert self.last_step is not None  # `training_step` comes before
        self.last_step = self.last_step._replace(grad_norm=norm)
        is_scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        is_bad = self._guard.watch(self.trainer.global_step + 1, self.last_step.sums, norm, is_scaled)
        if not is_scaled:  # a GradScaler skips such steps itself; without one the fused optimizer reads `found_inf`
            optimizer.found_inf = is_bad.float()  # pyright: ignore[reportAttributeAccessIssue]

    def _clear_gradients(self) -> None:
        """Checks the last step, then removes its gradients."""
        self._check_last_step()
        self.model.zero_grad()

    def _check_last_step(self) -> None:
        """Raises NonFiniteError if the previous step had a loss or a gradient that is not finite."""
        if self.last_step is None or (fault := self._guard.fault(self.model, self.last_step.sums)) is None:
            return
        rank = f"_rank_{self.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(self.trainer.default_root_dir) / f"bad_batch_step_{fault.step:08d}{rank}.safetensors"
        batch = self.last_step.batch._replace(packed=None).to(torch.device("cpu"))  # where masks are chosen
        generator = SampleGenerator(self.seed, "train", batch.sample, batch.epoch)
        masks = choose(batch.tokens, self.table, generator, batch.lengths)
        kept = {name: part for name, part in batch._asdict().items() if part is not None}
        evidence = {**kept, "is_input": masks[0], "is_target": masks[1]}
        try:
            save_bad_batch(path, evidence, self.model, {"step": str(fault.step), "fault": fault.what})
            saved = f"{path} holds its batch, masks and weights, which the step has not changed"
        except OSError as error:
            saved = f"{path} cannot be written ({error.strerror})"
        raise NonFiniteError(f"step {fault.step:,}: {fault.what}; {saved}. Try a lower optim.lr, or hardware=fp32")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_last_step()
        checkpoint["m3"] = self.identity


def _micro_batches(batch: TokenBatch, batch_size: int) -> list[TokenBatch]:
    fields = {name: field.split(batch_size) for name, field in batch._asdict().items() if isinstance(field, Tensor)}
    return [TokenBatch(**dict(zip(fields, parts))) for parts in zip(*fields.values())]
