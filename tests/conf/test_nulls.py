"""Whatever key is null or empty: the command works without it, or says so in one line that names the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from support.train_runs import config, write_data

import preprocess
from m3.commands import generate, train
from m3.core.errors import USER_ERRORS, message_of

ROOT = Path(preprocess.__file__).parent


def keys_of(cfg: DictConfig) -> list[str]:
    """All dotted keys, of sections and of values."""

    def below(node: Any, path: tuple[str, ...]) -> Iterator[str]:
        if path:
            yield ".".join(path)
        for name, value in node.items() if isinstance(node, dict) else ():
            yield from below(value, (*path, str(name)))

    return [key for key in below(OmegaConf.to_container(cfg, resolve=False), ()) if not key.endswith("_target_")]


def said_of(command: Any, cfg: DictConfig, key: str, value: Any) -> str | None:
    """What the command says of the configuration with this value, None where it does not mind."""
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, key, value, merge=False)
    try:
        command(cfg)
    except USER_ERRORS as error:
        return message_of(error)
    return None


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


SECTIONS = ("modalities", "loss", "trainer", "hardware", "optim", "data", "task", "model", "logger", "callbacks")


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, [], ""])
def test_train(data: Path, tmp_path: Path, value: Any) -> None:
    keys = keys_of(config(data, tmp_path))
    assert len(keys) > 80
    for key in keys:
        said = said_of(train.assemble, config(data, tmp_path), key, value)
        if said is not None:
            assert "\n" not in said and key.split(".")[-1] in said, (key, said)


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(command, [*overrides])


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, [], ""])
def test_preprocess(tmp_path: Path, value: Any) -> None:
    def build(cfg: DictConfig) -> None:
        preprocess.run(cfg)

    options = ("source.num_clips=3", "source.num_frames=8", "source.size=64", "canvas.size=32", "workers=0",
               f"source.root={tmp_path / 'demo'}", f"out={tmp_path / 'out'}", "contact_sheet.num_pairs=0")  # fmt: skip
    for key in keys_of(composed("preprocess", *options)):
        said = said_of(build, composed("preprocess", *options, "overwrite=true"), key, value)
        if said is not None:
            assert "\n" not in said and key.split(".")[-1] in said, (key, said)


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, [], ""])
def test_generate(random_world: Path, tmp_path: Path, value: Any) -> None:
    options = (f"checkpoint={random_world / 'run'}", f"data.root={random_world / 'data'}", f"out={tmp_path}",
               "device=cpu", "rollout.frames=1", "rollout.max_samples=1", "pictures.num_reported=0")  # fmt: skip
    for key in keys_of(composed("generate", *options)):
        said = said_of(generate.run, composed("generate", *options), key, value)
        if said is not None:
            assert "\n" not in said and key.split(".")[-1] in said, (key, said)
