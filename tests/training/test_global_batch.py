"""One optimizer step is that of the global batch, however micro-batches and processes divide it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from support.global_batches import (
    EVERY_STEP,
    FEW_TARGETS,
    assert_same_gradients,
    checkpoint,
    gradients,
    logged,
    run_on_two_processes,
)
from support.train_runs import config, write_data

import train
from m3.checkpoint import load_model
from m3.training.module import MaskedTraining


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 7, "test": 2})
    return root


@pytest.mark.parametrize("how", ["present", "all", "token"])
def test_accumulated_gradients_are_those_of_the_joint_batch(data, tmp_path, how) -> None:
    options = [*FEW_TARGETS, *EVERY_STEP, f"loss.reduction={how}", "loss.label_smoothing=0.1", "trainer.max_steps=2"]
    for name, batch_size, accumulation in (("joint", 6, 1), ("parts", 2, 3)):
        sizes = [f"optim.batch_size={batch_size}", f"optim.accumulation={accumulation}"]
        made = train.run(config(data, tmp_path / name, *options, *sizes))
    assert_same_gradients(tmp_path / "parts", tmp_path / "joint")
    for ours, theirs in zip(logged(tmp_path / "parts", "train/"), logged(tmp_path / "joint", "train/"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert made.trainer.global_step == 2 and made.module.num_steps(1) == math.ceil(20480 / 256 / 6)
    assert any(-1 in row.values() for row in logged(tmp_path / "joint", "train/"))  # some modality was absent


def test_accumulation_in_half_precision_scales_and_clips_once(data, tmp_path) -> None:
    """With the scaled loss that fp16 needs, here on the CPU."""
    norms = []
    for accumulation in (1, 3):
        options = [
            f"optim.batch_size={6 // accumulation}",
            f"optim.accumulation={accumulation}",
            "optim.clip_grad=0.01",
        ]
        parts = train.assemble(config(data, tmp_path, *options))
        torch.nn.init.normal_(parts.module.model.head_of(0).weight)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, gradient_clip_val=0.01,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        )  # fmt: skip
        trainer.fit(parts.module, datamodule=parts.datamodule)
        clipped = torch.stack([p.grad.norm() for p in parts.module.model.parameters()]).norm()
        assert scaler.get_scale() == 2.0**10 and float(clipped) == pytest.approx(0.01, rel=1e-3)
        norms.append(float(parts.module.last_step.grad_norm))
    assert norms[0] > 0.1 and norms[1] == pytest.approx(norms[0], rel=1e-2)


def test_two_processes_make_the_steps_of_one(data, tmp_path) -> None:
    """Loss, gradients, accuracies and, with 7 samples for both, evaluation; some batches lack a modality."""
    options = [*FEW_TARGETS, *EVERY_STEP, "loss.label_smoothing=0.1", "trainer.max_steps=3", "optim.ema_decay=0.5",
               "trainer.eval_every_tokens=0.002", "optim.clip_grad=1e9"]  # fmt: skip
    run_on_two_processes(data, tmp_path / "two", *options, "optim.batch_size=1", "optim.accumulation=2",
                         "data.eval_batch_size=1")  # fmt: skip
    train.run(config(data, tmp_path / "one", *options, "optim.batch_size=4", "data.eval_batch_size=64"))
    assert_same_gradients(tmp_path / "two", tmp_path / "one")
    for prefix, tolerance in (("train/loss", 1e-6), ("train/acc", 1e-6), ("train/grad", 1e-4), ("eval/", 1e-5)):
        found = [logged(tmp_path / name, prefix) for name in ("two", "one")]
        assert len(found[0]) == len(found[1]) == 3
        for ours, theirs in zip(*found):
            assert ours == pytest.approx(theirs, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("num_samples", "eval_batch_size"), [(1, 7), (101, 1), (101, 7), (101, 64)])
def test_evaluation_is_the_same_on_two_processes(tmp_path, num_samples: int, eval_batch_size: int) -> None:
    """Of one sample, too, of which one process has none."""
    write_data(tmp_path / "data", {"train": 30, "eval": num_samples, "test": 2})
    options = ["trainer.max_steps=2", "trainer.eval_every_tokens=0.001", f"data.eval_batch_size={eval_batch_size}"]
    run_on_two_processes(tmp_path / "data", tmp_path / "two", *options, "optim.batch_size=2")
    train.run(config(tmp_path / "data", tmp_path / "one", *options[:2], "data.eval_batch_size=16"))
    found = [logged(tmp_path / name, "eval/") for name in ("two", "one")]
    assert len(found[0]) == len(found[1]) >= 3
    for ours, theirs in zip(*found):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_average_of_the_weights_is_saved_evaluated_resumed_and_loaded(data, tmp_path) -> None:
    options = [*EVERY_STEP, "optim.ema_decay=0.7", "trainer.max_steps=4"]
    average = {name: w.clone() for name, w in train.assemble(config(data, tmp_path)).module.model.named_parameters()}
    made = train.run(config(data, tmp_path / "whole", *options))
    for step in range(1, 5):
        state = checkpoint(tmp_path / "whole", step)["state_dict"]
        for name in average:
            average[name] = 0.7 * average[name] + 0.3 * state[f"model.{name}"]
            torch.testing.assert_close(state[f"average.{name}"], average[name])

    loaded = load_model(tmp_path / "whole").model
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, state[f"average.{name}"])
    plain = MaskedTraining(made.module.table, loaded, train.assemble(config(data, tmp_path)).module.optim)
    evaluated = made.trainer.validate(plain, datamodule=made.datamodule, verbose=False)[0]["eval/loss"]
    assert evaluated == pytest.approx(made.last_eval_loss, rel=1e-6)

    train.run(config(data, tmp_path / "parts", *options[:-1], "trainer.max_steps=3"))
    train.run(config(data, tmp_path / "parts", *options, "resume=auto"))
    resumed = checkpoint(tmp_path / "parts", 4)["state_dict"]
    assert all(torch.equal(resumed[name], weight) for name, weight in state.items())


def test_last_step_tells_what_the_step_did(data, tmp_path) -> None:
    options = ["trainer.max_steps=1", "optim.batch_size=2", "optim.accumulation=2", "optim.clip_grad=1000"]
    module = train.run(config(data, tmp_path, *EVERY_STEP, *options)).module
    step = module.last_step
    assert len(step.batch.sample) == len(step.input_lengths) == len(step.target_lengths) == 4
    assert (int(step.input_lengths.sum()), int(step.target_lengths.sum())) == (step.num_inputs, step.num_targets)
    assert int(step.counts.sum()) == step.num_targets
    row = logged(tmp_path, "train/loss_")[0]
    means = (step.sums / step.counts).nan_to_num(-1.0).tolist()
    assert [row[f"train/loss_{name}"] for name in module.table.modalities] == pytest.approx(means, rel=1e-6)
    assert float(step.grad_norm) == pytest.approx(math.hypot(*(float(g.norm()) for g in gradients(tmp_path))), rel=1e-5)
