"""`hardware.strategy=fsdp` on two CPU processes: the steps of one process, and ordinary checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.global_batches import (
    EVERY_STEP,
    FEW_TARGETS,
    assert_same_gradients,
    checkpoint,
    logged,
    run_on_two_processes,
)
from support.train_runs import config, write_data

import train
from m3.checkpoint import load_model

OPTIONS = [*FEW_TARGETS, *EVERY_STEP, "optim.ema_decay=0.5", "optim.clip_grad=0.3", "trainer.eval_every_tokens=0.002"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 7, "test": 2})
    return root


def test_two_processes_that_share_the_weights_make_the_steps_of_one(data, tmp_path) -> None:
    def run(name: str, *overrides: str) -> None:
        sizes = ["optim.batch_size=1", "optim.accumulation=2", "data.eval_batch_size=1"]
        run_on_two_processes(data, tmp_path / name, *OPTIONS, *sizes, *overrides, strategy="fsdp")

    run("two", "trainer.max_steps=3")
    train.run(config(data, tmp_path / "one", *OPTIONS, "optim.batch_size=4", "trainer.max_steps=3"))
    # Clipped, by a norm that is summed in another order in float32.
    assert_same_gradients(tmp_path / "two", tmp_path / "one", tolerance=1e-4)
    for prefix, tolerance in (("train/loss", 1e-6), ("train/grad", 1e-4), ("eval/", 1e-5)):
        found = [logged(tmp_path / name, prefix) for name in ("two", "one")]
        assert len(found[0]) == len(found[1]) == 3
        for ours, theirs in zip(*found):
            assert ours == pytest.approx(theirs, rel=tolerance)
    first, second = (checkpoint(tmp_path / name, 3)["state_dict"] for name in ("two", "one"))
    assert list(first) == list(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=3e-5)  # steps are up to 5e-4

    assert load_model(tmp_path / "two").step == 3
    run("two", "trainer.max_steps=5", "resume=auto")
    run("whole", "trainer.max_steps=5")
    first, second = (checkpoint(tmp_path / name, 5)["state_dict"] for name in ("two", "whole"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
