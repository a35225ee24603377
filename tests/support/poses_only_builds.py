"""Builds that keep the poses of a tiny Penn Action folder and none of its pictures: quick."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from support.preprocess_runs import ROOT


def overrides(world: Path, out: Path, *more: str) -> list[str]:
    source = ["source=penn_action", f"source.root={world}", f"out={out}", "canvas.size=32"]
    return [*source, "workers=0", "tokenizer=none", "pairs_per_shard=9", "contact_sheet.num_pairs=0", *more]


def config(world: Path, out: Path, *more: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("preprocess", overrides(world, out, *more))
