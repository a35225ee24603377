"""A source of clips → a folder of shards and their manifest.

    video ─▶ scenes, people: clips   (only of sources that are divided)
    clip ─▶ pairs, canvas, joint tokens ─▶ picture tokens, captions ─▶ staged clip   (here or on a cluster: executors)
    staged clips ─▶ split ─▶ shards, text tokenizer ─▶ manifest, written last

Staged clips are files in `OUT.tmp`, so that an interrupted build continues where it stopped. Each depends only on its
clip and they are read in the order of the source, so the bytes do not depend on workers or interruptions.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from m3.annotation.divided_source import DividedSource
from m3.captions import Captioner
from m3.clips.base import ClipError, replace_unencodable
from m3.core.files import WriteError
from m3.core.locks import locked
from m3.core.modalities import MAX_VOCAB_SIZE
from m3.core.progress import track
from m3.core.terminal import PlainConsole
from m3.core.types import Rejection, TokenizedPair
from m3.core.validation import check
from m3.preprocessing.encode import ClipEncoder
from m3.preprocessing.executors import Executor
from m3.preprocessing.folder import check_replaceable, existing_manifest, move_into_place, write_text_tokenizer
from m3.preprocessing.prepare import ClipPreparer
from m3.preprocessing.staging import StagedClip, Staging
from m3.preprocessing.statistics import DatasetStatistics
from m3.preprocessing.survey import survey_source
from m3.shards.manifest import (
    SCHEMA_VERSION,
    Manifest,
    pair_modalities,
    token_members,
)
from m3.shards.split import SPLITS, ClipPairs, PairRef, Splitter
from m3.shards.writer import write_shards
from m3.tokens.base import PictureTokenizer
from m3.tokens.text import MIN_VOCAB_SIZE

_STAGED_BYTES_IN_MEMORY = 2**29
"""Staged clips that are cached while shards are written: `split=pair` reads the pairs of all clips in random order."""

_IN_USE = "another preprocess.py makes this data set; wait for it, or stop it"

_LAYOUT_SETTINGS = ("split", "pairs_per_shard", "text_vocab_size")
"""Settings that staged clips do not depend on."""


@dataclass(frozen=True)
class BuildOptions:
    """How a build runs.

    pairs_per_shard: samples of a full shard.
    text_vocab_size: ids of the text tokenizer, at most.
    encode_batch_size: frames per call of the tokenizer; the frames of a clip are padded to a multiple of it.
    encode_threads: CPU threads of the tokenizer; like the batch size, it may change the last bit of a result.
    strict: stop at the first clip that cannot be used.
    """

    pairs_per_shard: int
    text_vocab_size: int
    encode_batch_size: int
    encode_threads: int
    strict: bool

    def __post_init__(self) -> None:
        for key in ("pairs_per_shard", "encode_batch_size", "encode_threads"):
            check(key, getattr(self, key), int, low=1)
        check("text_vocab_size", self.text_vocab_size, int, low=MIN_VOCAB_SIZE, high=MAX_VOCAB_SIZE)


@dataclass(frozen=True)
class BuildSpec:
    """Everything that decides the bytes of a data set.

    preparer: source, canvas, pair miner, and the stored modalities.
    tokenizer: of the pictures.
    captioner: of the reference frames.
    splitter: of the pairs.
    settings: the configuration of all of these, without paths and devices, for the manifest.
    options: how to run.
    """

    preparer: ClipPreparer
    tokenizer: PictureTokenizer
    captioner: Captioner
    splitter: Splitter
    settings: dict[str, Any]
    options: BuildOptions

    @property
    def variants(self) -> tuple[str, ...]:
        return ("flip",) if self.preparer.has_flip else ()

    @property
    def encoder(self) -> ClipEncoder:
        return ClipEncoder(self.preparer, self.tokenizer, self.captioner, self.options.encode_batch_size)

    def identity(self) -> dict[str, Any]:
        """The manifest's fields that are known before any work."""
        source, canvas = self.preparer.source, self.preparer.canvas
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": self.settings,
            "source": {"name": source.name, "fingerprint": source.fingerprint()},
            "canvas": {"mode": canvas.mode, "size": canvas.size},
            "variants": self.variants,
            "tokenizer": self._network("tokenizer", self.tokenizer),
            "captioner": self._network("captioner", self.captioner),
        }

    def _network(self, stage: str, network: PictureTokenizer | Captioner) -> dict[str, Any]:
        return {"name": network.name, "fingerprint": network.fingerprint, "settings": self.settings[stage]}


class BuildResult(NamedTuple):
    """manifest: of the data set. is_new: False where it was there already and nothing had to be done."""

    manifest: Manifest
    is_new: bool


def build_dataset(out: Path, spec: BuildSpec, executor: Executor, overwrite: bool = False) -> BuildResult:
    """Make the data set `out`, unless it is there.

    Raises ValueError where `out` holds something else and `overwrite` is False, and where the splitter cannot fill the
    splits; OSError where a file cannot be written; ClipError with `strict` at the first clip that cannot be used.
    """
    identity = spec.identity()
    staging_root = out.with_name(out.name + ".tmp")
    if not overwrite and (existing := existing_manifest(out, identity)) is not None:
        Staging.discard(staging_root, _without_layout(identity))  # left by a build that was killed at its very end
        return BuildResult(existing, False)
    check_replaceable(out)
    check_replaceable(staging_root, Staging.names)
    if isinstance(spec.preparer.source, DividedSource):
        survey_source(spec.preparer.source, executor)
    clip_ids = spec.preparer.source.clip_ids()
    spec.splitter.check(len(clip_ids))
    with locked(staging_root, _IN_USE), _resumable():
        staging = Staging(staging_root, _without_layout(identity))
        _stage_clips(staging, clip_ids, spec, executor)
        manifest = _write(out, staging, clip_ids, spec, identity)
        staging.remove()
    return BuildResult(manifest, True)


@contextmanager
def _resumable() -> Iterator[None]:
    """Adds to the message of a failed write how to continue the build."""
    try:
        yield
    except WriteError as error:
        error.remedy = (
            "make room there, or choose another disk with out=…, and run the same command again; "
            "finished clips are kept"
        )
        raise


def _without_layout(identity: dict[str, Any]) -> dict[str, Any]:
    """The part that staged clips depend on; they can be used again for another split or shard size."""
    settings = {key: value for key, value in identity["settings"].items() if key not in _LAYOUT_SETTINGS}
    return {**identity, "settings": settings}


@dataclass
class _BuildProgress:
    """Progress of a run, for the display."""

    num_pairs: int = 0
    num_frames: int = 0
    num_rejected: int = 0
    start: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        frames_per_second = self.num_frames / max(time.monotonic() - self.start, 1e-3)
        return f"{self.num_pairs:,} pairs, {frames_per_second:,.0f} frames/s, {self.num_rejected} rejected"


def _stage_clips(staging: Staging, clip_ids: Sequence[str], spec: BuildSpec, executor: Executor) -> None:
    """Prepare and encode the clips that are not staged yet."""
    to_do = [clip_id for clip_id in clip_ids if clip_id not in staging]
    if len(to_do) < len(clip_ids):
        done = len(clip_ids) - len(to_do)
        PlainConsole(stderr=True).print(f"{done} of {len(clip_ids)} clips are done already, in {staging.root}")
    progress = _BuildProgress()
    with closing(executor.encoded(spec.encoder, spec.options.encode_threads, to_do)) as encoded:
        for clip, num_frames in track(encoded, len(to_do), "clips → tokens", status=progress.__str__):
            if isinstance(clip, Rejection):
                if spec.options.strict:
                    raise _strict_error(clip)
                progress.num_rejected += 1
            else:
                progress.num_pairs += len(clip.pairs)
            progress.num_frames += num_frames
            staging.add(clip)


def _strict_error(rejection: Rejection) -> ClipError:
    return ClipError(f"clip {rejection.clip}: {rejection.reason} (strict=true stops at the first bad clip)")


def _write(out: Path, staging: Staging, clip_ids: Sequence[str], spec: BuildSpec, identity: dict[str, Any]) -> Manifest:
    """Staged clips → shards, text tokenizer and manifest in `out`."""
    summary = _summary(staging, clip_ids)
    if spec.options.strict and summary.rejected:
        raise _strict_error(summary.rejected[0])
    if not summary.clips:
        reasons = "; ".join(f"{r.clip}: {r.reason}" for r in summary.rejected[:3])
        raise ValueError(f"none of the {len(summary.rejected)} clips can be used ({reasons})")
    try:
        divided = spec.splitter.split(summary.clips)
    except ValueError as error:
        raise ValueError(f"{error} (all tokens are kept in {staging.root}: another split takes no time)") from error
    modalities = pair_modalities(spec.preparer.canvas.grid, spec.preparer.modalities)
    members = token_members([modality.name for modality in modalities], spec.variants)
    clips_in_memory = max(64, _STAGED_BYTES_IN_MEMORY * len(summary.clips) // staging.num_bytes())

    read = lru_cache(maxsize=clips_in_memory)(staging.read)
    captions: list[str] = []  # of train, gathered while its shards are written

    def samples(split: str) -> Iterator[TokenizedPair]:
        for clip, pair in track(divided[split], len(divided[split]), f"shards of {split}"):
            staged = read(clip)
            assert isinstance(staged, StagedClip)
            sample = staged.sample(pair, members)
            captions.extend(sample.captions if split == "train" else ())
            yield sample

    for split in SPLITS:
        shutil.rmtree(staging.root / split, ignore_errors=True)  # left by an interrupted build
    per_shard = spec.options.pairs_per_shard
    shards = {split: write_shards(staging.root, split, samples(split), per_shard) for split in SPLITS}
    manifest = Manifest(
        **identity,
        modalities=modalities,
        has_joints=summary.has_joints,
        num_clips={split: _num_clips(divided[split]) for split in SPLITS},
        shards=shards,
        text_tokenizer=write_text_tokenizer(staging.root, captions, spec.options.text_vocab_size),
        rejected=summary.rejected,
        notes=summary.notes,
        statistics=summary.statistics,
        actions=summary.actions,
    )
    move_into_place(out, staging.root, manifest)
    return manifest


class _Summary(NamedTuple):
    """Totals over all clips, in the order of the source; actions: their labels, sorted."""

    clips: list[ClipPairs]
    actions: tuple[str, ...]
    has_joints: bool
    rejected: tuple[Rejection, ...]
    notes: tuple[dict[str, str], ...]
    statistics: dict[str, Any]


def _summary(staging: Staging, clip_ids: Sequence[str]) -> _Summary:
    clips, actions, has_joints, rejected, notes, statistics = [], set(), False, [], [], DatasetStatistics()
    for clip_id in clip_ids:
        staged = staging.read(clip_id)
        if isinstance(staged, Rejection):
            rejected.append(Rejection(replace_unencodable(staged.clip), staged.reason))
        else:
            clips.append(ClipPairs(staged.clip, len(staged.pairs), staged.is_train, staged.video, staged.is_eval))
            actions |= {staged.action} if staged.action else set()
            has_joints = has_joints or staged.has_joints
            notes += [{"clip": staged.clip, "note": note} for note in staged.notes]
            statistics.add(staged)
    return _Summary(clips, tuple(sorted(actions)), has_joints, tuple(rejected), tuple(notes), statistics.record())


def _num_clips(samples: Sequence[PairRef]) -> int:
    return len({clip for clip, _ in samples})
