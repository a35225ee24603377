"""Makes shards of tokenized pairs from clips: assembles the parts that conf/preprocess.yaml names and runs them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from rich.console import Console
from rich.table import Table

from m3.shards.build import BuildOptions, Recipe, build_dataset
from m3.shards.manifest import Manifest
from m3.shards.prepare import ClipPreparer

STAGES = ("source", "canvas", "pairs", "tokenizer", "captioner", "split")
NOT_IN_MANIFEST = ("root", "labels", "path", "device")
"""Keys that say where things lie or run. Fingerprints stand for what lies there, so that a data set can be moved."""


def run(cfg: DictConfig) -> Manifest:
    """Makes the data set that `cfg` (conf/preprocess.yaml) describes, unless it is there already.

    Raises:
        hydra's InstantiationException, FileNotFoundError or ValueError, before any work, for settings that cannot
        be; each names the key or the file. ClipError with strict=true at the first clip that cannot be used.
    """
    out = Path(cfg.out)
    options = BuildOptions(
        pairs_per_shard=cfg.pairs_per_shard,
        encode_batch_size=cfg.encode_batch_size,
        encode_threads=cfg.encode_threads,
        num_workers=(os.cpu_count() or 1) if cfg.workers is None else cfg.workers,
        strict=cfg.strict,
    )
    # The source comes last: the demo's writes its clips.
    parts = {stage: instantiate(cfg[stage]) for stage in (*STAGES[1:], "source")}
    preparer = ClipPreparer(parts["source"], parts["canvas"], parts["pairs"], parts["captioner"])
    recipe = Recipe(preparer, parts["tokenizer"], parts["split"], _settings(cfg), options)
    manifest, is_new = build_dataset(out, recipe, cfg.overwrite)
    _report(out, manifest, is_new)
    return manifest


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """What of the configuration decides the bytes of the shards."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    stages = {
        stage: {key: value for key, value in settings[stage].items() if key not in NOT_IN_MANIFEST} for stage in STAGES
    }
    layout = {key: settings[key] for key in ("pairs_per_shard", "encode_batch_size", "encode_threads")}
    return {**stages, **layout}


def _report(out: Path, manifest: Manifest, is_new: bool) -> None:
    console = Console()
    if not is_new:
        console.print(f"{out} is complete with these settings; nothing to do (overwrite=true makes it again)")
    size = manifest.canvas_size
    console.print(f"{out}: canvas {size} x {size} px, {manifest.num_tokens} tokens a pair", highlight=False)
    table = Table()
    table.add_column("split")
    for column in ("clips", "pairs", "shards"):
        table.add_column(column, justify="right")
    for split, shards in manifest.shards.items():
        table.add_row(split, f"{manifest.num_clips[split]:,}", f"{manifest.num_pairs(split):,}", str(len(shards)))
    console.print(table)
    if manifest.rejected:
        console.print(f"{len(manifest.rejected)} clips were not used; {out / 'rejected.jsonl'} says why")
        for rejection in manifest.rejected[:5]:
            console.print(f"  {rejection.clip}: {rejection.reason}", highlight=False)
    if manifest.notes:
        console.print(f"{len(manifest.notes)} notes on odd clips are in {out / 'dataset.json'}")


@hydra.main(version_base="1.3", config_path="conf", config_name="preprocess")
def main(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # each job a data set of its own
        cfg.out = f"{HydraConfig.get().runtime.output_dir}/data"
    try:
        run(cfg)
    except MissingMandatoryValue as error:
        raise SystemExit(f"error: {error.full_key} has no default: give {error.full_key}=…") from None
    except (OSError, ValueError, HydraException) as error:
        is_wrapped = isinstance(error, InstantiationException) and isinstance(error.__cause__, OSError | ValueError)
        raise SystemExit(f"error: {error.__cause__ if is_wrapped else error}") from None


if __name__ == "__main__":
    main()
