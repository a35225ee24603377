"""The content of `metrics.json`: the facts of a run, then each score with its numbers per horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m3.metrics import METRICS, Confusion, MetricSpec, Score, Series, feature_sets
from m3.metrics.bootstrap import LEVEL_PERCENT, NUM_RESAMPLES
from m3.metrics.specs import NO_TRUTH, SERIES

SCHEMA_VERSION = 2
_NUM_DIGITS = 6
"""After the point."""


def metrics_record(
    scores: Sequence[Score],
    facts: Mapping[str, Any],
    has_truth: bool = True,
    metrics: Mapping[str, MetricSpec] = METRICS,
    undecoded: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The record. Intervals are named after their number: `model` and `model_ci95`.

    has_truth: False where no prompt has a ground truth.
    metrics: those of the model; the ones without a score are listed under `absent` with the reason.
    undecoded: modality → why it is not decoded; listed there as well.
    """
    found = {score.name: score for score in scores}
    actions = sorted({action for score in scores for action in score.by_action})
    absent = {name: why_absent(spec, has_truth) for name, spec in metrics.items() if name not in found}
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "intervals": f"{LEVEL_PERCENT}% percentile bootstrap over clips, {NUM_RESAMPLES} resamples; null below 2 "
        "clips. Those of a score of all roll-outs as a set are moved so that the median of the resamples is the value. "
        f"Of fid and fvd: {feature_sets.NUM_RESAMPLES} resamples, null above {feature_sets.MAX_RESAMPLED} samples",
        "gains": "how much better than a baseline the model is on the baseline's samples, paired; positive is better",
        "series": {name: text for name, text in SERIES.items() if any(name in score.series for score in scores)},
        "absent": absent | dict(undecoded or {}),
        "scores": {
            name: {"is": score.spec.description, **_caveat(score), **_entry(score)} for name, score in found.items()
        },
        "by_action": {
            action: {name: _entry(score.by_action[action]) for name, score in found.items()} for action in actions
        },
    }


def confusion_record(confusion: Confusion) -> dict[str, Any]:
    """An entry of the record: the counts of all pairs of classes, and the shares that follow from them."""
    recall = [_rounded(None if np.isnan(share) else share) for share in confusion.shares.diagonal()]
    return {
        "is": "counts: samples, a row for each true class, a column for each predicted one; recall: share of right "
        "predictions of each class, null for one without samples",
        "num_samples": confusion.num_samples,
        "accuracy": _rounded(confusion.accuracy),
        "mean_recall": _rounded(confusion.mean_recall),
        "names": list(confusion.names),
        "recall": recall,
        "counts": confusion.counts.tolist(),
    }


def why_absent(spec: MetricSpec, has_truth: bool) -> str:
    """Why a metric could not be computed."""
    return spec.why_absent if has_truth or not spec.needs_truth else NO_TRUTH


def _caveat(score: Score) -> dict[str, str]:
    return {} if score.caveat is None else {"caveat": score.caveat}


def _entry(score: Score) -> dict[str, Any]:
    horizons = []
    for k in range(len(score.num_samples)):
        at: dict[str, Any] = {"horizon": k + 1, "num_samples": score.num_samples[k]}
        at["num_clips"] = score.first.num_clips[k]
        for name, series in score.series.items():
            at |= _numbers(name, series, k)
            if series.num_samples != score.num_samples:
                at[f"{name}_num_samples"] = series.num_samples[k]
        for name, series in score.gains.items():
            at |= _numbers(f"gain_over_{name}", series, k)
        horizons.append(at)
    return {"unit": score.spec.unit, "is_better": score.spec.is_better, "horizons": horizons}


def _numbers(name: str, series: Series, k: int) -> dict[str, Any]:
    value, low, high = (_rounded(number) for number in (series.value[k], series.low[k], series.high[k]))
    return {name: value, f"{name}_ci{LEVEL_PERCENT}": [low, high]}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(float(number), _NUM_DIGITS)
