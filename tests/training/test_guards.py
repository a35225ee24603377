"""Losses and gradients that are not finite stop a run, with what replays them, before any weight is harmed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import safetensors
import safetensors.torch
import torch
from pytorch_lightning.plugins import MixedPrecision
from support.train_runs import ROOT, TINY, config, write_data

import train
from m3.checkpoint import newest_checkpoint
from m3.core.files import WriteError
from m3.core.rng import SampleGenerator
from m3.loss import training_loss
from m3.masking.select import choose_and_pack, pack
from m3.training import guards
from m3.training.guards import MAX_SKIPPED_STEPS, NonFiniteError

SCHEDULE = ["trainer.checkpoint_every_tokens=0.005", "trainer.eval_every_tokens=0.01"]
"""A checkpoint every 5 steps, an evaluation every 10."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 7, "test": 2})
    return root


class Spoil(pl.Callback):
    """Calls `harm(model)` before a step, counted from 1."""

    def __init__(self, step: int, harm: Callable[[torch.nn.Module], None]) -> None:
        self.step, self.harm = step, harm

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        if trainer.global_step + 1 == self.step:
            self.harm(pl_module.model)


def break_joint_logits(model: torch.nn.Module) -> None:
    """Both modalities of joints then have the loss NaN; pictures have another head."""
    with torch.no_grad():
        next(model.to_logits["joints"].parameters())[0] = math.nan


def break_a_gradient(model: torch.nn.Module) -> None:
    model.decoder[0].mlp.fc2.weight.register_hook(lambda gradient: gradient * math.inf)


def failed(data: Path, run_dir: Path, spoil: Spoil, *overrides: str) -> tuple[train.Assembled, str]:
    cfg = config(data, run_dir, *SCHEDULE, *overrides)
    parts = train.assemble(cfg)
    parts.trainer.callbacks.append(spoil)
    with pytest.raises(NonFiniteError) as error:
        train.fit(cfg, parts)
    return parts, str(error.value)


@pytest.mark.parametrize("sizes", [(4, 1), (2, 2)])
def test_a_loss_that_is_not_finite_is_named_and_can_be_replayed(data, tmp_path, sizes) -> None:
    options = [f"optim.batch_size={sizes[0]}", f"optim.accumulation={sizes[1]}"]
    parts, message = failed(data, tmp_path, Spoil(3, break_joint_logits), *options)
    path = tmp_path / "bad_batch_step_00000003.safetensors"
    assert message.startswith("step 3: the loss of coords is nan and the loss of coords_next is nan; ")
    assert str(path) in message and [p.name for p in tmp_path.glob("bad_batch*")] == [path.name]
    assert parts.trainer.global_step == 3  # the next step had not changed the weights

    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["step"] == "3"
    saved = safetensors.torch.load_file(path)
    again = train.assemble(config(data, tmp_path / "again", *options)).module
    again.model.load_state_dict({k.removeprefix("model."): v for k, v in saved.items() if k.startswith("model.")})
    inputs, targets = (pack(saved["tokens"], saved[name], again.table) for name in ("is_input", "is_target"))
    sums = training_loss(again.model, again.model(inputs, targets), targets, torch.ones(4))[1]
    assert sums.isfinite().tolist() == [True, False, True, False]
    torch.testing.assert_close(sums, parts.module.last_step.sums, equal_nan=True)
    # They are the third batch of the run and its masks.
    batch = parts.datamodule.train_dataloader().dataset[2]
    assert torch.equal(saved["tokens"], batch.tokens) and torch.equal(saved["sample"], batch.sample)
    own = choose_and_pack(batch.tokens, again.table, SampleGenerator(0, "train", batch.sample, batch.epoch))
    assert all(torch.equal(ours.ids, theirs.ids) for ours, theirs in zip((inputs, targets), own))


def test_a_gradient_that_is_not_finite_names_its_parameter_and_changes_nothing(data, tmp_path) -> None:
    parts, message = failed(data, tmp_path / "bad", Spoil(3, break_a_gradient), "optim.ema_decay=0.5")
    assert message.startswith("step 3: the gradient of decoder.0.mlp.fc2.weight is not finite (1 of ")
    good = train.run(config(data, tmp_path / "good", *SCHEDULE, "trainer.max_steps=2", "optim.ema_decay=0.5"))
    wanted = good.module.model.state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in parts.module.model.state_dict().items())
    moments = [run.trainer.optimizers[0].state_dict()["state"] for run in (parts, good)]
    assert all(torch.equal(value, moments[1][key][name])
               for key, values in moments[0].items() for name, value in values.items())  # fmt: skip


@pytest.mark.parametrize(("step", "newest"), [(5, None), (10, 5), (20, 15)])
def test_no_checkpoint_follows_a_bad_step(data, tmp_path, step, newest) -> None:
    """It would be that of step 5 in the middle, of 10 with an evaluation due, of 20 at the end."""
    _, message = failed(data, tmp_path, Spoil(step, break_a_gradient))
    assert message.startswith(f"step {step}: ")
    found = newest_checkpoint(tmp_path)
    assert found is None if newest is None else found.name == f"step_{newest:08d}.ckpt"
    assert not list(tmp_path.glob("**/*.tmp"))


def test_gradients_too_large_for_their_norm(data, tmp_path) -> None:
    def blow_up(model: torch.nn.Module) -> None:
        model.dec_norm.weight.register_hook(lambda gradient: torch.full_like(gradient, 1e25))

    _, message = failed(data, tmp_path, Spoil(1, blow_up))
    assert message.startswith("step 1: the norm of the gradient is not finite, that of dec_norm.weight is the largest")


def test_a_full_disk_hides_no_fault(data, tmp_path, monkeypatch) -> None:
    def no_room(path: Path, _: bytes) -> None:
        raise WriteError(28, "No space left on device", str(path))

    monkeypatch.setattr(guards, "write_atomic", no_room)
    _, message = failed(data, tmp_path, Spoil(2, break_a_gradient))
    assert "step 2: the gradient" in message and "cannot be written (No space left on device)" in message


def scaled_trainer(init_scale: float, **options: object) -> pl.Trainer:
    """fp16, here on the CPU."""
    return pl.Trainer(
        accelerator="cpu", max_steps=40, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, gradient_clip_val=1.0,
        plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=init_scale))], **options,
    )  # fmt: skip


def test_steps_that_a_loss_scaler_skips_are_no_faults_but_endless_ones_are(data, tmp_path) -> None:
    parts = train.assemble(config(data, tmp_path))
    trainer = scaled_trainer(2.0**30)  # too large at first
    trainer.fit(parts.module, datamodule=parts.datamodule)
    assert trainer.global_step == 40 and trainer.precision_plugin.scaler.get_scale() < 2.0**30

    parts = train.assemble(config(data, tmp_path))
    trainer = scaled_trainer(2.0**10, default_root_dir=tmp_path, callbacks=[Spoil(2, break_a_gradient)])
    with pytest.raises(NonFiniteError, match=f"step {MAX_SKIPPED_STEPS + 1}: the gradient of decoder.0.mlp.fc2.weight"):
        trainer.fit(parts.module, datamodule=parts.datamodule)

    parts = train.assemble(config(data, tmp_path))
    trainer = scaled_trainer(2.0**10, default_root_dir=tmp_path, callbacks=[Spoil(2, break_joint_logits)])
    with pytest.raises(NonFiniteError, match="step 2: the loss of coords is nan"):
        trainer.fit(parts.module, datamodule=parts.datamodule)


def test_the_command_prints_one_line(data, tmp_path) -> None:
    options = [*TINY, f"data.root={data}", f"run_dir={tmp_path}", "optim.lr=1e30", "optim.warmup_tokens=0"]
    done = subprocess.run([sys.executable, "train.py", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: step 2: the loss of " in done.stderr or "error: step 3: the loss of " in done.stderr
    assert len(list(tmp_path.glob("bad_batch_step_*.safetensors"))) == 1


ON_ONE_RANK = """
import sys, torch
sys.path[:0] = {paths!r}
from support.train_runs import config
import train, m3.training.module as module
training_loss, calls = module.training_loss, []
def spoiled(*arguments):
    calls.append(1)
    harm = torch.tensor([1, 1, 1, float("inf")]) if len(calls) == 3 and torch.distributed.get_rank() == 1 else 1
    loss, sums = training_loss(*arguments)
    return loss, sums + (harm - 1)  # finite gradients
module.training_loss = spoiled
train.run(config({data!r}, {run_dir!r}, "hardware.devices=2", "hardware.strategy=ddp", "optim.batch_size=2"))
"""


def test_all_ranks_stop_where_one_has_a_bad_loss(data, tmp_path) -> None:
    script = tmp_path / "script.py"
    paths = [str(ROOT), str(ROOT / "tests")]
    script.write_text(ON_ONE_RANK.format(paths=paths, data=str(data), run_dir=str(tmp_path / "run")))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode != 0
    assert "step 3: the loss of coords_next is not finite on another rank" in done.stderr
    assert "step 3: the loss of coords_next is inf" in done.stderr
    batches = [safetensors.torch.load_file(path) for path in sorted((tmp_path / "run").glob("bad_batch_step_*"))]
    assert len(batches) == 2 and not torch.equal(batches[0]["sample"], batches[1]["sample"])
    weights = [{k: v for k, v in batch.items() if k.startswith("model.")} for batch in batches]
    assert all(torch.equal(value, weights[1][name]) and value.isfinite().all() for name, value in weights[0].items())
