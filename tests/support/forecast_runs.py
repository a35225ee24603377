"""Pose forecasting on made-up label files: its configuration and a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

import train
from m3.model.encoder_decoder import EncoderDecoder
from support.tiny_world import write_label

ROOT = Path(train.__file__).parent
TINY = ["model.width=32", "model.head_width=16", "model.encoder_depth=1", "model.decoder_depth=1",
        "optim.batch_size=8", "optim.total_tokens=0.00256", "optim.warmup_tokens=0.0006", "optim.dtype=fp32",
        "trainer.eval_every_tokens=0.00256", "trainer.checkpoint_every_tokens=0.00256",
        "hardware.accelerator=cpu",
        "trainer.log_every_n_steps=1"]  # fmt: skip
"""5 steps of 8 samples."""


def config(app: str, *overrides: object) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(app, ["experiment=penn_forecast", *map(str, overrides)])


def write_labels(folder: Path, num_clips: int = 6) -> None:
    """Clips of which every third is a test clip; people walk to the right."""
    for number in range(1, num_clips + 1):
        rng = np.random.default_rng(number)
        num_frames = 18 + 5 * number
        walk = rng.uniform(8, 40, (1, 13)) + np.linspace(0, 15, num_frames)[:, None]
        write_label(
            folder / f"{number:04d}.mat", num_frames=num_frames, x=walk, y=rng.uniform(4, 44, (1, 13)) + 0 * walk,
            train=np.array([[-1 if number % 3 == 0 else 1]], np.int32), action=("bowl", "squat")[number % 2],
        )  # fmt: skip


def tiny_model(seed: int = 0) -> EncoderDecoder:
    torch.manual_seed(seed)
    cfg = config("train", *TINY, "data.root=DIR")
    model = instantiate(cfg.model).eval()
    with torch.no_grad():
        for parameter in model.to_logits.parameters():
            parameter.normal_(std=0.5)
    return model
