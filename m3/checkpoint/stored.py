"""What a checkpoint or a shared model says of itself: parsed once, with every value checked.

Of the configuration in such a file only the sections that describe the model and its training are read, and none of
them chooses anything outside the file: no path, no address, no code. A model is built where all its weights are there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from m3.core.modalities import MAX_VOCAB_SIZE, PICTURE_STRIDE, ModalityTable
from m3.core.reading import MAX_LABEL_LENGTH, Record, shown
from m3.core.renames import current_config
from m3.model.encoder_decoder import EncoderDecoder

SECTIONS = ("optim", "loss", "seed", "name")
"""Sections of a run's configuration that are read beside the model's: how it was trained."""

OPTIONAL_DATA = ("canvas", "actions", "text_tokenizer", "preparation", "median_gap", "median_gap_s")
"""Keys of the data's identity beside `BINDING` that only some models have: the canvas mode of forecasts, labels, words,
how clips were made into pairs, and the usual gap of these in frames and in seconds."""

_MAX_NODES, _MAX_DEPTH, _MAX_TEXT = 2**20, 64, 2**25
_MAX_CANVAS = 4096
_MAX_WIDTH, _MAX_MODALITIES, _MAX_LENGTH = 2**16, 64, 2**16 - 1
_MAX_TOKENS, _MAX_MIXTURE = 2**19, 1000
_MAX_POSITIONS = 2**28
"""Elements of the position embedding, which is no weight: 1 GiB in float32."""


def parse_config(config: Any, where: str) -> dict[str, Any]:
    """The sections of a run's configuration that describe the model and its training, in the names of this version.

    Raises ValueError naming the file for anything but plain values, and without the model's section.
    """
    stored = Record(config, f"{where}: its configuration")
    kept = {key: value for key, value in stored.items() if key in ("model", *SECTIONS)}
    _check_plain(kept, where)
    found = current_config(kept, is_stored=True)
    Record(found, f"{where}: its configuration").record("model").record("table")
    return found


def parse_data(data: Any, where: str) -> dict[str, Any]:
    """The identity of the training data: `BINDING`, and of `OPTIONAL_DATA` what there is.

    Raises ValueError naming the file and the value that is missing or of another type or range.
    """
    stored = Record(data, f"{where}: its data")
    if stored.count("canvas_size", PICTURE_STRIDE, _MAX_CANVAS) % PICTURE_STRIDE:
        raise stored.error("canvas_size", f"a multiple of {PICTURE_STRIDE}")
    stored.text("tokenizer")
    if not stored.is_null("tokenizer_fingerprint"):
        stored.text("tokenizer_fingerprint")
    if "canvas" in stored:
        stored.text("canvas")
    if "actions" in stored:
        stored.texts("actions", MAX_LABEL_LENGTH, MAX_VOCAB_SIZE)
    if not stored.is_null("text_tokenizer"):
        stored.text("text_tokenizer", max_length=_MAX_TEXT)
    if "train_shards" in stored:
        stored.texts("train_shards", 64)
    if "median_gap" in stored:
        stored.count("median_gap", 1)
    if "median_gap_s" in stored:
        stored.number("median_gap_s", 1e-6)
    if "preparation" in stored:
        _check_plain(stored.mapping("preparation"), where)
    names = ("canvas_size", "tokenizer", "tokenizer_fingerprint", "train_shards", *OPTIONAL_DATA)
    return {key: value for key, value in stored.items() if key in names}


def _check_plain(value: Any, where: str) -> None:
    """Raises ValueError unless a value is made of mappings, lists, texts, finite numbers, booleans and nulls."""
    level, num_nodes = [value], 0
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict) and all(isinstance(key, str) for key in node):
                below += node.values()
            elif isinstance(node, list | tuple):
                below += node
            elif not (node is None or type(node) in (str, int, float, bool)):
                raise ValueError(f"{where}: its configuration holds {shown(node)}, need plain values")
        level, num_nodes = below, num_nodes + len(below)
        if not level:
            return
        if num_nodes > _MAX_NODES:
            break
    raise ValueError(f"{where}: its configuration is too large")


def build_model(section: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> EncoderDecoder:
    """The model of a configuration's section `model`, with these weights, in their dtypes' common one.

    It is built without memory first, to see that it has these weights: then it is no larger than they are. No
    `_target_` is read: a checkpoint must not choose which code runs.

    Raises ValueError naming the file where the model cannot be built or has other weights.
    """
    options = {key: value for key, value in section.items() if key not in ("_target_", "table")}
    table = {key: value for key, value in section["table"].items() if key != "_target_"}
    try:
        _check_sizes(section, weights)
        modalities = ModalityTable(**table)
        _check_positions(modalities, options)
        with torch.device("meta"):
            planned = EncoderDecoder(modalities, **options)
        wanted = {name: tuple(tensor.shape) for name, tensor in planned.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if differing := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
            name = differing[0]
            raise ValueError(
                f"{len(differing)} weights are missing, unexpected or of another shape, the first is {shown(name)}: "
                f"{found.get(name, 'absent')} in the file, {wanted.get(name, 'absent')} in its configuration"
            )
        model = EncoderDecoder(modalities, **options).to(_common_dtype(weights))
        model.load_state_dict(dict(weights))
    # Values of other types and ranges than the options have; weights of another version
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
        raise ValueError(f"{where}: its model cannot be built: {_first_line(error)}") from error
    return model


def _check_sizes(section: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Sizes that building takes time or memory for, compared with the weights that are there."""
    model = Record(dict(section), "model")
    for key, low, high in (("width", 1, _MAX_WIDTH), ("head_width", 1, _MAX_WIDTH)):
        if key in model:
            model.count(key, low, high)
    if "mlp_ratio" in model:
        model.number("mlp_ratio", 0, 1024)
    for key, part in (("encoder_depth", "encoder"), ("decoder_depth", "decoder")):
        blocks = {name.split(".")[1] for name in weights if name.startswith(f"{part}.")}
        if key in model and model.count(key, 1) != len(blocks):
            raise ValueError(f"model.{key} is {model.count(key)}, but there are weights of {len(blocks)} blocks")
    table = model.record("table")
    num_modalities = len(table.texts("modalities", 100, _MAX_MODALITIES))
    table.counts("vocab_sizes", 1, MAX_VOCAB_SIZE, _MAX_MODALITIES)
    if sum(table.counts("max_seq_lens", 1, _MAX_LENGTH, _MAX_MODALITIES)) > _MAX_TOKENS:
        raise table.error("max_seq_lens", f"{_MAX_TOKENS:,} together at most")
    if not table.is_null("mixture"):
        list(table.records("mixture", _MAX_MIXTURE))
    if not table.is_null("extra_vocabularies") and len(table.mapping("extra_vocabularies")) > _MAX_MODALITIES:
        raise table.error("extra_vocabularies", f"{_MAX_MODALITIES} at most")
    width = model.count("width", 1) if "width" in model else None
    stored = weights.get("enc_mod_emb.weight")
    if stored is None or stored.ndim != 2 or len(stored) != num_modalities or width not in (None, stored.shape[1]):
        raise ValueError(
            f"model.width is {width}, with {num_modalities} modalities, but there are weights "
            f"{'of none' if stored is None else tuple(stored.shape)}"
        )


def _check_positions(table: ModalityTable, options: Mapping[str, Any]) -> None:
    width = options.get("width", 512)
    if (elements := table.num_modalities * max(table.max_seq_lens) * width) > _MAX_POSITIONS:
        raise ValueError(f"model.width, modalities.max_seq_lens: positions of {elements:,} numbers, need fewer")


def _common_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The smallest dtype in which every floating-point weight keeps its value."""
    dtypes = [tensor.dtype for tensor in weights.values() if tensor.is_floating_point()]
    return functools.reduce(torch.promote_types, dtypes, dtypes[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
