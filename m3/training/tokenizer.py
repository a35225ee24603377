"""Training of the mini tokenizer: an auto-encoder of pictures with 16 bits per 16 × 16 pixels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from m3.core.modalities import PICTURE_STRIDE
from m3.tokens.mini import MiniAutoEncoder, save_weights
from m3.training.muon import Muon
from m3.training.optim import ema_update
from m3.training.rendered_frames import TrainPairs


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """(B, 3, H, W) twice, in [−1, 1] → (B,) peak signal-to-noise ratio in dB of the pictures rounded to 8 bits."""
    rounded = ((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    error = (rounded - truth).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return 10 * torch.log10(4 / error)


def box_weights(boxes: Tensor, size: int, box_weight: float) -> Tensor:
    """(B, 1, size, size) float32 weights of pixels: those in the box count 1 + box_weight times as much as others.

    The mean over each picture is 1, whatever the size of its box.

    boxes: (B, 4) left, top, right, bottom, pixels; an empty box gives equal weights.
    """
    middle = torch.arange(size, device=boxes.device) + 0.5
    left, top, right, bottom = (side[:, None] for side in boxes.unbind(1))
    across, down = (middle >= left) & (middle < right), (middle >= top) & (middle < bottom)  # (B, size)
    weights = 1 + float(box_weight) * (down[:, :, None] & across[:, None, :])
    return (weights / weights.mean(dim=(1, 2), keepdim=True))[:, None]


def reconstruction_loss(pictures: Tensor, truth: Tensor, weights: Tensor, edge_weight: float) -> Tensor:
    """Mean over pictures of the root mean squared error, + edge_weight · mean |difference of neighbor differences|.

    The root weighs pictures by their relative error, as PSNR does. The mean of plain squared errors would be dominated
    by the few hardest pictures of a batch.

    weights: (B, 1, H, W) of the pixels, with a mean of 1 in each picture.
    """
    error = pictures - truth  # (B, 3, H, W)
    root = ((weights * error.square()).mean(dim=(1, 2, 3)) + 1e-6).sqrt().mean()
    across, down = error.diff(dim=-1).abs() * weights[..., 1:], error.diff(dim=-2).abs() * weights[..., 1:, :]
    return root + edge_weight * (across.mean() + down.mean())


def stay_loss(frames: Tensor, neighbors: Tensor, levels: Tensor, neighbor_levels: Tensor, tolerance: float) -> Tensor:
    """How much tokens change where the picture does not: near to the number of changed digits of a token.

    A number that moves by d levels changes its digit with a probability of about d. Each token counts by
    exp(−(m / tolerance)²), m the mean absolute difference of its pixels in 8-bit levels.

    Args:
        frames, neighbors: (B, 3, H, W) in [−1, 1].
        levels, neighbor_levels: (B, h, w, 6) numbers before rounding (`FSQ.bound`).
    """
    difference = F.avg_pool2d((frames - neighbors).abs().mean(1, keepdim=True), PICTURE_STRIDE)[:, 0] * 127.5
    is_still = (-(difference / tolerance).square()).exp()  # (B, h, w)
    return (is_still * (levels - neighbor_levels).abs().sum(-1)).mean()


class TokenizerTraining(pl.LightningModule):
    """Trains the auto-encoder with Muon; a moving average of the weights is evaluated and exported.

    The learning rates warm up, stay constant, and fall linearly to 0 over the last `decay_steps`, so that the length of
    the constant part can be chosen late (Hägele et al. 2024, arXiv:2405.18392).

    Args:
        steps: optimizer steps of the whole run.
        warmup_steps, decay_steps: lengths of the rise and the fall of the learning rates.
        lr: of the kernels (Muon). adam_lr: of the other weights (Adam).
        weight_decay: of the kernels.
        clip_grad: largest norm of the whole gradient.
        ema_decay: share of the moving average that is kept in each step.
        edge_weight: see `reconstruction_loss`. box_weight: see `box_weights`.
        stay_weight: of `stay_loss` in the loss; its tolerance is stay_tolerance.
        pixels_per_batch: per step and device; a token is 16 × 16 pixels.
        seed: of the initial weights.
        export: path of the safetensors file written when the fit ends.
        compile: `torch.compile` the network in place.

    Attributes:
        identity: plain values (config, data) that a checkpoint carries under "m3".
        precision: argument for the trainer.
    """

    precision = "bf16-mixed"  # twice as fast on processors with bfloat16 products; FSQ still rounds in float32

    def __init__(
        self,
        steps: int,
        warmup_steps: int,
        decay_steps: int,
        lr: float,
        adam_lr: float,
        weight_decay: float,
        clip_grad: float,
        ema_decay: float,
        edge_weight: float,
        box_weight: float,
        stay_weight: float,
        stay_tolerance: float,
        pixels_per_batch: int,
        seed: int,
        export: str,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= warmup_steps <= steps - decay_steps <= steps:
            raise ValueError(
                f"task.steps={steps}: too few for warmup_steps={warmup_steps} and decay_steps={decay_steps}"
            )
        self.steps, self.warmup_steps, self.decay_steps = steps, warmup_steps, decay_steps
        self.lr, self.adam_lr, self.weight_decay, self.clip_grad = lr, adam_lr, weight_decay, clip_grad
        self.edge_weight, self.box_weight, self.ema_decay = edge_weight, box_weight, ema_decay
        self.stay_weight, self.stay_tolerance = stay_weight, stay_tolerance
        self.pixels_per_batch = pixels_per_batch
        self.export = Path(export)
        self.identity: dict[str, Any] = {}
        self.model = MiniAutoEncoder()
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a fifth faster on CPUs
        self.model.initialize(torch.Generator().manual_seed(seed))
        self.average = copy.deepcopy(self.model).requires_grad_(False)  # `ema_model`, named as in checkpoints
        if compile:
            self.model.compile()

    @property
    def ema_model(self) -> MiniAutoEncoder:
        """Exponential moving average of `model`."""
        return self.average

    def num_steps(self, num_devices: int) -> int:
        return self.steps

    def tokens_per_step(self, num_devices: int) -> int:
        return self.pixels_per_batch // PICTURE_STRIDE**2 * num_devices

    def plan(self, num_devices: int) -> str:
        """One line on the length of the training."""
        return f"{self.steps:,} steps"

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rates at a step, counted from 0."""
        rise = (step + 1) / max(self.warmup_steps, 1)
        fall = (self.steps - step) / max(self.decay_steps, 1)
        return max(0.0, min(1.0, rise, fall))

    def training_step(self, batch: TrainPairs, batch_idx: int) -> Tensor:
        truth, neighbors = (self._as_pixels(each) for each in (batch.frames, batch.neighbors))
        levels, neighbor_levels = self.model.levels(torch.cat([truth, neighbors])).chunk(2)
        pictures = self.model.decode(self.model.quantize.round(levels)).float()
        weights = box_weights(batch.boxes, truth.shape[-1], self.box_weight)
        reconstruction = reconstruction_loss(pictures, truth, weights, self.edge_weight)
        stay = stay_loss(truth, neighbors, levels, neighbor_levels, self.stay_tolerance)
        loss = reconstruction + self.stay_weight * stay
        self.log_dict({"train/loss": loss.detach(), "train/stay": stay.detach()}, batch_size=len(truth))
        self.log("train_loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    @staticmethod
    def _as_pixels(frames: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 → float32 in [−1, 1]."""
        return (frames.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Updates `ema_model` after the weights, before a checkpoint of this step can be saved."""
        super().optimizer_step(*args, **kwargs)
        ema_update(self.ema_model, self.model, self.ema_decay)

    def validation_step(self, batch: TrainPairs, batch_idx: int) -> None:
        """Logs the PSNR of the averaged weights for each size, and the share of tokens that stay as they are."""
        truth, neighbors = (self._as_pixels(each) for each in (batch.frames, batch.neighbors))
        with torch.autocast(truth.device.type, enabled=False):  # the precision of the tokenizer in use
            values = self.ema_model.encode(torch.cat([truth, neighbors]))
            pictures = self.ema_model.decode(values[: len(truth)])
        weights, size = box_weights(batch.boxes, truth.shape[-1], self.box_weight), truth.shape[-1]
        loss = reconstruction_loss(pictures, truth, weights, self.edge_weight)
        self.log("eval/loss", loss, batch_size=len(truth))
        self.log(f"eval/psnr_{size}px_db", psnr(pictures, truth).mean(), prog_bar=True, batch_size=len(truth))
        first, second = values.chunk(2)
        is_same = (first == second).all(-1).float()
        self.log(f"eval/same_tokens_{size}px", is_same.mean(), prog_bar=True, batch_size=len(truth))

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero:
            self.export.parent.mkdir(parents=True, exist_ok=True)
            save_weights(self.ema_model, self.export)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = Muon(self.model.parameters(), self.lr, self.adam_lr, self.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["m3"] = self.identity
