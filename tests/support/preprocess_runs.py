"""Builds of a tiny Penn Action folder, and what they left."""

from __future__ import annotations

from pathlib import Path

import webdataset as wds
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import preprocess
from m3.shards.manifest import Manifest

ROOT = Path(preprocess.__file__).parent


def config(world: Path | None, out: Path, *overrides: str) -> DictConfig:
    source = [] if world is None else ["source=penn_action", f"source.root={world}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        quick = ["canvas.size=32", "workers=0", "contact_sheet.num_pairs=0"]
        return compose("preprocess", [*source, f"out={out}", *quick, *overrides])


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def samples(out: Path, split: str) -> list[dict]:
    urls = [str(out / shard.name) for shard in Manifest.load(out).shards[split]]
    return list(wds.WebDataset(urls, shardshuffle=False).decode())
