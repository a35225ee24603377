"""Models from checkpoints: for generation and features (`load_model`), and as first weights (`initialize`)."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from m3.checkpoint.card import model_card
from m3.checkpoint.evaluations import Subject, read_evaluations
from m3.checkpoint.files import newest_checkpoint, read_checkpoint
from m3.checkpoint.pretrained import (
    CARD,
    pretrained_folder,
    read_picture,
    read_pretrained,
    upload,
    write_pretrained,
)
from m3.checkpoint.published import is_m3_checkpoint, load_published, read_published
from m3.checkpoint.resume_check import BINDING, differences, missing
from m3.checkpoint.stored import build_model, parse_config, parse_data
from m3.core.files import make_folder, write_atomic, write_text_atomic
from m3.core.modalities import ModalityTable
from m3.core.reading import shown
from m3.core.validation import check
from m3.core.weights import weights_fingerprint
from m3.masking.select import pack
from m3.model.encoder_decoder import EncoderDecoder
from m3.tokens.text import TextTokenizer

_ROWS_OF_MODALITIES = ("enc_mod_emb.weight", "dec_mod_emb.weight")
_OF_ALL_MODALITIES = "aligned."
_MODEL_PREFIXES = ("average.", "model.")
"""Prefixes of the weights in a checkpoint, by preference: the moving average (`ema_model`), then the latest weights."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with the facts about its training.

    model: in eval mode.
    table: its modalities. Of action and captions it has the ids of the training data alone, which may be fewer than
        those of the model's vocabularies: no others are generated.
    config: of the run's composed configuration the sections `model`, `optim`, `loss`, `seed` and `name`, in the names
        of this version. Others are not read: what a file says must not choose a path or an address.
    data: identity of the training data: canvas_size, tokenizer (name), tokenizer_fingerprint, …; with the modality
        action "actions", its labels; with captions "text_tokenizer", for `TextTokenizer`; with gap_next "median_gap",
        the usual number of frames to a successor, and with seconds_next "median_gap_s", the usual time to it in
        seconds, where the data and the version that trained on them have it.
    step: number of optimizer steps.
    """

    model: EncoderDecoder
    table: ModalityTable
    config: dict[str, Any]
    data: dict[str, Any]
    step: int

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: torch.device | str = "cpu", revision: str | None = None
    ) -> LoadedModel:
        """A shared model from a folder or the hub ("OWNER/NAME"); arguments and errors as in `load_model`."""
        return load_model(path, device, revision)

    def save_pretrained(
        self,
        folder: str | Path,
        scores: Sequence[str | Path] = (),
        license: str | None = None,
        repository: str | None = None,
        picture: str | Path | None = None,
    ) -> Path:
        """Writes `model.safetensors`, `config.json` and the model card; the same model gives the same bytes.

        Args:
            folder: is created if it does not exist.
            scores: files of generate.py for this model: metrics.json, forecast.json, inpainting.json.
            license: of the weights, by its identifier on the hub: "apache-2.0", "cc-by-nc-4.0" ….
            repository: OWNER/NAME of the future upload, for the card.
            picture: a .gif, .png or .webp of at most 10 MB, such as rollout.gif of generate.py; it is copied beside the
                card, which shows it.
        Raises:
            FileNotFoundError, or ValueError for another picture, scores of another model or an unknown schema, before
                writing anything.
        """
        folder, subject = Path(folder), self._subject
        evaluations = [each for file in scores for each in read_evaluations(file, subject)]
        shown = None if picture is None else read_picture(picture)
        card = model_card(subject, evaluations, license, repository, None if shown is None else shown[0])
        make_folder(folder)
        write_pretrained(folder, self.model, self.config, self.data, self.step)
        if shown is not None:
            write_atomic(folder / shown[0], shown[1])
        write_text_atomic(folder / CARD, card)
        return folder

    def push_to_hub(
        self,
        repository: str,
        scores: Sequence[str | Path] = (),
        license: str | None = None,
        private: bool = False,
        picture: str | Path | None = None,
    ) -> str:
        """Uploads the files of `save_pretrained` and returns the url of the repository; raises the errors of both."""
        with tempfile.TemporaryDirectory() as folder:
            return upload(self.save_pretrained(folder, scores, license, repository, picture), repository, private)

    def rounded(self) -> LoadedModel:
        """The model with weights rounded to float16, which `save_pretrained` writes in half the bytes."""
        return replace(self, model=copy.deepcopy(self.model).half().float())

    @torch.no_grad()  # no inference mode: features may go through a loss with gradients
    def encode(
        self,
        tokens: Tensor,
        is_known: Tensor | None = None,
        lengths: Tensor | None = None,
        pool: Literal["mean"] | None = "mean",
        batch_size: int = 256,
    ) -> Tensor:
        """Features of samples: the encoder's output, which the decoder attends to, for the tokens that are known.

        Args:
            tokens: (B, S) integers, B at least 1, in the order of the model's table, as read by
                `m3.batches.datamodule.SampleRows`.
            is_known: (B, S) bool, or (S,) for all samples, as `m3.sampling.given.given_mask` makes it from names of
                modalities; unknown tokens are neither read nor checked. None: all tokens are known.
            lengths: (B, K) integers, tokens of each modality in each sample: its first ones; 0 where the sample lacks
                the modality. Tokens beyond are unknown. None: the table's lengths.
            pool: "mean": the mean over the known tokens of each sample; None: a vector for each known token.
            batch_size: samples that go through the encoder together; changes features by rounding only.

        Returns:
            float32 on the model's device, without gradients: (B, D), or for pool=None (N, D), sample after sample, in a
            sample in the order of its columns.

        Raises:
            ValueError naming the argument for tensors of another shape or dtype, for illegal ids (with sample, modality
                and position), for an unknown pool, and, with pool="mean", for a sample without known tokens.
        """
        check("batch_size", batch_size, int, low=1)
        if pool not in ("mean", None):
            raise ValueError(f"pool={pool!r}: choose mean, or None for all tokens")
        tokens = tokens.to(next(self.model.parameters()).device)
        is_known = _known_tokens(tokens, is_known, lengths, self.table)
        tokens = tokens.long()
        _check_ids(tokens, is_known, self.table)
        if pool and not is_known.any(1).all():
            raise ValueError(f"tokens: sample {int(is_known.any(1).long().argmin())} has no known token to encode")
        features = []
        for batch, known in zip(tokens.split(batch_size), is_known.split(batch_size)):
            packed = pack(batch, known, self.table)
            rows = self.model.encode(packed).rows.float()  # (N, D)
            features.append(torch.segment_reduce(rows, "mean", lengths=packed.lengths) if pool else rows)
        return torch.cat(features)

    @property
    def fingerprint(self) -> str:
        """sha256, hexadecimal, over the names, dtypes, shapes and bytes of all weights."""
        return weights_fingerprint(self.model.state_dict())

    @property
    def _subject(self) -> Subject:
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return Subject(self.table, self.data, self.step, self.fingerprint, num_parameters)


def _known_tokens(tokens: Tensor, is_known: Tensor | None, lengths: Tensor | None, table: ModalityTable) -> Tensor:
    """(B, S) bool, on the device of `tokens`. Raises ValueError for tensors of another shape or dtype."""
    if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] != table.num_tokens or not _holds_integers(tokens):
        raise ValueError(
            f"tokens: {tokens.dtype} {tuple(tokens.shape)}, need integers (B, {table.num_tokens}), B ≥ 1: "
            + ", ".join(f"{length} of {name}" for name, length in zip(table.modalities, table.max_seq_lens))
        )
    found = torch.ones(tokens.shape, dtype=torch.bool, device=tokens.device)
    if is_known is not None:
        if is_known.dtype != torch.bool or is_known.shape not in (tokens.shape, tokens.shape[1:]):
            raise ValueError(
                f"is_known: {is_known.dtype} {tuple(is_known.shape)}, need bool {tuple(tokens.shape)} or "
                f"({table.num_tokens},)"
            )
        found &= is_known.to(tokens.device)
    if lengths is not None:
        shape = (len(tokens), table.num_modalities)
        if lengths.shape != shape or not _holds_integers(lengths):
            raise ValueError(f"lengths: {lengths.dtype} {tuple(lengths.shape)}, need integers {shape}")
        for name, length in zip(table.modalities, lengths.long().to(tokens.device).T):
            part = found[:, table.columns(name)]
            part &= torch.arange(part.shape[1], device=tokens.device) < length[:, None]
    return found


def _holds_integers(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _check_ids(tokens: Tensor, is_known: Tensor, table: ModalityTable) -> None:
    """Raises ValueError for known ids that are illegal: on a GPU reading their embeddings would end the process."""
    is_illegal = is_known & ((tokens < 0) | (tokens > torch.tensor(table.last_ids, device=tokens.device)))
    if is_illegal.any():
        sample, column = is_illegal.nonzero()[0].tolist()
        name = next(name for name in reversed(table.modalities) if table.columns(name).start <= column)
        position = column - table.columns(name).start
        raise ValueError(
            f"tokens: sample {sample} has id {int(tokens[sample, column])} at position {position} of {name}, legal are "
            f"0 … {table.last_ids[column]}"
        )


def load_model(path: str | Path, device: torch.device | str = "cpu", revision: str | None = None) -> LoadedModel:
    """Loads a `.ckpt` file, the newest complete checkpoint of a run folder, or a model made for sharing.

    Args:
        path: the file, the run folder, a folder of `LoadedModel.save_pretrained`, or, if there is no such path, a
            repository of the hub, "OWNER/NAME".
        revision: branch, tag or commit of the repository; None for its main branch.
    Raises:
        FileNotFoundError naming the command that trains a model.
        ValueError for a file that holds no m3 checkpoint.
    """
    if (file := pretrained_folder("checkpoint", path, revision)) is not None:
        checkpoint = read_pretrained(file, device)
    else:
        file = _file(path)
        checkpoint = read_checkpoint(file, device)
    identity = _identity(checkpoint, file)
    model = build_model(identity["config"]["model"], _weights(checkpoint, file), str(file))
    try:
        model.table = _with_ids_of(identity["data"], model.table)
    except ValueError as error:
        raise ValueError(f"{file}: its model cannot be built: {error}") from error
    model = model.to(device).eval()
    return LoadedModel(model, model.table, identity["config"], identity["data"], checkpoint["global_step"])


def _with_ids_of(data: dict[str, Any], table: ModalityTable) -> ModalityTable:
    """The table with as many ids of action and captions as the training data have: the others were never learned.

    Raises ValueError for data without labels or text tokenizer.
    """
    num_ids = {}
    if "action" in table.modalities:
        num_ids["action"] = len(data["actions"])
    if "captions" in table.modalities:
        num_ids["captions"] = TextTokenizer(data["text_tokenizer"]).num_ids
    sizes = [min(size, num_ids.get(name, size)) for name, size in zip(table.modalities, table.vocab_sizes)]
    return replace(table, vocab_sizes=sizes) if num_ids else table


def initialize(
    model: EncoderDecoder, path: str | Path, data: dict[str, Any], modalities: Literal["all", "common"] = "all"
) -> None:
    """Gives a new model the weights of a run, of a shared model, or of the published run.

    Args:
        path: as for `load_model`, or a state dict for `load_published` (safetensors or torch).
        data: identity of the training data.
        modalities: "all": the model has those of the checkpoint; "common": it may have others, whose weights stay as
            they are. Those of `model.aligned`, which depend on all modalities, stay so too.
    Raises:
        FileNotFoundError; ValueError naming what does not fit: model options, modalities, canvas, tokenizer.
    """
    if not isinstance(model, EncoderDecoder):
        raise ValueError(f"init_from={path}: task=masked only")
    if (folder := pretrained_folder("init_from", path)) is not None:
        checkpoint = read_pretrained(folder)
    else:
        file = _file(path)
        if not is_m3_checkpoint(file):
            if modalities == "common":
                raise ValueError(f"init_modalities=common: {file} does not name its modalities; leave it out")
            load_published(model, read_published(file), str(file))
            return
        checkpoint = read_checkpoint(file)
    saved, lines = _identity(checkpoint, f"init_from={path}"), []
    table = saved["config"]["model"]["table"]
    then, now = (dict(zip(t["modalities"], t["max_seq_lens"])) for t in (table, vars(model.table)))
    if modalities == "common":
        shared = [name for name in now if name in then]
        then, now = ({name: lengths[name] for name in shared} for lengths in (then, now))
        if not shared:
            lines.append(f"modalities.modalities has none of {', '.join(table['modalities'])}")
    for key, part in (("modalities", list), ("max_seq_lens", lambda lengths: [*lengths.values()])):
        lines += differences(f"modalities.{key}", part(then), part(now))
    lines += [line for key in BINDING for line in differences(f"data.{key}", saved["data"][key], data[key])]
    if saved["data"].get("actions", data.get("actions")) != data.get("actions"):
        lines.append(f"data.actions was {saved['data']['actions']} and is {data.get('actions')}")
    if saved["data"].get("text_tokenizer", data.get("text_tokenizer")) != data.get("text_tokenizer"):
        lines.append("data.text_tokenizer: the data have another text tokenizer")
    weights, wanted = _weights(checkpoint, f"init_from={path}"), model.state_dict()
    if modalities == "common":
        weights = _common_weights(weights, table["modalities"], wanted, model.table.modalities)
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (weights, wanted)]
    lines += differences("model", *shapes)
    if lines:
        raise ValueError(f"init_from={path} does not fit this run: " + "; ".join(lines))
    model.load_state_dict(weights)


def _common_weights(
    weights: Mapping[str, torch.Tensor], then: Sequence[str], own: Mapping[str, torch.Tensor], now: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The weights of a model of the modalities `then` that one of `now` has too, and the others of its `own`.

    Embeddings and heads are named by the vocabulary; those of modalities have a row for each.
    """
    found = dict(own)
    for name, tensor in weights.items():
        if name in _ROWS_OF_MODALITIES and name in own and tensor.shape[1:] == own[name].shape[1:]:
            found[name] = own[name].clone()
            for row, modality in enumerate(now):
                if modality in then:
                    found[name][row] = tensor[list(then).index(modality)]
        elif name in own and not name.startswith(_OF_ALL_MODALITIES):
            found[name] = tensor
    return found


def _file(path: str | Path) -> Path:
    file = Path(path) if Path(path).is_file() else newest_checkpoint(path)
    if file is None:
        raise FileNotFoundError(f"{path}: no checkpoint there; train one with `python train.py name=NAME`")
    return file


def _identity(checkpoint: dict[str, Any], file: str | Path) -> dict[str, Any]:
    """`config`, in the names of this version, and `data`. Raises ValueError naming keys that are missing."""
    stored = checkpoint["m3"]
    if not any(key in stored["data"] for key in BINDING):
        name = stored["config"].get("name")
        raise ValueError(f"{file}: not a checkpoint of an encoder-decoder, but of {shown(name)}")
    needed = (*(f"data.{key}" for key in BINDING), "config.model.table.modalities", "config.model.table.max_seq_lens")
    lacking = missing(stored, needed)
    if not lacking:
        names = stored["config"]["model"]["table"]["modalities"]
        words = (("action", "data.actions"), ("captions", "data.text_tokenizer"))
        lacking = missing(stored, [key for name, key in words if isinstance(names, list | tuple) and name in names])
    if lacking:
        raise ValueError(f"{file}: damaged, or of another version of m3: it lacks {', '.join(lacking)}")
    return {"config": parse_config(stored["config"], str(file)), "data": parse_data(stored["data"], str(file))}


def _weights(checkpoint: dict[str, Any], file: str | Path) -> dict[str, torch.Tensor]:
    """The weights of the model, without prefix. Raises ValueError if there are none."""
    state = checkpoint.get("state_dict", {})
    prefix = next((prefix for prefix in _MODEL_PREFIXES if any(name.startswith(prefix) for name in state)), None)
    if prefix is None:
        raise ValueError(f"{file}: holds no weights of a model")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
