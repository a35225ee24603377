"""What is known of a run: scores of each sample, losses of its training, and what it cost."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from m3.checkpoint import SHIPPED, load_model
from m3.core.reading import Record, parse_json, read_file, read_npz
from m3.metrics import METRICS, MetricSpec
from m3.metrics.measures import Ratio
from m3.vocabularies import metrics_of

RECORD, SAMPLES = "metrics.json", "samples.npz"
_MAX_BYTES = 2**30
_SCHEMA_VERSION = 2
_AGAIN = f"run generate.py again: this version writes {SAMPLES} beside it"
_LOSSES = ("train/loss", "eval/loss")


@dataclass(frozen=True)
class Costs:
    """What a training cost up to the step of the model; None where it is not known.

    step: optimizer steps. num_tokens: nominal tokens, all devices together. train_s: seconds of training, without
    evaluations. num_parameters: number of weights.
    """

    step: int | None
    num_tokens: int | None
    train_s: float | None
    num_parameters: int | None


@dataclass(frozen=True)
class Run:
    """One run.

    name: for tables and plots. path: as it was given. notes: what is missing, and why, as text for users.
    clip: (N,) text. frames: (N, T + 1) int64, the reference and its successors in the clip, −1 without truth. Both are
        empty for a training without scores.
    measured: name of a score → series → its values of each sample. specs: the same names → the metrics.
    data: canvas_size, tokenizer and tokenizer_fingerprint of the scores.
    losses: name → (L, 2) float64, step and loss. costs: of its training.
    """

    name: str
    path: Path
    clip: np.ndarray
    frames: np.ndarray
    measured: Mapping[str, Mapping[str, Ratio]]
    specs: Mapping[str, MetricSpec]
    data: Mapping[str, Any]
    losses: Mapping[str, np.ndarray]
    costs: Costs
    notes: Sequence[str] = field(default=())

    @property
    def has_scores(self) -> bool:
        return bool(self.measured)


def read_run(path: str | Path) -> Run:
    """The run of an output folder of generate.py, or its metrics.json, or of a run folder of train.py.

    The training of scores is that of the checkpoint that they name, if it is a folder here.

    Raises FileNotFoundError, and ValueError naming the file, for anything else, for scores without the values of each
    sample, and for damaged files.
    """
    path = Path(path)
    folder = path.parent if path.name == RECORD else path
    if (folder / RECORD).is_file():
        return _read_scored(path, folder)
    if (folder / "checkpoints").is_dir():
        losses, costs, _, notes = _read_training(folder, None)
        empty = np.zeros(0, str), np.zeros((0, 1), np.int64)
        return Run(folder.resolve().name, path, *empty, {}, {}, {}, losses, costs, notes)
    raise FileNotFoundError(
        f"{path}: no run; need an output folder of generate.py (with {RECORD}) or a run folder of train.py"
    )


def _read_scored(path: Path, folder: Path) -> Run:
    file = folder / RECORD
    content = Record(parse_json(read_file(file, _MAX_BYTES), str(file)), str(file))
    if "checkpoint" not in content or content.count("schema_version") != _SCHEMA_VERSION:
        raise ValueError(f"{file}: no scores of roll-outs or pairs of generate.py")
    data, step, checkpoint = content.mapping("data"), content.count("step"), content.text("checkpoint")
    if not (folder / SAMPLES).is_file():
        raise ValueError(f"{file}: holds no scores with a truth, or is of an earlier version; {_AGAIN}")
    training = Path(checkpoint)
    losses, costs, specs, notes = _read_training(training, step)
    clip, frames, measured = _read_samples(folder / SAMPLES)
    order = {metric: place for place, metric in enumerate(specs)}
    found = {name: name.rsplit("/", 1)[-1] for name in measured}  # of a completed pair: FRAME/METRIC
    notes += [f"{name}: not compared, this m3 does not know the metric" for name in found if found[name] not in order]
    names = sorted((name for name in found if found[name] in order), key=lambda name: order[found[name]])
    known = {name: specs[found[name]] for name in names}
    measured = {name: measured[name] for name in names}
    name = folder.resolve().name
    return Run(name, path, clip, frames, measured, known, data, losses, costs, notes)


def _read_samples(file: Path) -> tuple[np.ndarray, np.ndarray, dict[str, dict[str, Ratio]]]:
    arrays = read_npz(file, _MAX_BYTES)
    if {"clip", "frames"} - arrays.keys():
        raise ValueError(f"{file}: need the arrays clip and frames")
    clip, frames = arrays.pop("clip"), arrays.pop("frames")
    num_samples = len(clip) if clip.ndim == 1 else -1
    is_whole = clip.dtype.kind == "U" and frames.dtype.kind == "i" and frames.ndim == 2 and frames.shape[1] > 1
    if not is_whole or len(frames) != num_samples:
        raise ValueError(f"{file}: need clip (N,) as text and frames (N, T + 1) as whole numbers")
    shape = num_samples, frames.shape[1] - 1
    measured: dict[str, dict[str, Ratio]] = {}
    for key in sorted(arrays):
        name, part = key.rsplit("/", 1) if "/" in key else (key, "")
        if part != "sum":
            continue
        numerator, denominator = arrays[key], arrays.get(f"{name}/weight")
        if denominator is None or denominator.shape != shape or numerator.shape[:2] != shape or numerator.ndim > 3:
            raise ValueError(f"{file}: {name}: need sum {shape} and weight {shape}")
        if not all(part.dtype == np.float64 and np.isfinite(part).all() for part in (numerator, denominator)):
            raise ValueError(f"{file}: {name}: need finite float64 numbers")
        score, series = name.rsplit("/", 1) if "/" in name else ("", name)
        measured.setdefault(score, {})[series] = Ratio(numerator, denominator)
    complete = {name: series for name, series in measured.items() if "model" in series}
    if not complete:
        raise ValueError(f"{file}: holds no score of the model")
    return clip, frames.astype(np.int64), complete


def _read_training(
    checkpoint: Path, step: int | None
) -> tuple[dict[str, np.ndarray], Costs, Mapping[str, MetricSpec], list[str]]:
    """Losses, costs, the metrics of the model, and notes; up to `step`, or to the newest checkpoint."""
    is_here = checkpoint.exists() or str(checkpoint) == SHIPPED  # nothing is fetched from a hub
    if not is_here:
        return {}, Costs(step, None, None, None), METRICS, [f"{checkpoint}: not here, so no losses and costs"]
    loaded, notes = load_model(checkpoint), []
    num_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    if step is None:
        step = loaded.step
    elif step != loaded.step:
        notes.append(f"{checkpoint}: the scores are of step {step:,}, the run is at {loaded.step:,}")
    folder = checkpoint.parent.parent if checkpoint.is_file() else checkpoint
    losses, num_tokens, train_s = _read_log(folder, step)
    if not losses:
        notes.append(f"{folder}: no csv log (logger=default or csv writes one), so no losses and costs")
    return losses, Costs(step, num_tokens, train_s, num_parameters), metrics_of(loaded.table), notes


def _read_log(folder: Path, step: int) -> tuple[dict[str, np.ndarray], int | None, float | None]:
    """The losses, tokens and seconds of all parts of a training; of a step that was repeated the last part counts."""
    rows: dict[tuple[int, str], float] = {}
    files = sorted((folder / "csv").glob("**/metrics.csv"), key=lambda file: file.stat().st_mtime)
    for file in files:
        text = read_file(file, _MAX_BYTES).decode("utf-8", errors="replace")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            values = {name: number for name, cell in row.items() if (number := _number(cell)) is not None}
            if 0 <= values.get("step", -1) <= step:
                for name, value in values.items():
                    rows[int(values["step"]), name] = value
    columns: dict[str, list[tuple[int, float]]] = {}
    for (at, name), value in sorted(rows.items()):
        columns.setdefault(name, []).append((at, value))
    losses = {name: np.array(columns[name], np.float64) for name in _LOSSES if name in columns}
    seconds = columns.get("time/train_s", [])
    return losses, _num_tokens(columns, step), max((value for _, value in seconds), default=None)


def _num_tokens(columns: Mapping[str, Sequence[tuple[int, float]]], step: int) -> int | None:
    """Steps times nominal tokens of a step, which follow from speed and time between two rows of the log."""
    seconds, speed, samples = (dict(columns.get(name, ())) for name in
                               ("time/train_s", "speed/tokens_per_s", "speed/samples_per_s"))  # fmt: skip
    steps = sorted(seconds.keys() & speed.keys() & samples.keys())
    per_step = [
        samples[b] * (seconds[b] - seconds[a]) / (b - a) for a, b in zip(steps, steps[1:]) if seconds[b] > seconds[a]
    ]
    if not per_step or samples[steps[0]] <= 0:
        return None
    return step * round(statistics.median(per_step)) * round(speed[steps[0]] / samples[steps[0]])


def _number(cell: str | None) -> float | None:
    """A finite number, or None."""
    try:
        number = float(cell or "nan")
    except ValueError:
        return None
    return number if np.isfinite(number) else None
