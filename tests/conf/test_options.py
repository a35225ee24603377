"""Every key of conf/ is read by somebody, and every key of a training changes what is assembled from it.

The other two applications: test_assembled_options.py.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from support.configs import CONF, OPTIONS, attributes_read, composed, facts, override
from support.train_runs import write_data

import train


@cache
def target_keys() -> dict[str, set[str]]:
    """The keys that conf/ gives to each `_target_` of m3."""
    found: dict[str, set[str]] = {}

    def walk(node: Any) -> None:
        for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(item)
        if isinstance(node, dict) and str(node.get("_target_", "")).startswith("m3."):
            found.setdefault(node["_target_"], set()).update(key for key in node if not key.startswith("_"))

    for group, option in OPTIONS:
        walk(OmegaConf.to_container(composed(group, option), resolve=False))
    return found


def arguments_used(made: Any) -> set[str]:
    """Parameters that a function, or the constructors of a class, use in their bodies."""
    constructors = [vars(base)["__init__"] for base in inspect.getmro(made) if "__init__" in vars(base)] \
        if inspect.isclass(made) else [made]  # fmt: skip
    used = set()
    for function in constructors:
        if getattr(function, "__module__", "").startswith("m3."):
            body = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body
            used |= {node.id for part in body for node in ast.walk(part) if isinstance(node, ast.Name)}
    return used


@pytest.mark.parametrize("target", sorted(target_keys()))
def test_every_key_is_a_typed_argument_that_somebody_reads(target: str) -> None:
    made, keys = get_object(target), target_keys()[target]
    parameters = inspect.signature(made).parameters
    assert keys <= parameters.keys()
    assert all(parameters[key].kind != inspect.Parameter.VAR_KEYWORD for key in keys)
    is_record = dataclasses.is_dataclass(made)
    assert keys - (attributes_read() if is_record else arguments_used(made)) == set()


def test_the_check_of_arguments_finds_one_that_nobody_reads() -> None:
    class Idle:
        def __init__(self, used: int, unused: int) -> None:
            self.used = used

    Idle.__init__.__module__ = "m3.idle"
    assert "used" in arguments_used(Idle) and "unused" not in arguments_used(Idle)


CHANGES = {
    "name": "other", "resume": "soon", "init_from": "nowhere.ckpt", "init_modalities": "some", "seed": 1,
    "run_dir": "elsewhere",
    "loss.reduction": "token", "loss.label_smoothing": 0.1, "loss.motion_blur": 0.1, "loss.eval_seed": 1,
    "trainer.log_every_n_steps": 3, "trainer.eval_every_tokens": 7, "trainer.checkpoint_every_tokens": 7,
    "trainer.keep_checkpoints": 5, "trainer.max_steps": 2,
    "hardware.accelerator": "gpu", "hardware.devices": 2, "hardware.num_nodes": 2, "hardware.strategy": "fsdp",
    "hardware.precision": "bf16-mixed", "hardware.attention": "padded", "hardware.compile": True,
    "hardware.matmul_precision": "high",
    "modalities.modalities": ["tok_rgb", "coords"], "modalities.vocab_sizes": [65000] * 4,
    "modalities.max_seq_lens": [16, 39, 16, 39], "modalities.input_alphas": [1, 2, 1, 1],
    "modalities.target_alphas": [1, 2, 1, 1], "modalities.input_tokens_range": [9, 40],
    "modalities.target_tokens_range": [9, 40], "modalities.clamped": "drop",
    "modalities.mixture": [{"weight": 1, "input_alphas": [1, 1, 0, 0], "target_alphas": [0, 0, 1, 1]}],
    "model.width": 64, "model.encoder_depth": 2, "model.decoder_depth": 2, "model.head_width": 8, "model.mlp_ratio": 2,
    "model.logits": "table", "model.head": "factorized", "model.joints": "ordinal", "model.positions": "2d",
    "model.aligned": "true", "model.init": "mimetic",
    "optim.batch_size": 8, "optim.accumulation": 2, "optim.total_tokens": 9, "optim.warmup_tokens": 2,
    "optim.num_tokens_per_sample": 128, "optim.lr": 1e-3, "optim.min_lr": 1e-5, "optim.weight_decay": 0.1,
    "optim.clip_grad": 2.0, "optim.dtype": "bf16", "optim.betas": [0.9, 0.99], "optim.ema_decay": 0.9,
    "optim.muon": True,
    "data.root": "nowhere", "data.backend": "stream", "data.batch_size": 8, "data.accumulation": 2,
    "data.eval_batch_size": 32, "data.seed": 1, "data.num_workers": 1, "data.shuffle_buffer": 99,
    "data.repeat_batches": 1, "data.flip": True,
    "callbacks.preview.folder": "elsewhere", "callbacks.preview.root": "nowhere",
    "callbacks.preview.every_n_evaluations": 2, "callbacks.preview.num_samples": 1,
    "callbacks.preview.num_frames": 2, "callbacks.preview.cell_px": 64, "callbacks.preview.seed": 1,
    "callbacks.preview.damping": 0.9,
    "logger.csv.save_dir": "elsewhere", "logger.csv.name": "other",
    "logger.tensorboard.save_dir": "elsewhere", "logger.tensorboard.name": "other",
    "logger.tensorboard.default_hp_metric": True,
}  # fmt: skip
"""Another value of each key of conf/train.yaml and of the groups in its defaults list."""

SEEN_ELSEWHERE = {
    "trainer.profiler": "test_throughput.py",
    "callbacks.preview.sampling": "test_sampling_settings.py",
    "callbacks.preview.tokenizer": "test_preview.py",
}
TOKENS = [
    "modalities.max_seq_lens=[4,39,4,39]", "modalities.input_tokens_range=[8,40]",
    "modalities.target_tokens_range=[8,40]", "model.width=32", "model.head_width=16", "model.encoder_depth=1",
    "model.decoder_depth=1", "optim.batch_size=4", "optim.total_tokens=8", "optim.warmup_tokens=1",
    "trainer.eval_every_tokens=2", "trainer.checkpoint_every_tokens=2", "hardware.accelerator=cpu",
    "callbacks.preview.sampling.schemes.tok_rgb_next.num_steps=2",
]  # fmt: skip


def keys_of(cfg: DictConfig) -> Iterator[str]:
    """Leaves of the composed training that say something of their own: no target, no reference to another key."""

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            path = f"{prefix}{key}"
            if key.startswith("_") or path in ("hydra", "task", *SEEN_ELSEWHERE):
                continue
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from walk(child, f"{path}.")
            elif path in ("modalities.mixture", "run_dir") or not path.endswith(".table"):
                yield path

    return walk(cfg, "")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 7, "test": 2})
    return root


def assembled(data: Path, run_dir: Path, *changes: str) -> Any:
    """Everything that a training is assembled to, or the error that says why it cannot be."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"data.root={data}", "name=same", *TOKENS, *changes])
    cfg.run_dir = str(run_dir / cfg.run_dir)
    try:
        parts = train.assemble(cfg)
    except (ValueError, OSError, InstantiationException) as error:
        return str(error)
    trainer = parts.trainer
    trainer_facts = {
        name: str(getattr(trainer, name))
        for name in ("max_steps", "precision", "num_devices", "num_nodes", "val_check_interval", "log_every_n_steps",
                     "gradient_clip_val")
    }  # fmt: skip
    loggers = [(type(x).__name__, x.save_dir, x.name, vars(x).get("_default_hp_metric")) for x in trainer.loggers]
    callbacks = [c for c in trainer.callbacks if type(c).__module__.startswith("m3.")]
    held = [facts(part, set()) for part in (parts.module, parts.datamodule, callbacks)]
    strategy, arithmetic = type(trainer.strategy).__name__, torch.get_float32_matmul_precision()
    return str(parts.run_dir), trainer_facts, strategy, str(loggers), arithmetic, *held


def test_the_list_of_changes_is_complete(data) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keys = set(keys_of(compose("train")))
    assert keys - CHANGES.keys() - {"debug", "experiment", "sweep"} == set()
    assert CHANGES.keys() - keys <= {"run_dir"}


@pytest.fixture(scope="module")
def unchanged(data, tmp_path_factory) -> tuple[Path, Any]:
    run_dir = tmp_path_factory.mktemp("run")
    first, second = (assembled(data, run_dir) for _ in range(2))
    assert first == second and not isinstance(first, str)
    return run_dir, first


@pytest.mark.parametrize("key", CHANGES)
def test_another_value_assembles_another_training(data, unchanged, key: str) -> None:
    run_dir, before = unchanged
    precision = torch.get_float32_matmul_precision()
    try:
        after = assembled(data, run_dir, f"{key}={override(CHANGES[key])}")
    finally:
        torch.set_float32_matmul_precision(precision)
    assert after != before
    if isinstance(after, str):
        assert key.split(".")[-1] in after or CHANGES[key] in after, after
