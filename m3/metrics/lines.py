"""Every score of every series, of the model as of all that stands beside it, before anything is summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from m3.core.frames import Frames, nothing_moves
from m3.metrics.agreement import agreement, limb_colours
from m3.metrics.context import Context, Draw
from m3.metrics.draws import best_of, diversity, mean_of
from m3.metrics.kinds import KINDS, OF_JOINTS, OF_PICTURES
from m3.metrics.measures import Tally
from m3.metrics.tallies import Tallies, joint_tallies, picture_tallies, token_tallies


def all_tallies(
    predicted: Frames,
    truth: Frames,
    extent: np.ndarray,
    context: Context,
    clip: np.ndarray,
    on_horizon: Callable[[], None],
) -> dict[str, dict[str, Tally]]:
    """Score → series → tally, of all that can be known of N roll-outs; arguments as for `m3.metrics.scores.score`."""
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
    return _known(found, context)


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
