"""The manifest: what a folder of shards holds and how it was made. Written last: without it there is no data set."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m3.core.files import write_text_atomic
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import JOINTS, MAX_VOCAB_SIZE, PICTURE, PICTURE_STRIDE, frame_of
from m3.core.reading import MAX_LABEL_LENGTH, Record, parse_json, read_file, shown
from m3.core.types import Rejection
from m3.core.validation import check
from m3.shards.split import SPLITS
from m3.shards.transport import MAX_BYTES, address, is_local, read_stored

MANIFEST_NAME = "dataset.json"
TEXT_TOKENIZER_NAME = "text_tokenizer.json"
CONTACT_SHEET_NAME = "contact_sheet.png"
FLIP = "flip"
"""The stored variant of mirrored samples."""

TABLES_FOLDER = ".tables"
"""Folder of the token tables, beside the splits."""

SCHEMA_VERSION = 3
"""2 had neither previous frames nor labels, null where something is unknown, and all tokens in every sample."""

_READABLE_VERSIONS = (2, 3)

_MAX_CANVAS = 4096
_MAX_MODALITIES = 64
_MAX_LENGTH = 2**16 - 1
"""Tokens of a modality: token tables hold lengths as uint16."""

_MAX_PAIRS_OF_SHARD, _MAX_PAIRS = 2**24, 2**30
_MIN_BYTES_OF_PAIR = 2048
"""A sample's meta.json and captions.json take two blocks of 512 bytes each."""

_MAX_BYTES_OF_PAIR = 2**20
"""Where the manifest does not say how large a shard is: tokens take 10 kB, captions and meta.json 1 kB."""

_WORD = "[a-z][a-z0-9_]{0,63}"
_SHA256 = "[0-9a-f]{1,64}"
_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})/[0-9]{{6}}\.tar")


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
    """One tar file.

    name: relative to the manifest: "train/000000.tar".
    num_pairs: samples in it.
    sha256: of its bytes, hexadecimal.
    num_bytes: its size, or None in data sets of earlier versions.

    Raises ValueError for any other name: a name out of a manifest becomes part of paths, addresses and commands.
    """

    name: str
    num_pairs: int
    sha256: str
    num_bytes: int | None = None

    def __post_init__(self) -> None:
        if not _SHARD_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r}: no name of a shard, which is like train/000000.tar")

    @property
    def max_bytes(self) -> int:
        """Its size, or an upper bound where that is not known: more bytes are not read."""
        return self.num_pairs * _MAX_BYTES_OF_PAIR + 10_240 if self.num_bytes is None else self.num_bytes


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
    def preparation(self) -> dict[str, Any]:
        """How clips became pairs, for prompts of a model that is trained on the data: canvas (mode), pairs (settings
        of the miner), fps (of the source; None for all frames), and cuts (whether videos were divided at them). Parts
        that are not known are empty."""
        pairs, source = self.settings.get("pairs", {}), self.settings.get("source", {})
        return {
            "canvas": self.canvas["mode"],
            "pairs": {key: pairs[key] for key in ("_target_", "threshold", "step") if key in pairs},
            "fps": source.get("fps"),
            "cuts": source.get("cuts", False),
        }

    @property
    def num_tokens(self) -> int:
        """S, the tokens of a pair."""
        return sum(modality.length for modality in self.modalities)

    @property
    def row_length(self) -> int:
        """Tokens of a pair and of its variants: a row of the token table."""
        return self.num_tokens * (1 + len(self.variants))

    @property
    def median_gap(self) -> int | None:
        """Median number of frames from reference to successor; None where the statistics do not have it.

        Raises ValueError for anything else than a number of frames.
        """
        median = (self.statistics.get("frame_distance") or {}).get("median")
        check(f"{MANIFEST_NAME}: statistics.frame_distance.median", median, int | None, low=1)
        return median

    @property
    def median_gap_s(self) -> float | None:
        """Median time from reference to successor in seconds; None where the statistics do not have it.

        Raises ValueError for anything else than a positive number.
        """
        median = (self.statistics.get("pair_duration_s") or {}).get("median")
        check(f"{MANIFEST_NAME}: statistics.pair_duration_s.median", median, int | float | None, low=1e-6)
        return median

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

        Raises FileNotFoundError, or ValueError naming the file for damaged JSON, another schema version, and any value
        that is missing, of another type, or out of its range.
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
        return _parse(content, path)


_REMEDY = "make the data again with overwrite=true"


def _parse(content: bytes, path: str) -> Manifest:
    """Every value with its type. Raises ValueError naming the file and the value."""
    fields = parse_json(content, path, _REMEDY)
    found = Record(fields, path, _REMEDY)
    version = fields.get("schema_version")
    if type(version) is not int or version not in _READABLE_VERSIONS:
        raise ValueError(
            f"{path}: schema version {shown(version)}, this m3 reads {' and '.join(map(str, _READABLE_VERSIONS))}; "
            f"{_REMEDY}"
        )
    settings = found.record("settings")
    for key in ("source", "pairs", "split"):
        if key in settings:
            settings.record(key)
    canvas, source, statistics = (found.record(key) for key in ("canvas", "source", "statistics"))
    canvas.text("mode", _WORD)
    if canvas.count("size", PICTURE_STRIDE, _MAX_CANVAS) % PICTURE_STRIDE:
        raise canvas.error("size", f"a multiple of {PICTURE_STRIDE}")
    for key in ("name", "fingerprint"):
        source.text(key)
    for key in statistics:
        if not (statistics.is_null(key) or statistics.is_number(key)):
            statistics.record(key).all_numbers()
    variants = found.texts("variants", max_items=1)
    if any(variant != FLIP for variant in variants):
        raise found.error("variants", f"[] or ['{FLIP}']")
    num_clips = found.record("num_clips")
    return Manifest(
        settings=found.mapping("settings"),
        source=found.mapping("source"),
        canvas=found.mapping("canvas"),
        modalities=_modalities(found),
        has_joints=found.flag("has_joints"),
        variants=tuple(variants),
        tokenizer=_network(found, "tokenizer"),
        captioner=_network(found, "captioner"),
        text_tokenizer=None if found.is_null("text_tokenizer") else _text_tokenizer(found),
        num_clips={split: num_clips.count(split) for split in SPLITS},
        shards=_shards(found),
        rejected=tuple(Rejection(each.text("clip"), each.text("reason", max_length=10_000))
                       for each in found.records("rejected")),
        notes=tuple({"clip": each.text("clip"), "note": each.text("note", max_length=10_000)}
                    for each in found.records("notes")),
        statistics=found.mapping("statistics"),
        actions=tuple(found.texts("actions", MAX_LABEL_LENGTH, MAX_VOCAB_SIZE)) if "actions" in found else (),
        schema_version=version,
    )  # fmt: skip


def _modalities(found: Record) -> tuple[StoredModality, ...]:
    modalities = []
    for each in found.records("modalities", _MAX_MODALITIES):
        shape = each.counts("shape", 1, _MAX_LENGTH, max_items=4)
        if not shape or math.prod(shape) > _MAX_LENGTH:
            raise each.error("shape", f"at most {_MAX_LENGTH} tokens")
        vocabulary, num_ids = each.text("vocabulary", _WORD), each.count("num_ids", 1, MAX_VOCAB_SIZE)
        modalities.append(StoredModality(each.text("name", _WORD), tuple(shape), vocabulary, num_ids))
        if vocabulary == JOINTS.name and shape != [3, NUM_JOINTS]:
            raise each.error("shape", f"[3, {NUM_JOINTS}]")
    if not modalities or len({modality.name for modality in modalities}) < len(modalities):
        raise found.error("modalities", "each of them once")
    return tuple(modalities)


def _network(found: Record, key: str) -> dict[str, Any]:
    """Name, fingerprint and settings of the tokenizer or the captioner."""
    network = found.record(key)
    network.text("name")
    if not network.is_null("fingerprint"):
        network.text("fingerprint")
    if "settings" in network:
        network.record("settings")
    return found.mapping(key)


def _text_tokenizer(found: Record) -> dict[str, Any]:
    stored = found.record("text_tokenizer")
    stored.text("file", re.escape(TEXT_TOKENIZER_NAME))
    stored.text("sha256", _SHA256)
    stored.count("num_ids", 1, MAX_VOCAB_SIZE)
    return found.mapping("text_tokenizer")


def max_pairs(num_bytes: int) -> int:
    """Samples that a shard of this size can have."""
    return min(_MAX_PAIRS_OF_SHARD, num_bytes // _MIN_BYTES_OF_PAIR)


def _shards(found: Record) -> dict[str, tuple[Shard, ...]]:
    """The shards of all splits, each in its split's folder and once."""
    of_splits, shards = found.record("shards"), {}
    for split in SPLITS:
        listed = []
        for each in of_splits.records(split):
            name = each.text("name", rf"{split}/[0-9]{{6}}\.tar")
            num_bytes = None if each.is_null("num_bytes") else each.count("num_bytes", high=2**63 - 1)
            num_pairs = each.count("num_pairs", high=_MAX_PAIRS_OF_SHARD if num_bytes is None else max_pairs(num_bytes))
            listed.append(Shard(name, num_pairs, each.text("sha256", _SHA256), num_bytes))
        if len({shard.name for shard in listed}) < len(listed):
            raise of_splits.error(split, "each shard once")
        if sum(shard.num_pairs for shard in listed) > _MAX_PAIRS:
            raise of_splits.error(split, f"at most {_MAX_PAIRS:,} pairs")
        shards[split] = tuple(listed)
    return shards


def manifest_hash(root: str | Path) -> str:
    """sha256 of `root/dataset.json`, hexadecimal: the identity of a data set."""
    return hashlib.sha256(read_file(Path(root) / MANIFEST_NAME, MAX_BYTES)).hexdigest()
