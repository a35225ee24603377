"""Every shipped option composes, and what needs no data is built from it."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from support.configs import CONF, OPTIONS, composed

APPS = {"preprocess", "train", "generate"}


def test_there_are_no_other_files() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == APPS
    assert len(OPTIONS) > 25


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_composes_and_resolves(group: str, option: str) -> None:
    cfg = composed(group, option)
    for key in cfg:
        if key not in ("source", "hydra"):  # a source's path is for the user to say
            OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] in ("modalities", "model", "optim")])
def test_an_option_of_the_recipe_is_built(group: str, option: str) -> None:
    with torch.device("meta"):
        assert instantiate(composed(group, option)[group]) is not None


@pytest.mark.parametrize(
    ("option", "width", "depth"),
    [("tiny", 384, 6), ("small", 512, 8), ("m3", 512, 6), ("base", 768, 12), ("large", 1024, 24)],
)
def test_a_model_has_the_size_that_its_file_says(option: str, width: int, depth: int) -> None:
    cfg = composed("model", option).model
    assert (cfg.width, cfg.encoder_depth, cfg.decoder_depth, cfg.head_width, cfg.mlp_ratio) == (
        width, depth, depth, 64, 4)  # fmt: skip
    with torch.device("meta"):
        model = instantiate(cfg)
    left_out = ("enc_tok_emb.", "enc_mod_emb.", "dec_mod_emb.", "to_logits.")
    num_parameters = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(left_out))
    said = re.match(r"# ([\d,]+) parameters without embeddings", (CONF / "model" / f"{option}.yaml").read_text())
    assert said and num_parameters == int(said[1].replace(",", ""))


def test_the_mixture_and_the_pose_only_table() -> None:
    mixture = instantiate(composed("modalities", "m3_mixture").modalities).alpha_sets
    assert [each.weight for each in mixture] == [0.5, 0.5] and mixture[0].input_alphas == (1, 1, 1, 1)
    assert (mixture[1].input_alphas, mixture[1].target_alphas) == ((1, 1, 0, 0), (0, 0, 1, 1))
    coords = instantiate(composed("modalities", "coords").modalities)
    assert coords.num_tokens == 78 >= coords.input_tokens_range[1] + coords.target_tokens_range[1]


def documented_commands() -> list[str]:
    """Those of docs/extending.md name options that its reader writes; tests/docs runs them."""
    pages = [path for path in sorted((CONF.parent / "docs").glob("*.md")) if path.name != "extending.md"]
    text = "".join(path.read_text() for path in [CONF.parent / "README.md", *pages, *CONF.rglob("*/*.yaml")])
    return re.findall(r"^[# ]*python ((?:preprocess|train|generate)\.py [^#\n&]*)", text, re.MULTILINE)


@pytest.mark.parametrize("command", documented_commands())
def test_commands_in_documents_and_configs_compose(command: str) -> None:
    app, *overrides = shlex.split(command)
    overrides = [override if "[" in override else override.split(",")[0] for override in overrides if override != "-m"]
    overrides = [override.replace("DIR", "/data") for override in overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(app.removesuffix(".py"), overrides)


def test_the_readme_has_no_dead_links_and_no_blanks() -> None:
    text = (CONF.parent / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert "@@" not in text and len(links) > 3
    assert [link for link in links if "://" not in link and not (CONF.parent / link).exists()] == []


def test_hardware_options_have_the_same_keys() -> None:
    options = {option: set(composed("hardware", option).hardware) for group, option in OPTIONS if group == "hardware"}
    assert {"fp32", "fp16_v100", "bf16_a100"} <= options.keys()
    assert len({frozenset(keys) for keys in options.values()}) == 1


def test_the_m3_recipe_to_the_letter() -> None:
    cfg = composed("train/experiment", "m3")
    modalities, optim = OmegaConf.to_container(cfg.modalities), OmegaConf.to_container(cfg.optim)
    assert modalities == {
        "_target_": "m3.core.modalities.ModalityTable",
        "modalities": ["tok_rgb", "coords", "tok_rgb_next", "coords_next"],
        "vocab_sizes": [65536] * 4,
        "max_seq_lens": [256, 39, 256, 39],
        "input_alphas": [1] * 4,
        "target_alphas": [1] * 4,
        "input_tokens_range": [32, 128],
        "target_tokens_range": [32, 128],
        "clamped": "drop",
        "mixture": None,
    }
    assert optim == {
        "_target_": "m3.training.optim.OptimConfig",
        "batch_size": 128,
        "accumulation": 1,
        "total_tokens": 5000,
        "warmup_tokens": 500,
        "num_tokens_per_sample": 256,
        "lr": 0.0006,
        "min_lr": 0.000001,
        "weight_decay": 0.05,
        "betas": [0.9, 0.95],
        "clip_grad": 1.0,
        "dtype": "fp32",
        "ema_decay": None,
        "muon": False,
    }
    assert (cfg.model.logits, cfg.model.positions) == ("table", "1d")
    assert (cfg.loss.reduction, cfg.loss.label_smoothing) == ("all", 0.0)
    # 5,000 M tokens over 256 tokens · 512 samples on the 4 GPUs of the published run
    schedule = instantiate(cfg.optim).schedule(num_devices=4)
    assert (schedule.num_steps, schedule.num_warmup_steps) == (38_147, 3_815)
    assert schedule.lr_at(0) == pytest.approx(0.0006 / 3_815)
    assert schedule.lr_at(3_814) == pytest.approx(0.0006)
    assert schedule.lr_at(38_146) == pytest.approx(0.000001)
    assert schedule.lr_at((3_815 + 38_146) // 2) == pytest.approx((0.0006 + 0.000001) / 2, rel=1e-3)


def test_the_m4_recipe_differs_where_it_says() -> None:
    cfg = composed("train/experiment", "m4")
    assert (cfg.modalities.input_alphas, cfg.modalities.target_alphas) == ([1.5, 1.5, 0.5, 0.5], [0.5, 0.5, 1.5, 1.5])
    assert (cfg.modalities.input_tokens_range, cfg.modalities.target_tokens_range) == ([96, 256], [39, 256])
    assert (cfg.optim.lr, cfg.optim.min_lr, cfg.optim.total_tokens) == (0.002, 1e-7, 3000)
    assert (cfg.model.logits, cfg.loss.reduction, cfg.modalities.clamped) == ("table", "all", "drop")
    assert (cfg.model.width, cfg.model.encoder_depth, cfg.model.decoder_depth, cfg.model.head_width) == (640, 8, 8, 64)
    assert (cfg.optim.batch_size, cfg.optim.num_tokens_per_sample) == (96, 256)
    assert instantiate(cfg.optim).schedule(num_devices=4).num_steps == 30_518  # of 384 samples: 11.7 M


def test_the_m3_recipe_of_preprocessing() -> None:
    cfg = composed("preprocess/experiment", "m3")
    assert cfg.tokenizer._target_.endswith("CosmosTokenizer") and cfg.captioner._target_.endswith("BlipCaptioner")
    assert (cfg.split.unit, list(cfg.split.ratios), cfg.split.seed) == ("pair", [0.8, 0.1, 0.1], 42)
    assert cfg.canvas._target_.endswith("StretchCanvas")
    assert (cfg.canvas.size, cfg.pairs.threshold, cfg.pairs.max_pairs_per_clip) == (256, 0.89, None)
    assert cfg.captioner.max_new_tokens == 30
