"""All scores of roll-outs: per horizon, beside the baselines, with intervals over clips, for all and by action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3.metrics.agreement import agreement, limb_colours
from m3.metrics.baselines import PoseFrames
from m3.metrics.bootstrap import ClipBootstrap, interval, quotient
from m3.metrics.draws import best_of, diversity, mean_of
from m3.metrics.measures import Tally, psnr_db
from m3.metrics.tallies import RolloutTokens, Tallies, joint_tallies, picture_tallies, token_tallies
from m3.rollout import Frames, TokenFrames, nothing_moves

BASELINES = ("nothing_moves", "constant_velocity")
"""Series that the model is compared with, pair by pair."""

OF_JOINTS = ("pck@0.05", "pck@0.1", "joint_error", "visibility_f1", "coords_accuracy")
OF_PICTURES = ("psnr", "ssim", "psnr_real", "ssim_real", "tok_rgb_accuracy", "agreement", "agreement@0.05",
               "diversity_pictures")  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A score: its unit, whether "higher", "lower" or "neither" is better, and what the quotient of sums still needs.

    is_error: the quotient itself is better where it is lower, whatever becomes of it.
    """

    unit: str
    is_better: str
    is_error: bool = False
    transform: Callable[[np.ndarray], np.ndarray] = lambda quotients: quotients


KINDS = {
    "pck@0.05": Kind("share", "higher"),
    "pck@0.1": Kind("share", "higher"),
    "joint_error": Kind("px", "lower", is_error=True),
    "visibility_f1": Kind("share", "higher"),
    "psnr": Kind("dB", "higher", True, psnr_db),
    "ssim": Kind("share", "higher"),
    "psnr_real": Kind("dB", "higher", True, psnr_db),
    "ssim_real": Kind("share", "higher"),
    "tok_rgb_accuracy": Kind("share", "higher"),
    "coords_accuracy": Kind("share", "higher"),
    "agreement": Kind("share", "higher"),
    "agreement@0.05": Kind("share", "higher"),
    "diversity_joints": Kind("px", "neither"),
    "diversity_pictures": Kind("levels", "neither", transform=np.sqrt),
}


@dataclass(frozen=True)
class Draw:
    """Other roll-outs from the same references: (N, T + 1) frames and their tokens."""

    frames: Frames
    tokens: TokenFrames


@dataclass(frozen=True)
class Context:
    """What else is known of N samples. What is not known leaves its scores absent.

    has_joints: (N,) bool, whose truth has annotated joints; None: all of them.
    has_pictures: whether the model knows pictures.
    clip: (N,) labels; None: each sample is a clip of its own.
    action: (N,) labels, None for unknown ones; None: nothing is broken down by action.
    constant_velocity: (N, T + 1) joints of that baseline.
    tokens: of predicted and true frames.
    real_pictures: (N, T + 1, H, W, 3) uint8, the real frames on the canvas.
    is_real: (N, T + 1) bool, where there is one.
    argmax: the roll-outs with the likeliest id everywhere.
    draws: several drawn at random from each reference; needs `tokens`.
    """

    has_joints: np.ndarray | None = None
    has_pictures: bool = True
    clip: np.ndarray | None = None
    action: Sequence[str | None] | None = None
    constant_velocity: PoseFrames | None = None
    tokens: RolloutTokens | None = None
    real_pictures: np.ndarray | None = None
    is_real: np.ndarray | None = None
    argmax: Draw | None = None
    draws: Sequence[Draw] = ()


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
    series: "model", then what stands beside it; see `m3.metrics.record.SERIES`. Of the diversity "sample" alone.
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
    tallies = _known(_tallies(predicted, truth, extent, context, clip, on_horizon), context)
    scores = _summarised(tallies, clip)
    for action, rows in _rows_of_actions(context.action):
        chosen = {
            name: {series: Tally(t.numerator[rows], t.denominator[rows]) for series, t in lines.items()}
            for name, lines in tallies.items()
        }
        for whole, part in zip(scores, _summarised(chosen, clip[rows])):
            whole.by_action[action] = part
    return scores


def _known(tallies: dict[str, dict[str, Tally]], context: Context) -> dict[str, dict[str, Tally]]:
    """Without scores that have no truth or no sense."""
    if not context.has_pictures:
        tallies = {name: lines for name, lines in tallies.items() if name not in OF_PICTURES}
    if context.has_joints is None or context.has_joints.all():
        return tallies
    if not context.has_joints.any():
        return {name: lines for name, lines in tallies.items() if name not in OF_JOINTS}
    is_kept = context.has_joints[:, None]
    return {
        name: {series: tally.only(is_kept) for series, tally in lines.items()} if name in OF_JOINTS else lines
        for name, lines in tallies.items()
    }


def _tallies(
    predicted: Frames,
    truth: Frames,
    extent: np.ndarray,
    context: Context,
    clip: np.ndarray,
    on_horizon: Callable[[], None],
) -> dict[str, dict[str, Tally]]:
    """Score → series → tally."""
    tokens, still = context.tokens, nothing_moves(truth)
    found: dict[str, dict[str, Tally]] = {}

    def add(series: str, tallies: Tallies) -> None:
        for name, tally in tallies.items():
            found.setdefault(name, {})[series] = tally

    def of_draw(draw: Draw) -> Tallies:
        made = joint_tallies(draw.frames, truth, extent) | _seen(draw.frames, truth, context)
        return made if tokens is None else made | token_tallies(draw.tokens, tokens.truth)

    add("model", joint_tallies(predicted, truth, extent))
    add("nothing_moves", joint_tallies(still, truth, extent))
    if context.constant_velocity is not None:
        add("constant_velocity", joint_tallies(context.constant_velocity, truth, extent))
    if tokens is not None:
        add("model", token_tallies(tokens.predicted, tokens.truth))
        add("nothing_moves", token_tallies(tokens.truth.still(), tokens.truth))
        if context.constant_velocity is not None:
            moving = tokens.of_joints(context.constant_velocity)
            add("constant_velocity", token_tallies(moving, tokens.truth, ("coords_accuracy",)))
    add("model", _seen(predicted, truth, context))
    add("nothing_moves", _seen(still, truth, context))
    if context.real_pictures is not None:
        add("tokenizer", _seen(truth, truth, context, ("psnr_real", "ssim_real")))
        add("real_reference", _of_real_reference(truth, context))
    for series, tallies in _agreements(predicted, truth, clip, context.has_pictures, on_horizon).items():
        add(series, tallies)
    if context.argmax is not None:
        add("argmax", of_draw(context.argmax))
    if context.draws:
        drawn = [of_draw(draw) for draw in context.draws]
        add("sample", {name: mean_of([each[name] for each in drawn]) for name in drawn[0]})
        add("best_of_n", {name: best_of([each[name] for each in drawn], KINDS[name].is_error) for name in drawn[0]})
        add("sample", diversity([draw.frames for draw in context.draws]))
    return found


def _seen(
    frames: Frames, truth: Frames, context: Context, names: Sequence[str] = ("psnr", "ssim", "psnr_real", "ssim_real")
) -> Tallies:
    """Scores of pictures against the truth and, where they are at hand, the real ones."""
    is_present = truth.is_present & frames.is_present & context.has_pictures
    found = picture_tallies(frames.pictures, truth.pictures, is_present)
    if context.real_pictures is not None:
        real = picture_tallies(frames.pictures, context.real_pictures, is_present & context.is_real)
        found |= {f"{name}_real": tally for name, tally in real.items()}
    return {name: tally for name, tally in found.items() if name in names}


def _of_real_reference(truth: Frames, context: Context) -> Tallies:
    copied = np.broadcast_to(context.real_pictures[:, :1], context.real_pictures.shape)
    is_scored = truth.is_present & context.is_real & context.is_real[:, :1]
    return {f"{name}_real": t for name, t in picture_tallies(copied, context.real_pictures, is_scored).items()}


def _agreements(
    predicted: Frames, truth: Frames, clip: np.ndarray, has_pictures: bool, on_horizon: Callable[[], None]
) -> dict[str, Tallies]:
    """Of the model, of its pictures with the reference's joints, and of the truth."""
    rows = zip(truth.pictures[:, 0], truth.xy[:, :1], truth.is_visible[:, :1])
    colours = np.concatenate([limb_colours(*row) for row in rows])  # (N, 10, 3, 3) of the references
    columns: dict[tuple[str, str], list[Tally]] = {}
    for horizon in range(1, truth.is_present.shape[1]):
        for series, pictures, frames, column in (
            ("model", predicted.pictures, predicted, horizon),
            ("reference_joints", predicted.pictures, truth, 0),
            ("truth", truth.pictures, truth, horizon),
        ):
            joints = frames.xy[:, column], frames.is_visible[:, column]
            is_scored = truth.is_present[:, horizon] & has_pictures
            made = agreement(pictures[:, horizon], *joints, is_scored, colours, clip)
            for name, tally in made.items():
                columns.setdefault((series, name), []).append(tally)
        on_horizon()
    found: dict[str, Tallies] = {}
    for (series, name), parts in columns.items():
        found.setdefault(series, {})[name] = Tally(
            np.concatenate([tally.numerator for tally in parts], 1),
            np.concatenate([tally.denominator for tally in parts], 1),
        )
    return found


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
