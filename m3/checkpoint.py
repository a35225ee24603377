"""Checkpoints: written whole or not at all, read without pickles, refused where they do not match."""

from __future__ import annotations

import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from m3.modalities import ModalityTable
from m3.model.encoder_decoder import EncoderDecoder

_MODEL_PREFIXES = ("average.", "model.")
"""Of the weights in a checkpoint: those of the moving average, where there is one, go before the latest."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name and renames; loads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".tmp")
        with open(unfinished, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class StepCheckpoint(ModelCheckpoint):
    """Keeps the newest `keep` checkpoints, one every `every_n_steps` steps and one after the last step."""

    def __init__(self, dirpath: str, every_n_steps: int, keep: int = 2) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="{step:08d}",
            monitor="step",
            mode="max",
            save_top_k=keep,
            every_n_train_steps=every_n_steps,
        )

        self.keep = keep

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        path = Path(self.dirpath) / f"step={trainer.global_step:08d}.ckpt"
        if not path.exists():
            trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for old in sorted(Path(self.dirpath).glob("step=*.ckpt"))[: -self.keep]:
                old.unlink()


def newest_checkpoint(run_folder: str | Path) -> Path | None:
    """The checkpoint of the largest step in `run_folder/checkpoints`, or None."""
    found = {}
    for path in (Path(run_folder) / "checkpoints").glob("step=*.ckpt"):
        if match := re.fullmatch(r"step=(\d+)\.ckpt", path.name):
            found[int(match[1])] = path
    return found[max(found)] if found else None


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
    """Loads a `.ckpt` file, or the newest checkpoint of a run folder.

    Raises:
        FileNotFoundError saying which command trains a model.
        ValueError for a file that holds no m3 checkpoint.
    """
    file = Path(path) if Path(path).is_file() else newest_checkpoint(path)
    if file is None:
        raise FileNotFoundError(f"{path}: no checkpoint there; train one with `python train.py name=NAME`")
    checkpoint = _read(file, device)
    identity = checkpoint["m3"]
    if "canvas_size" not in identity["data"]:
        raise ValueError(f"{file}: not a checkpoint of an encoder-decoder, but of {identity['config'].get('name')}")
    # Called by name, never through the file's own `_target_`: a checkpoint must not choose what code runs.
    options = {key: value for key, value in identity["config"]["model"].items() if key != "_target_"}
    table = {key: value for key, value in options.pop("table").items() if key != "_target_"}
    model = EncoderDecoder(ModalityTable(**table), **options)
    state = checkpoint["state_dict"]
    prefix = next(prefix for prefix in _MODEL_PREFIXES if any(name.startswith(prefix) for name in state))
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    model.load_state_dict(weights)
    model = model.to(device).eval()
    return LoadedModel(model, model.table, identity["config"], identity["data"], checkpoint["global_step"])


def _read(file: Path, device: torch.device | str) -> dict[str, Any]:
    """A checkpoint's content. Raises ValueError naming the file where it is none of m3's."""
    try:
        checkpoint = torch.load(file, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{file}: not a checkpoint, or a damaged one ({type(error).__name__}: {error})") from error
    if not isinstance(checkpoint, dict) or not {"config", "data"} <= checkpoint.get("m3", {}).keys():
        raise ValueError(f"{file}: not a checkpoint of m3 (it lacks its configuration)")
    return checkpoint


def check_resumable(path: Path, identity: dict[str, Any]) -> None:
    """Raises ValueError listing what differs between a checkpoint and the run that wants to continue it."""
    saved = _read(path, "cpu")["m3"]
    differences = []
    for section in ("modalities", "model", "optim", "loss", "seed", "hardware"):
        differences += _differences(section, saved["config"].get(section), identity["config"].get(section))
    differences += _differences("data", saved["data"], identity["data"])
    if differences:
        raise ValueError(f"{path} cannot be continued, it was made with other settings: " + "; ".join(differences))


def _differences(name: str, saved: Any, current: Any) -> list[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        keys = sorted(saved.keys() | current.keys())
        return [line for key in keys for line in _differences(f"{name}.{key}", saved.get(key), current.get(key))]
    return [] if saved == current else [f"{name} was {saved!r} and is {current!r}"]
