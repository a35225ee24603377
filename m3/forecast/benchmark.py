"""The forecasting benchmark: forecasts for all test clips of a folder of label files, and their scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from m3.checkpoint import LoadedModel
from m3.clips.canvas import PadCanvas
from m3.core.progress import track
from m3.core.types import Rejection
from m3.core.validation import check
from m3.forecast.forecaster import Forecaster
from m3.forecast.protocol import THRESHOLD, ForecastClip, HitCounts, nothing_moves, read_clips, score_forecast

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Scores:
    """Counts for the model and for the baseline "nothing moves" on the same sequences."""

    model: HitCounts
    nothing_moves: HitCounts

    def record(self) -> dict[str, Any]:
        return {
            "pck": self.model.pck,
            "nothing_moves": self.nothing_moves.pck,
            "num_sequences": self.model.num_sequences,
        }

    @property
    def mean_pck(self) -> float:
        """PCK of the model in percent, averaged over the horizons with scored joints; NaN where there are none."""
        values = [value for value in self.model.pck if value is not None]
        return sum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class ForecastResult:
    """Result of `Benchmark.run`.

    scores: over all sequences. by_action: the same per action.
    num_clips: number of scored clips. skipped: label files that were not scored, with the reason.
    record: content of forecast.json.
    """

    scores: Scores
    by_action: dict[str, Scores]
    num_clips: int
    skipped: list[Rejection]
    record: dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """The section `forecast` of the configuration of generate.py.

    labels: folder of Penn Action label files; those with train = −1 are scored.
    mirror, dtype: see `Forecaster`.
    batch_size: sequences per forward pass; does not change results.
    max_sequences: score only this many evenly spaced sequences; None for all.
    """

    labels: str
    mirror: bool = True
    dtype: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 16
    max_sequences: int | None = None

    def __post_init__(self) -> None:
        check("forecast.batch_size", self.batch_size, int, low=1)
        check("forecast.max_sequences", self.max_sequences, int | None, low=1)
        if not isinstance(self.mirror, bool):
            raise ValueError(f"forecast.mirror={self.mirror!r}: choose true or false")

    def run(self, loaded: LoadedModel) -> ForecastResult:
        """Forecasts and scores.

        Raises:
            FileNotFoundError or ValueError for a folder without test clips, ValueError for a model of other modalities.
        """
        if loaded.data.get("canvas") != PadCanvas.mode:
            raise ValueError(
                "checkpoint: not trained on whole frames; make data with `python preprocess.py "
                "experiment=penn_forecast source.labels=DIR` and train with `python train.py experiment=penn_forecast`"
            )
        forecaster = Forecaster(loaded.model, loaded.data["canvas_size"], self.mirror, self.dtype)
        clips, skipped = read_clips(self.labels)
        by_action: dict[str, list[tuple[HitCounts, HitCounts]]] = {}
        batches = list(self._batches(clips))
        for clip, starts in track(batches, len(batches), "forecasts"):
            scored = [score_forecast(clip, starts, predicted)
                      for predicted in (forecaster.forecast(clip, starts), nothing_moves(clip, starts))]  # fmt: skip
            by_action.setdefault(clip.label.action or "unknown", []).append((scored[0], scored[1]))
        action_scores = {action: _scores(by_action[action]) for action in sorted(by_action)}
        scores = _scores([pair for pairs in by_action.values() for pair in pairs])
        num_clips = len({clip.id for clip, _ in batches})
        result = ForecastResult(scores, action_scores, num_clips, skipped, {})
        return replace(result, record=self._record(result, loaded))

    def _batches(self, clips: list[ForecastClip]) -> Iterator[tuple[ForecastClip, np.ndarray]]:
        """Pairs of a clip and the (N,) first frames of up to `batch_size` of its sequences."""
        ends = np.cumsum([clip.label.num_frames for clip in clips])
        num_chosen = min(self.max_sequences or int(ends[-1]), int(ends[-1]))
        chosen = np.linspace(0, ends[-1] - 1, num_chosen).round().astype(np.int64)
        for clip, end in zip(clips, ends):
            first = end - clip.label.num_frames
            starts = chosen[(chosen >= first) & (chosen < end)] - first
            for begin in range(0, len(starts), self.batch_size):
                yield clip, starts[begin : begin + self.batch_size]

    def _record(self, result: ForecastResult, loaded: LoadedModel) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "threshold": THRESHOLD,
            **result.scores.record(),
            "num_clips": result.num_clips,
            "actions": {action: scores.record() for action, scores in result.by_action.items()},
            "skipped": [{"clip": each.clip, "reason": each.reason} for each in result.skipped],
            "model": {
                **{key: loaded.config.get(key) for key in ("name", "seed")},
                "step": loaded.step,
                "weights": loaded.fingerprint,
            },
            "settings": {
                "mirror": self.mirror,
                "dtype": self.dtype,
                "max_sequences": self.max_sequences,
            },
        }


def _scores(pairs: list[tuple[HitCounts, HitCounts]]) -> Scores:
    return Scores(*(HitCounts.total(counts) for counts in zip(*pairs)))
