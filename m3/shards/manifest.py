"""The manifest: what a folder of shards holds and how it was made. Written last: without it there is no data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m3.core.files import write_text_atomic
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import JOINTS, PICTURE, frame_of
from m3.core.types import Rejection
from m3.shards.transport import address, is_local, read_stored

MANIFEST_NAME = "dataset.json"
TEXT_TOKENIZER_NAME = "text_tokenizer.json"
CONTACT_SHEET_NAME = "contact_sheet.png"
TABLES_FOLDER = ".tables"
"""Folder of the token tables, beside the splits."""

SCHEMA_VERSION = 3
"""2 had neither previous frames nor labels, null where something is unknown, and all tokens in every sample."""

_READABLE_VERSIONS = (2, 3)


class ShardError(ValueError):
    """A shard contradicts the manifest: other bytes, or other samples."""


@dataclass(frozen=True)
class StoredModality:
    """One token member of the samples.

    name: as in the modality table; the member is `{name}.npy`.
    shape: of the stored array, whose dtype is uint16.
    vocabulary: name of its `Vocabulary`: "picture", "joints", or that of a new modality.
    num_ids: ids are 0 … num_ids − 1.
    """

    name: str
    shape: tuple[int, ...]
    vocabulary: str
    num_ids: int

    @property
    def length(self) -> int:
        """Tokens of a sample that has the modality."""
        length = 1
        for side in self.shape:
            length *= side
        return length


PAIR_MODALITIES = ("tok_rgb", "coords", "tok_rgb_next", "coords_next")
"""The modalities of reference and successor that are made from clips, in the order in which data sets store them."""

HISTORY_MODALITIES = ("tok_rgb_prev", "coords_prev")
"""Those of the previous frame, stored after them."""

STORED_MODALITIES = (*PAIR_MODALITIES, *HISTORY_MODALITIES)
"""All modalities that are made from clips."""

_SOURCES_OF = {
    "motion_prev": ("coords", "coords_prev"),
    "motion_next": ("coords", "coords_next"),
    **dict.fromkeys(("gap_prev", "gap_next", "seconds_prev", "seconds_next", "action", "captions"), ()),
}
"""Modality that is derived when a sample is read → the stored modalities that it needs; meta.json has the rest."""


def stored_for(names: Sequence[str]) -> tuple[str, ...]:
    """The stored modalities that a run's modalities need: those of clips in their order, then others as they come.

    "gap_next", "coords_next", "motion_prev" → "coords", "coords_next", "coords_prev".
    """
    needed = dict.fromkeys(source for name in names for source in _SOURCES_OF.get(name, (name,)))
    others = (name for name in needed if name not in STORED_MODALITIES)
    return (*(name for name in STORED_MODALITIES if name in needed), *others)


def pair_modalities(grid: tuple[int, int], names: Sequence[str] = PAIR_MODALITIES) -> tuple[StoredModality, ...]:
    """The modalities of clips that are in `names`, for pictures of `grid` = (rows, columns) tokens."""
    kinds = {
        "tok_rgb": (grid, PICTURE.name, PICTURE.num_ids),
        "coords": ((3, NUM_JOINTS), JOINTS.name, JOINTS.num_ids),
    }
    return tuple(StoredModality(name, *kinds[frame_of(name)[0]]) for name in STORED_MODALITIES if name in names)


def token_members(names: Sequence[str], variants: Sequence[str]) -> tuple[str, ...]:
    """Modalities "tok_rgb", "coords" and variant "flip" → "tok_rgb", "coords", "tok_rgb.flip", "coords.flip"."""
    return (*names, *(f"{name}.{variant}" for variant in variants for name in names))


@dataclass(frozen=True)
class Shard:
    """One tar file: name relative to the manifest ("train/000000.tar"), number of pairs, sha256 of its bytes."""

    name: str
    num_pairs: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`dataset.json`.

    settings: the configuration of each stage, without paths, devices and worker counts.
    source: name and fingerprint (sha256) of the data that went in.
    canvas: mode and size in pixels.
    modalities: the stored ones, in the order of their tokens in a row of the token table. A sample lacks those of the
        previous frame at its clip's start, and those of joints where its clip has none; version 2 has all in each.
    has_joints: False where no clip had joints.
    variants: augmented versions of each sample stored beside it, () or ("flip",): members `{name}.flip.npy`.
    tokenizer: name, fingerprint (sha256 of the weights) and settings of the picture tokenizer.
    captioner: name, fingerprint (None without weights) and settings.
    text_tokenizer: file, sha256 and num_ids of the tokenizer of the captions; None where train has no captions.
    num_clips: clips per split.
    shards: per split.
    rejected: clips that were not used.
    notes: irregularities of clips that were used.
    statistics: see `m3.preprocessing.statistics`; empty for data without clips.
    actions: the labels that occur in any split, sorted; empty in version 2.
    schema_version: 2 or 3.
    """

    settings: dict[str, Any]
    source: dict[str, str]
    canvas: dict[str, Any]
    modalities: tuple[StoredModality, ...]
    has_joints: bool
    variants: tuple[str, ...]
    tokenizer: dict[str, Any]
    captioner: dict[str, Any]
    text_tokenizer: dict[str, Any] | None
    num_clips: dict[str, int]
    shards: dict[str, tuple[Shard, ...]]
    rejected: tuple[Rejection, ...]
    notes: tuple[dict[str, str], ...]
    statistics: dict[str, Any]
    actions: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def canvas_size(self) -> int:
        return self.canvas["size"]

    @property
    def num_tokens(self) -> int:
        """S, the tokens of a pair."""
        return sum(modality.length for modality in self.modalities)

    @property
    def row_length(self) -> int:
        """Tokens of a pair and of its variants: a row of the token table."""
        return self.num_tokens * (1 + len(self.variants))

    def num_pairs(self, split: str) -> int:
        return sum(shard.num_pairs for shard in self.shards[split])

    def to_json(self) -> str:
        fields = asdict(self)
        fields["num_pairs"] = {split: self.num_pairs(split) for split in self.shards}
        ordered = {"schema_version": fields.pop("schema_version"), **fields}
        return json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"

    def save(self, root: Path) -> None:
        """Write `root/dataset.json`. Raises WriteError where that fails."""
        write_text_atomic(root / MANIFEST_NAME, self.to_json())

    @classmethod
    def load(cls, root: str | Path) -> Manifest:
        """Read `root/dataset.json`, schema version 2 or 3, from a folder or any other address of `m3.shards.transport`.

        Raises FileNotFoundError, or ValueError for damaged JSON and for another schema version.
        """
        path = address(root, MANIFEST_NAME)
        try:
            content = read_stored(root, MANIFEST_NAME, lambda file: file.read())
        except FileNotFoundError:
            remedy = f"out={root}` (source=demo needs no data of your own)"
            if not is_local(root):
                remedy = "out=DIR` and copy DIR there"
            raise FileNotFoundError(
                f"{path}: no such file, so there is no complete data set. Make one with `python preprocess.py {remedy}"
            ) from None
        try:
            fields = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error}); make the data again with overwrite=true") from error
        if fields.get("schema_version") not in _READABLE_VERSIONS:
            raise ValueError(
                f"{path}: schema version {fields.get('schema_version')}, this m3 reads "
                f"{' and '.join(map(str, _READABLE_VERSIONS))}; make the data again with overwrite=true"
            )
        actions = fields.get("actions", [])
        if not isinstance(actions, list) or not all(isinstance(action, str) for action in actions):
            raise ValueError(f"{path}: actions is no list of labels; make the data again with overwrite=true")
        fields["actions"] = tuple(actions)
        del fields["num_pairs"]
        fields["modalities"] = tuple(StoredModality(**m | {"shape": tuple(m["shape"])}) for m in fields["modalities"])
        fields["shards"] = {split: tuple(Shard(**s) for s in shards) for split, shards in fields["shards"].items()}
        fields["rejected"] = tuple(Rejection(**r) for r in fields["rejected"])
        fields["notes"], fields["variants"] = tuple(fields["notes"]), tuple(fields["variants"])
        return cls(**fields)


def manifest_hash(root: str | Path) -> str:
    """sha256 of `root/dataset.json`, hexadecimal: the identity of a data set."""
    return hashlib.sha256((Path(root) / MANIFEST_NAME).read_bytes()).hexdigest()
