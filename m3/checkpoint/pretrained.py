"""A model as a folder for sharing, and its upload: `model.safetensors`, and `config.json` without paths of the run."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from torch import Tensor

from m3.checkpoint.files import load_safetensors
from m3.checkpoint.resume_check import BINDING, missing
from m3.checkpoint.stored import OPTIONAL_DATA
from m3.core.files import write_atomic, write_text_atomic
from m3.core.reading import Record, parse_json, read_file
from m3.core.weights import find_weights, is_repository, not_finite, weights_fingerprint
from m3.model.encoder_decoder import EncoderDecoder

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = 1

SHIPPED = "pretrained"
"""The name of the model that comes with m3."""

_SHIPPED_FOLDER = Path(__file__).parent / "shipped"

_log = logging.getLogger(__name__)

_SECTIONS = ("optim", "loss", "seed")
"""Sections of a run's configuration that are shared beside the model: how it was trained."""

_MAX_CONFIG_BYTES = 2**26

_SIGNATURES = {".gif": b"GIF8", ".png": b"\x89PNG", ".webp": b"RIFF"}
PICTURES = tuple(f"picture{suffix}" for suffix in _SIGNATURES)
"""Names of the card's picture."""
_MAX_PICTURE_BYTES = 10 * 10**6

_ADVICE = (
    "Train a model with `python train.py name=NAME`, share one with `python -m m3.hub`; "
    "private ones need `hf auth login` or HF_TOKEN"
)


def pretrained_folder(key: str, path: str | Path, revision: str | None = None) -> Path | None:
    """The folder of the shared model that `path` names; None if `path` is something else on the disk.

    Args:
        key: the setting that gives `path`, for messages.
        path: a folder, the id of a repository of the hub, "OWNER/NAME", which is downloaded, or `SHIPPED`.
        revision: of the repository, as for `find_weights`.
    Raises:
        FileNotFoundError if the hub has no such model. ValueError for a revision of a local folder.
    """
    folder = _SHIPPED_FOLDER if str(path) == SHIPPED else Path(path)
    if folder.exists() or not is_repository(str(path)):
        if revision is not None:
            raise ValueError(f"revision={revision}: {path} is not a repository of the hub: only these have revisions")
        return folder if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file() else None
    return find_weights(key, str(path), (WEIGHTS, CONFIG), (), _ADVICE, revision)


def write_pretrained(
    folder: Path, model: EncoderDecoder, config: Mapping[str, Any], data: Mapping[str, Any], step: int
) -> None:
    """Writes both files atomically; the same model gives the same bytes. Weights that float16 can hold, all of them,
    are written as such.

    Args:
        config: of the run: `model` and, if present, `optim`, `loss` and `seed`.
        data: identity of the data; the canvas, the tokenizers, the labels of actions and the usual gap are written.
        step: number of optimizer steps.
    """
    options = {key: value for key, value in config["model"].items() if key not in ("_target_", "table")}
    content = {
        "model_type": "m3",
        "format": FORMAT,
        "modalities": _plain(config["model"]["table"]),
        "model": options,
        "data": {key: data[key] for key in (*BINDING, *OPTIONAL_DATA) if key in data},
        "training": {"step": step, **{key: _plain(config[key]) for key in _SECTIONS if key in config}},
    }
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    if all(torch.equal(tensor.half().to(tensor.dtype), tensor) for tensor in weights.values()):
        weights = {name: tensor.half() for name, tensor in weights.items()}
    content["weights"] = weights_fingerprint(weights)
    write_atomic(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    write_text_atomic(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def read_pretrained(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of such a folder in the layout of a checkpoint: `m3`, `state_dict`, `global_step`.

    Raises ValueError naming a file that is damaged or of an unknown format.
    """
    path = folder / CONFIG
    content = parse_json(read_file(path, _MAX_CONFIG_BYTES), str(path))
    needed = ("model_type", "format", "modalities", "model.width", "training.step", *(f"data.{key}" for key in BINDING))
    if lacking := missing(content, needed):
        raise ValueError(f"{path}: not a model of m3, or damaged: it lacks {', '.join(lacking)}")
    if (content["model_type"], content["format"]) != ("m3", FORMAT):
        raise ValueError(
            f"{path}: model_type {content['model_type']!r}, format {content['format']!r}; this m3 reads 'm3', {FORMAT}"
        )
    found = Record(content, str(path))
    training, step = found.mapping("training"), found.record("training").count("step", high=2**62)
    config = {"model": {**found.mapping("model"), "table": found.mapping("modalities")}}
    config |= {key: value for key, value in training.items() if key != "step"}
    weights = load_safetensors(folder / WEIGHTS, device)
    _check_weights(folder, content, weights)
    # Half precision makes files small; products in it are slow on CPUs.
    state = {f"model.{name}": tensor.float() if tensor.dtype == torch.float16 else tensor
             for name, tensor in weights.items()}  # fmt: skip
    return {"m3": {"config": config, "data": found.mapping("data")}, "state_dict": state, "global_step": step}


def _check_weights(folder: Path, content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError where the weights are not finite, or not those that were written."""
    if bad := not_finite(weights):
        raise ValueError(
            f"{folder / WEIGHTS}: weights that are not finite, in {len(bad)} tensors, the first is {bad[0]}"
        )
    if "weights" not in content:
        _say_without_fingerprint(str(folder))
    elif (found := weights_fingerprint(weights)) != content["weights"]:
        raise ValueError(
            f"{folder / WEIGHTS}: damaged, or of another model: its weights have the sha256 {found[:12]}…, but "
            f"{str(content['weights'])[:12]}… in {CONFIG}; copy or download both files again"
        )


@functools.cache
def _say_without_fingerprint(folder: str) -> None:
    _log.warning("%s: written by an earlier version, without a fingerprint that would show damage", folder)


def read_picture(path: str | Path) -> tuple[str, bytes]:
    """The name that a picture has beside the card, and its content.

    Raises FileNotFoundError, and ValueError for more than 10 MB and for what is no .gif, .png or .webp.
    """
    suffix = Path(path).suffix.lower()
    name = f"picture{suffix}"
    content = read_file(path, _MAX_PICTURE_BYTES)
    if name not in PICTURES or not content.startswith(_SIGNATURES[suffix]):
        raise ValueError(f"{path}: need a picture, .gif, .png or .webp")
    return name, content


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Uploads the files of a folder, with the card's picture, as one commit; returns the url of the repository.

    The repository OWNER/NAME is created if it does not exist. The token is that of `hf auth login` or HF_TOKEN; the hub
    is huggingface.co or HF_ENDPOINT.

    Raises ValueError for an invalid name, ConnectionError if the hub cannot be reached or refuses.
    """
    if not is_repository(repository):
        raise ValueError(f"{repository}: need OWNER/NAME, a repository of the hub")
    hub = HfApi()
    names = [WEIGHTS, CONFIG, CARD, *(name for name in PICTURES if (folder / name).is_file())]
    additions = [CommitOperationAdd(name, folder / name) for name in names]
    try:
        url = hub.create_repo(repository, private=private, exist_ok=True)
        hub.create_commit(repository, additions, commit_message="Upload of an m3 model")
    except HFValidationError as error:
        raise ValueError(f"{repository}: need OWNER/NAME, a repository of the hub ({error})") from error
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"{repository} cannot be written at {hub.endpoint} ({type(error).__name__}: {reason}); log in with "
            "`hf auth login` or set HF_TOKEN to a token that may write there, then push again"
        ) from error
    return str(url)


def _plain(value: Any) -> Any:
    """A configuration without its `_target_`s, with lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if key != "_target_"}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
