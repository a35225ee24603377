"""The model that comes with m3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from m3.checkpoint import SHIPPED, LoadedModel, load_model
from m3.checkpoint.loading import initialize
from m3.clips.demo import demo_clip
from m3.commands import generate
from m3.core.modalities import ModalityTable
from m3.model.encoder_decoder import EncoderDecoder
from m3.tokens.mini import MiniTokenizer

CONF = Path(generate.__file__).parents[1] / "conf"


def test_it_is_small_finite_and_of_the_shipped_tokenizer():
    loaded = load_model(SHIPPED)
    files = list((Path(generate.__file__).parents[1] / "checkpoint/shipped").iterdir())
    assert {path.name for path in files} == {"README.md", "config.json", "model.safetensors"}
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert loaded.data["tokenizer_fingerprint"] == MiniTokenizer().fingerprint
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert all(loaded.table.is_ever_target(name) for name in ("coords", "tok_rgb", "motion_next", "tok_rgb_next"))


def test_a_photo_is_continued_without_a_checkpoint(tmp_path: Path):
    Image.fromarray(demo_clip(77, 3, 8, (160, 160)).render(2, (160, 160))).save(tmp_path / "photo.png")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("generate", [f"input={tmp_path / 'photo.png'}", f"out={tmp_path / 'out'}", "rollout.frames=2",
                                   "device=cpu"])  # fmt: skip
    made = generate.run(cfg).made
    pictures = made.predicted.values["tok_rgb"]
    assert pictures.shape == (1, 3, 128, 128, 3) and (tmp_path / "out/rollout.mp4").is_file()
    moved = np.abs(pictures[0, 1].astype(int) - pictures[0, 0]).mean()
    assert 0 < moved < 20  # neither a copy nor another place
    assert made.predicted.values["coords"].is_visible[0, 0].sum() >= 8  # it finds a pose in the picture


def test_a_training_can_start_from_it():
    loaded = load_model(SHIPPED)
    model = EncoderDecoder(loaded.table, **options_of(loaded))
    initialize(model, SHIPPED, loaded.data)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="init_from=pretrained does not fit this run: .*canvas_size"):
        initialize(model, SHIPPED, {**loaded.data, "canvas_size": 256})


def test_a_model_of_other_modalities_takes_what_both_have():
    loaded = load_model(SHIPPED)
    names = ["action", "motion_prev", "coords", "captions", "tok_rgb"]
    table = ModalityTable(names, [64, 4226, 8192, 8192, 65536], [1, 13, 39, 32, 64], [0, 1, 1, 0, 1], [1, 0, 0, 1, 0],
                          [1, 9], [1, 9])  # fmt: skip
    model = EncoderDecoder(table, **options_of(loaded, "aligned"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    words = {"actions": ["run"], "text_tokenizer": "x"}
    initialize(model, SHIPPED, {**loaded.data, **words}, "common")
    shipped = loaded.model.state_dict()
    assert list(loaded.table.modalities[:3]) == ["tok_rgb", "coords", "motion_prev"]
    for name, tensor in model.state_dict().items():
        if name in ("enc_mod_emb.weight", "dec_mod_emb.weight"):
            expected = before[name].clone()
            expected[[4, 2, 1]] = shipped[name][:3]
        elif any(f".{new}." in name for new in ("action", "text")):
            expected = before[name]
        else:
            expected = shipped[name]
        assert torch.equal(tensor, expected), name
    with pytest.raises(ValueError, match="modalities.modalities was"):
        initialize(model, SHIPPED, {**loaded.data, **words})


def options_of(loaded: LoadedModel, *without: str) -> dict[str, Any]:
    """The model's options."""
    return {key: value for key, value in loaded.config["model"].items() if key not in ("_target_", "table", *without)}


@pytest.mark.parametrize("names, lengths, width, match", [
    (["coords", "action"], [39, 1], 96, r"model.dec_context_proj.weight was \(192, 192\) and is \(96, 96\)"),
    (["action", "tok_rgb"], [1, 256], 192, r"modalities.max_seq_lens was \[64\] and is \[256\]"),
    (["action", "captions"], [1, 32], 192, "modalities.modalities has none of tok_rgb, coords"),
])  # fmt: skip
def test_what_both_have_must_fit(names: list[str], lengths: list[int], width: int, match: str):
    loaded = load_model(SHIPPED)
    table = ModalityTable(names, [65536] * 2, lengths, [1, 0], [0, 1], [1, lengths[0]], [1, lengths[1]])
    model = EncoderDecoder(table, **{**options_of(loaded, "aligned"), "width": width})
    with pytest.raises(ValueError, match=match):
        initialize(model, SHIPPED, {**loaded.data, "actions": ["run"], "text_tokenizer": "x"}, "common")


def test_rounded_weights_are_written_in_half_the_bytes(tmp_path: Path):
    loaded = load_model(SHIPPED)
    finer = replace(loaded, model=load_model(SHIPPED).model)
    with torch.no_grad():
        finer.model.dec_norm.weight += 1e-4
    finer.save_pretrained(tmp_path / "whole")
    finer.rounded().save_pretrained(tmp_path / "half")
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert 1.9 < sizes["whole"] / sizes["half"] < 2.1
    stored = safetensors.torch.load_file(tmp_path / "half/model.safetensors")["dec_norm.weight"]
    assert torch.equal(stored, finer.model.dec_norm.weight.half())
    assert load_model(tmp_path / "whole").fingerprint == finer.fingerprint
    assert load_model(tmp_path / "half").fingerprint == finer.rounded().fingerprint
