"""Tokenized data in the older layout of one small file per sample and modality:

    {split}/{modality}/{id}/{modality}.npy      tok_rgb, tok_rgb_next: (256,) or (16, 16); coords, coords_next: (39,)
    {split}/{modality}/{id}/{modality}.json     the same as nested lists; captions: {"caption": "…"} or a list of texts

They are packed into shards unchanged, and keep their splits. A modality table may name further modalities, whose tokens
are (length,) or, where the length is a square number, a square grid.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from m3.clips.base import ClipError
from m3.clips.canvas import CANVASES
from m3.clips.names import is_clip_id
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import JOINTS, NUM_VISIBILITY_IDS, PICTURE_STRIDE, ModalityTable, frame_of
from m3.core.reading import MAX_CAPTION_LENGTH, MAX_CAPTIONS, npy_of, parse_json, read_file
from m3.core.types import FramePair, TokenizedPair
from m3.shards.manifest import PAIR_MODALITIES, StoredModality, pair_modalities, stored_for
from m3.shards.meta import pair_meta
from m3.shards.split import SPLITS

FOLDERS_OF_SPLIT = {"train": ("train",), "eval": ("eval", "val", "valid", "validation"), "test": ("test",)}
CAPTIONS = "captions"

_MAX_BYTES = 2**24
"""Of a file of one sample; tokens of a picture take about 1 kB."""


class TokenizedFolders:
    """A folder of that layout.

    A sample is used when it has every modality that the data set has, in the right shape and with legal ids.

    Args:
        root: the folder.
        tokenizer: name of the picture tokenizer that made the tokens; the files do not record it.
        name: of the data set, for the manifest and the default output folder.
        table: the modalities to store, in this order, then those that it needs besides (`stored_for`); others of
            `PAIR_MODALITIES` are left out. None stores those of `PAIR_MODALITIES` that have a folder.
        canvas: mode of the canvas that frames were put into before they were tokenized, a key of
            `m3.clips.canvas.CANVASES`; None where it is not known.

    Attributes:
        canvas_mode: `canvas`, or "unknown".
        pair_modalities: those of `PAIR_MODALITIES` that have a folder, in that order.
        modalities: the stored ones.
        grid: (rows, columns) of a picture's tokens, None without pictures.

    Raises:
        FileNotFoundError where the folder does not have that layout or a modality of the table has no folder.
        ValueError naming the folders that are neither captions nor a modality, where no picture is a square grid, where
        the table's lengths are not those of the data, and where it needs previous frames: nothing says which they are.
    """

    def __init__(
        self,
        root: str | Path,
        tokenizer: str,
        name: str = "tokenized_folders",
        table: ModalityTable | None = None,
        canvas: str | None = None,
    ) -> None:
        if canvas is not None and canvas not in CANVASES:
            raise ValueError(f"source.canvas={canvas!r}: choose {', '.join(CANVASES)}, or null where it is not known")
        self.canvas_mode = canvas or "unknown"
        self.root = Path(root)
        self.tokenizer = tokenizer
        self.name = name
        self._folders = {split: self._folder_of(split) for split in SPLITS}
        found = self._found_folders()
        self.pair_modalities = tuple(name for name in PAIR_MODALITIES if name in found)
        self._names = self.pair_modalities if table is None else _names_to_store(table)
        self._check_folders(found)
        self._has_captions = CAPTIONS in found
        self.grid = self._read_grid()
        self.modalities = self._stored_modalities(table)

    @property
    def canvas_size(self) -> int:
        """Side in pixels of the canvas that the pictures' grid belongs to; without pictures the published 256."""
        return self.grid[0] * PICTURE_STRIDE if self.grid else 256

    def sample_ids(self, split: str) -> list[str]:
        """Ids of all samples of a split, whole or not, sorted."""
        folder = self._folders[split]
        if folder is None:
            return []
        names = [*self._names, CAPTIONS] if self._has_captions else self._names
        parts = [folder / name for name in names if (folder / name).is_dir()]
        return sorted({path.name for part in parts for path in part.iterdir() if path.is_dir()})

    def read(self, split: str, sample_id: str) -> TokenizedPair:
        """One sample, of clip `{split}-{id}`: what belongs together and frame numbers are not known.

        Raises ClipError where it cannot be used.
        """
        if "." in sample_id:
            raise ClipError(f'{sample_id}: a sample\'s name must be free of "."')
        if not is_clip_id(f"{split}-{sample_id}"):
            raise ClipError(f"{sample_id}: a sample's name has letters, digits and _ + = , @ - only, at most 120 bytes")
        tokens = {modality.name: self._tokens(split, sample_id, modality) for modality in self.modalities}
        captions = self._captions(split, sample_id)
        canvas = {"mode": self.canvas_mode, "size": self.canvas_size, "window": [0.0] * 4}
        return TokenizedPair(
            key=f"{split}-{sample_id}-000000",
            tokens=tokens,
            captions=tuple(captions),
            meta=pair_meta(FramePair(0, 1, None), f"{split}-{sample_id}", None, canvas, None, None),
        )

    def fingerprint(self) -> str:
        """sha256 over the names and contents of all files."""
        digest = hashlib.sha256()
        for split, folder in self._folders.items():
            if folder is None:
                continue
            for path in sorted(folder.glob("*/*/*")):
                digest.update(f"{split}/{path.relative_to(folder)} {path.stat().st_size}\n".encode())
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def _found_folders(self) -> set[str]:
        """Names of the folders in the splits; hidden ones do not count."""
        paths = [path for folder in self._folders.values() if folder for path in folder.iterdir() if path.is_dir()]
        return {path.name for path in paths if not path.name.startswith(".")}

    def _check_folders(self, found: set[str]) -> None:
        if not self._names:
            raise FileNotFoundError(
                f"source.root={self.root}: no folders of {', '.join(PAIR_MODALITIES)} in its splits; the layout is "
                "train/tok_rgb/ID/tok_rgb.npy, train/coords/ID/coords.npy, …"
            )
        if previous := [name for name in self._names if frame_of(name)[1] == -1]:
            raise ValueError(
                f"source.root={self.root}: modalities={list(self._names)} needs {', '.join(previous)}, but this layout "
                "has no previous frames: choose other modalities=…, or make the data from its videos"
            )
        if lacking := [name for name in self._names if name not in found]:
            raise FileNotFoundError(
                f"source.root={self.root}: no folder {', '.join(lacking)} in its splits, which "
                f"modalities={list(self._names)} asks for"
            )
        if foreign := sorted(found - {*self._names, *PAIR_MODALITIES, CAPTIONS}):
            raise ValueError(
                f"source.root={self.root}: its splits have folders of unknown modalities: {', '.join(foreign)}. Name "
                "them in a modality table (modalities=…, with extra_vocabularies for their ids), or remove the folders"
            )

    def _stored_modalities(self, table: ModalityTable | None) -> tuple[StoredModality, ...]:
        known = {modality.name: modality for modality in pair_modalities(self.grid or (1, 1), self._names)}
        if table is None:
            return tuple(known.values())
        stored = {name: known.get(name) for name in self._names}
        for name, length, vocabulary in zip(table.modalities, table.max_seq_lens, table.vocabularies):
            if name not in stored:  # derived when a sample is read
                continue
            modality = stored[name]
            if modality is None:
                shape = self._shape(name, length, is_pose=vocabulary.name == JOINTS.name)
                modality = stored[name] = StoredModality(name, shape, vocabulary.name, vocabulary.num_ids)
            if modality.length != length:
                raise ValueError(
                    f"modalities.max_seq_lens: {length} tokens of {name}, but source.root={self.root} has "
                    f"{modality.length}: choose other modalities=…"
                )
        return tuple(modality for modality in stored.values() if modality is not None)

    def _shape(self, name: str, length: int, is_pose: bool) -> tuple[int, ...]:
        """The shape in which a new modality is stored: that of its first sample of this length, flat or a square."""
        if is_pose:
            return (3, NUM_JOINTS)
        for ids in self._arrays([name]):
            if ids.size == length and ids.shape in _flat_or_square(length):
                return ids.shape
        raise ValueError(
            f"modalities.max_seq_lens: {length} tokens of {name}, but no file of it in source.root={self.root} has the "
            f"shape {' or '.join(map(str, _flat_or_square(length)))}"
        )

    def _arrays(self, names: Sequence[str]) -> Iterator[np.ndarray]:
        """Tokens of all samples that can be read."""
        for split, name in ((split, name) for split in SPLITS for name in names):
            for sample_id in self.sample_ids(split):
                with suppress(ClipError):
                    yield _load(self._path(split, name, sample_id))

    def _folder_of(self, split: str) -> Path | None:
        present = [self.root / name for name in FOLDERS_OF_SPLIT[split] if (self.root / name).is_dir()]
        if len(present) > 1:
            raise ValueError(f"source.root={self.root}: {present[0].name} and {present[1].name} are the same split")
        return present[0] if present else None

    def _read_grid(self) -> tuple[int, int] | None:
        """The grid of the first picture whose tokens are a square."""
        names = [name for name in self._names if frame_of(name)[0] == "tok_rgb"]
        for ids in self._arrays(names):
            side = math.isqrt(ids.size)
            if side**2 == ids.size and ids.shape in _flat_or_square(ids.size):
                return side, side
        if names:
            raise ValueError(f"source.root={self.root}: no {names[0]} holds a square grid of tokens, such as (16, 16)")
        return None

    def _path(self, split: str, name: str, sample_id: str) -> Path:
        folder = self._folders[split]
        assert folder is not None
        stem = folder / name / sample_id / name
        for suffix in (".npy", ".json"):
            if stem.with_suffix(suffix).is_file():
                return stem.with_suffix(suffix)
        raise ClipError(f"{split}/{name}/{sample_id}: neither {name}.npy nor {name}.json")

    def _tokens(self, split: str, sample_id: str, modality: StoredModality) -> np.ndarray:
        path = self._path(split, modality.name, sample_id)
        ids, where = _load(path), f"{split}/{modality.name}/{sample_id}/{path.name}"
        shapes = dict.fromkeys((modality.shape, *_flat_or_square(modality.length)))
        if ids.shape not in shapes:
            raise ClipError(f"{where}: shape {ids.shape}, need {' or '.join(map(str, shapes))}")
        if ids.min() < 0 or ids.max() >= modality.num_ids:
            raise ClipError(f"{where}: ids {ids.min()} … {ids.max()}, legal are 0 … {modality.num_ids - 1}")
        ids = ids.reshape(modality.shape)
        if modality.vocabulary == JOINTS.name and ids[2].max() >= NUM_VISIBILITY_IDS:
            raise ClipError(f"{where}: visibility {ids[2].max()}, legal are 0 and 1")
        return ids.astype(np.uint16)

    def _captions(self, split: str, sample_id: str) -> list[str]:
        if not self._has_captions:
            return []
        path = self._path(split, CAPTIONS, sample_id)
        content = _load_json(path)
        captions = content.get("caption") if isinstance(content, dict) else content
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise ClipError(f'{split}/{CAPTIONS}/{sample_id}/{path.name}: need {{"caption": "…"}} or a list of texts')
        if len(captions) > MAX_CAPTIONS or any(len(caption) > MAX_CAPTION_LENGTH for caption in captions):
            raise ClipError(
                f"{split}/{CAPTIONS}/{sample_id}/{path.name}: need at most {MAX_CAPTIONS} captions of "
                f"{MAX_CAPTION_LENGTH:,} characters"
            )
        return captions


def _names_to_store(table: ModalityTable) -> tuple[str, ...]:
    """The stored modalities of a table in its order, then those that the derived ones need besides."""
    needed = stored_for(table.modalities)
    return tuple(dict.fromkeys((*(name for name in table.modalities if name in needed), *needed)))


def _flat_or_square(length: int) -> tuple[tuple[int, ...], ...]:
    """The shapes that tokens of this number may have."""
    side = math.isqrt(length)
    return ((length,), (side, side)) if side**2 == length else ((length,),)


def _load(path: Path) -> np.ndarray:
    """An array of integers. Raises ClipError."""
    try:
        content = read_file(path, _MAX_BYTES)
        ids = npy_of(content, _MAX_BYTES) if path.suffix == ".npy" else np.array(parse_json(content, path.name))
    except (ValueError, OSError, OverflowError) as error:
        raise ClipError(f"{path.parent.name}/{path.name}: no array of tokens ({error})") from error
    if ids.dtype.kind not in "iu" or not ids.size:
        raise ClipError(f"{path.parent.name}/{path.name}: {ids.dtype} {ids.shape}, need whole numbers")
    return ids


def _load_json(path: Path) -> Any:
    try:
        return parse_json(read_file(path, _MAX_BYTES), path.name)
    except (ValueError, OSError) as error:
        raise ClipError(f"{path.parent.name}/{path.name}: not JSON ({error})") from error
