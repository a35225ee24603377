"""Loads the weights of the published run into `model=m3` (logits=table, head=flat, joints=table, positions=1d).

The published model is the same network with other names: norms have a bias, a buffer of zeros; the position embedding
is a stored buffer; blocks are named `encoder.blocks.…`.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from m3.checkpoint.files import load_plain, load_safetensors
from m3.model.encoder_decoder import EncoderDecoder

_TABLE = "table"  # name of the vocabulary that all modalities share
_POSITION_TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
_FLOAT32_TOLERANCE = 1e-4  # float32 angles of up to 255 radians are exact to 2e-5


def read_published(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a `torch.save` file (a dict, perhaps nested in `model` or `state_dict`).

    Raises ValueError naming the file if it holds something else.
    """
    file = Path(file)
    if file.suffix == ".safetensors":
        return load_safetensors(file)
    content = load_plain(file)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{file}: not a state dict, which maps names to tensors, but a {type(content).__name__}")
    if odd := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{file}: not a state dict, which maps names to tensors: {', '.join(odd[:5])} are none")
    return dict(content)


def is_m3_checkpoint(file: Path) -> bool:
    """True for a checkpoint of m3's training, False for a bare state dict. Raises ValueError for a damaged file."""
    if file.suffix == ".safetensors":
        return False
    content = load_plain(file)
    return isinstance(content, dict) and "m3" in content


def load_published(model: EncoderDecoder, weights: dict[str, Tensor], source: str = "the state dict") -> None:
    """Loads all weights of the published run into `model`.

    Args:
        model: with logits=table, head=flat, joints=table, positions=1d.
        weights: by their published names.
        source: name of the weights in messages.
    Raises:
        ValueError naming every tensor that is missing, unexpected, of another shape or not finite, norms with a bias
        that is not 0, and positions that differ from m3's.
    """
    own = model.state_dict()
    if f"enc_tok_emb.{_TABLE}.weight" not in own or f"to_logits.{_TABLE}.weight" not in own:
        raise ValueError(f"{source} has one table for all modalities: choose model.logits=table (experiment=m3)")
    if weights and all(name.startswith("module.") for name in weights):  # saved from inside DDP
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    given = {name: tensor for name, tensor in weights.items() if name != "pos_emb" and not _is_norm_bias(name)}
    foreign = [name for name in given if _published_name(_own_name(name)) != name]  # m3's own names are not published
    given = {name: tensor for name, tensor in given.items() if name not in foreign}
    renamed = {_own_name(name): tensor for name, tensor in given.items()}
    names = {_own_name(name): name for name in given}
    faults = [f"{name} is unexpected" for name in [*foreign, *(names[name] for name in renamed.keys() - own.keys())]]
    faults += [f"{name} is not finite everywhere" for name, tensor in given.items() if not tensor.isfinite().all()]
    faults += [f"{_published_name(name)} is missing" for name in own.keys() - renamed.keys()]
    faults += [
        f"{names[name]} is {tuple(renamed[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in renamed.keys() & own.keys()
        if renamed[name].shape != own[name].shape
    ]
    faults += _norm_faults(weights, own) + _position_faults(model, weights)
    if faults:
        size = _other_size(weights, own)
        raise ValueError(
            f"{source} is not the published model in the size of this one: {size}{'; '.join(sorted(faults))}"
        )
    model.load_state_dict(renamed)


def _other_size(weights: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """The size of the given weights and the keys that set it, where this model has another; else ""."""
    given = {_own_name(name): tensor for name, tensor in weights.items()}
    size, here = _size(given), _size(own)
    if size == here or 0 in size:
        return ""
    width, encoder_depth, decoder_depth = size
    keys = f"model.width={width} model.encoder_depth={encoder_depth} model.decoder_depth={decoder_depth}"
    where = f"(here {here[0]}, {here[1]} + {here[2]})"
    return f"width {width}, {encoder_depth} + {decoder_depth} blocks {where}: set {_OPTION_OF_SIZE.get(size, keys)}; "


_OPTION_OF_SIZE = {(512, 6, 6): "model=m3", (640, 8, 8): "model=m4"}
"""Sizes of published runs → the option that has them."""


def _size(weights: dict[str, Tensor]) -> tuple[int, int, int]:
    """Width and numbers of encoder and decoder blocks; 0 for what cannot be told."""
    embedding = weights.get(f"enc_tok_emb.{_TABLE}.weight")
    width = embedding.shape[1] if embedding is not None and embedding.ndim == 2 else 0
    numbers = [[int(m[1]) for name in weights if (m := re.match(rf"{side}\.(\d{{1,4}})\.", name))]
               for side in ("encoder", "decoder")]  # fmt: skip
    encoder_depth, decoder_depth = (max(found, default=-1) + 1 for found in numbers)
    return width, encoder_depth, decoder_depth


def _own_name(published: str) -> str:
    name = re.sub(r"^(encoder|decoder)\.blocks\.", r"\1.", published)
    return re.sub(r"^(enc_tok_emb|to_logits)\.weight$", rf"\1.{_TABLE}.weight", name)


def _published_name(own: str) -> str:
    name = re.sub(r"^(encoder|decoder)\.(?=\d)", r"\1.blocks.", own)
    return re.sub(rf"^(enc_tok_emb|to_logits)\.{_TABLE}\.weight$", r"\1.weight", name)


def _is_norm_bias(name: str) -> bool:
    return name.endswith("norm.bias") or re.search(r"\bnorm\d\.bias$", name) is not None


def _norm_faults(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Messages on norm biases that are not 0, which m3's norms do not have, or that belong to no norm."""
    faults = []
    for name, bias in weights.items():
        if not _is_norm_bias(name):
            continue
        norm = own.get(_own_name(name).removesuffix("bias") + "weight")
        if norm is None:
            faults.append(f"{name} is unexpected")
        elif bias.shape != norm.shape:
            faults.append(f"{name} is {tuple(bias.shape)}, the model has {tuple(norm.shape)}")
        elif bias.any():
            faults.append(f"{name} is not zero (up to {bias.abs().max():.3g}), norms have no bias here")
    return faults


def _position_faults(model: EncoderDecoder, weights: dict[str, Tensor]) -> list[str]:
    """Checks `pos_emb`: m3's positions (L, D) for L or more positions, perhaps with leading axes of size 1."""
    if "pos_emb" not in weights:
        return ["pos_emb is missing"]
    width = int(model.pos_emb.embedding.shape[-1])
    tolerance = _POSITION_TOLERANCE.get(weights["pos_emb"].dtype, _FLOAT32_TOLERANCE)
    given = weights["pos_emb"].float()
    lengths = model.table.max_seq_lens
    num_positions = given.shape[-2] if given.ndim > 1 else 0
    if given.shape[-1:] != (width,) or given.numel() // width != num_positions or num_positions < max(lengths):
        return [f"pos_emb is {tuple(given.shape)}, the model has {(max(lengths), width)}"]
    given = given.reshape(-1, width)  # (L, D)
    difference = max(
        float((model.pos_emb.embedding[k, :length].cpu() - given[:length]).abs().max())
        for k, length in enumerate(lengths)
    )
    if not difference <= tolerance:  # also for NaN
        return [f"pos_emb differs from m3's sin-cos positions by up to {difference:.3g} (model.positions=1d?)"]
    return []
