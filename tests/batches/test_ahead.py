"""Batches that another thread prepares before they are asked for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from support.global_batches import EVERY_STEP, checkpoint
from support.train_runs import config, write_data

import train
from m3.batches.ahead import ahead
from m3.batches.datamodule import TokenDataModule


def test_items_come_in_order_and_two_at_most_are_read_before_they_are_asked_for() -> None:
    read = []

    def items():
        for k in range(7):
            read.append(k)
            yield k

    numbers = ahead(items(), lambda k: (k * k, threading.current_thread().name))
    assert read == []  # nothing starts before it is needed
    square, thread = next(numbers)
    assert square == 0 and thread.startswith("batches")
    assert [square for square, _ in numbers] == [1, 4, 9, 16, 25, 36] and read == list(range(7))

    read.clear()
    numbers = ahead(items(), lambda k: k)
    assert [next(numbers) for _ in range(2)] == [0, 1]
    numbers.close()
    assert len(read) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_fault_is_raised_in_the_place_of_its_item() -> None:
    def prepare(k: int) -> float:
        return 1 / (k - 2)

    numbers = ahead(range(5), prepare)
    assert [next(numbers), next(numbers)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(numbers)


@pytest.mark.parametrize("options", [[], ["data.num_workers=2"], ["data.backend=stream"]])
def test_masks_that_are_drawn_ahead_train_the_same_model(tmp_path: Path, monkeypatch, options: list[str]) -> None:
    """To the bit, also when the run is resumed in the middle of an epoch; evaluation too."""
    write_data(tmp_path / "data", {"train": 30, "eval": 7, "test": 2})
    options = [*options, *EVERY_STEP, "optim.batch_size=4", "optim.accumulation=2"]
    masked_ahead = []

    def preparation(self: TokenDataModule, purpose: str):
        def prepare(batch):
            masked_ahead.append(threading.current_thread().name)
            return self.trainer.lightning_module.masked(batch, purpose)

        return prepare

    train.run(config(tmp_path / "data", tmp_path / "plain", *options, "trainer.max_steps=4"))
    monkeypatch.setattr(TokenDataModule, "_preparation", preparation)
    train.run(config(tmp_path / "data", tmp_path / "ahead", *options, "trainer.max_steps=2"))
    made = train.run(config(tmp_path / "data", tmp_path / "ahead", *options, "trainer.max_steps=4", "resume=auto"))
    assert masked_ahead and all(name.startswith("batches") for name in masked_ahead)
    assert made.trainer.global_step == 4
    plain, prepared = (checkpoint(tmp_path / name, 4)["state_dict"] for name in ("plain", "ahead"))
    for name, tensor in plain.items():
        assert torch.equal(tensor, prepared[name]), name
