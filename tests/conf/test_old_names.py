"""Every command takes old names of keys: on its command line and in the user's own files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from m3.commands.application import application


def configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, *overrides: str, folder: Path | None = None
) -> DictConfig:
    """What the task of a command gets."""
    seen: list[DictConfig] = []
    options = [] if folder is None else [f"--config-dir={folder}"]
    monkeypatch.setattr(sys, "argv", [command, *options, *overrides, f"hydra.run.dir={tmp_path}/hydra"])
    GlobalHydra.instance().clear()
    application(command)(seen.append)()
    return seen[0]


def test_on_the_command_line(monkeypatch, tmp_path) -> None:
    assert configuration(monkeypatch, tmp_path, "train", "loss.average=all").loss.reduction == "all"
    overrides = ["sampling.schemes.coords.kind=ar", "rollout.draws.coords.refresh_every=2"]
    cfg = configuration(monkeypatch, tmp_path, "generate", *overrides)
    assert (cfg.sampling.schemes.coords.order, cfg.sampling.schemes.tok_rgb.order) == ("ar", "maskgit")
    assert cfg.rollout.sample_schemes.coords.encoder_interval == 2
    assert "kind" not in cfg.sampling.schemes.coords and "draws" not in cfg.rollout


def test_in_a_users_experiment_which_the_command_line_overrides(monkeypatch, tmp_path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\nloss: {average: all}\noptim: {_target_: m3.training.optim.Recipe}\n"
    )
    cfg = configuration(monkeypatch, tmp_path, "train", "experiment=mine", folder=tmp_path)
    assert (cfg.loss.reduction, cfg.task.reduction) == ("all", "all") and "average" not in cfg.loss
    assert cfg.optim._target_ == "m3.training.optim.OptimConfig"
    for name in ("average", "reduction"):
        cfg = configuration(monkeypatch, tmp_path, "train", "experiment=mine", f"loss.{name}=token", folder=tmp_path)
        assert cfg.task.reduction == "token"
