"""A source of clips → a folder of shards and their manifest.

    clip ─▶ pairs, canvas, joint tokens, captions (worker processes) ─▶ picture tokens (this process) ─▶ staged clip
    staged clips ─▶ split ─▶ shards ─▶ manifest, written last

Staged clips lie in `OUT.tmp`, so that an interrupted build goes on where it stopped. Each is a function of its clip
alone and they are taken in the order of the source, so the bytes do not depend on workers or interruptions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3.clips.base import ClipError
from m3.progress import track
from m3.records import Rejection, TokenizedPair
from m3.shards.manifest import MANIFEST_NAME, SCHEMA_VERSION, TABLES_FOLDER, Manifest, pair_modalities
from m3.shards.prepare import ClipPreparer, prepare_clips
from m3.shards.split import SPLITS, ClipPairs, Sample, Splitter
from m3.shards.staging import Staging
from m3.shards.writer import write_shards
from m3.tokens.base import PictureTokenizer, to_pixels

REJECTED_NAME = "rejected.jsonl"


@dataclass(frozen=True)
class BuildOptions:
    """How a build runs.

    pairs_per_shard: samples of a full shard.
    encode_batch_size: frames per call of the tokenizer; the frames of a clip are padded to a multiple of it.
    encode_threads: CPU threads of the tokenizer; like the batch size, it may decide the last bit of a result.
    num_workers: processes that decode, render and compare; 0 works in this one. Changes no result.
    strict: stop at the first clip that cannot be used.
    """

    pairs_per_shard: int
    encode_batch_size: int
    encode_threads: int
    num_workers: int
    strict: bool

    def __post_init__(self) -> None:
        for key in ("pairs_per_shard", "encode_batch_size", "encode_threads"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: need at least 1")
        if self.num_workers < 0:
            raise ValueError(f"workers={self.num_workers}: need 0 or more, or null for one per CPU core")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of a data set.

    preparer: source, canvas, pair miner and captioner.
    tokenizer: of the pictures.
    splitter: of the pairs.
    settings: the configuration of all of these, without paths and devices, for the manifest.
    options: how to run.
    """

    preparer: ClipPreparer
    tokenizer: PictureTokenizer
    splitter: Splitter
    settings: dict[str, Any]
    options: BuildOptions

    def identity(self) -> dict[str, Any]:
        """The manifest's fields that are known before any work."""
        source, canvas = self.preparer.source, self.preparer.canvas
        tokenizer = {"name": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint}
        captioner = {"name": self.preparer.captioner.name, "fingerprint": None}
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": self.settings,
            "source": {"name": source.name, "fingerprint": source.fingerprint()},
            "canvas": {"mode": canvas.mode, "size": canvas.size},
            "variants": (),
            "tokenizer": {**tokenizer, "settings": self.settings["tokenizer"]},
            "captioner": {**captioner, "settings": self.settings["captioner"]},
        }


def build_dataset(out: Path, recipe: Recipe, overwrite: bool = False) -> tuple[Manifest, bool]:
    """Make the data set `out`, unless it is there; returns its manifest and whether anything had to be done.

    Raises ValueError where `out` holds something else and `overwrite` is False, and for what the splitter finds
    impossible; ClipError with `strict` at the first clip that cannot be used.
    """
    identity = recipe.identity()
    if not overwrite and (existing := _existing(out, identity)) is not None:
        return existing, False
    _check_replaceable(out)
    clip_ids = recipe.preparer.source.clip_ids()
    recipe.splitter.check(len(clip_ids))
    staging = Staging(out.with_name(out.name + ".tmp"), _without_layout(identity))
    _stage_clips(staging, clip_ids, recipe)
    manifest = _write(out, staging, clip_ids, recipe, identity)
    staging.remove()
    return manifest, True


def _existing(out: Path, identity: dict[str, Any]) -> Manifest | None:
    """The manifest of a complete data set of this identity, or None where there is no manifest."""
    if not (out / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.load(out)
    found, wanted = _flat({key: getattr(manifest, key) for key in identity}), _flat(identity)
    differing = [
        f"{key} is {found.get(key, 'unset')}, asked for {wanted.get(key, 'unset')}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key, "unset") != wanted.get(key, "unset")
    ]
    if differing:
        raise ValueError(
            f"out={out} holds a data set of other settings or data ({'; '.join(differing[:4])}). "
            "Choose another folder with out=…, or replace it with overwrite=true"
        )
    missing = [s.name for shards in manifest.shards.values() for s in shards if not (out / s.name).is_file()]
    if missing:
        raise ValueError(f"out={out} lacks {missing[0]}, which its manifest lists; make it again with overwrite=true")
    return manifest


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else key).items()}


def _without_layout(identity: dict[str, Any]) -> dict[str, Any]:
    """The part that staged clips depend on: a new split or shard size can use them."""
    settings = {key: value for key, value in identity["settings"].items() if key not in ("split", "pairs_per_shard")}
    return {**identity, "settings": settings}


def _check_replaceable(out: Path) -> None:
    """Raises where `out` holds files that are not a data set of m3: a typing error must not delete anything."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; choose a folder")
    known = {MANIFEST_NAME, REJECTED_NAME, TABLES_FOLDER, *SPLITS}
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if foreign := [name for name in names if name.removesuffix(".tmp") not in known]:
        raise ValueError(f"out={out} holds {foreign[0]!r}, which is not part of a data set; choose another folder")


def _stage_clips(staging: Staging, clip_ids: Sequence[str], recipe: Recipe) -> None:
    """Prepare and tokenize what is not yet staged."""
    options, tokenizer = recipe.options, recipe.tokenizer
    to_do = [clip_id for clip_id in clip_ids if clip_id not in staging]
    prepared = prepare_clips(recipe.preparer, to_do, min(options.num_workers, len(to_do)))
    with _torch_threads(options.encode_threads):
        for item in track(prepared, len(to_do), "clips → tokens"):
            if isinstance(item, Rejection):
                if options.strict:
                    raise _strict_error(item)
                staging.add(item)
            else:
                clip, pictures = item
                ids = encode_pictures(tokenizer, pictures, options.encode_batch_size)
                if ids.shape[1:] != recipe.preparer.canvas.grid:
                    raise ValueError(
                        f"tokenizer {tokenizer.name} gave a grid of {ids.shape[1:]} tokens, "
                        f"the canvas needs {recipe.preparer.canvas.grid}"
                    )
                staging.add(replace(clip, pictures=ids))


def _strict_error(rejection: Rejection) -> ClipError:
    return ClipError(f"clip {rejection.clip}: {rejection.reason} (strict=true stops at the first bad clip)")


def encode_pictures(tokenizer: PictureTokenizer, pictures: np.ndarray, batch_size: int) -> np.ndarray:
    """(F, H, W, 3) uint8 → (F, H/16, W/16) uint16 ids, in batches of one fixed size.

    The last batch is padded with black pictures: the ids of a picture may depend on the batch's size.
    """
    ids = []
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        padded = np.zeros((batch_size, *pictures.shape[1:]), dtype=np.uint8)
        padded[: len(batch)] = batch
        with torch.inference_mode():
            ids.append(tokenizer.encode(to_pixels(padded))[: len(batch)].cpu().numpy())  # (b, h, w)
    return np.concatenate(ids).astype(np.uint16)


@contextmanager
def _torch_threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(out: Path, staging: Staging, clip_ids: Sequence[str], recipe: Recipe, identity: dict[str, Any]) -> Manifest:
    """Staged clips → shards and manifest in `out`."""
    clips, rejected, notes = _summaries(staging, clip_ids)
    if recipe.options.strict and rejected:
        raise _strict_error(rejected[0])
    if not clips:
        reasons = "; ".join(f"{r.clip}: {r.reason}" for r in rejected[:3])
        raise ValueError(f"none of the {len(rejected)} clips can be used ({reasons})")
    divided = recipe.splitter.split(clips)
    read = lru_cache(maxsize=64)(staging.read)

    def samples(split: str) -> Iterator[TokenizedPair]:
        for clip, pair in track(divided[split], len(divided[split]), f"shards of {split}"):
            yield read(clip).sample(pair)

    for split in SPLITS:
        shutil.rmtree(staging.root / split, ignore_errors=True)  # of an interrupted build
    per_shard = recipe.options.pairs_per_shard
    shards = {split: write_shards(staging.root, split, samples(split), per_shard) for split in SPLITS}
    manifest = Manifest(
        **identity,
        modalities=pair_modalities(recipe.preparer.canvas.grid),
        has_joints=True,
        text_tokenizer=None,
        num_clips={split: _num_clips(divided[split]) for split in SPLITS},
        shards=shards,
        rejected=rejected,
        notes=notes,
    )
    _move_into_place(out, staging.root, manifest)
    return manifest


def _summaries(
    staging: Staging, clip_ids: Sequence[str]
) -> tuple[list[ClipPairs], tuple[Rejection, ...], tuple[dict[str, str], ...]]:
    clips, rejected, notes = [], [], []
    for clip_id in clip_ids:
        staged = staging.read(clip_id)
        if isinstance(staged, Rejection):
            rejected.append(staged)
        else:
            clips.append(ClipPairs(staged.clip, len(staged.pairs), staged.is_train))
            notes += [{"clip": staged.clip, "note": note} for note in staged.notes]
    return clips, tuple(rejected), tuple(notes)


def _num_clips(samples: Sequence[Sample]) -> int:
    return len({clip for clip, _ in samples})


def _move_into_place(out: Path, staged: Path, manifest: Manifest) -> None:
    """Put new shards where old ones may be. The old manifest goes first and the new one comes last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for folder in (*SPLITS, TABLES_FOLDER):
        shutil.rmtree(out / folder, ignore_errors=True)
    for split in SPLITS:
        os.replace(staged / split, out / split)
    lines = "".join(json.dumps(asdict(rejection), ensure_ascii=False) + "\n" for rejection in manifest.rejected)
    temporary = out / (REJECTED_NAME + ".tmp")
    temporary.write_text(lines, encoding="utf-8")
    os.replace(temporary, out / REJECTED_NAME)
    manifest.save(out)
