"""What m3 relies on in Lightning beyond its public interface: a change of it fails here and is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.profilers import Profiler
from support.train_runs import config, write_data

import train
from m3.training.profile import _NEXT_BATCH, _PARTS, StepProfile


class Recorder(StepProfile):
    """Notes the names of all actions."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.started: list[str] = []
        self.stopped: list[str] = []

    def start(self, action_name: str) -> None:
        self.started.append(action_name)
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        self.stopped.append(action_name)
        super().stop(action_name)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Recorder:
    folder = tmp_path_factory.mktemp("run")
    write_data(folder / "data", {"train": 30, "eval": 7, "test": 2})
    cfg = config(folder / "data", folder / "run", "trainer.max_steps=3", "trainer.log_every_n_steps=1")
    parts = train.assemble(cfg)
    parts.trainer.profiler = Recorder(folder / "profile.txt")
    train.fit(cfg, parts)
    return parts.trainer.profiler


def test_waiting_for_data_is_reported_under_its_name_once_per_step(recorded) -> None:
    # A fourth time at the end, where the loop asks for a batch that it does not train on, would not matter.
    assert recorded.started.count(_NEXT_BATCH) == recorded.stopped.count(_NEXT_BATCH) == 3
    assert recorded.waited_s > 0


@pytest.mark.parametrize("part", [*_PARTS])
def test_every_part_of_a_step_is_reported_to_the_profiler(recorded, part: str) -> None:
    assert part in {name.split(".")[-1] for name in recorded.started}
    assert part in {name.split(".")[-1] for name in recorded.stopped}


def test_the_trainer_takes_another_profiler() -> None:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False)
    assert isinstance(trainer.profiler, Profiler) and trainer.log_every_n_steps == 50


def test_lightning_asks_all_ranks_for_a_sigterm_in_a_method_that_checkpoints_replace() -> None:
    assert "_broadcast_sigterm_tensor" in vars(_TrainingEpochLoop)
    assert "_broadcast_sigterm_tensor" in _TrainingEpochLoop.advance.__code__.co_names
    trainer = pl.Trainer(logger=False, enable_checkpointing=False)
    assert isinstance(trainer.fit_loop.epoch_loop, _TrainingEpochLoop)
