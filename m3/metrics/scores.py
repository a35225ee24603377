"""All scores of roll-outs: per horizon, beside the baselines, with intervals over clips, for all and by action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3.metrics.agreement import agreement, limb_colours
from m3.metrics.baselines import PoseFrames
from m3.metrics.bootstrap import ClipBootstrap, interval, quotient
from m3.metrics.measures import (
    Tally,
    joint_error_px,
    pck,
    psnr_db,
    squared_error,
    ssim,
    token_accuracy,
    visibility_f1,
)
from m3.records import NUM_JOINTS
from m3.rollout import Frames, TokenFrames, nothing_moves
from m3.tokens.joints import JointCodec

BASELINES = ("nothing_moves", "constant_velocity")
"""Series that the model is compared with, pair by pair."""


@dataclass(frozen=True)
class Kind:
    """A score: its unit, whether "higher" or "lower" is better, and what the quotient of sums still needs."""

    unit: str
    is_better: str
    transform: Callable[[np.ndarray], np.ndarray] = lambda quotients: quotients


KINDS = {
    "pck@0.05": Kind("share", "higher"),
    "pck@0.1": Kind("share", "higher"),
    "joint_error": Kind("px", "lower"),
    "visibility_f1": Kind("share", "higher"),
    "psnr": Kind("dB", "higher", psnr_db),
    "ssim": Kind("share", "higher"),
    "psnr_real": Kind("dB", "higher", psnr_db),
    "ssim_real": Kind("share", "higher"),
    "tok_rgb_accuracy": Kind("share", "higher"),
    "coords_accuracy": Kind("share", "higher"),
    "agreement": Kind("share", "higher"),
    "agreement@0.05": Kind("share", "higher"),
}


@dataclass(frozen=True)
class RolloutTokens:
    """The tokens of roll-outs and of their truth, (N, T + 1) frames each, and the codec of their joints."""

    predicted: TokenFrames
    truth: TokenFrames
    codec: JointCodec


@dataclass(frozen=True)
class Context:
    """What else is known of N samples. What is not known leaves its scores absent.

    clip: (N,) labels; None: each sample is a clip of its own.
    action: (N,) labels, None for unknown ones; None: nothing is broken down by action.
    constant_velocity: (N, T + 1) joints of that baseline.
    tokens: of predicted and true frames.
    real_pictures: (N, T + 1, H, W, 3) uint8, the real frames on the canvas.
    is_real: (N, T + 1) bool, where there is one.
    """

    clip: np.ndarray | None = None
    action: Sequence[str | None] | None = None
    constant_velocity: PoseFrames | None = None
    tokens: RolloutTokens | None = None
    real_pictures: np.ndarray | None = None
    is_real: np.ndarray | None = None


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

    name: such as "pck@0.1"; unit: "share", "px" or "dB"; is_better: "higher" or "lower".
    series: "model", then what stands beside it; see `m3.metrics.record.SERIES`.
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
        """[T] samples that the model's number rests on; 0 makes it None."""
        return self.series["model"].num_samples

    @property
    def model(self) -> list[float | None]:
        return self.series["model"].value

    @property
    def nothing_moves(self) -> list[float | None]:
        """[T]; Nones for a score that copying the reference cannot have."""
        still = self.series.get("nothing_moves")
        return [None] * len(self.model) if still is None else still.value


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
    tallies = _joint_tallies(predicted, truth, extent, context)
    if context.tokens is not None:
        tallies |= _token_tallies(context.tokens, context.constant_velocity)
    tallies |= _picture_tallies(predicted, truth, context, clip, on_horizon)
    scores = _summarised(tallies, clip)
    for action, rows in _rows_of_actions(context.action):
        chosen = {
            name: {series: Tally(t.numerator[rows], t.denominator[rows]) for series, t in lines.items()}
            for name, lines in tallies.items()
        }
        for whole, part in zip(scores, _summarised(chosen, clip[rows])):
            whole.by_action[action] = part
    return scores


_Tallies = dict[str, dict[str, Tally]]
"""Score → series → tally over N samples and T horizons."""


def _joint_tallies(predicted: Frames, truth: Frames, extent: np.ndarray, context: Context) -> _Tallies:
    lines: Mapping[str, Frames | PoseFrames] = {"model": predicted, "nothing_moves": nothing_moves(truth)}
    if context.constant_velocity is not None:
        lines = {**lines, "constant_velocity": context.constant_velocity}
    found: _Tallies = {name: {} for name in ("pck@0.05", "pck@0.1", "joint_error", "visibility_f1")}
    for series, frames in lines.items():
        is_present = (truth.is_present & frames.is_present)[:, 1:]
        xy, true_xy = frames.xy[:, 1:], truth.xy[:, 1:]
        is_scored = truth.is_visible[:, 1:] & is_present[..., None]
        found["pck@0.05"][series] = pck(xy, true_xy, is_scored, extent, 0.05)
        found["pck@0.1"][series] = pck(xy, true_xy, is_scored, extent, 0.1)
        found["joint_error"][series] = joint_error_px(xy, true_xy, is_scored)
        found["visibility_f1"][series] = visibility_f1(frames.is_visible[:, 1:], truth.is_visible[:, 1:], is_present)
    return found


def _token_tallies(tokens: RolloutTokens, moving: PoseFrames | None) -> _Tallies:
    """x and y tokens count where the joint is visible in the truth: those of invisible joints are never targets."""
    predicted, truth = tokens.predicted, tokens.truth
    is_present = truth.is_present[:, 1:, None]
    true_coords = truth.coords[:, 1:]  # (N, T, 39)
    is_visible = true_coords[..., 2 * NUM_JOINTS :].astype(bool)
    is_scored = np.concatenate([is_visible, is_visible, np.ones_like(is_visible)], -1) & is_present
    found: _Tallies = {"tok_rgb_accuracy": {}, "coords_accuracy": {}}
    for series, first, frames in (("model", 1, predicted), ("nothing_moves", 0, truth)):
        ids = frames.tok_rgb[:, 1:] if first else frames.tok_rgb[:, :1]
        is_counted = np.broadcast_to(is_present, truth.tok_rgb[:, 1:].shape)
        found["tok_rgb_accuracy"][series] = token_accuracy(ids, truth.tok_rgb[:, 1:], is_counted)
        ids = frames.coords[:, 1:] if first else frames.coords[:, :1]
        found["coords_accuracy"][series] = token_accuracy(ids, true_coords, is_scored)
    if moving is not None:
        on_canvas = moving.xy[:, 1:].clip(0, tokens.codec.canvas_size)  # what tokens can say
        ids = tokens.codec.encode(on_canvas, moving.is_visible[:, 1:]).reshape(true_coords.shape)
        is_scored = is_scored & moving.is_present[:, 1:, None]
        found["coords_accuracy"]["constant_velocity"] = token_accuracy(ids, true_coords, is_scored)
    return found


def _picture_tallies(
    predicted: Frames, truth: Frames, context: Context, clip: np.ndarray, on_horizon: Callable[[], None]
) -> _Tallies:
    """Scores of pictures, horizon by horizon."""
    columns: dict[tuple[str, str], list[Tally]] = {}

    def add(name: str, series: str, tally: Tally) -> None:
        columns.setdefault((name, series), []).append(tally)

    reference_colours = _reference_colours(truth)
    for horizon in range(1, truth.is_present.shape[1]):
        is_present = truth.is_present[:, horizon]
        still, made, true = truth.pictures[:, 0], predicted.pictures[:, horizon], truth.pictures[:, horizon]
        for name, measure in (("psnr", squared_error), ("ssim", ssim)):
            for series, pictures in (("model", made), ("nothing_moves", still)):
                add(name, series, _mean_over_pictures(measure, pictures, true, is_present))
            if context.real_pictures is not None:
                real, is_real = context.real_pictures[:, horizon], is_present & context.is_real[:, horizon]
                for series, pictures in (("model", made), ("nothing_moves", still), ("tokenizer", true)):
                    add(f"{name}_real", series, _mean_over_pictures(measure, pictures, real, is_real))
                copied, is_copied = context.real_pictures[:, 0], is_real & context.is_real[:, 0]
                add(f"{name}_real", "real_reference", _mean_over_pictures(measure, copied, real, is_copied))
        for series, pictures, frames, column in (
            ("model", made, predicted, horizon),
            ("reference_joints", made, truth, 0),
            ("truth", true, truth, horizon),
        ):
            joints = frames.xy[:, column], frames.is_visible[:, column]
            for name, tally in agreement(pictures, *joints, is_present, reference_colours, clip).items():
                add(name, series, tally)
        on_horizon()
    found: _Tallies = {}
    for (name, series), tallies in columns.items():
        parts = [[getattr(t, part) for t in tallies] for part in ("numerator", "denominator")]
        found.setdefault(name, {})[series] = Tally(*(np.concatenate(part, 1) for part in parts))
    return found


def _reference_colours(truth: Frames) -> np.ndarray:
    """(N, 10, 3, 3)."""
    rows = zip(truth.pictures[:, 0], truth.xy[:, :1], truth.is_visible[:, :1])
    return np.concatenate([limb_colours(*row) for row in rows])


def _mean_over_pictures(
    measure: Callable[[np.ndarray, np.ndarray], float],
    pictures: np.ndarray,
    true_pictures: np.ndarray,
    is_present: np.ndarray,
) -> Tally:
    """(N, H, W, 3) both, (N,) → (N, 1)."""
    tally = Tally(np.zeros((len(is_present), 1)), is_present[:, None].astype(float))
    for n in is_present.nonzero()[0]:
        tally.numerator[n] = measure(pictures[n], true_pictures[n])
    return tally


def _rows_of_actions(actions: Sequence[str | None] | None) -> list[tuple[str, np.ndarray]]:
    """Each known action with the samples that show it, in alphabetical order."""
    known = sorted({action for action in actions or () if action is not None})
    return [(action, np.array([n for n, other in enumerate(actions or ()) if other == action])) for action in known]


def _summarised(tallies: _Tallies, clip: np.ndarray) -> list[Score]:
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
