"""A training step on a GPU: it waits for nothing, and its kernels are chosen without a change of what is learned."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from support.global_batches import EVERY_STEP, assert_same_gradients, logged
from support.train_runs import config, write_data

import train

ON_GPU = ["hardware=bf16_h100", "hardware.compile=false", "hardware.accelerator=gpu"]


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_device(tmp_path: Path) -> None:
    """Between log steps and checkpoints; torch reports every operation that waits, but not events
    (`m3.training.guards`)."""
    write_data(tmp_path / "data", {"train": 30, "eval": 7, "test": 2})
    options = [*ON_GPU, "optim.batch_size=4", "optim.accumulation=2", "trainer.log_every_n_steps=100",
               "trainer.checkpoint_every_tokens=100", "trainer.eval_every_tokens=100"]  # fmt: skip
    parts = train.assemble(config(tmp_path / "data", tmp_path / "run", *options, "trainer.max_steps=8"))

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            torch.cuda.set_sync_debug_mode("warn" if 2 <= trainer.global_step <= 6 else "default")

    parts.trainer.callbacks.append(Watch())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts.trainer.fit(parts.module, datamodule=parts.datamodule)
    torch.cuda.set_sync_debug_mode("default")
    found = [f"{each.filename}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]
    assert not found


@pytest.mark.gpu
def test_compiled_padded_and_plain_kernels_learn_the_same(tmp_path: Path) -> None:
    """The first gradient and three losses, in bfloat16."""
    write_data(tmp_path / "data", {"train": 30, "eval": 7, "test": 2})
    kernels = {
        "plain": [],
        "compiled": ["hardware.compile=true"],
        "padded": ["hardware.attention=padded"],
    }
    for name, options in kernels.items():
        train.run(config(tmp_path / "data", tmp_path / name, *ON_GPU, *EVERY_STEP, "trainer.max_steps=3", *options))
    for name in ("compiled", "padded"):
        assert_same_gradients(tmp_path / name, tmp_path / "plain", tolerance=2e-2)
        for ours, theirs in zip(logged(tmp_path / name, "train/loss"), logged(tmp_path / "plain", "train/loss")):
            assert ours == pytest.approx(theirs, rel=1e-2)
