"""Existing tokens → shards and manifest; no pictures are read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3.clips.base import ClipError
from m3.core.progress import track
from m3.core.types import Rejection, TokenizedPair
from m3.preprocessing.build import BuildResult
from m3.preprocessing.folder import check_replaceable, existing_manifest, move_into_place, write_text_tokenizer
from m3.preprocessing.tokenized_folders import TokenizedFolders
from m3.shards.manifest import SCHEMA_VERSION, Manifest
from m3.shards.split import SPLITS
from m3.shards.writer import write_shards
from m3.tokens.base import PictureTokenizer


@dataclass(frozen=True)
class PackOptions:
    """pairs_per_shard: samples of a full shard. text_vocab_size: ids of the text tokenizer, at most.
    strict: stop at the first sample that cannot be used."""

    pairs_per_shard: int
    text_vocab_size: int
    strict: bool


def pack_identity(source: TokenizedFolders, tokenizer: PictureTokenizer, settings: dict[str, Any]) -> dict[str, Any]:
    """The manifest's fields that are known before any work; see `pack_dataset`."""
    if tokenizer.name != source.tokenizer:
        raise ValueError(
            f"source.tokenizer={source.tokenizer} made the tokens, but tokenizer={tokenizer.name}: choose the group "
            f"option tokenizer={source.tokenizer}, whose weights give the data set its identity"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": settings,
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
        "canvas": {"mode": source.canvas_mode, "size": source.canvas_size},
        "variants": (),
        "tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint, "settings": settings["tokenizer"]},
        "captioner": {"name": "as found", "fingerprint": None, "settings": {}},
    }


def pack_dataset(
    out: Path,
    source: TokenizedFolders,
    tokenizer: PictureTokenizer,
    settings: dict[str, Any],
    options: PackOptions,
    overwrite: bool = False,
) -> BuildResult:
    """Make the data set `out` of `source`, unless it is there; samples stay in their splits, sorted by id.

    tokenizer: the one that made the tokens; the data set carries its fingerprint.
    settings: for the manifest.
    Raises ValueError for another tokenizer than the source names, or where `out` holds something else and `overwrite`
    is False; ClipError with strict at the first sample that cannot be used.
    """
    identity = pack_identity(source, tokenizer, settings)
    if not overwrite and (existing := existing_manifest(out, identity)) is not None:
        return BuildResult(existing, False)
    check_replaceable(out)
    staging = out.with_name(out.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    rejected: list[Rejection] = []
    captions: list[str] = []
    has_joints = False

    def samples(split: str) -> Iterator[TokenizedPair]:
        nonlocal has_joints
        ids = source.sample_ids(split)
        for sample_id in track(ids, len(ids), f"shards of {split}"):
            try:
                sample = source.read(split, sample_id)
            except ClipError as error:
                if options.strict:
                    raise ClipError(f"{split}/{sample_id}: {error} (strict=true stops at the first one)") from error
                rejected.append(Rejection(f"{split}/{sample_id}", str(error)))
                continue
            captions.extend(sample.captions if split == "train" else ())
            has_joints = has_joints or "coords" in sample.tokens and bool(sample.tokens["coords"][2].any())
            yield sample

    shards = {split: write_shards(staging, split, samples(split), options.pairs_per_shard) for split in SPLITS}
    if not any(shards.values()):
        reasons = "; ".join(f"{r.clip}: {r.reason}" for r in rejected[:3])
        raise ValueError(f"source.root={source.root}: none of its {len(rejected)} samples can be used ({reasons})")
    manifest = Manifest(
        **identity,
        modalities=source.modalities,
        has_joints=has_joints,
        num_clips={split: sum(shard.num_pairs for shard in shards[split]) for split in SPLITS},
        shards=shards,
        text_tokenizer=write_text_tokenizer(staging, captions, options.text_vocab_size),
        rejected=tuple(rejected),
        notes=(),
        statistics={},
    )
    move_into_place(out, staging, manifest)
    shutil.rmtree(staging)
    return BuildResult(manifest, True)
