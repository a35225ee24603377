"""Trainings of 20 steps on tiny shards of random tokens, and what their checkpoints hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import train
from m3.checkpoint import newest_checkpoint
from m3.core.types import TokenizedPair
from m3.shards.manifest import PAIR_MODALITIES, Manifest, pair_modalities
from m3.shards.writer import write_shards

ROOT = Path(train.__file__).parent

GRID = (2, 2)

TINY = [
    "modalities.max_seq_lens=[4,39,4,39]", "modalities.input_tokens_range=[8,40]",
    "modalities.target_tokens_range=[8,40]", "model.width=32", "model.head_width=16", "model.encoder_depth=1",
    "model.decoder_depth=1", "model.head=factorized", "model.joints=ordinal", "optim.batch_size=4",
    "optim.total_tokens=0.02048", "optim.warmup_tokens=0.004", "data.eval_batch_size=8",
    "trainer.eval_every_tokens=0.007168", "trainer.checkpoint_every_tokens=0.00512", "trainer.log_every_n_steps=2",
    "hardware.accelerator=cpu", "logger=csv", "callbacks=none",
]  # fmt: skip
"""20 steps of 4 samples."""


def write_data(
    root: Path,
    num_pairs: dict[str, int],
    seed: int = 0,
    variants: tuple[str, ...] = (),
    names: tuple[str, ...] = PAIR_MODALITIES,
    fingerprint: str = "0" * 64,
) -> None:
    rng = np.random.default_rng(seed)

    def frame() -> dict[str, np.ndarray]:
        return {
            "tok_rgb": rng.integers(0, 64_000, GRID).astype(np.uint16),
            "coords": np.concatenate([rng.integers(0, 8_192, (2, 13)), rng.integers(0, 2, (1, 13))]).astype(np.uint16),
        }

    def pair(split: str, n: int) -> TokenizedPair:
        tokens = {}
        for version in ("", *(f".{variant}" for variant in variants)):
            versions = {**frame(), **{f"{name}_next": ids for name, ids in frame().items()}}
            tokens |= {f"{name}{version}": versions[name] for name in names}
        meta = {"clip": f"{split}{n}", "reference": 0, "successor": 1, "action": None, "pose_extent_px": 20.0}
        return TokenizedPair(f"{split}{n}-000000", tokens, (), meta)

    shards = {s: write_shards(root, s, [pair(s, n) for n in range(count)], 50) for s, count in num_pairs.items()}
    manifest = Manifest(
        settings={},
        source={"name": "random", "fingerprint": str(seed)},
        canvas={"mode": "crop", "size": 32},
        modalities=pair_modalities(GRID, names),
        has_joints=True,
        variants=variants,
        captioner={"name": "none", "fingerprint": None, "settings": {}},
        text_tokenizer=None,
        tokenizer={"name": "mini", "fingerprint": fingerprint, "settings": {}},
        num_clips=num_pairs,
        shards=shards,
        statistics={},
        rejected=(),
        notes=(),
    )
    manifest.save(root)


def config(data: Path, run_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*TINY, f"data.root={data}", f"run_dir={run_dir}", *overrides])


def state_of(run_dir: Path) -> dict:
    return torch.load(newest_checkpoint(run_dir), weights_only=True)


def assert_same_training_state(one: dict, other: dict) -> None:
    assert one["global_step"] == other["global_step"]
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name
    moments = [run["optimizer_states"][0]["state"] for run in (one, other)]
    for key, values in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in values.items())
