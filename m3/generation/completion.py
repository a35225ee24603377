"""Scores of completed pairs: any modality, generated from any others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from m3.core.joints import NUM_JOINTS
from m3.core.modalities import frame_of
from m3.generation.generation import Generation
from m3.metrics import Comparison, Confusion, MetricSpec, Score, confusion, score

FRAMES = ("reference", "successor")
"""The frames of a pair."""


def generated_frames(made: Generation) -> dict[int, set[str]]:
    """Frame of a pair, 0 or 1 → its generated modalities; without frames that have none."""
    found: dict[int, set[str]] = {}
    for modality in made.generated:
        name, frame = frame_of(modality)
        found.setdefault(frame, set()).add(name)
        if modality == "motion_next" and "coords" in made.predicted.values:
            found[frame].add("coords")  # joints follow from their displacement
    return dict(sorted(found.items()))


def completion_scores(made: Generation, metrics: Mapping[str, MetricSpec]) -> dict[str, list[Score]]:
    """Name of a frame → scores of its generated modalities. "Nothing moves" is the other frame of the pair.

    Given joints are not scored, and no token accuracy is computed for a modality with given tokens.
    """
    found, given = {}, made.given.tokens
    assert given is not None, "decoded frames keep their tokens"
    for frame, generated in generated_frames(made).items():
        if not made.truth.is_present[:, frame].any():
            found[FRAMES[frame]] = []
            continue
        order = [1 - frame, frame]  # as `Comparison` takes it: the other frame, then the generated one
        is_given = {name: known[:, frame] for name, known in given.is_known.items()}
        compared = Comparison(
            made.predicted[:, order],
            made.truth[:, order],
            made.prompts.extent,
            clip=made.prompts.clip,
            action=made.prompts.actions,
            has_joints=made.prompts.has_joints,
            is_given_joint=_given_joints(is_given["coords"]) if "coords" in is_given else None,
            real=None if made.prompts.real is None else made.prompts.real[:, order],
            samples=[each[:, order] for each in made.samples],
        )
        wanted = {
            name: spec
            for name, spec in metrics.items()
            if spec.modality in generated
            and (made.prompts.has_truth_of(spec.modality, slice(frame, frame + 1)) or not spec.needs_truth)
            and not spec.rollouts_only
            and not (spec.is_of_tokens and is_given[spec.modality].any())
        }
        found[FRAMES[frame]] = score(compared, wanted)
    return found


def action_confusion(made: Generation) -> Confusion | None:
    """Of the generated actions of prompts with a label; None where no action was generated, or none has a label."""
    predicted, truth = made.predicted.tokens, made.truth.tokens
    if "action" not in made.generated or predicted is None or truth is None:
        return None
    has_label = truth.is_known["action"][:, 0, 0]  # (N,)
    if not has_label.any():
        return None
    true, found = (tokens.ids["action"][has_label, 0, 0] for tokens in (truth, predicted))
    return confusion(true, found, made.actions)


def _given_joints(is_given: np.ndarray) -> np.ndarray:
    """(N, 39) bool, given joint tokens of the generated frame → (N, 2, 13) bool: joints whose place is given there."""
    in_both = np.zeros((len(is_given), 2, NUM_JOINTS), bool)
    in_both[:, 1] = is_given.reshape(-1, 3, NUM_JOINTS)[:, :2].all(1)
    return in_both
