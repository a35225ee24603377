"""Shards of random poses, and random models that fill in poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import generate
from m3.core.types import TokenizedPair
from m3.generation.inpainting import InpaintingResult
from m3.shards.manifest import Manifest, pair_modalities
from m3.shards.writer import write_shards
from m3.tokens.joints import JointCodec

CONF = str(Path(generate.__file__).parent / "conf")

CANVAS_SIZE = 32

MODALITIES = {
    "modalities": ["coords", "coords_next"],
    "vocab_sizes": [65536] * 2,
    "max_seq_lens": [39, 39],
    "input_alphas": [1, 1],
    "target_alphas": [1, 1],
    "input_tokens_range": [8, 39],
    "target_tokens_range": [8, 39],
}

MODEL = {"table": MODALITIES, "width": 32, "encoder_depth": 1, "decoder_depth": 1, "head_width": 16}


def write_data(root: Path, seed: int = 0) -> None:
    """Train and test: 6 clips of 3 pairs each, poses anywhere; joint 12 is visible in no second frame."""
    rng, codec = np.random.default_rng(seed), JointCodec(CANVAS_SIZE)
    in_split = {"train": [], "eval": [], "test": []}
    for split in ("train", "test"):
        for clip in range(6):
            xy, is_visible = rng.uniform(0, CANVAS_SIZE, (4, 13, 2)), rng.random((4, 13)) < 0.8
            is_visible[1, 12] = False
            coords = codec.encode(xy, is_visible)
            for n in range(3):
                name = f"{split}{clip}"
                tokens = {"coords": coords[n], "coords_next": coords[n + 1]}
                meta = {"clip": name, "reference": n, "successor": n + 1, "action": None, "pose_extent_px": 20.0}
                in_split[split].append(TokenizedPair(f"{name}-{n:06d}", tokens, (), meta))
    Manifest(
        settings={}, source={"name": "random", "fingerprint": "0"}, canvas={"mode": "crop", "size": CANVAS_SIZE},
        modalities=pair_modalities((2, 2), ("coords", "coords_next")), has_joints=True, variants=(),
        captioner={"name": "none", "fingerprint": None, "settings": {}}, text_tokenizer=None,
        tokenizer={"name": "none", "fingerprint": None, "settings": {}},
        num_clips={"train": 6, "eval": 0, "test": 6},
        shards={split: write_shards(root, split, pairs, pairs_per_shard=10) for split, pairs in in_split.items()},
        statistics={}, rejected=(), notes=(),
    ).save(root)  # fmt: skip


def run(world: Path, *overrides: str, out: str = "out") -> InpaintingResult:
    settings = ["experiment=inpaint", f"checkpoint={world / 'run'}", f"data.root={world / 'data'}",
                f"out={world / out}", "device=cpu", "inpaint.num_poses=8"]  # fmt: skip
    with initialize_config_dir(CONF, version_base="1.3"):
        return generate.run_inpainting(compose("generate", [*settings, *overrides]))


def write_world(root: Path) -> None:
    """The data of `write_data`, a model that fits it (run), and one of another canvas size (other_run)."""
    write_data(root / "data")
    for name, canvas_size in (("run", CANVAS_SIZE), ("other_run", 64)):
        (root / name / "checkpoints").mkdir(parents=True)
        table = {"_target_": "m3.core.modalities.ModalityTable", **MODALITIES}
        model = instantiate({"_target_": "m3.model.encoder_decoder.EncoderDecoder", **MODEL, "table": table})
        generator = torch.Generator().manual_seed(0)
        weights = {f"model.{key}": torch.randn(w.shape, generator=generator) * 0.5 for key, w in
                   model.state_dict().items()}  # fmt: skip
        data = {"canvas_size": canvas_size, "tokenizer": "none", "tokenizer_fingerprint": None}
        content = {"state_dict": weights, "global_step": 3, "m3": {"config": {"model": MODEL}, "data": data}}
        torch.save(content, root / name / "checkpoints" / "step=00000003.ckpt")
