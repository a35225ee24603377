"""Poses of two kinds with a caption and an action each: people above and below the middle of the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from m3.core.types import TokenizedPair
from m3.shards.manifest import Manifest, StoredModality
from m3.shards.writer import write_shards
from m3.tokens.text import TextTokenizer, train_text_tokenizer
from support.random_world import CONF

ACTIONS = ("bowl", "golf_swing")
CAPTIONS = ("a person bowling", "a person doing a golf swing")
LENGTH = 24
NUM_ACTION_IDS, NUM_TEXT_IDS = 9, 900
"""More than the data have."""

TABLE = [
    "modalities=motion", "modalities.modalities=[coords,captions,action,motion_next]",
    f"modalities.vocab_sizes=[8192,{NUM_TEXT_IDS},{NUM_ACTION_IDS},4226]",
    f"modalities.max_seq_lens=[39,{LENGTH},1,13]",
    "modalities.input_tokens_range=[20,40]", "modalities.target_tokens_range=[1,24]",
    "modalities.input_alphas=[10,3,0,0]", "modalities.target_alphas=[0,4,1,0]",
    "modalities.mixture=[{weight:4},{weight:1,input_alphas:[4,1,1,0],target_alphas:[0,0,0,1]}]",
]  # fmt: skip


def pose(rng: np.random.Generator, kind: int) -> np.ndarray:
    """(3, 13) tokens: kind 0 in the upper half of the canvas, kind 1 in the lower."""
    x, y = rng.integers(1000, 7000, 13), rng.integers(500, 3500, 13) + 4000 * kind
    return np.stack([x, y, np.ones(13, int)]).astype(np.uint16)


def write_text_tokenizer(root: Path, captions: Sequence[str]) -> dict[str, str | int]:
    """Its entry in the manifest."""
    text = train_text_tokenizer(captions, 300)
    (root / "text_tokenizer.json").write_text(text, encoding="utf-8")
    num_ids = TextTokenizer(text).num_ids
    return {"file": "text_tokenizer.json", "sha256": sha256(text.encode()).hexdigest(), "num_ids": num_ids}


def write_data(root: Path, num_train: int = 40, num_test: int = 8) -> Manifest:
    """Splits of pairs without pictures, half of each kind; test has one pair a clip, train and eval are alike."""
    rng = np.random.default_rng(0)

    def pair(split: str, number: int) -> TokenizedPair:
        kind = number % 2
        meta = {"clip": f"{split}{number}", "reference": 0, "successor": 4, "action": ACTIONS[kind],
                "pose_extent_px": 20.0}  # fmt: skip
        tokens = {"coords": pose(rng, kind), "coords_next": pose(rng, kind)}
        return TokenizedPair(f"{split}{number}-000000", tokens, (CAPTIONS[kind],), meta)

    sizes = {"train": num_train, "eval": 4, "test": num_test}
    shards = {
        split: write_shards(root, split, [pair(split, number) for number in range(size)], 50)
        for split, size in sizes.items()
    }
    entry = write_text_tokenizer(root, CAPTIONS)
    manifest = Manifest(
        settings={}, source={"name": "halves", "fingerprint": "0"}, canvas={"mode": "crop", "size": 32},
        modalities=tuple(StoredModality(name, (3, 13), "joints", 8192) for name in ("coords", "coords_next")),
        has_joints=True, variants=(), captioner={"name": "label", "fingerprint": None, "settings": {}},
        text_tokenizer=entry, tokenizer={"name": "none", "fingerprint": None, "settings": {}}, num_clips=sizes,
        shards=shards, statistics={}, rejected=(), notes=(), actions=ACTIONS,
    )  # fmt: skip
    manifest.save(root)
    return manifest


def generation(root: Path, *overrides: str) -> DictConfig:
    """With the model of `training`, of the test split; its folder is `root / "out"`."""
    own = [f"checkpoint={root / 'run'}", f"data.root={root / 'data'}", f"out={root / 'out'}", "device=cpu",
           "pictures.cell_px=64", "rollout.starts=disjoint"]  # fmt: skip
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("generate", [*own, *overrides])


def training(root: Path, *overrides: str) -> DictConfig:
    """Of a tiny model on `root / "data"`; its run folder is `root / "run"`."""
    tiny = [
        "model=motion", "model.width=32", "model.head_width=16", "model.encoder_depth=1", "model.decoder_depth=1",
        "optim.batch_size=16", "optim.num_tokens_per_sample=64", "optim.warmup_tokens=0.01", "optim.lr=0.01",
        "optim.total_tokens=0.2", "hardware.accelerator=cpu", "logger=csv", "callbacks=none",
    ]  # fmt: skip
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("train", [*TABLE, *tiny, f"data.root={root / 'data'}", f"run_dir={root / 'run'}", *overrides])
