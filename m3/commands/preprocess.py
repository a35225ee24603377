"""Makes shards of tokenized pairs from clips: assembles the parts that conf/preprocess.yaml names and runs them."""

from __future__ import annotations

import copy
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig
from rich.text import Text

from m3.annotation.annotators import Annotator
from m3.annotation.divided_source import DividedSource, has_foreign_joints
from m3.clips.base import ClipSource, VideoSource
from m3.clips.canvas import Canvas
from m3.clips.video_files import VideoFiles
from m3.commands.application import plain
from m3.commands.nulls import check_nulls
from m3.core.errors import one_line_errors
from m3.core.files import make_folder
from m3.core.modalities import frame_of
from m3.core.signals import Interrupted, interruptible
from m3.core.terminal import PlainConsole, printable
from m3.core.validation import check
from m3.preprocessing.build import BuildOptions, BuildResult, BuildSpec, build_dataset
from m3.preprocessing.contact_sheet import contact_sheet, sheet_pairs
from m3.preprocessing.pack import PackOptions, pack_dataset, pack_identity
from m3.preprocessing.prepare import ClipPreparer
from m3.preprocessing.previews import USUAL_FPS, preview_clips, preview_pictures
from m3.preprocessing.publish import find_published, publish, working_folder
from m3.preprocessing.summary import print_summary
from m3.preprocessing.tokenized_folders import TokenizedFolders
from m3.reporting.files import write_png
from m3.reporting.video import write_film
from m3.shards.manifest import (
    CONTACT_SHEET_NAME,
    HISTORY_MODALITIES,
    STORED_MODALITIES,
    Manifest,
    pair_modalities,
    stored_for,
)
from m3.shards.transport import is_local
from m3.shards.verify import verify_dataset
from m3.tokens.base import NoTokenizer, PictureTokenizer

STAGES = ("source", "canvas", "pairs", "tokenizer", "captioner", "split")
_GROUPS = (*STAGES, "executor", "augment", "contact_sheet")
_NUM_LISTED, _MAX_PREVIEW_FRAMES = 5, 900
NOT_IN_MANIFEST = ("root", "labels", "path", "device", "clips")
"""Keys of places and devices. The manifest has fingerprints of the content instead, so that data can be moved."""


def run(cfg: DictConfig) -> Manifest:
    """Makes the data set that `cfg` (conf/preprocess.yaml) describes, unless it is there already.

    Raises:
        hydra's InstantiationException, FileNotFoundError or ValueError, before any work, for settings that cannot
        be; each names the key or the file. ClipError with strict=true at the first clip that cannot be used.
    """
    check_nulls(cfg, "preprocess", _GROUPS)
    for key in ("num_pairs", "cell_px"):
        check(f"contact_sheet.{key}", cfg.contact_sheet[key], int, low=0 if key == "num_pairs" else 32)
    check("previews.num_clips", cfg.previews.num_clips, int, low=0)
    check("previews.height_px", cfg.previews.height_px, int, low=32, high=4096)
    options = BuildOptions(
        pairs_per_shard=cfg.pairs_per_shard,
        text_vocab_size=cfg.text_vocab_size,
        encode_batch_size=cfg.encode_batch_size,
        encode_threads=cfg.encode_threads,
        strict=cfg.strict,
    )
    for key, value in (("augment.flip", cfg.augment.flip), ("history", cfg.history)):
        if not isinstance(value, bool):
            raise ValueError(f"{key}={value!r}: choose true or false")
    if get_class(cfg.source._target_) is TokenizedFolders:
        return _pack(cfg)
    canvas, pairs = instantiate(cfg.canvas), instantiate(cfg.pairs)
    annotator = None if cfg.get("annotator") is None else instantiate(cfg.annotator)
    names = _stored_modalities(cfg, canvas)
    if not any(_is_picture(name) for name in names):
        cfg = copy.deepcopy(cfg)
        cfg.tokenizer = {"_target_": f"{NoTokenizer.__module__}.{NoTokenizer.__qualname__}"}
    executor = instantiate(cfg.executor)
    tokenizer, captioner = instantiate(cfg.tokenizer), instantiate(cfg.captioner)
    splitter = instantiate(cfg.split)
    source = _divided(cfg, annotator, instantiate(cfg.source))  # last: the demo's writes its clips
    preparer = ClipPreparer(source, canvas, pairs, names, cfg.augment.flip, captioner.needs_pictures, cfg.history)
    settings = _settings(cfg, names, annotator, has_foreign_joints(source))
    spec = BuildSpec(preparer, tokenizer, captioner, splitter, settings, options)
    if (existing := _published(cfg, spec.identity())) is not None:
        return existing
    built = build_dataset(working_folder(cfg.out, cfg.scratch), spec, executor, cfg.overwrite)
    _finish(cfg, built, tokenizer, source, canvas)
    return built.manifest


def _pack(cfg: DictConfig) -> Manifest:
    """Packs tokens that were made elsewhere into shards, unchanged."""
    if cfg.augment.flip:
        raise ValueError("augment.flip=true: tokens cannot be mirrored, only the pictures they were made of")
    options = PackOptions(cfg.pairs_per_shard, cfg.text_vocab_size, cfg.strict)
    table = None if cfg.get("modalities") is None else instantiate(cfg.modalities)
    source = instantiate(cfg.source, _partial_=True)(table=table)
    tokenizer = instantiate(cfg.tokenizer)
    container = plain(cfg)
    stages = {stage: _without_places(container[stage]) for stage in ("source", "tokenizer")}
    if stages["source"].get("canvas") is None:  # as in the manifests of versions that had no such key
        stages["source"].pop("canvas", None)
    settings = {**stages, "pairs_per_shard": cfg.pairs_per_shard, "text_vocab_size": cfg.text_vocab_size}
    names = [modality.name for modality in source.modalities]
    if names != list(source.pair_modalities):
        settings["modalities"] = names
    if (existing := _published(cfg, pack_identity(source, tokenizer, settings))) is not None:
        return existing
    folder = working_folder(cfg.out, cfg.scratch)
    built = pack_dataset(folder, source, tokenizer, settings, options, cfg.overwrite)
    _finish(cfg, built, tokenizer)
    return built.manifest


def _stored_modalities(cfg: DictConfig, canvas: Canvas) -> tuple[str, ...]:
    """The stored modalities of a pair: all that tokenizer and history make, or those that the modality table needs.

    Raises ValueError where table and data do not fit each other.
    """
    has_pictures = get_class(cfg.tokenizer._target_) is not NoTokenizer
    stored = {
        modality.name: modality
        for modality in pair_modalities(canvas.grid, STORED_MODALITIES)
        if (has_pictures or not _is_picture(modality.name)) and (cfg.history or modality.name not in HISTORY_MODALITIES)
    }
    if cfg.get("modalities") is None:
        return tuple(stored)
    table = instantiate(cfg.modalities)
    needed = stored_for(table.modalities)
    for name in needed:
        if name not in stored:
            why = "history=false" if has_pictures or not _is_picture(name) else "tokenizer=none"
            why = why if name in STORED_MODALITIES else "preprocess.py"
            raise ValueError(f"modalities={list(table.modalities)}: {why} makes no {name}; choose other modalities=…")
    for name, length in zip(table.modalities, table.max_seq_lens):
        if name in stored and length != stored[name].length:
            raise ValueError(
                f"modalities.max_seq_lens: {length} tokens of {name}, but canvas.size={canvas.size} gives "
                f"{stored[name].length}: choose another canvas.size or other modalities=…"
            )
    return needed


def _is_picture(name: str) -> bool:
    return frame_of(name)[0] == "tok_rgb"


def _divided(cfg: DictConfig, annotator: Annotator | None, source: ClipSource) -> ClipSource:
    """The source, divided into scenes and people where it can be and the settings ask for it."""
    if isinstance(source, VideoFiles) and source.left_out:
        PlainConsole(stderr=True).print(
            f"{cfg.source.root}: no videos by their names: {source.left_out}", soft_wrap=True
        )
    if isinstance(source, VideoSource) and (annotator is not None or source.finds_cuts or has_foreign_joints(source)):
        return DividedSource(source, annotator, cfg.annotations)
    if annotator is not None:
        raise ValueError(f"annotator={annotator.name}: source={source.name} has joints of its own; leave annotator out")
    return source


def _settings(
    cfg: DictConfig, modalities: Sequence[str], annotator: Annotator | None, reads_joint_files: bool
) -> dict[str, Any]:
    """The parts of the configuration that decide the bytes of the shards."""
    settings = plain(cfg)
    stages = {stage: _without_places(settings[stage]) for stage in STAGES}
    if annotator is not None:
        stages["annotator"] = {**annotator.settings(), "person": annotator.person}
    if not reads_joint_files:
        stages["source"].pop("joint_files", None)  # as in the manifests of versions that had no such key
    layout = ("augment", "history", "pairs_per_shard", "text_vocab_size", "encode_batch_size", "encode_threads")
    return {**stages, "modalities": list(modalities), **{key: settings[key] for key in layout}}


def _without_places(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in NOT_IN_MANIFEST}


def _finish(
    cfg: DictConfig,
    built: BuildResult,
    tokenizer: PictureTokenizer,
    source: ClipSource | None = None,
    canvas: Canvas | None = None,
) -> None:
    """Draws OUT/contact_sheet.png, unless it is there already, prints the summary, and uploads to an address."""
    folder = working_folder(cfg.out, cfg.scratch)
    path = folder / CONTACT_SHEET_NAME
    if cfg.contact_sheet.num_pairs and (built.is_new or not path.exists()):
        shown_by = None if isinstance(tokenizer, NoTokenizer) else tokenizer
        num_pairs, cell_px = cfg.contact_sheet.num_pairs, cfg.contact_sheet.cell_px
        pairs = sheet_pairs(folder, built.manifest, shown_by, source, canvas, num_pairs, cell_px)
        if pairs != []:  # empty where no modality can be drawn, as the summary mentions
            write_png(path, contact_sheet(pairs))
    if source is not None and cfg.previews.num_clips:
        _write_previews(cfg, source)
    if not is_local(cfg.out):
        publish(folder, cfg.out)
    elif not built.is_new:
        _say_complete(cfg.out)
    print_summary(folder, built.manifest, PlainConsole(), cfg.out, _about_source(source))
    if not is_local(cfg.out):
        shutil.rmtree(folder)


def _write_previews(cfg: DictConfig, source: ClipSource) -> None:
    """Videos of clips with their skeletons, in the folder of the annotations."""
    folder = Path(cfg.annotations) / "previews" / source.name
    make_folder(folder)
    for clip in preview_clips(source, cfg.previews.num_clips):
        pictures = preview_pictures(clip, cfg.previews.height_px, _MAX_PREVIEW_FRAMES)
        write_film(folder / f"{clip.id}.mp4", pictures, clip.fps or USUAL_FPS)
    PlainConsole().print(f"videos with skeletons, to look at: {folder}", highlight=False, soft_wrap=True)


def _about_source(source: ClipSource | None) -> list[str]:
    """Whose joint file was not found beside the videos of a source, and which files are nobody's."""
    videos = source.source if isinstance(source, DividedSource) else source
    if not isinstance(videos, VideoSource):
        return []
    lines = []
    without = [clip_id for clip_id in videos.clip_ids() if not videos.files_beside(clip_id)]
    if without and (num := len(videos) - len(without)):
        lines.append(f"{num:,} of {len(videos):,} videos have joints beside them; without: {_listed(without)}")
    if isinstance(videos, VideoFiles) and videos.missing:
        lines.append(f"{len(videos.missing):,} rows of source.clips have no video: {_listed(videos.missing)}")
    if isinstance(videos, VideoFiles) and videos.ownerless:
        lines.append(f"joint files that belong to no video: {_listed(videos.ownerless)}")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_LISTED:,} more" if len(names) > _NUM_LISTED else ""
    return printable(", ".join(names[:_NUM_LISTED])) + more


def _published(cfg: DictConfig, identity: dict[str, Any]) -> Manifest | None:
    """The manifest of a data set that is complete at an address, `out=s3://…`; None without."""
    existing = None if is_local(cfg.out) else find_published(cfg.out, identity, cfg.overwrite)
    if existing is not None:
        _say_complete(cfg.out)
    return existing


def _say_complete(out: str) -> None:
    print(f"{out} is complete with these settings; nothing to do (overwrite=true makes it again)")


def verify(root: str) -> int:
    """Checks a data set against its manifest, prints its faults, and returns their number."""
    manifest, faults = verify_dataset(root)
    console = PlainConsole()
    for fault in faults:
        console.print(Text.assemble(("fault", "bold red"), f" {printable(fault)}"), soft_wrap=True)
    num_pairs = sum(manifest.num_pairs(split) for split in manifest.shards)
    num_shards = sum(len(shards) for shards in manifest.shards.values())
    outcome = f"{len(faults)} faults" if faults else "all match the manifest"
    console.print(f"{root}: {num_shards:,} shards with {num_pairs:,} pairs read: {outcome}", highlight=False)
    return len(faults)


def task(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # each job a data set of its own
        if not is_local(cfg.out):
            raise SystemExit(f"error: out={cfg.out}: a sweep (-m) writes into a folder; choose one, and upload it then")
        cfg.out = f"{HydraConfig.get().runtime.output_dir}/data"
    try:
        with interruptible((signal.SIGTERM, signal.SIGINT)), one_line_errors():
            if cfg.verify is not None:
                raise SystemExit(1 if verify(cfg.verify) else 0)
            run(cfg)
    except Interrupted:
        raise SystemExit("stopped; run the same command again to continue: finished clips are kept") from None


if __name__ == "__main__":  # as a trial of a sweep is started where there is no script
    from m3.commands.entry import preprocess

    preprocess()
