"""A model as a folder for sharing: `model.safetensors` and `config.json`, which holds no paths of the run's machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from m3.checkpoint.matching import BINDING
from m3.model.encoder_decoder import EncoderDecoder
from m3.pretrained import find_weights

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1
HUB_PREFIX = "hub:"
"""Before the id of a repository of the Hugging Face hub: hub:OWNER/NAME."""

_SECTIONS = ("optim", "loss", "seed")
"""Of a run's configuration, beside the model: how it was trained."""


def pretrained_folder(key: str, path: str | Path) -> Path | None:
    """The folder that `path` names, downloaded first where it is hub:OWNER/NAME; None where it is none of a model.

    key: the setting that gives `path`, for messages. Raises FileNotFoundError where the hub has no such model.
    """
    if str(path).startswith(HUB_PREFIX):
        repository = str(path).removeprefix(HUB_PREFIX)
        advice = "Such repositories are made by `python -m m3.hub`; private ones need `hf auth login` or HF_TOKEN"
        return find_weights(key, repository, (WEIGHTS, CONFIG), (), advice)
    folder = Path(path)
    return folder if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file() else None


def write_pretrained(
    folder: Path, model: EncoderDecoder, config: Mapping[str, Any], data: Mapping[str, Any], step: int
) -> None:
    """Writes both files, each whole or not at all; the same model gives the same bytes.

    Args:
        config: of the run: `model` and, where known, `optim`, `loss` and `seed`.
        data: identity of the data, of which the canvas and the tokenizer are kept.
        step: optimizer steps.
    """
    options = {key: value for key, value in config["model"].items() if key not in ("_target_", "table")}
    content = {
        "model_type": "m3",
        "format": FORMAT,
        "modalities": _plain(asdict(model.table)),
        "model": options,
        "data": {key: data[key] for key in BINDING},
        "training": {"step": step, **{key: _plain(config[key]) for key in _SECTIONS if key in config}},
    }
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_file(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    write_file(folder / CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def read_pretrained(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of such a folder, laid out as that of a checkpoint: `m3`, `state_dict`, `global_step`.

    Raises ValueError naming the file that is damaged or that this m3 cannot read.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["model_type"], content["format"]) != ("m3", FORMAT):
            raise ValueError(f"model_type {content['model_type']!r}, format {content['format']!r}; this m3 reads "
                             f"'m3', {FORMAT}")  # fmt: skip
        training = dict(content["training"])
        step = training.pop("step")
        config = {"model": {**content["model"], "table": content["modalities"]}, **training}
        data = {key: content["data"][key] for key in BINDING}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a model of m3 ({type(error).__name__}: {error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS, device=str(device))
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS}: holds no weights, or is damaged ({error})") from error
    state = {f"model.{name}": tensor for name, tensor in weights.items()}
    return {"m3": {"config": config, "data": data}, "state_dict": state, "global_step": step}


def write_file(path: Path, content: bytes) -> None:
    """Writes a file under its final name only when complete."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Without the `_target_`s of a configuration, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if key != "_target_"}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
