"""The token table: the tokens of a split as one memory-mapped array, built once from its shards.

Reading a random row takes 8 µs, a member of a tar about 90 µs, so neither loader processes nor a shuffle buffer are
needed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from m3.core.files import atomic_file, write_text_atomic
from m3.core.modalities import ModalityTable
from m3.core.progress import track
from m3.core.types import PairInfo
from m3.shards.manifest import TABLES_FOLDER, Manifest, manifest_hash
from m3.shards.meta import pair_info, read_meta
from m3.shards.reader import read_shard, token_row
from m3.shards.transport import is_local


@dataclass(frozen=True)
class TokenTable:
    """All pairs of a split.

    manifest: of the data set.
    tokens: (num_pairs, S · (1 + number of variants)) uint16, read-only and memory-mapped; the manifest's modalities
        side by side, in its order, then those of each variant.
    pairs: clip, frames and action of each row.
    """

    manifest: Manifest
    tokens: np.ndarray
    pairs: list[PairInfo]

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
        stem = f"{split}-{manifest_hash(root)[:32]}"
        rows, infos = folder / f"{stem}.npy", folder / f"{stem}.json"
        if not rows.is_file() or not infos.is_file():
            _build(root, manifest, split, rows, infos)
        pairs = [PairInfo(**info) for info in json.loads(infos.read_text(encoding="utf-8"))]
        shape = (manifest.num_pairs(split), manifest.row_length)
        if not shape[0]:  # an empty file cannot be mapped
            return cls(manifest, np.zeros(shape, np.uint16), pairs)
        tokens = np.load(rows, mmap_mode="r", allow_pickle=False)
        if tokens.shape != shape or len(pairs) != shape[0]:
            raise ValueError(f"{rows}: shape {tokens.shape} with {len(pairs)} infos, need {shape}; delete the file")
        return cls(manifest, tokens, pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def columns(self, table: ModalityTable, variant: str | None = None) -> np.ndarray:
        """(num_pairs, S') uint16: the tokens of a run's modalities, in the order of its modality table.

        Memory-mapped where they are stored side by side in that order; otherwise a copy.

        variant: None, or one of the manifest's.
        Raises ValueError where the data set lacks a modality or has it in another length, and where it lacks the
        variant.
        """
        chosen = columns_of(self.manifest, table, variant)
        if all(left.stop == right.start for left, right in pairwise(chosen)):
            return self.tokens[:, chosen[0].start : chosen[-1].stop]
        return np.concatenate([self.tokens[:, columns] for columns in chosen], axis=1)


def columns_of(manifest: Manifest, table: ModalityTable, variant: str | None = None) -> list[slice]:
    """The columns of a run's modalities in a row of stored tokens, in the order of its modality table.

    variant: None, or one of the manifest's.
    Raises ValueError where the data set lacks a modality or has it in another length, and where it lacks the variant.
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
    for name, length in zip(table.modalities, table.max_seq_lens, strict=True):
        found = stored[name].stop - stored[name].start if name in stored else 0
        if found != length:
            raise ValueError(
                f"modalities.max_seq_lens: the run wants {length} tokens of {name}, the data set has {found} "
                f"(its canvas is {manifest.canvas_size} px): choose modalities=… for it, or make other data"
            )
    return [stored[name] for name in table.modalities]


def _build(root: Path, manifest: Manifest, split: str, rows: Path, infos: Path) -> None:
    """Write both files, the rows last. Several ranks may do so at once."""
    tokens, pairs = _read_split(root, manifest, split)
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(infos, json.dumps([asdict(pair) for pair in pairs]))
        with atomic_file(rows) as file:
            np.save(file, tokens, allow_pickle=False)
    except OSError as error:
        raise OSError(
            f"cannot write the token table of {root} ({error.filename}: {error.strerror}): "
            f"make {rows.parent} a writable folder with room for it, or copy the data set"
        ) from error


def _read_split(root: Path, manifest: Manifest, split: str) -> tuple[np.ndarray, list[PairInfo]]:
    tokens = np.zeros((manifest.num_pairs(split), manifest.row_length), dtype=np.uint16)
    pairs: list[PairInfo] = []
    shards = manifest.shards[split]
    for shard in track(shards, len(shards), f"token table of {split}"):
        for key, members in read_shard(root, shard):
            where = f"{root / shard.name}: {key}"
            tokens[len(pairs)], _ = token_row(members, manifest, where)
            pairs.append(pair_info(key, read_meta(members, where), where))
    return tokens, pairs
