"""The token table: the tokens of a split as one memory-mapped array, built once from its shards.

Reading a random row takes 8 µs, a member of a tar about 90 µs, so neither loader processes nor a shuffle buffer are
needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m3.core.files import (
    Hashing,
    WriteError,
    atomic_file,
    make_folder,
    remove_unfinished,
    write_atomic,
    write_text_atomic,
)
from m3.core.progress import track
from m3.core.types import PairInfo
from m3.core.weights import fingerprint
from m3.shards.manifest import TABLES_FOLDER, Manifest, manifest_hash
from m3.shards.meta import captions_of, pair_info, read_meta, stored_caption, stored_pair
from m3.shards.reader import check_size, last_ids_of, read_shard, token_row
from m3.shards.text import read_text_tokenizer
from m3.shards.transport import is_inside, is_local
from m3.tokens.text import TextTokenizer

_VERSION = 2
"""Of the files below; tables of other versions are built anew."""

_ROWS = 2**14
"""Rows whose ids are checked at a time."""

_log = logging.getLogger(__name__)


class _DamagedTable(ValueError):
    """The files of a token table are not those that were written."""


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
        """The table of a split of the data set `root`, built now if it is not there or damaged.

        All its files are compared with the sha256 that was stored when they were written. A table of an earlier
        version, which has none, is built again where the shards are there, and else used with a warning.

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
        if folder is None and not is_inside(root, root / TABLES_FOLDER):
            raise ValueError(f"{root / TABLES_FOLDER}: a link that leads out of {root}; remove it")
        folder = root / TABLES_FOLDER if folder is None else Path(folder)
        stored = _open_or_build(root, manifest, split, _Files.of(folder, split, manifest_hash(root)))
        text = read_text_tokenizer(root, manifest)
        return cls(
            manifest,
            stored.tokens,
            stored.lengths,
            stored.pairs,
            stored.captions,
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
    """The files of a token table; the digests are written last."""

    tokens: Path
    lengths: Path
    infos: Path
    digests: Path

    @staticmethod
    def of(folder: Path, split: str, identity: str) -> _Files:
        stem = f"{split}-{identity[:32]}-v{_VERSION}"
        return _Files(*(folder / f"{stem}{suffix}" for suffix in (".npy", ".lengths.npy", ".json", ".sha256.json")))

    @property
    def content(self) -> tuple[Path, ...]:
        """The files that have digests."""
        return self.tokens, self.lengths, self.infos


class _Stored(NamedTuple):
    """What the files hold: see `TokenTable`."""

    tokens: np.ndarray
    lengths: np.ndarray
    pairs: list[PairInfo]
    captions: list[str]


def _open_or_build(root: Path, manifest: Manifest, split: str, files: _Files) -> _Stored:
    if not all(path.is_file() for path in files.content):
        _build(root, manifest, split, files)
        return _read(files, manifest, split)
    if not files.digests.is_file():
        return _without_digests(root, manifest, split, files)
    try:
        _check_digests(files)
        return _read(files, manifest, split)
    except _DamagedTable as damage:
        _log.warning("%s: the token table is built again from the shards", damage)
        try:
            _build(root, manifest, split, files)
        except (OSError, ValueError) as error:
            raise ValueError(f"{damage}, and the token table cannot be built again: {error}") from error
        return _read(files, manifest, split)


def _without_digests(root: Path, manifest: Manifest, split: str, files: _Files) -> _Stored:
    """The table of an earlier version, which stored no digests: built again where that is possible."""
    try:
        _build(root, manifest, split, files)
    except (OSError, ValueError) as error:
        _log.warning(
            "%s: made by an earlier version, without digests that would show damage, and not built again (%s): it is "
            "used unchecked", files.tokens, error,
        )  # fmt: skip
    return _read(files, manifest, split)


def _check_digests(files: _Files) -> None:
    """Raises _DamagedTable naming a file that is not the one that was written."""
    try:
        stored = json.loads(files.digests.read_bytes())
        wanted = [stored[path.name] for path in files.content]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise _DamagedTable(f"{files.digests}: damaged ({type(error).__name__}: {error})") from error
    for path, digest in zip(files.content, wanted):
        if (found := fingerprint([path])) != digest:
            raise _DamagedTable(f"{path}: damaged, its sha256 is {found[:12]}…, not {str(digest)[:12]}… as written")


def _read(files: _Files, manifest: Manifest, split: str) -> _Stored:
    """Raises _DamagedTable for files that are no table of this split."""
    num_pairs = manifest.num_pairs(split)
    try:
        infos = json.loads(files.infos.read_bytes())
        pairs = [stored_pair(info["pair"], str(files.infos)) for info in infos]
        captions = [stored_caption(info["caption"], str(files.infos)) for info in infos]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise _DamagedTable(f"{files.infos}: damaged ({type(error).__name__}: {error}); delete the file") from error
    if len(pairs) != num_pairs:
        raise _DamagedTable(f"{files.infos}: {len(pairs)} pairs, need {num_pairs}; delete the file")
    tokens = _mapped(files.tokens, (num_pairs, manifest.row_length))
    lengths = _mapped(files.lengths, (num_pairs, len(manifest.modalities)))
    _check_ids(files, tokens, lengths, manifest)
    return _Stored(tokens, lengths, pairs, captions)


def _check_ids(files: _Files, tokens: np.ndarray, lengths: np.ndarray, manifest: Manifest) -> None:
    """Raises _DamagedTable for ids that no embedding has, and for lengths that no sample has."""
    last_ids = last_ids_of(manifest)
    for start in range(0, len(tokens), _ROWS):
        rows = np.asarray(tokens[start : start + _ROWS])
        if (rows.max(axis=0) > last_ids).any():
            row, column = np.argwhere(rows > last_ids)[0].tolist()
            raise _DamagedTable(
                f"{files.tokens}: id {rows[row, column]} in row {start + row}, column {column}, legal are "
                f"0 … {last_ids[column]}; delete the file"
            )
    whole = np.array([modality.length for modality in manifest.modalities])
    if len(lengths) and ((lengths != 0) & (lengths != whole)).any():
        raise _DamagedTable(f"{files.lengths}: lengths that no sample has; delete the file")


def _mapped(path: Path, shape: tuple[int, int]) -> np.ndarray:
    if not shape[0]:  # an empty file cannot be mapped
        return np.zeros(shape, np.uint16)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises errors of many types for damaged headers
        raise _DamagedTable(f"{path}: damaged ({type(error).__name__}: {error}); delete the file") from error
    if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype != np.uint16:
        found = f"{getattr(values, 'dtype', 'no array')} {getattr(values, 'shape', '')}"
        raise _DamagedTable(f"{path}: {found}, need uint16 {shape}; delete the file")
    return values


def _build(root: Path, manifest: Manifest, split: str, files: _Files) -> None:
    """Write all files, the digests last. Several ranks may do so at once.

    The tokens go to the disk row by row: memory does not grow with them.
    """
    folder = files.tokens.parent
    num_pairs = manifest.num_pairs(split)
    for shard in manifest.shards[split]:
        check_size(root, shard)
    lengths = np.zeros((num_pairs, len(manifest.modalities)), dtype=np.uint16)
    try:
        make_folder(folder)
        remove_unfinished(folder)
        with atomic_file(files.tokens) as file:
            hashing = Hashing(file)
            np.lib.format.write_array_header_1_0(hashing, _header((num_pairs, manifest.row_length)))
            infos = _copy_split(root, manifest, split, hashing, lengths)
        digests = {files.tokens.name: hashing.sha256.hexdigest()}
        buffer = BytesIO()
        np.save(buffer, lengths, allow_pickle=False)
        for path, content in ((files.lengths, buffer.getvalue()), (files.infos, json.dumps(infos).encode("utf-8"))):
            write_atomic(path, content)
            digests[path.name] = hashlib.sha256(content).hexdigest()
        write_text_atomic(files.digests, json.dumps(digests))
    except WriteError as error:
        raise OSError(
            f"cannot write the token table of {root} ({error.filename}: {error.strerror}): "
            f"make {folder} a writable folder with room for it, or copy the data set"
        ) from error


def _header(shape: tuple[int, int]) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint16)), "fortran_order": False, "shape": shape}


def _copy_split(root: Path, manifest: Manifest, split: str, file: Hashing, lengths: np.ndarray) -> list[dict[str, Any]]:
    """Writes the tokens of all pairs to `file` and their lengths into `lengths` (num_pairs, K); returns the rest."""
    infos: list[dict[str, Any]] = []
    shards = manifest.shards[split]
    for shard in track(shards, len(shards), f"token table of {split}"):
        for key, members in read_shard(root, shard):
            where = f"{root / shard.name}: {key}"
            tokens, lengths[len(infos)] = token_row(members, manifest, where)
            file.write(tokens.tobytes())
            pair = pair_info(key, read_meta(members, where), where)
            infos.append({"pair": asdict(pair), "caption": next(iter(captions_of(members, where)), "")})
    return infos
