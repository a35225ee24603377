"""All scores of roll-outs: per horizon, beside the baselines, with intervals over clips, for all and by action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from m3.metrics.bootstrap import ClipBootstrap, interval, quotient
from m3.metrics.comparison import Comparison
from m3.metrics.feature_sets import FeatureSets
from m3.metrics.measures import Measured, Ratio
from m3.metrics.samples import best_of, mean_of, median_of
from m3.metrics.specs import BASELINES, METRICS, MetricSpec


@dataclass(frozen=True)
class Series:
    """A score over T horizons: of the model, of a baseline, or of the difference of both.

    value, low, high: [T] the number and its 95% interval; None where nothing is scored, the interval also where fewer
        than two clips are scored.
    num_samples, num_clips: [T] how many are scored.
    """

    value: list[float | None]
    low: list[float | None]
    high: list[float | None]
    num_samples: list[int]
    num_clips: list[int]


@dataclass(frozen=True)
class Score:
    """One metric per horizon.

    spec: the metric.
    series: "model" and the series beside it (`m3.metrics.specs.SERIES`). The diversity has "sample" alone.
    gains: baseline → how much better the model is on the samples that the baseline has too; positive is better. Empty
        where neither higher nor lower values are better.
    by_action: action → the same score over its samples.
    measured: series → the values of each sample, which the numbers are made of; not of a score by action.
    """

    spec: MetricSpec
    series: dict[str, Series]
    gains: dict[str, Series]
    by_action: dict[str, Score] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def num_samples(self) -> list[int]:
        """[T] samples scored in the first series; its value is None where there are 0."""
        return self.first.num_samples

    @property
    def first(self) -> Series:
        """The series of the model; of the diversity that of the samples."""
        return next(iter(self.series.values()))

    @property
    def model(self) -> list[float | None]:
        """[T]; Nones for a metric that a single roll-out does not have."""
        return self._values("model")

    @property
    def nothing_moves(self) -> list[float | None]:
        """[T]; Nones for a metric that copying the reference does not have."""
        return self._values("nothing_moves")

    @property
    def caveat(self) -> str | None:
        """What is wrong with the value of a distance between sets that are too small; None where nothing is."""
        most = max(self.num_samples, default=0)
        if not 0 < most <= self.spec.num_features or all(value is None for value in self.first.value):
            return None
        return (
            f"{self.spec.label} of {most:,} samples in {self.spec.num_features:,} features: it says more about their "
            "number than about the model; compare it only with that of as many samples"
        )

    def _values(self, name: str) -> list[float | None]:
        return self.series[name].value if name in self.series else [None] * len(self.num_samples)


def score(
    compared: Comparison,
    metrics: Mapping[str, MetricSpec] = METRICS,
    on_metric: Callable[[], object] = lambda: None,
) -> list[Score]:
    """The scores of N roll-outs over T horizons, for each metric that frames and truth allow.

    metrics: to compute, in this order. on_metric: called after each of them, for a progress bar.
    """
    found = {}
    for name, spec in metrics.items():
        if series := _measured(spec, compared):
            found[name] = series
        on_metric()
    scores = [replace(each, measured=found[each.name]) for each in _summarized(found, compared.clips, metrics)]
    for action, rows in _rows_of_actions(compared.action):
        chosen = {name: {label: each.rows(rows) for label, each in series.items()} for name, series in found.items()}
        for whole, part in zip(scores, _summarized(chosen, compared.clips[rows], metrics)):
            whole.by_action[action] = part
    return scores


def _measured(spec: MetricSpec, compared: Comparison) -> dict[str, Measured]:
    """Per-sample metric values for the model and every baseline of `spec.series`, before aggregation."""
    has_joints = compared.has_joints
    if spec.needs_annotation and has_joints is not None and not has_joints.any():
        return {}
    if not spec.needs_truth:
        diversity = spec.measure(compared.samples, compared) if len(compared.samples) > 1 else None
        return {} if diversity is None else {"sample": diversity}
    found: dict[str, Measured | None] = {}
    for name in spec.series:
        if name in compared.series:
            found[name] = spec.measure(compared.series[name], compared)
    if "sample" in spec.series and compared.samples:
        of_samples = [ratio for each in compared.samples if isinstance(ratio := spec.measure(each, compared), Ratio)]
        if of_samples:
            found["sample"] = mean_of(of_samples)
            if "best_of_n" in spec.series:
                found["best_of_n"] = best_of(of_samples, spec.is_error)
            if "median_of_n" in spec.series:
                found["median_of_n"] = median_of(of_samples)
    ratios = {name: ratio for name, ratio in found.items() if ratio is not None}
    if "model" not in ratios:
        return {}
    if spec.needs_annotation and has_joints is not None and not has_joints.all():
        ratios = {name: ratio.only(has_joints[:, None]) for name, ratio in ratios.items()}
    return ratios


def _rows_of_actions(actions: Sequence[str | None] | None) -> list[tuple[str, np.ndarray]]:
    """Each known action with the samples that show it, in alphabetical order."""
    known = sorted({action for action in actions or () if action is not None})
    return [(action, np.array([n for n, other in enumerate(actions or ()) if other == action])) for action in known]


def _summarized(
    found: dict[str, dict[str, Measured]], clip: np.ndarray, metrics: Mapping[str, MetricSpec]
) -> list[Score]:
    bootstrap = ClipBootstrap(clip)
    scores = []
    for name, ratios in found.items():
        spec = metrics[name]
        series = {label: series_of(ratio, spec, bootstrap) for label, ratio in ratios.items()}
        baselines = [] if spec.is_better == "neither" else [label for label in BASELINES if label in ratios]
        gains = {label: gain_over(ratios["model"], ratios[label], spec, bootstrap) for label in baselines}
        scores.append(Score(spec, series, gains))
    return scores


def series_of(ratio: Measured, spec: MetricSpec, bootstrap: ClipBootstrap) -> Series:
    """The score over all samples of the bootstrap, with its intervals."""
    value = _value(ratio, spec)
    # The scores of sets take time to resample; most actions have too few samples for them.
    resampled = _resampled(ratio, spec, bootstrap) if not np.isnan(value).all() else value[None]
    return _with_interval(value, _centered(resampled, value, spec), ratio, bootstrap)


def gain_over(model: Measured, baseline: Measured, spec: MetricSpec, bootstrap: ClipBootstrap) -> Series:
    """How much better the model is than the baseline on the samples that both have, in the same resamples of clips.

    Positive is better; of a metric of which no value is better it is the plain difference.
    """
    has_both = (model.denominator > 0) & (baseline.denominator > 0)
    model, baseline = model.only(has_both), baseline.only(has_both)
    sign = -1 if spec.is_better == "lower" else 1
    value = sign * (_value(model, spec) - _value(baseline, spec))
    if np.isnan(value).all():
        return _with_interval(value, value[None], model, bootstrap)
    resampled = _resampled(model, spec, bootstrap) - _resampled(baseline, spec, bootstrap)
    return _with_interval(value, _centered(sign * resampled, value, spec), model, bootstrap)


def _centered(resampled: np.ndarray, value: np.ndarray, spec: MetricSpec) -> np.ndarray:
    """(R, T) resamples, for a score of a set moved so that their median is the value.

    A distance between sets grows as they get smaller, and a resample has fewer different samples. In simulations of
    64 roll-outs the 95% intervals then contain the expected distance of a set of this size in 90 to 99% of all cases;
    plain percentiles do in 65 to 92%.
    """
    if not spec.is_of_set:
        return resampled
    has_values = ~np.isnan(resampled).all(0)
    return resampled - np.nanmedian(np.where(has_values, resampled, 0.0), 0) + value


def _value(ratio: Measured, spec: MetricSpec) -> np.ndarray:
    """(T,), NaN where fewer than `spec.min_samples` are scored."""
    num_samples = (ratio.denominator > 0).sum(0)
    if not isinstance(ratio, FeatureSets):
        value = spec.transform(quotient(ratio.numerator.sum(0), ratio.denominator.sum(0)))
    elif num_samples.max(initial=0) >= spec.min_samples:
        value = ratio.distances()
    else:
        value = np.full(len(num_samples), np.nan)
    return np.where(num_samples >= spec.min_samples, value, np.nan)


def _resampled(ratio: Measured, spec: MetricSpec, bootstrap: ClipBootstrap) -> np.ndarray:
    """(R, T), NaN where nothing is scored."""
    if isinstance(ratio, FeatureSets):
        return ratio.resampled(bootstrap.times)
    return bootstrap.resampled(ratio, spec.transform)


def _with_interval(value: np.ndarray, resampled: np.ndarray, ratio: Measured, bootstrap: ClipBootstrap) -> Series:
    num_clips = bootstrap.clips_with(ratio)
    has_interval = (num_clips > 1) & ~np.isnan(value)
    low, high = (_numbers(np.where(has_interval, bound, np.nan)) for bound in interval(resampled))
    num_samples = (ratio.denominator > 0).sum(0)
    return Series(_numbers(value), low, high, num_samples.tolist(), num_clips.tolist())


def _numbers(column: np.ndarray) -> list[float | None]:
    return [None if np.isnan(number) else float(number) for number in column]
