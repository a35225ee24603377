"""Training of the mini tokenizer: pictures in, pictures out, through 16 bits per 16 × 16 pixels."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from m3.tokens.mini import MiniAutoEncoder, save_weights


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """(B, 3, H, W) twice, in [−1, 1] → (B,) peak signal-to-noise ratio in dB of the pictures rounded to 8 bits."""
    rounded = ((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    error = (rounded - truth).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return 10 * torch.log10(4 / error)


def reconstruction_loss(pictures: Tensor, truth: Tensor, edge_weight: float) -> Tensor:
    """Root of the squared error of each picture, averaged, + edge_weight · mean |difference of neighbour differences|.

    The root lets a picture count by its relative error, as PSNR does; the mean over a batch of plain squared errors
    would be that of its few hardest pictures.
    """
    error = pictures - truth  # (B, 3, H, W)
    root = (error.square().mean(dim=(1, 2, 3)) + 1e-6).sqrt().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return root + edge_weight * edges


class TokenizerTraining(pl.LightningModule):
    """AdamW on the reconstruction, with a moving average of the weights, which is what is evaluated and exported.

    The learning rate warms up, stays, and falls linearly to 0 over the last `decay_steps`: how long to stay can be
    decided late (Hägele et al. 2024, arXiv:2405.18392).

    Args:
        num_steps: optimizer steps of the whole run.
        warmup_steps, decay_steps: lengths of the rise and the fall of the learning rate.
        lr, weight_decay: of AdamW; biases, norms and gains do not decay.
        ema_decay: share of the average that stays at each step.
        edge_weight: see `reconstruction_loss`.
        seed: of the initial weights.
        export: file name, in the run folder, of the safetensors weights written when the fit ends.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        warmup_steps: int,
        decay_steps: int,
        lr: float,
        weight_decay: float,
        ema_decay: float,
        edge_weight: float,
        seed: int,
        export: str,
    ) -> None:
        super().__init__()
        if not 0 <= warmup_steps <= warmup_steps + decay_steps <= num_steps:
            raise ValueError(f"task: warmup_steps {warmup_steps} + decay_steps {decay_steps} exceed num_steps {num_steps}")
        self.num_steps, self.warmup_steps, self.decay_steps = num_steps, warmup_steps, decay_steps
        self.lr, self.weight_decay, self.edge_weight, self.export = lr, weight_decay, edge_weight, export
        self.model = MiniAutoEncoder()
        self.model.initialize(torch.Generator().manual_seed(seed))
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))

    def lr_factor(self, step: int) -> float:
        """Share of `lr` at a step from 0."""
        rise = (step + 1) / max(self.warmup_steps, 1)
        fall = (self.num_steps - step) / max(self.decay_steps, 1)
        return min(1.0, rise, fall)

    def training_step(self, frames: Tensor, batch_idx: int) -> Tensor:
        """frames (B, 3, H, W) uint8."""
        truth = frames.float() / 127.5 - 1
        loss = reconstruction_loss(self.model(truth).float(), truth, self.edge_weight)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: object, batch: Tensor, batch_idx: int) -> None:
        self.average.update_parameters(self.model)

    def validation_step(self, frames: Tensor, batch_idx: int) -> None:
        """frames (B, 3, H, W) uint8; logs the PSNR of the averaged weights for each canvas size."""
        truth = frames.float() / 127.5 - 1
        values = psnr(self.average(truth).float(), truth)
        size = frames.shape[-1]
        self.log(f"eval/psnr_{size}px_db", values.mean(), prog_bar=True, batch_size=len(frames))

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero:
            save_weights(self.average.module, Path(self.trainer.default_root_dir) / self.export)

    def configure_optimizers(self) -> dict[str, object]:
        decaying = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decaying, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
