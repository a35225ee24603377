"""Data sets and runs below the folder that the page was started for: found, read and checked as files of others."""

from __future__ import annotations

import csv
import html
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m3.app.folders import inside
from m3.app.limits import MAX_RUNS
from m3.core.reading import Record, parse_json, read_file
from m3.core.terminal import printable
from m3.metrics import METRICS
from m3.preprocessing.contact_sheet import contact_sheet, sheet_pairs
from m3.shards.manifest import MANIFEST_NAME, Manifest
from m3.tokens.base import NoTokenizer
from m3.tokens.mini import FIRST_FINGERPRINT, MiniTokenizer

_MAX_DEPTH, _MAX_FOLDERS, _MAX_FOUND = 6, 5000, 200
_NUM_PAIRS, _CELL_PX = 6, 160
_MAX_REJECTED = 200
_MAX_METRICS_BYTES, _MAX_LOG_BYTES = 2**25, 2**26
_MAX_POINTS = 400
"""Of a curve in a plot."""

_SKIPPED = {"train", "eval", "test", "checkpoints", "samples", "tensorboard", "preview", "node_modules", "__pycache__"}
"""Folders in which there are no data sets and no runs, but many files."""


def places(root: Path) -> dict[str, list[str]]:
    """The paths, relative to the root, of the data sets ("data") and of the folders with scores or logs ("runs")."""
    data, runs = [], []
    for folder, names, below in _folders(root):
        shown = folder.relative_to(root).as_posix()
        if MANIFEST_NAME in names:
            data.append(shown)
            below.clear()
        elif "metrics.json" in names or (folder / "csv").is_dir():
            runs.append(shown)
    return {"data": sorted(data)[:_MAX_FOUND], "runs": sorted(runs)[:_MAX_FOUND]}


def _folders(root: Path) -> Iterator[tuple[Path, set[str], list[str]]]:
    """Folders with the names of their files and of the folders below; links are not followed."""
    num_folders = 0
    for folder, below, names in os.walk(root):
        num_folders += 1
        path = Path(folder)
        depth = len(path.relative_to(root).parts)
        below[:] = sorted(name for name in below if name[0] != "." and not (depth and name in _SKIPPED))
        if depth >= _MAX_DEPTH:
            below.clear()
        yield path, {*names}, below
        if num_folders >= _MAX_FOLDERS:
            return


def data_set(root: Path, text: str, out: Path, seed: int) -> dict[str, Any]:
    """Facts (HTML), pictures of random pairs (paths of PNGs in `out`) and rejected clips (rows) of a data set.

    Raises ValueError, FileNotFoundError or OSError for what is no data set.
    """
    folder = inside(root, text)
    manifest = Manifest.load(folder)
    is_mini = manifest.tokenizer["name"] == MiniTokenizer.name
    version = 1 if manifest.tokenizer["fingerprint"] == FIRST_FINGERPRINT else 2
    tokenizer = MiniTokenizer(version=version) if is_mini else None
    if tokenizer is not None and tokenizer.fingerprint != manifest.tokenizer["fingerprint"]:
        tokenizer = None
    pictures = []
    for number, pair in enumerate(sheet_pairs(folder, manifest, tokenizer, None, None, _NUM_PAIRS, _CELL_PX, seed)):
        path = out / f"pair-{number}.png"
        contact_sheet([pair]).save(path, compress_level=1)
        pictures.append([str(path), printable(pair.title)])
    rejected = [[printable(each.clip), printable(each.reason)] for each in manifest.rejected[:_MAX_REJECTED]]
    return {
        "facts": _facts(manifest, tokenizer is None),
        "pairs": pictures,
        "rejected": rejected,
        "num_rejected": len(manifest.rejected),
    }


def _facts(manifest: Manifest, lacks_tokenizer: bool) -> str:
    rows = [
        (split, f"{manifest.num_clips[split]:,} clips, {manifest.num_pairs(split):,} pairs")
        for split in manifest.shards
    ]
    rows += [
        ("source", manifest.source["name"]),
        ("canvas", f"{manifest.canvas_size} px, {manifest.canvas['mode']}"),
        ("stored", ", ".join(modality.name for modality in manifest.modalities)),
        ("tokenizer", str(manifest.tokenizer["name"])),
        ("joints", "yes" if manifest.has_joints else "none"),
        ("actions", ", ".join(manifest.actions) or "none"),
        ("not used", f"{len(manifest.rejected):,} clips"),
    ]
    statistics = manifest.statistics
    for key, name in (("ssim", "SSIM of a pair"), ("frame_distance", "frames to the successor")):
        quantiles = statistics.get(key)
        if isinstance(quantiles, dict):
            shown = ", ".join(
                f"{word} {value:.3g}" for word, value in quantiles.items() if isinstance(value, int | float)
            )
            rows.append((name, shown))
    if lacks_tokenizer and manifest.tokenizer["name"] != NoTokenizer.name:
        rows.append(("pictures", "not shown: only those of tokenizer=mini are decoded here"))
    return _table(None, [], rows)


def runs(root: Path, texts: list[str]) -> dict[str, Any]:
    """Scores and training logs of some runs.

    Returns "scores" and "training", tables as HTML; "curves": rows {run, step, name, value} of losses, and "horizons":
    rows {run, horizon, metric, value} of scores.
    """
    if not isinstance(texts, list) or len(texts) > MAX_RUNS:
        raise ValueError(f"choose up to {MAX_RUNS} runs")
    records, curves, notes = {}, [], []
    for text in texts:
        folder = inside(root, text)
        name = printable(text)
        if (file := inside(root, str(folder / "metrics.json"))).is_file():
            records[name] = _scores(file)
        logs = sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
        if logs:
            curves += [{"run": name, **row} for row in _curves(inside(root, str(logs[-1])))]
        elif name not in records:
            notes.append(f"{name}: neither metrics.json nor csv/version_…/metrics.csv")
    horizons = [
        {"run": run, "horizon": horizon, "metric": metric, "value": value}
        for run, scores in records.items()
        for metric, values in scores.items()
        for horizon, value in values.items()
    ]
    return {
        "scores": _score_table(records),
        "training": _training_table(curves),
        "curves": _thinned(curves),
        "horizons": horizons,
        "notes": notes,
    }


def _scores(file: Path) -> dict[str, dict[int, float]]:
    """Metric → horizon → the model's value, of those that the page names. Raises ValueError for other files."""
    content = Record(parse_json(read_file(file, _MAX_METRICS_BYTES), file.name), file.name)
    sections = [content] if "scores" in content else []
    if "frames" in content:  # of completed pairs
        frames = content.record("frames")
        sections = [frames.record(name) for name in frames]
    found: dict[str, dict[int, float]] = {}
    for section in sections:
        scores = section.record("scores")
        for name in scores:
            if name in METRICS and METRICS[name].short is not None:
                found.setdefault(name, {}).update(_values(scores.record(name)))
    return {name: found[name] for name in METRICS if found.get(name)}


def _values(score: Record) -> Iterator[tuple[int, float]]:
    for horizon in score.records("horizons", 1024):
        if horizon.is_number("model"):
            yield horizon.count("horizon", 1, 10_000), float(horizon.number("model"))


def _curves(file: Path) -> Iterator[dict[str, Any]]:
    """Steps and losses of a log. Raises ValueError for what is no log."""
    text = read_file(file, _MAX_LOG_BYTES).decode("utf-8", errors="replace")
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            step = _number(row.get("step"))
            for name in ("train/loss", "eval/loss"):
                value = _number(row.get(name))
                if step is not None and value is not None:
                    yield {"step": step, "name": name, "value": value}
    except csv.Error as error:
        raise ValueError(f"{file.name}: not a readable .csv file ({error})") from error


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _thinned(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `_MAX_POINTS` points of each curve, the last one among them."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in curves:
        groups.setdefault((row["run"], row["name"]), []).append(row)
    return [row for rows in groups.values() for row in [*rows[:: max(1, -(-len(rows) // _MAX_POINTS))], *rows[-1:]]]


def _score_table(records: dict[str, dict[str, dict[int, float]]]) -> str:
    """A row for each metric and horizon, a column for each run, the best of a row marked."""
    if not records:
        return ""
    names = [name for name in METRICS if any(name in scores for scores in records.values())]
    rows = []
    for name in names:
        spec = METRICS[name]
        horizons = sorted({horizon for scores in records.values() for horizon in scores.get(name, {})})
        for horizon in horizons if len(horizons) <= 3 else [horizons[0], horizons[len(horizons) // 2], horizons[-1]]:
            values = [scores.get(name, {}).get(horizon) for scores in records.values()]
            known = [value for value in values if value is not None]
            best = (
                {"higher": max, "lower": min}[spec.is_better](known) if spec.is_better in ("higher", "lower") else None
            )
            cells = [
                "–" if value is None else spec.text(value) + (" ★" if value == best and len(known) > 1 else "")
                for value in values
            ]
            rows.append((f"{spec.short or name} {spec.shown_unit} +{horizon}", *cells))
    return _table("scores of metrics.json; ★ the best of a row", ["", *records], rows)


def _training_table(curves: list[dict[str, Any]]) -> str:
    rows = []
    for run in dict.fromkeys(row["run"] for row in curves):
        cells = [run, f"{max(row['step'] for row in curves if row['run'] == run):,.0f}"]
        for name in ("train/loss", "eval/loss"):
            values = [row["value"] for row in curves if row["run"] == run and row["name"] == name]
            cells += [f"{values[-1]:.4f}", f"{min(values):.4f}"] if values else ["–", "–"]
        rows.append(tuple(cells))
    head = ["run", "steps", "train loss, last", "lowest", "eval loss, last", "lowest"]
    return _table("training logs", head, rows) if rows else ""


def _table(caption: str | None, head: list[str], rows: list[tuple[str, ...]]) -> str:
    """An HTML table; everything is escaped."""
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    heads = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(f"<tr><th>{_escaped(first)}</th>{_cells(rest)}</tr>" for first, *rest in rows)
    top = f"<thead><tr>{heads}</tr></thead>" if head else ""
    return f'<div class="m3-scroll"><table class="m3-table">{title}{top}<tbody>{body}</tbody></table></div>'


def _cells(texts: list[str]) -> str:
    return "".join(f"<td>{_escaped(text)}</td>" for text in texts)


def _escaped(text: str) -> str:
    return html.escape(printable(text))
