"""The token table: the tokens of a split as one memory-mapped array, built once from its shards.

Reading a random row takes 8 µs, a member of a tar about 90 µs, so neither loader processes nor a shuffle buffer are
needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m3.core.files import atomic_file, write_text_atomic
from m3.core.progress import track
from m3.core.types import PairInfo
from m3.shards.manifest import TABLES_FOLDER, Manifest, manifest_hash
from m3.shards.meta import captions_of, pair_info, read_meta
from m3.shards.reader import read_shard, token_row
from m3.shards.text import read_text_tokenizer
from m3.shards.transport import is_local
from m3.tokens.text import TextTokenizer

_VERSION = 2
"""Of the files below; tables of other versions are built anew."""


@dataclass(frozen=True)
class TokenTable:
    """All pairs of a split.

    manifest: of the data set.
    tokens: (num_pairs, S · (1 + number of variants)) uint16, read-only and memory-mapped; the manifest's modalities
        side by side, in its order, then those of each variant; 0 where a pair lacks a modality.
    lengths: (num_pairs, K) uint16, memory-mapped: tokens that a pair has of each modality, 0 where it lacks it.
    pairs: clip, frames and action of each row.
    captions: the first caption of each row, "" without one.
    text_tokenizer: of the captions; None where the data set has none.
    """

    manifest: Manifest
    tokens: np.ndarray
    lengths: np.ndarray
    pairs: list[PairInfo]
    captions: list[str]
    text_tokenizer: TextTokenizer | None

    @classmethod
    def open(cls, root: str | Path, split: str, folder: str | Path | None = None) -> TokenTable:
        """The table of a split of the data set `root`, built now if it is not there.

        folder: of the token tables; None for `root/.tables`.
        Raises FileNotFoundError without a data set, ValueError where a shard contradicts the manifest or the data set
        is not in a local folder, OSError where the folder cannot be written.
        """
        if not is_local(root):
            raise ValueError(
                f"{root}: token tables are made in a local folder: copy the data set, or train with data.backend=stream"
            )
        root = Path(root)
        manifest = Manifest.load(root)
        if split not in manifest.shards:
            raise ValueError(f"split {split!r} is not in {root}: it has {list(manifest.shards)}")
        folder = root / TABLES_FOLDER if folder is None else Path(folder)
        files = _Files.of(folder, split, manifest_hash(root))
        if not all(path.is_file() for path in files):
            _build(root, manifest, split, files)
        infos = json.loads(files.infos.read_text(encoding="utf-8"))
        pairs = [PairInfo(**info["pair"]) for info in infos]
        num_pairs = manifest.num_pairs(split)
        if len(pairs) != num_pairs:
            raise ValueError(f"{files.infos}: {len(pairs)} pairs, need {num_pairs}; delete the file")
        tokens, lengths = (
            _mapped(path, (num_pairs, width))
            for path, width in ((files.tokens, manifest.row_length), (files.lengths, len(manifest.modalities)))
        )
        text = read_text_tokenizer(root, manifest)
        return cls(
            manifest,
            tokens,
            lengths,
            pairs,
            [info["caption"] for info in infos],
            None if text is None else TextTokenizer(text),
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def columns(self, names: Sequence[str], variant: str | None = None) -> np.ndarray:
        """(num_pairs, S') uint16: the tokens of some stored modalities, in this order.

        Memory-mapped where they are stored side by side in that order; otherwise a copy.

        variant: None, or one of the manifest's.
        Raises ValueError where the data set lacks a modality or the variant.
        """
        chosen = columns_of(self.manifest, names, variant)
        if not chosen:
            return np.zeros((len(self), 0), np.uint16)
        if all(left.stop == right.start for left, right in pairwise(chosen)):
            return self.tokens[:, chosen[0].start : chosen[-1].stop]
        return np.concatenate([self.tokens[:, columns] for columns in chosen], axis=1)

    def lengths_of(self, names: Sequence[str]) -> np.ndarray:
        """(num_pairs, len(names)) uint16 lengths of some stored modalities."""
        stored = [modality.name for modality in self.manifest.modalities]
        return np.asarray(self.lengths)[:, [stored.index(name) for name in names]]


def columns_of(manifest: Manifest, names: Sequence[str], variant: str | None = None) -> list[slice]:
    """The columns of some stored modalities in a row of stored tokens.

    variant: None, or one of the manifest's.
    Raises ValueError where the data set lacks a modality or the variant.
    """
    start = 0
    if variant is not None:
        if variant not in manifest.variants:
            raise ValueError(
                f"data.{variant}=true: the data set stores no such variant of its samples (variants: "
                f"{list(manifest.variants)}); make it with `python preprocess.py … augment.{variant}=true`"
            )
        start = manifest.num_tokens * (1 + manifest.variants.index(variant))
    stored = {}
    for modality in manifest.modalities:
        stored[modality.name] = slice(start, start + modality.length)
        start += modality.length
    if lacking := [name for name in names if name not in stored]:
        raise ValueError(f"the data set stores no {', '.join(lacking)}, only {', '.join(stored)}")
    return [stored[name] for name in names]


class _Files(NamedTuple):
    """The files of a token table; the tokens are written last."""

    tokens: Path
    lengths: Path
    infos: Path

    @staticmethod
    def of(folder: Path, split: str, identity: str) -> _Files:
        stem = f"{split}-{identity[:32]}-v{_VERSION}"
        return _Files(*(folder / f"{stem}{suffix}" for suffix in (".npy", ".lengths.npy", ".json")))


def _mapped(path: Path, shape: tuple[int, int]) -> np.ndarray:
    if not shape[0]:  # an empty file cannot be mapped
        return np.zeros(shape, np.uint16)
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.shape != shape or values.dtype != np.uint16:
        raise ValueError(f"{path}: {values.dtype} {values.shape}, need uint16 {shape}; delete the file")
    return values


def _build(root: Path, manifest: Manifest, split: str, files: _Files) -> None:
    """Write all files, the tokens last. Several ranks may do so at once."""
    tokens, lengths, infos = _read_split(root, manifest, split)
    try:
        files.tokens.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(files.infos, json.dumps(infos))
        for path, values in ((files.lengths, lengths), (files.tokens, tokens)):
            with atomic_file(path) as file:
                np.save(file, values, allow_pickle=False)
    except OSError as error:
        raise OSError(
            f"cannot write the token table of {root} ({error.filename}: {error.strerror}): "
            f"make {files.tokens.parent} a writable folder with room for it, or copy the data set"
        ) from error


def _read_split(root: Path, manifest: Manifest, split: str) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    num_pairs = manifest.num_pairs(split)
    tokens = np.zeros((num_pairs, manifest.row_length), dtype=np.uint16)
    lengths = np.zeros((num_pairs, len(manifest.modalities)), dtype=np.uint16)
    infos: list[dict[str, Any]] = []
    shards = manifest.shards[split]
    for shard in track(shards, len(shards), f"token table of {split}"):
        for key, members in read_shard(root, shard):
            where = f"{root / shard.name}: {key}"
            row = len(infos)
            tokens[row], lengths[row] = token_row(members, manifest, where)
            pair = pair_info(key, read_meta(members, where), where)
            infos.append({"pair": asdict(pair), "caption": next(iter(captions_of(members, where)), "")})
    return tokens, lengths, infos
