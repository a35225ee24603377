"""All scores of roll-outs: per horizon, beside the baselines, with intervals over clips, for all and by action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3.core.frames import Frames
from m3.metrics.bootstrap import ClipBootstrap, interval, quotient
from m3.metrics.context import Context
from m3.metrics.kinds import BASELINES, KINDS, Kind
from m3.metrics.lines import all_tallies
from m3.metrics.measures import Tally


@dataclass(frozen=True)
class Series:
    """One line of a score over T horizons: of the model, of a baseline, or of a difference of both.

    value, low, high: [T] the number and its 95% interval; None where nothing is known, the interval also where
        fewer than two clips say something.
    num_samples, num_clips: [T] what the number rests on.
    """

    value: list[float | None]
    low: list[float | None]
    high: list[float | None]
    num_samples: list[int]
    num_clips: list[int]


@dataclass(frozen=True)
class Score:
    """One score per horizon.

    name: such as "pck@0.1"; unit: "share", "px", "dB" or "levels"; is_better: "higher", "lower" or "neither".
    series: "model", then what stands beside it (`m3.reporting.metrics_file.SERIES`). Of the diversity "sample"
        alone.
    gains: baseline → how much better the model is on the samples that the baseline has too; positive is better.
    by_action: action → the same score over its samples.
    """

    name: str
    unit: str
    is_better: str
    series: dict[str, Series]
    gains: dict[str, Series]
    by_action: dict[str, Score] = field(default_factory=dict)

    @property
    def num_samples(self) -> list[int]:
        """[T] samples that the first number rests on; 0 makes it None."""
        return self.first.num_samples

    @property
    def first(self) -> Series:
        """That of the model, or of what there is instead."""
        return next(iter(self.series.values()))

    @property
    def model(self) -> list[float | None]:
        """[T]; Nones for a score that a single roll-out cannot have."""
        return self._values("model")

    @property
    def nothing_moves(self) -> list[float | None]:
        """[T]; Nones for a score that copying the reference cannot have."""
        return self._values("nothing_moves")

    def _values(self, name: str) -> list[float | None]:
        return self.series[name].value if name in self.series else [None] * len(self.num_samples)


def score(
    predicted: Frames,
    truth: Frames,
    extent: np.ndarray,
    on_horizon: Callable[[], None] = lambda: None,
    context: Context | None = None,
) -> list[Score]:
    """All scores of N roll-outs over T horizons, of which there is at least what predicted and true frames give.

    Args:
        predicted, truth: (N, T + 1) frames with the same references.
        extent: (N,) pose_extent_px, NaN where unknown: such samples count for no PCK.
        on_horizon: called after each horizon, for a progress bar.
        context: what else is known.
    """
    context = context or Context()
    num_samples = len(truth.is_present)
    clip = np.arange(num_samples) if context.clip is None else np.asarray(context.clip)
    tallies = all_tallies(predicted, truth, extent, context, clip, on_horizon)
    scores = _summarised(tallies, clip)
    for action, rows in _rows_of_actions(context.action):
        chosen = {
            name: {series: Tally(t.numerator[rows], t.denominator[rows]) for series, t in lines.items()}
            for name, lines in tallies.items()
        }
        for whole, part in zip(scores, _summarised(chosen, clip[rows])):
            whole.by_action[action] = part
    return scores


def _rows_of_actions(actions: Sequence[str | None] | None) -> list[tuple[str, np.ndarray]]:
    """Each known action with the samples that show it, in alphabetical order."""
    known = sorted({action for action in actions or () if action is not None})
    return [(action, np.array([n for n, other in enumerate(actions or ()) if other == action])) for action in known]


def _summarised(tallies: dict[str, dict[str, Tally]], clip: np.ndarray) -> list[Score]:
    bootstrap = ClipBootstrap(clip)
    scores = []
    for name, kind in KINDS.items():
        if name not in tallies:
            continue
        lines = tallies[name]
        series = {line: _series(lines[line], kind, bootstrap) for line in lines}
        gains = {line: _gain(lines["model"], lines[line], kind, bootstrap) for line in BASELINES if line in lines}
        scores.append(Score(name, kind.unit, kind.is_better, series, gains))
    return scores


def _series(tally: Tally, kind: Kind, bootstrap: ClipBootstrap) -> Series:
    value = _value(tally, kind)
    return _with_interval(value, bootstrap.resampled(tally, kind.transform), tally, bootstrap)


def _gain(model: Tally, baseline: Tally, kind: Kind, bootstrap: ClipBootstrap) -> Series:
    has_both = (model.denominator > 0) & (baseline.denominator > 0)
    model, baseline = model.only(has_both), baseline.only(has_both)
    sign = 1 if kind.is_better == "higher" else -1
    value = sign * (_value(model, kind) - _value(baseline, kind))
    resampled = bootstrap.resampled(model, kind.transform) - bootstrap.resampled(baseline, kind.transform)
    return _with_interval(value, sign * resampled, model, bootstrap)


def _value(tally: Tally, kind: Kind) -> np.ndarray:
    """(T,), NaN where nothing is known."""
    return kind.transform(quotient(tally.numerator.sum(0), tally.denominator.sum(0)))


def _with_interval(value: np.ndarray, resampled: np.ndarray, tally: Tally, bootstrap: ClipBootstrap) -> Series:
    num_clips = bootstrap.clips_with(tally)
    low, high = (np.where(num_clips > 1, bound, np.nan) for bound in interval(resampled))
    num_samples = (tally.denominator > 0).sum(0)
    return Series(*(_numbers(column) for column in (value, low, high)), num_samples.tolist(), num_clips.tolist())


def _numbers(column: np.ndarray) -> list[float | None]:
    return [None if np.isnan(number) else float(number) for number in column]
