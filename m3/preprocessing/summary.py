"""Prints a manifest as readable tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.table import Table

from m3.core.modalities import Vocabulary
from m3.core.terminal import PlainConsole
from m3.shards.manifest import CONTACT_SHEET_NAME, Manifest
from m3.shards.transport import address
from m3.vocabularies import interpreter_of

_BAR_LENGTH = 24
_NUM_SHOWN = 5

_VIDEO_KINDS = ("HDR", "interlaced", "frame rate varies")
"""Words of `m3.clips.video_frames` for videos that do not look as they should."""


def print_summary(
    folder: Path, manifest: Manifest, console: PlainConsole, out: str | Path, about_source: Sequence[str] = ()
) -> None:
    """Prints the content of the data set in `folder`, the distribution of its pairs, and the rejected clips.

    out: its folder or address, for messages. about_source: further lines, on what the clips were read from.
    """
    size = manifest.canvas_size
    names = ", ".join(modality.name for modality in manifest.modalities)
    variants = "".join(f", and their {variant}" for variant in manifest.variants)
    console.print(f"{out}: canvas {size} x {size} px, {manifest.num_tokens} tokens a pair ({names}{variants})",
                  highlight=False)  # fmt: skip
    console.print(_splits(folder, manifest))
    histograms = [
        _histogram(title, counts)
        for title, key in (("pairs of a clip", "pairs_per_clip_histogram"), ("SSIM of a pair", "ssim_histogram"))
        if (counts := manifest.statistics.get(key))
    ]
    if histograms:
        console.print(Columns(histograms, padding=(0, 4)))
    for line in (*_facts(manifest), *about_source):
        console.print(line, highlight=False, soft_wrap=True)
    _print_rejected(out, manifest, console)
    if (folder / CONTACT_SHEET_NAME).exists():
        console.print(f"random pairs, to look at: {address(out, CONTACT_SHEET_NAME)}", highlight=False, soft_wrap=True)


def _splits(folder: Path, manifest: Manifest) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("split")
    for column in ("clips", "pairs", "shards", "MB"):
        table.add_column(column, justify="right")
    for split, shards in manifest.shards.items():
        megabytes = sum((folder / shard.name).stat().st_size for shard in shards) / 1e6
        counts = f"{manifest.num_clips[split]:,}", f"{manifest.num_pairs(split):,}", str(len(shards))
        table.add_row(split, *counts, f"{megabytes:,.1f}")
    return table


def _histogram(title: str, counts: dict[str, int]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(title)
    table.add_column("", justify="right")
    table.add_column("")
    most = max(counts.values())
    for name, count in counts.items():
        table.add_row(name, f"{count:,}", "█" * max(1, round(_BAR_LENGTH * count / most)))
    return table


def _facts(manifest: Manifest) -> list[str]:
    statistics, lines = manifest.statistics, []
    for key, what in (("pairs_per_clip", "pairs of a clip"), ("frame_distance", "frames from reference to successor"),
                      ("ssim", "SSIM")):  # fmt: skip
        if statistics.get(key):
            lines.append(f"{what}: {_quantile_text(statistics[key])}")
    if statistics.get("clips_with_joints"):
        lines.append(f"clips with joints: {statistics['clips_with_joints']:,} of {statistics['clips']:,}")
    if statistics.get("visible_joints") is not None:
        unseen = statistics["invisible_frames"]
        extra = f"; {unseen:,} frames show none" if unseen else ""
        lines.append(f"visible joints: {100 * statistics['visible_joints']:.1f}%{extra}")
    if not manifest.has_joints:
        lines.append("no clip has joints: there are none in the data set")
    vocabularies = {each.name: Vocabulary(each.vocabulary, each.num_ids) for each in manifest.modalities}
    if undrawn := [name for name, vocabulary in vocabularies.items() if interpreter_of(vocabulary) is None]:
        lines.append(f"{', '.join(undrawn)}: not in the contact sheet, without an interpreter (docs/extending.md)")
    lines += [f"{split} is empty, as split.ratios asks" for split in manifest.shards if not manifest.num_pairs(split)]
    return lines


def _quantile_text(quantiles: dict[str, Any]) -> str:
    values = {name: f"{value:g}" for name, value in quantiles.items()}
    return (
        f"median {values['median']}, 80% in {values['p10']} … {values['p90']}, all in {values['min']} … {values['max']}"
    )


def _print_rejected(out: str | Path, manifest: Manifest, console: PlainConsole) -> None:
    if manifest.rejected:
        console.print(f"{len(manifest.rejected):,} clips were not used; reasons in {address(out, 'rejected.jsonl')}")
        for rejection in manifest.rejected[:_NUM_SHOWN]:
            console.print(f"  {rejection.clip}: {rejection.reason}", highlight=False)
    if manifest.notes:
        counts = {kind: sum(kind in each["note"] for each in manifest.notes) for kind in _VIDEO_KINDS}
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
        console.print(
            f"{len(manifest.notes):,} notes on odd clips are in {address(out, 'dataset.json')}"
            + f" ({kinds})" * bool(kinds)
        )
