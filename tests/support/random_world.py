"""A world for generate.py: shards of random tokens, and a random model that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

import generate
from m3.core.modalities import successor_of
from m3.core.types import TokenizedPair
from m3.shards.manifest import Manifest, StoredModality, pair_modalities
from m3.shards.writer import write_shards
from m3.tokens.mini import MiniTokenizer

CONF = str(Path(generate.__file__).parent / "conf")
CANVAS_SIZE, GRID = 32, (2, 2)
MODALITIES = {
    "_target_": "m3.core.modalities.ModalityTable",
    "modalities": ["tok_rgb", "coords", "tok_rgb_next", "coords_next"],
    "vocab_sizes": [65536] * 4,
    "max_seq_lens": [4, 39, 4, 39],
    "input_alphas": [1] * 4,
    "target_alphas": [1] * 4,
    "input_tokens_range": [4, 40],
    "target_tokens_range": [4, 40],
}
MODEL = {
    "_target_": "m3.model.encoder_decoder.EncoderDecoder",
    "table": MODALITIES,
    "width": 32,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "head_width": 16,
    "head": "factorized",
}


def write_data(root: Path, extra: Sequence[StoredModality] = ()) -> Manifest:
    """Test split: clip a with 7 pairs, clip b with 2, frames numbered from 0; train and eval empty.

    extra: further modalities of a frame, stored for the reference and the successor.
    """
    rng = np.random.default_rng(0)
    pairs = []
    for clip, num_pairs in (("a", 7), ("b", 2)):
        frames = [
            {
                "tok_rgb": rng.integers(0, 64000, GRID).astype(np.uint16),
                "coords": np.concatenate([rng.integers(0, 8192, (2, 13)), np.ones((1, 13))]).astype(np.uint16),
                **{each.name: rng.integers(0, each.num_ids, each.shape).astype(np.uint16) for each in extra},
            }
            for _ in range(num_pairs + 1)
        ]
        for n in range(num_pairs):
            successor = {f"{name}_next": ids for name, ids in frames[n + 1].items()}
            meta = {"clip": clip, "reference": n, "successor": n + 1, "action": "jump", "pose_extent_px": 20.0}
            pairs.append(TokenizedPair(f"{clip}-{n:06d}", {**frames[n], **successor}, ("a jump",), meta))
    tokenizer = MiniTokenizer()
    in_split = {"train": [], "eval": [], "test": pairs}
    manifest = Manifest(
        settings={},
        source={"name": "random", "fingerprint": "0"},
        canvas={"mode": "crop", "size": CANVAS_SIZE},
        modalities=(*pair_modalities(GRID), *extra, *(replace(each, name=successor_of(each.name)) for each in extra)),
        has_joints=True,
        variants=(),
        captioner={"name": "none", "fingerprint": None, "settings": {}},
        text_tokenizer=None,
        tokenizer={"name": tokenizer.name, "fingerprint": tokenizer.fingerprint, "settings": {}},
        num_clips={"train": 0, "eval": 0, "test": 2},
        shards={split: write_shards(root, split, chosen, pairs_per_shard=5) for split, chosen in in_split.items()},
        statistics={},
        rejected=(),
        notes=(),
    )
    manifest.save(root)
    return manifest


def write_checkpoint(run: Path, data: dict, model: dict | None = None, scale: float = 0.1) -> None:
    model = model or MODEL
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"model.{name}": torch.randn(tensor.shape, generator=generator) * scale
        for name, tensor in instantiate(model).state_dict().items()
    }
    (run / "checkpoints").mkdir(parents=True)
    content = {"state_dict": weights, "global_step": 3, "m3": {"config": {"model": model}, "data": data}}
    torch.save(content, run / "checkpoints" / "step=00000003.ckpt")


def model_of(names: Sequence[str]) -> dict:
    """Settings of a model that knows these modalities only."""
    table = {**MODALITIES, "modalities": list(names), "input_tokens_range": [2, 4], "target_tokens_range": [2, 4]}
    chosen = [MODALITIES["modalities"].index(name) for name in names]
    for key in ("vocab_sizes", "max_seq_lens", "input_alphas", "target_alphas"):
        table[key] = [MODALITIES[key][k] for k in chosen]
    return {**MODEL, "table": table}


def write_run(run: Path, model: dict | None = None, scale: float = 0.1, **changes) -> None:
    """A checkpoint for the data of `write_data`, or for others where `changes` say so.

    scale: of the random weights; from about 1 on what is generated depends on what is given.
    """
    tokenizer = MiniTokenizer()
    data = {"canvas_size": CANVAS_SIZE, "tokenizer": tokenizer.name, "tokenizer_fingerprint": tokenizer.fingerprint}
    write_checkpoint(run, {**data, **changes}, model, scale)


def config(world: Path, *overrides: str) -> DictConfig:
    settings = [
        f"checkpoint={world / 'run'}", f"data.root={world / 'data'}", f"out={world / 'out'}", "device=cpu",
        "sampling.schemes.coords_next.num_steps=2", "sampling.schemes.tok_rgb_next.num_steps=2", "pictures.cell_px=64",
        "rollout.sample_schemes.coords_next.num_steps=2", "rollout.sample_schemes.tok_rgb_next.num_steps=2",
    ]  # fmt: skip
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("generate", [*settings, *overrides])


def completed(world: Path, given: str, generated: str, *overrides: str) -> generate.Result:
    keys = [f"{key}.{name}" for key in ("sampling.schemes", "rollout.sample_schemes") for name in ("coords", "tok_rgb")]
    few = [f"{key}.num_steps=2" for key in keys]
    asked = [f"sampling.given=[{given}]", f"sampling.generate=[{generated}]"]
    result = generate.run(config(world, *asked, *few, *overrides))
    assert not result.made.is_rollout
    return result


def write_world(root: Path) -> None:
    """The data of `write_data`, a run that fits it (run), and one of another canvas and tokenizer (other_run)."""
    write_data(root / "data")
    write_run(root / "run")
    write_run(root / "other_run", canvas_size=64, tokenizer_fingerprint="f" * 64)
