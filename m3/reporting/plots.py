"""Plots: scores over the horizons, a panel each with the model and all other series (`scores.png`); confusion."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from m3.metrics import Confusion, Score
from m3.metrics.bootstrap import LEVEL_PERCENT
from m3.reporting.tables import class_name

LOOKS = {
    "model": ("the model", "#d1495b", "-", "o"),
    "argmax": ("argmax", "#8f2d56", (0, (5, 1)), "P"),
    "sample": ("samples, mean", "#3a6ea5", "-", "x"),
    "best_of_n": ("best of the samples", "#3a6ea5", (0, (1, 1)), "*"),
    "median_of_n": ("median of the samples", "#6a8fc3", (0, (3, 1, 1, 1)), "p"),
    "nothing_moves": ("nothing moves", "#4a4e69", "--", "s"),
    "constant_velocity": ("constant velocity", "#2a9d8f", "-.", "^"),
    "damped_velocity": ("damped velocity", "#76b041", (0, (4, 1, 1, 1, 1, 1)), "<"),
    "tokenizer": ("tokenizer's ceiling", "#e09f3e", ":", "D"),
    "real_reference": ("real reference, copied", "#8d99ae", "--", "v"),
    "reference_joints": ("joints of the reference", "#8d99ae", "--", "v"),
    "truth": ("the truth itself", "#e09f3e", ":", "D"),
}
"""Series → label, color, line and marker."""

_INK, _FAINT = "#22262e", "#9aa0aa"
_NUM_COLUMNS = 4
_CELL_INCH = 0.36
"""Side of a cell of the confusion: "100" fits."""
_MAX_LABEL = 22
"""Characters of the name of a class."""
_LEGEND_COLUMNS = 2
"""Entries of the legend below each column of panels: the longest label fits."""


def scores_plot(scores: Sequence[Score], title: str) -> Image.Image:
    """Lines are the numbers, bands their 95% intervals over clips; a score without a value has no panel."""
    shown = [score for score in scores if any(value is not None for value in score.first.value)]
    columns = min(_NUM_COLUMNS, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    present = {name for score in shown for name in score.series}
    order = [label for name, (label, *_) in LOOKS.items() if name in present]
    legend_columns = min(len(order), _LEGEND_COLUMNS * columns)
    legend_rows = -(-len(order) // max(1, legend_columns))
    height = 2.7 * rows + 0.75 + 0.2 * max(1, legend_rows)
    figure = Figure(figsize=(3.5 * columns, height), dpi=130, facecolor="white", layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axis, score in zip(axes, shown):
        _panel(axis, score)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(shown) - columns) : len(shown)]:
        axis.set_xlabel("horizon (frames ahead)", color=_INK, fontsize=9)
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    figure.suptitle(title, color=_INK, fontsize=12, x=0.01, ha="left")
    if order:
        handles = [lines[label] for label in order]
        figure.legend(handles, order, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=8)
    return _picture(figure)


@dataclass(frozen=True)
class _Theme:
    """Colors of a confusion. paper, ink, faint: background, text, secondary text. right, wrong: a share of 1."""

    paper: str
    ink: str
    faint: str
    right: str
    wrong: str


_LIGHT = _Theme("#ffffff", _INK, "#6b7280", "#2f6db5", "#c8374a")
_DARK = _Theme("#1c1f26", "#e7e9ee", "#9aa3b2", "#6fb1f5", "#fb7185")


def confusion_plot(confusion: Confusion, title: str, is_dark: bool = False) -> Image.Image:
    """A row for each true class: the shares of its samples predicted as each class, in percent.

    Right predictions have one color, wrong ones another; shares below half a percent and classes without samples are
    left blank.
    """
    theme, num_classes = _DARK if is_dark else _LIGHT, len(confusion.names)
    size = max(4.2, 2.8 + _CELL_INCH * num_classes)
    figure = Figure(figsize=(size, size), dpi=130, facecolor=theme.paper, layout="constrained")
    axis = figure.subplots()
    shares = np.nan_to_num(confusion.shares)
    is_right = np.eye(num_classes, dtype=bool)
    paper, right, wrong = (np.array(to_rgb(color)) for color in (theme.paper, theme.right, theme.wrong))
    # The root makes rare mistakes visible.
    strength = np.sqrt(shares)[..., None]
    cells = paper + strength * (np.where(is_right[..., None], right, wrong) - paper)
    axis.imshow(cells, interpolation="nearest")
    for k, other in np.argwhere(shares >= 0.005):
        color = max((_LIGHT.ink, _LIGHT.paper), key=lambda each: _contrast(np.array(to_rgb(each)), cells[k, other]))
        axis.text(other, k, f"{100 * shares[k, other]:.0f}", ha="center", va="center", color=color, fontsize=8,
                  weight="bold" if k == other else "normal")  # fmt: skip
    names = [class_name(name, _MAX_LABEL) for name in confusion.names]
    rows = [f"{name}  ({count})" for name, count in zip(names, confusion.num_true)]
    axis.set_yticks(range(num_classes), rows, fontsize=9, color=theme.ink)
    axis.set_xticks(range(num_classes), names, fontsize=9, color=theme.ink, rotation=90)
    axis.set_ylabel("true (samples)", color=theme.faint, fontsize=9)
    axis.set_xlabel("predicted, % of the row", color=theme.faint, fontsize=9)
    heading = figure.suptitle(title, color=theme.ink, fontsize=12, x=0.01, ha="left")
    for text in (heading, *axis.get_xticklabels(), *axis.get_yticklabels()):
        text.set_parse_math(False)  # a name may contain dollars
    for position in np.arange(num_classes + 1) - 0.5:
        axis.axhline(position, color=theme.faint, linewidth=0.5, alpha=0.25)
        axis.axvline(position, color=theme.faint, linewidth=0.5, alpha=0.25)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return _picture(figure)


def _contrast(one: np.ndarray, other: np.ndarray) -> float:
    """Contrast of two RGB colors, 0 … 1 each, as WCAG 2 defines it: 1 to 21."""
    low, high = sorted(float(color**2.2 @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def _picture(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Image.open(buffer).convert("RGB")


def _panel(axis: Axes, score: Score) -> None:
    for name, series in score.series.items():
        label, color, style, marker = LOOKS[name]
        horizons = np.arange(1, len(series.value) + 1)
        value, low, high = (
            score.spec.factor * np.array([np.nan if number is None else number for number in column])
            for column in (series.value, series.low, series.high)
        )
        axis.fill_between(horizons, low, high, color=color, alpha=0.15, linewidth=0)
        width, front = (2.2, 3) if name == "model" else (1.4, 2)
        axis.plot(horizons, value, linestyle=style, color=color, label=label, linewidth=width, zorder=front,
                  marker=marker, markersize=3.5)  # fmt: skip
    for name, level in (("chance", score.spec.chance), ("the truth", score.spec.of_truth)):
        if level is not None:
            axis.axhline(level, color=_FAINT, linewidth=1)
            axis.annotate(name, (0.98, level), xycoords=("axes fraction", "data"), xytext=(0, 3), ha="right",
                          textcoords="offset points", color=_FAINT, fontsize=8)  # fmt: skip
    if score.spec.chance is not None:
        axis.set_ylim(top=1.02)
    arrow = {"higher": " ↑", "lower": " ↓"}.get(score.spec.is_better, "")
    axis.set_title(f"{score.spec.title}{arrow}", fontsize=10, color=_INK, loc="left")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(colors=_INK, labelsize=8)
    axis.grid(axis="y", color=_FAINT, alpha=0.3, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_FAINT)


def plot_title(num_samples: int, num_clips: int) -> str:
    """Number of roll-outs and clips, and what the bands are."""
    return f"{num_samples} roll-outs of {num_clips} clips; bands: {LEVEL_PERCENT}% intervals over clips"
