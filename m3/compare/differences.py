"""Scores of several runs on the roll-outs that all of them made, and paired differences from the first run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from m3.compare.runs import Run
from m3.metrics import MetricSpec, Series
from m3.metrics.bootstrap import ClipBootstrap
from m3.metrics.measures import Ratio
from m3.metrics.scores import gain_over, series_of


@dataclass(frozen=True)
class Compared:
    """One score of all R runs, on the same samples.

    name: of the score; of completed pairs with its frame, "successor/psnr".
    series: run → its score. nothing_moves: the same of a copy of the reference, None where it has no such score.
    gains: run → how much better than the first run it is, with the interval of the paired bootstrap over clips;
        positive is better. Without the first run.
    """

    name: str
    spec: MetricSpec
    series: Mapping[str, Series]
    nothing_moves: Series | None
    gains: Mapping[str, Series]

    def verdict(self, run: str, horizon: int) -> str:
        """A run against the first at a horizon from 0: "better", "worse", or "" within the interval."""
        if self.spec.is_better == "neither" or run not in self.gains:
            return ""
        low, high = self.gains[run].low[horizon], self.gains[run].high[horizon]
        if low is None or high is None:
            return ""
        return "better" if low > 0 else "worse" if high < 0 else ""


@dataclass(frozen=True)
class RunComparison:
    """All of a comparison. runs: with names of their own. scores: empty where a run has none.

    num_samples, num_clips: that all runs share. notes: what is left out, and why, as text for users.
    """

    runs: Sequence[Run]
    scores: Sequence[Compared]
    num_samples: int
    num_clips: int
    notes: Sequence[str]


def compare_runs(runs: Sequence[Run]) -> RunComparison:
    """Compares runs on the samples that all of them have.

    Raises ValueError naming the runs where they share no samples, or where their pictures have different sizes.
    """
    if len(runs) < 2:
        raise ValueError("need two runs or more")
    runs = _named(runs)
    notes = [note for run in runs for note in run.notes]
    without = [str(run.path) for run in runs if not run.has_scores]
    if without:
        if len(without) < len(runs):
            notes.append(f"no scores are compared: {', '.join(without)} has none; give folders of generate.py")
        return RunComparison(runs, [], 0, 0, notes)
    first = runs[0]
    for run in runs[1:]:
        if run.data.get("canvas_size") != first.data.get("canvas_size"):
            raise ValueError(
                f"{run.path}: pictures of {run.data.get('canvas_size')} px, and of {first.data.get('canvas_size')} px "
                f"in {first.path}; compare runs of the same data"
            )
    rows, num_shared = _shared_rows(runs)
    for run in runs:
        if len(run.clip) > num_shared:
            notes.append(f"{run.name}: {len(run.clip) - num_shared} of its {len(run.clip)} samples are not in all runs")
    num_horizons = min(run.frames.shape[1] for run in runs) - 1
    is_same_tokenizer = len({run.data.get("tokenizer_fingerprint") for run in runs}) == 1
    bootstrap = ClipBootstrap(first.clip[rows[0]])
    scores = []
    for name, spec in first.specs.items():
        lacking = [run.name for run in runs if name not in run.measured]
        if lacking:
            notes.append(f"{name}: not compared, {', '.join(lacking)} has no such score")
        elif not is_same_tokenizer and spec.modality == "tok_rgb" and not spec.name.endswith("_real"):
            notes.append(f"{name}: not compared, the truth is decoded by different tokenizers")
        else:
            scores.append(_compared(name, spec, runs, rows, num_horizons, bootstrap))
    for run in runs[1:]:
        notes += [f"{name}: not compared, {first.name} has no such score" for name in run.measured.keys() - first.specs]
    return RunComparison(runs, scores, num_shared, bootstrap.num_clips, list(dict.fromkeys(notes)))


def _named(runs: Sequence[Run]) -> list[Run]:
    """The runs with names that differ: the shortest ends of their paths that do."""
    paths = [Path(run.path).resolve() for run in runs]
    paths = [path.parent if path.is_file() else path for path in paths]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{Counter(map(str, paths)).most_common(1)[0][0]} is given twice")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [replace(run, name="/".join(path.parts[-depth:])) for run, path in zip(runs, paths)]


def _shared_rows(runs: Sequence[Run]) -> tuple[list[np.ndarray], int]:
    """For each run the rows of the samples that all have, in the order of the first.

    A sample is its clip and the numbers of its frames: the successors too, as another truth is another task.
    """
    num_frames = min(run.frames.shape[1] for run in runs)
    places = [
        {(str(clip), *frames.tolist()): n for n, (clip, frames) in enumerate(zip(run.clip, run.frames[:, :num_frames]))}
        for run in runs
    ]
    shared = [key for key in places[0] if all(key in each for each in places[1:])]
    if not shared:
        clips = [{str(clip) for clip in run.clip} for run in runs]
        common = set.intersection(*clips)
        why = "no clips in common" if not common else f"{len(common)} clips in common, but not the frames of a sample"
        raise ValueError(
            f"{', '.join(str(run.path) for run in runs)}: {why}; generate them with the same data.root, data.split, "
            "rollout.starts, rollout.gap and rollout.max_samples"
        )
    return [np.array([each[key] for key in shared]) for each in places], len(shared)


def _compared(
    name: str,
    spec: MetricSpec,
    runs: Sequence[Run],
    rows: Sequence[np.ndarray],
    num_horizons: int,
    bootstrap: ClipBootstrap,
) -> Compared:
    def part(ratio: Ratio, chosen: np.ndarray) -> Ratio:
        return Ratio(ratio.numerator[chosen, :num_horizons], ratio.denominator[chosen, :num_horizons])

    models = [part(run.measured[name]["model"], chosen) for run, chosen in zip(runs, rows)]
    copied = runs[0].measured[name].get("nothing_moves")
    return Compared(
        name,
        spec,
        {run.name: series_of(model, spec, bootstrap) for run, model in zip(runs, models)},
        None if copied is None else series_of(part(copied, rows[0]), spec, bootstrap),
        {run.name: gain_over(model, models[0], spec, bootstrap) for run, model in zip(runs[1:], models[1:])},
    )
