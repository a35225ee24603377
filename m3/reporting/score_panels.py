"""Plots of scores as inline SVG: a panel each, whose colors, fonts and sizes are those of the page around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from m3.metrics import Score
from m3.reporting.plots import LOOKS

WIDTH, HEIGHT = 360, 200
"""Of a panel, in units of its own: about pixels in a column of a page."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 24
"""Margins around the lines, for the numbers of the axes."""
_DASH_UNIT = 1.7
_DASHES: dict[str, Sequence[float]] = {"-": (), "--": (4, 2), "-.": (4, 2, 1, 2), ":": (1, 2)}
_MARKER_RADIUS = 3.2
_MAX_X_LABELS = 12


@dataclass(frozen=True)
class Look:
    """A series in the legend and the panels. color: its name in CSS. dashes: lengths in SVG. marker: path data."""

    name: str
    label: str
    color: str
    dashes: str
    marker: str


@dataclass(frozen=True)
class Line:
    """One series. segments: points of polylines. bands: points of polygons, the intervals. dots: (x, y) of values."""

    name: str
    segments: Sequence[str]
    bands: Sequence[str]
    dots: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One score over its horizons.

    lines: the model last, above the others. y_ticks, x_ticks: place and number. levels: place and name of the levels
    of chance and of the truth. words: what is seen, for those who do not see it.
    """

    lines: Sequence[Line]
    y_ticks: Sequence[tuple[float, str]]
    x_ticks: Sequence[tuple[float, str]]
    levels: Sequence[tuple[float, str]]
    words: str


def looks(scores: Sequence[Score]) -> list[Look]:
    """The series that some of the scores have."""
    present = {name for score in scores for name in score.series}
    found = []
    for name, (label, color, style, marker) in LOOKS.items():
        if name in present:
            dashes = _DASHES[style] if isinstance(style, str) else style[1]
            lengths = " ".join(f"{_DASH_UNIT * each:g}" for each in dashes)
            found.append(Look(name, label, color, lengths, _marker(marker)))
    return found


def panel(score: Score) -> Panel | None:
    """The plot of a score; None with fewer than two horizons that have a value."""
    series = {name: score.series[name] for name in sorted(score.series, key=lambda name: name == "model")}
    columns = {
        name: np.array([_known(each.value), _known(each.low), _known(each.high)]) * score.spec.factor
        for name, each in series.items()
    }
    all_values = np.concatenate([column.ravel() for column in columns.values()])
    num_horizons = len(score.num_samples)
    if np.isfinite(columns[next(reversed(columns))][0]).sum() < 2:
        return None
    levels = [(level * score.spec.factor, name) for name, level in
              (("chance", score.spec.chance), ("the truth", score.spec.of_truth)) if level is not None]  # fmt: skip
    values = [*all_values[np.isfinite(all_values)], *(level for level, _ in levels)]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room

    def x(horizon: int) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (horizon - 1) / (num_horizons - 1)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    lines = []
    for name, (value, least, most) in columns.items():
        runs = list(_runs(np.isfinite(value)))
        segments = [_points([(x(k + 1), y(value[k])) for k in run]) for run in runs if len(run) > 1]
        bands = [
            _points([(x(k + 1), y(most[k])) for k in run] + [(x(k + 1), y(least[k])) for k in reversed(run)])
            for run in _runs(np.isfinite(least) & np.isfinite(most))
            if len(run) > 1
        ]
        dots = [(round(x(k + 1), 1), round(y(value[k]), 1)) for run in runs for k in run]
        lines.append(Line(name, segments, bands, dots))
    marks = [tick for tick in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 1
    if len(marks) > 1 and round(marks[1] - marks[0], digits) != round(marks[1] - marks[0], digits + 3):
        digits += 1  # steps of 2.5
    stride = -(-num_horizons // _MAX_X_LABELS)
    return Panel(
        lines,
        [(round(y(mark), 1), f"{mark:.{digits}f}") for mark in marks],
        [(round(x(k), 1), f"+{k}") for k in range(1, num_horizons + 1, stride)],
        [(round(y(level), 1), name) for level, name in levels],
        f"{score.spec.title} over the frames ahead; the numbers are in the table below",
    )


def _known(column: Sequence[float | None]) -> list[float]:
    return [math.nan if number is None else number for number in column]


def _runs(is_known: np.ndarray) -> Iterator[list[int]]:
    """The stretches of neighboring places that are known."""
    run: list[int] = []
    for k, known in enumerate(is_known):
        if known:
            run.append(k)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _marker(marker: str) -> str:
    """SVG path data of a marker of Matplotlib, around the origin."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    polygons = [np.asarray(polygon) for polygon in path.to_polygons(closed_only=False)]
    scale = _MARKER_RADIUS / max(np.abs(polygon).max() for polygon in polygons)
    parts = []
    for polygon in polygons:
        places = " ".join(f"{scale * px:.1f} {-scale * py:.1f}" for px, py in polygon)
        parts.append(f"M{places}" + ("Z" if len(polygon) > 2 else ""))
    return "".join(parts)
