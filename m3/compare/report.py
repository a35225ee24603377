"""A comparison as one table (terminal, Markdown, JSON) and one plot."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from m3.compare.differences import Compared, RunComparison
from m3.compare.runs import Costs
from m3.core.files import atomic_file, make_folder, write_text_atomic
from m3.core.terminal import printable
from m3.metrics import MetricSpec, Series
from m3.metrics.bootstrap import LEVEL_PERCENT, NUM_RESAMPLES

_SCHEMA_VERSION = 1
_NO_VALUE = "–"
_COLORS = ("#3a6ea5", "#d1495b", "#2a9d8f", "#e09f3e", "#6b4fa0", "#76b041", "#8f2d56", "#4a4e69")
_STYLES = ("-", "--", "-.", ":")
_INK, _FAINT = "#22262e", "#6b7280"
_NUM_COLUMNS = 3
_LEGEND = (
    f"In brackets: the difference from the first run and its {LEVEL_PERCENT}% interval (bootstrap over clips, the same "
    "resamples for all runs). Better and worse: beyond the interval."
)


def write_comparison(out: Path, comparison: RunComparison, console: Console) -> list[Path]:
    """Writes comparison.md, comparison.json and comparison.png, prints the table, and returns the files."""
    make_folder(out)
    files = [out / f"comparison.{suffix}" for suffix in ("md", "json", "png")]
    write_text_atomic(files[0], markdown(comparison))
    write_text_atomic(files[1], json.dumps(record(comparison), indent=2, allow_nan=False) + "\n")
    with atomic_file(files[2]) as file:
        file.write(_png(plot(comparison)))
    header, *rows = table(comparison, is_short=True)
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, name in enumerate(header):
        shown.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print(_heading(comparison))
    console.print(shown)
    if comparison.scores:
        console.print(_LEGEND)
    for note in comparison.notes:
        console.print(note, soft_wrap=True)
    return files


def table(comparison: RunComparison, is_short: bool) -> list[list[str]]:
    """The rows, the header first: scores, losses, costs; a column for each run.

    is_short: only the scores with a short label, at the first and the last horizon.
    """
    names = [printable(run.name) for run in comparison.runs]
    has_still = any(score.nothing_moves is not None for score in comparison.scores)
    rows = [["", *(["nothing moves"] if has_still else []), *names]]
    scores = list(comparison.scores)
    if is_short:
        scores = sorted((each for each in scores if each.spec.short), key=lambda each: each.spec.headline)
    for score in scores:
        horizons = _known_horizons(score)
        for k in [horizons[0], horizons[-1]] if is_short and len(horizons) > 1 else horizons:
            still = [_text(score.spec, score.nothing_moves, k)] if has_still else []
            cells = [_cell(score, run.name, k) for run in comparison.runs]
            rows.append([f"{_label(score)} +{k + 1}", *still, *cells])
    blank = [""] if has_still else []
    for name in ("train/loss", "eval/loss"):
        last = [run.losses[name][-1, 1] if name in run.losses else None for run in comparison.runs]
        if any(value is not None for value in last):
            rows.append([f"last {name}", *blank, *(_NO_VALUE if value is None else f"{value:.3f}" for value in last)])
    for label, texts in _cost_rows([run.costs for run in comparison.runs]):
        rows.append([label, *blank, *texts])
    return rows


def markdown(comparison: RunComparison) -> str:
    """The whole table as Markdown."""
    header, *rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table(comparison, False)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = "".join(f"\n- {printable(note)}" for note in comparison.notes)
    return (
        f"# {_heading(comparison)}\n\n{_LEGEND}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}\n"
        + "\n".join(lines)
        + (f"\n\nNot compared:\n{notes}" if notes else "")
        + "\n"
    )


def record(comparison: RunComparison) -> dict[str, Any]:
    """The content of comparison.json; shares are not in percent here."""
    scores = {}
    for score in comparison.scores:
        scores[score.name] = {
            "unit": score.spec.unit,
            "is_better": score.spec.is_better,
            "runs": {name: asdict(series) for name, series in score.series.items()},
            "nothing_moves": None if score.nothing_moves is None else asdict(score.nothing_moves),
            "gain_over_first": {name: asdict(series) for name, series in score.gains.items()},
        }
    return {
        "schema_version": _SCHEMA_VERSION,
        "intervals": f"{LEVEL_PERCENT}% percentile bootstrap over clips, {NUM_RESAMPLES} resamples, paired",
        "num_samples": comparison.num_samples,
        "num_clips": comparison.num_clips,
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "costs": asdict(run.costs),
                "losses": {name: column.tolist() for name, column in run.losses.items()},
            }
            for run in comparison.runs
        ],
        "scores": scores,
        "notes": list(comparison.notes),
    }


def plot(comparison: RunComparison) -> Figure:
    """The losses over the steps and the first scores over the horizons, a line for each run."""
    losses = [name for name in ("train/loss", "eval/loss") if any(name in run.losses for run in comparison.runs)]
    scores = sorted(
        (each for each in comparison.scores if each.spec.short and _known_horizons(each)),
        key=lambda each: each.spec.headline,
    )
    num_panels = max(1, len(losses) + len(scores))
    columns = min(_NUM_COLUMNS, num_panels)
    rows = -(-num_panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows + 0.8), dpi=130, facecolor="white", layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    looks = list(zip(comparison.runs, cycle(_COLORS), cycle(_STYLES)))
    for axis, name in zip(axes, losses):
        for run, color, style in looks:
            if name in run.losses:
                steps, values = run.losses[name].T
                axis.plot(steps, values, color=color, linestyle=style, label=printable(run.name), linewidth=1.6)
        _label_axis(axis, name, "step")
    for axis, score in zip(axes[len(losses) :], scores):
        if score.nothing_moves is not None:
            _line(axis, score.spec, score.nothing_moves, _FAINT, ":", "nothing moves")
        for run, color, style in looks:
            _line(axis, score.spec, score.series[run.name], color, style, printable(run.name))
        arrow = {"higher": " ↑", "lower": " ↓"}.get(score.spec.is_better, "")
        _label_axis(axis, f"{_label(score)}{arrow}", "frames ahead")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[num_panels if losses or scores else 0 :]:
        axis.set_axis_off()
    lines = {str(line.get_label()): line for axis in axes for line in axis.get_lines()}
    if lines:
        legend = figure.legend(
            list(lines.values()), list(lines), loc="outside lower center", ncols=min(3, len(lines)), frameon=False,
            fontsize=9,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may contain dollars
    figure.suptitle(_heading(comparison), color=_INK, fontsize=12, x=0.01, ha="left").set_parse_math(False)
    return figure


def _line(axis: Axes, spec: MetricSpec, series: Series, color: str, style: str, label: str) -> None:
    horizons = np.arange(1, len(series.value) + 1)
    value, low, high = (
        spec.factor * np.array([np.nan if number is None else number for number in column])
        for column in (series.value, series.low, series.high)
    )
    axis.fill_between(horizons, low, high, color=color, alpha=0.13, linewidth=0)
    axis.plot(horizons, value, color=color, linestyle=style, marker="o", markersize=3.5, label=label, linewidth=1.6)


def _label_axis(axis: Axes, title: str, x_label: str) -> None:
    axis.set_title(title, fontsize=10, color=_INK, loc="left")
    axis.set_xlabel(x_label, fontsize=9, color=_INK)
    axis.tick_params(colors=_INK, labelsize=8)
    axis.grid(axis="y", color=_FAINT, alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _heading(comparison: RunComparison) -> str:
    if not comparison.scores:
        return f"{len(comparison.runs)} runs"
    return (
        f"{len(comparison.runs)} runs on the same {comparison.num_samples:,} samples of {comparison.num_clips:,} clips"
    )


def _label(score: Compared) -> str:
    """The score with its unit, and its frame in completed pairs."""
    frame = f"{score.name.split('/')[0]}: " if "/" in score.name else ""
    spec = score.spec
    return frame + (f"{spec.short or spec.label} {spec.shown_unit}".strip())


def _known_horizons(score: Compared) -> list[int]:
    columns = [series.value for series in score.series.values()]
    return [k for k in range(len(columns[0])) if any(column[k] is not None for column in columns)]


def _text(spec: MetricSpec, series: Series | None, k: int) -> str:
    return _NO_VALUE if series is None else spec.text(series.value[k])


def _cell(score: Compared, run: str, k: int) -> str:
    """ "64.1", and of a later run "66.0 (+1.9, 0.4…3.3, better)"."""
    spec, text = score.spec, _text(score.spec, score.series[run], k)
    if run not in score.gains or score.gains[run].value[k] is None:
        return text
    gain, sign = score.gains[run], -1 if spec.is_better == "lower" else 1
    parts = [_signed(spec, gain.value[k], sign)]
    bounds = [gain.low[k], gain.high[k]][::sign]
    if None not in bounds:
        parts.append("…".join(_signed(spec, bound, sign) for bound in bounds))
    if word := score.verdict(run, k):
        parts.append(word)
    return f"{text} ({', '.join(parts)})"


def _signed(spec: MetricSpec, number: float | None, sign: int) -> str:
    assert number is not None
    value = round(sign * number * spec.factor, spec.num_digits) + 0.0  # no minus before a zero
    return f"{value:+.{spec.num_digits}f}".replace("-", "−")


def _cost_rows(costs: Sequence[Costs]) -> list[tuple[str, list[str]]]:
    shown = (
        ("steps", [each.step for each in costs], lambda value: f"{value:,}"),
        ("tokens of training", [each.num_tokens for each in costs], _large),
        ("time of training", [each.train_s for each in costs], _duration),
        ("parameters", [each.num_parameters for each in costs], _large),
    )
    return [
        (label, [_NO_VALUE if value is None else form(value) for value in values])
        for label, values, form in shown
        if any(value is not None for value in values)
    ]


def _large(number: float) -> str:
    for factor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
