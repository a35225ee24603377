"""From checkpoints to models: one that is ready to generate, and the first weights of a new training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m3.checkpoint.files import newest_checkpoint, read_checkpoint
from m3.checkpoint.matching import BINDING, differences
from m3.checkpoint.pretrained import pretrained_folder, read_pretrained
from m3.checkpoint.published import is_m3_checkpoint, load_published, read_published
from m3.modalities import ModalityTable
from m3.model.encoder_decoder import EncoderDecoder

_MODEL_PREFIXES = ("average.", "model.")
"""Of the weights in a checkpoint: those of the moving average, where there is one, go before the latest."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model and what it was trained with.

    model: in eval mode.
    table: its modalities.
    config: the run's composed configuration.
    data: identity of its data: canvas_size, tokenizer (name), tokenizer_fingerprint, ….
    step: optimizer steps it was trained for.
    """

    model: EncoderDecoder
    table: ModalityTable
    config: dict[str, Any]
    data: dict[str, Any]
    step: int


def load_model(path: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Loads a `.ckpt` file, the newest complete checkpoint of a run folder, or a model made for sharing.

    Args:
        path: the file, the run folder, a folder of `m3.hub`, or hub:OWNER/NAME.
    Raises:
        FileNotFoundError saying which command trains a model.
        ValueError for a file that holds no m3 checkpoint.
    """
    if (file := pretrained_folder("checkpoint", path)) is not None:
        checkpoint = read_pretrained(file, device)
    else:
        file = _file(path)
        checkpoint = read_checkpoint(file, device)
    identity = checkpoint["m3"]
    if "canvas_size" not in identity["data"]:
        raise ValueError(f"{file}: not a checkpoint of an encoder-decoder, but of {identity['config'].get('name')}")
    # Called by name, never through the file's own `_target_`: a checkpoint must not choose what code runs.
    options = {key: value for key, value in identity["config"]["model"].items() if key != "_target_"}
    table = {key: value for key, value in options.pop("table").items() if key != "_target_"}
    try:
        model = EncoderDecoder(ModalityTable(**table), **options)
        model.load_state_dict(_weights(checkpoint))
    except (TypeError, ValueError, RuntimeError) as error:  # options or weights of another version, or damaged ones
        raise ValueError(f"{file}: its model cannot be built: {error}") from error
    model = model.to(device).eval()
    return LoadedModel(model, model.table, identity["config"], identity["data"], checkpoint["global_step"])


def initialise(model: EncoderDecoder, path: str | Path, data: dict[str, Any]) -> None:
    """Gives a new model the weights of a run, of a shared model, or of the published run.

    Args:
        path: as for `load_model`, or a state dict for `load_published` (safetensors or torch).
        data: identity of the data that it is to be trained on.
    Raises:
        FileNotFoundError; ValueError naming what does not fit: options of the model, modalities, canvas, tokenizer.
    """
    if not isinstance(model, EncoderDecoder):
        raise ValueError(f"init_from={path}: task=masked only")
    if (folder := pretrained_folder("init_from", path)) is not None:
        checkpoint = read_pretrained(folder)
    else:
        file = _file(path)
        if not is_m3_checkpoint(file):
            load_published(model, read_published(file), str(file))
            return
        checkpoint = read_checkpoint(file)
    saved = checkpoint["m3"]
    if "canvas_size" not in saved["data"]:
        raise ValueError(f"init_from={path}: not a checkpoint of an encoder-decoder")
    lines = []
    for key in ("modalities", "max_seq_lens"):
        then, now = saved["config"]["model"]["table"][key], getattr(model.table, key)
        lines += differences(f"modalities.{key}", list(then), list(now))
    lines += [line for key in BINDING for line in differences(f"data.{key}", saved["data"][key], data[key])]
    weights, wanted = _weights(checkpoint), model.state_dict()
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (weights, wanted)]
    lines += differences("model", *shapes)
    if lines:
        raise ValueError(f"init_from={path} does not fit this run: " + "; ".join(lines))
    model.load_state_dict(weights)


def _file(path: str | Path) -> Path:
    file = Path(path) if Path(path).is_file() else newest_checkpoint(path)
    if file is None:
        raise FileNotFoundError(f"{path}: no checkpoint there; train one with `python train.py name=NAME`")
    return file


def _weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    state = checkpoint["state_dict"]
    prefix = next(prefix for prefix in _MODEL_PREFIXES if any(name.startswith(prefix) for name in state))
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
