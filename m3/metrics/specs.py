"""The table of metrics: one entry per metric, which computing, printing, plotting, report, card and preview read.

A metric is added by one entry of `METRICS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from m3.core.frames import Frames
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import CLIP_MODALITIES, TRANSITIONS
from m3.metrics import measures
from m3.metrics.agreement import agreement, limb_colors
from m3.metrics.comparison import Comparison
from m3.metrics.frechet import MIN_SAMPLES, frechet_distance, motion_moments
from m3.metrics.measures import Measured, Ratio
from m3.metrics.samples import joint_diversity_px, picture_diversity

SERIES = {
    "model": "the roll-outs, as sampling.schemes sets",
    "argmax": "the roll-outs with the likeliest id everywhere",
    "sample": "the mean over the rollout.num_samples random roll-outs of each reference",
    "best_of_n": "the best of these, chosen by the truth for each score, roll-out and horizon",
    "median_of_n": "the median over these of the score of each roll-out and horizon",
    "nothing_moves": "every successor is the reference: its tokens, decoded, and its joints",
    "constant_velocity": "joints keep their velocity from the frame before the reference; only where there is one",
    "damped_velocity": "joints move on by 0.7 of their last displacement, each further step by 0.6 of the step before",
    "tokenizer": "the truth's tokens, decoded: the upper bound for this tokenizer",
    "real_reference": "the real reference frame, copied",
    "reference_joints": "the predicted pictures with the reference's joints: above it, the picture moved with them",
    "truth": "the truth's joints in the truth's decoded pictures: the upper bound to expect",
}
"""Series of a score and what they are. The model comes first."""

BASELINES = ("nothing_moves", "constant_velocity", "damped_velocity")
"""Series that the model is compared with, pair by pair."""

_SAMPLES = ("argmax", "sample", "best_of_n", "median_of_n")
_ROLL_OUTS = ("model", *BASELINES, *_SAMPLES)
_PICTURES_ONLY = ("model", "nothing_moves", "tokenizer", "real_reference", *_SAMPLES)
MODEL_ONLY = ("model", *_SAMPLES)
"""Of modalities that do not differ from frame to frame, or are no property of one: a copy of them is no baseline."""
_AGREEMENT = ("model", "reference_joints", "truth")
_SAMPLES_ONLY = ("sample",)

NO_TRUTH = "no ground truth: a picture alone, or nothing, was given"
_NO_JOINTS = "no joints: the truth is not annotated, or the model has none"
_NO_PICTURES = "no pictures: the model or the ground truth has none"
_NO_PIXELS = "shards hold no pixels: give the data's source=…"
_NO_SAMPLES_OF_JOINTS = "one roll-out of each reference, or no joints: give rollout.num_samples=8"
_NO_SAMPLES_OF_PICTURES = "one roll-out of each reference, or no pictures: give rollout.num_samples=8"
_NO_BOX = "no pictures, or no joints whose motion says where to look: the model or the ground truth lacks them"
_MOVING_BOX = (
    f"the box around the joints that are truly more than {measures.MOVED:g} L from the reference, and visible there "
    f"too, at both places, with a margin of {measures.BOX_MARGIN:g} L; pictures without such joints are not scored"
)
_NOT_BOTH = "no pictures or no joints: the model or the ground truth lacks one of them"


def _identity(ratios: np.ndarray) -> np.ndarray:
    return ratios


@dataclass(frozen=True)
class MetricSpec:
    """A metric.

    name: key in metrics.json. modality: the modality of a frame that it scores, such as "coords".
    measure: (frames of a series, comparison) → (N, T) `Ratio`, or None where frames or truth lack what it needs. With
        `series` = ("sample",) the first argument is the list of samples. `FeatureSets` instead of a ratio make a
        distance between sets, and have neither `transform` nor samples.
    unit: "share", "ratio", "px", "L" (the larger side of the clip's pose box), "dB", "levels" or "squared distance".
    is_better: which values are better. "neither" for properties, such as the amount of motion: no value of one makes a
        prediction better, so it has no gains over baselines and no best of several samples.
    label: for plots and reports, without the unit. description: of the value, a phrase.
    why_absent: the reason given where it cannot be computed.
    transform: from ratios of sums, (…, T) or (…, T, M), to the score, (…, T); such as √.
    min_samples: fewer scored samples have no score. Above 1 for a score that describes the samples as a set, and not a
        mean over them: no best of several samples, and "sample" is the score of all of them together.
    num_features: of a distance between sets in the features of a network; at most as many samples have a caveat.
    is_error: the ratio before `transform` is better where it is lower.
    is_percent: a share that is shown in percent.
    short: label in the tables of first scores; None: not among them. headline: its place there, default last.
    series: the series that it is computed for, a part of `SERIES`.
    needs_annotation: only samples whose truth has annotated joints are scored.
    needs_truth: False for properties of the samples alone.
    is_of_tokens: it compares ids; in a completion only where no part of the modality was given.
    rollouts_only: not computed for completions.
    in_preview, by_action: shown in training's previews; in the report's table by action.
    chance, of_truth: value of a random guess, and of the truth itself where that is not a series; drawn in plots.
        None: none.
    """

    name: str
    modality: str
    measure: Callable[[Any, Comparison], Measured | None]
    unit: str
    is_better: Literal["higher", "lower", "neither"]
    label: str
    description: str
    why_absent: str
    transform: Callable[[np.ndarray], np.ndarray] = _identity
    min_samples: int = 1
    num_features: int = 0
    is_error: bool = False
    is_percent: bool = False
    short: str | None = None
    headline: int = sys.maxsize
    series: Sequence[str] = field(default=_ROLL_OUTS)
    needs_annotation: bool = False
    needs_truth: bool = True
    is_of_tokens: bool = False
    rollouts_only: bool = False
    in_preview: bool = False
    by_action: bool = False
    chance: float | None = None
    of_truth: float | None = None

    @property
    def is_of_set(self) -> bool:
        """Whether it describes all samples as a set."""
        return self.min_samples > 1

    @property
    def shown_unit(self) -> str:
        """The unit as displayed: "%", "px", "L", "dB", "levels", or "" for a share, a ratio or a squared distance."""
        return "%" if self.is_percent else "" if self.unit in ("share", "ratio", "squared distance") else self.unit

    @property
    def factor(self) -> int:
        """From the value to the displayed number."""
        return 100 if self.is_percent else 1

    @property
    def num_digits(self) -> int:
        """Digits after the point of the displayed number."""
        return {"": 3, "L": 3}.get(self.shown_unit, 1) if self.unit not in ("ratio", "squared distance") else 2

    @property
    def short_title(self) -> str:
        """Short label and unit: "PCK@0.1, %"."""
        return f"{self.short}, {self.shown_unit}" if self.shown_unit else self.short or self.label

    @property
    def title(self) -> str:
        """Label and unit: "PCK@0.1 (%)"."""
        return f"{self.label} ({self.shown_unit})" if self.shown_unit else self.label

    def text(self, value: float | None) -> str:
        """A value as displayed; "–" for None."""
        return "–" if value is None else f"{value * self.factor:.{self.num_digits}f}"


class _Horizons(NamedTuple):
    """Two sets of poses at the horizons, in which given joints are invisible, and the true reference.

    xy: (N, T, 13, 2). is_visible: (N, T, 13). is_present: (N, T) of both. reference_xy: (N, 1, 13, 2).
    is_in_reference: (N, 1, 13) joints visible in it.
    """

    xy: np.ndarray
    is_visible: np.ndarray
    true_xy: np.ndarray
    is_truly_visible: np.ndarray
    is_present: np.ndarray
    reference_xy: np.ndarray
    is_in_reference: np.ndarray

    @property
    def is_scored(self) -> np.ndarray:
        """(N, T, 13) joints visible in the truth."""
        return self.is_truly_visible & self.is_present[..., None]


def _poses(frames: Frames, compared: Comparison) -> _Horizons | None:
    if "coords" not in frames.values or "coords" not in compared.truth.values:
        return None
    poses, true = frames.values["coords"], compared.truth.values["coords"]
    is_present = (compared.truth.is_present & frames.is_present)[:, 1:]
    is_asked = True if compared.is_given_joint is None else ~compared.is_given_joint[:, 1:]
    return _Horizons(
        poses.xy[:, 1:],
        poses.is_visible[:, 1:] & is_asked,
        true.xy[:, 1:],
        true.is_visible[:, 1:] & is_asked,
        is_present,
        true.xy[:, :1],
        true.is_visible[:, :1] & compared.truth.is_present[:, :1, None],
    )


def _has_successors(frames: Frames, modality: str) -> bool:
    """Whether some successor frame has this modality: a model may have it in the reference frame alone."""
    if frames.tokens is None:
        return modality in frames.values
    return modality in frames.tokens.ids and bool(frames.tokens.is_known[modality][:, 1:].any())


def _pck(threshold: float, over: Over) -> Callable[[Frames, Comparison], Ratio | None]:
    def measure(frames: Frames, compared: Comparison) -> Ratio | None:
        poses = _poses(frames, compared)
        if poses is None:
            return None
        is_scored = poses.is_scored
        if over != "truth":
            is_scored = is_scored & poses.is_in_reference
        if over == "moved":
            is_scored &= measures.has_moved(poses.true_xy, poses.reference_xy, compared.extent, threshold)
        return measures.pck(poses.xy, poses.true_xy, is_scored, compared.extent, threshold)

    return measure


def _joint_error(frames: Frames, compared: Comparison) -> Ratio | None:
    poses = _poses(frames, compared)
    return None if poses is None else measures.joint_error_px(poses.xy, poses.true_xy, poses.is_scored)


def _motion_ratio(frames: Frames, compared: Comparison) -> Ratio | None:
    poses = _poses(frames, compared)
    if poses is None:
        return None
    is_scored = poses.is_scored & poses.is_in_reference
    return measures.motion_ratio(poses.xy, poses.true_xy, poses.reference_xy, is_scored)


def _motion_frechet(frames: Frames, compared: Comparison) -> Ratio | None:
    if "coords" not in frames.values or "coords" not in compared.truth.values:
        return None
    poses, true = frames.values["coords"], compared.truth.values["coords"]
    is_present = compared.truth.is_present & frames.is_present
    moments = motion_moments(poses.xy, true.xy, true.is_visible, is_present, compared.extent)
    return moments if moments.denominator.sum(0).max() >= MIN_SAMPLES else None


def _visibility_f1(frames: Frames, compared: Comparison) -> Ratio | None:
    poses = _poses(frames, compared)
    if poses is None:
        return None
    return measures.visibility_f1(poses.is_visible, poses.is_truly_visible, poses.is_present)


def _pictures(
    measure: Callable[[np.ndarray, np.ndarray], float], against_real: bool = False
) -> Callable[[Frames, Comparison], Ratio | None]:
    """A measure of two (H, W, 3) uint8 pictures, against the decoded truth or the real frames."""

    def measure_all(frames: Frames, compared: Comparison) -> Ratio | None:
        true = compared.real if against_real else compared.truth
        if true is None or not _has_pictures(frames, true, compared):
            return None
        pictures, true_pictures = frames.values["tok_rgb"], true.values["tok_rgb"]
        is_scored = (compared.truth.is_present & frames.is_present & true.is_present)[:, 1:]
        found = Ratio(np.zeros(is_scored.shape), is_scored.astype(float))
        for n, k in np.argwhere(is_scored):
            found.numerator[n, k] = measure(pictures[n, k + 1], true_pictures[n, k + 1])
        return found

    return measure_all


def _pictures_in_boxes(
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], float], against_real: bool = False
) -> Callable[[Frames, Comparison], Ratio | None]:
    """The same for a measure in a box, (4,) int64, which is weighted by its pixels; a picture without is not scored."""

    def measure_all(frames: Frames, compared: Comparison) -> Ratio | None:
        true = compared.real if against_real else compared.truth
        if true is None or "coords" not in compared.truth.values or not _has_pictures(frames, true, compared):
            return None
        pictures, true_pictures = frames.values["tok_rgb"], true.values["tok_rgb"]
        boxes = _moving_boxes(compared)
        area = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)  # (N, T)
        area = np.where((compared.truth.is_present & frames.is_present & true.is_present)[:, 1:], area, 0)
        found = Ratio(np.zeros(area.shape), area.astype(float))
        for n, k in np.argwhere(area > 0):
            found.numerator[n, k] = area[n, k] * measure(pictures[n, k + 1], true_pictures[n, k + 1], boxes[n, k])
        return found

    return measure_all


def _has_pictures(frames: Frames, true: Frames, compared: Comparison) -> bool:
    has_both = "tok_rgb" in frames.values and "tok_rgb" in true.values
    return has_both and _has_successors(compared.truth, "tok_rgb")


def _moving_boxes(compared: Comparison) -> np.ndarray:
    """(N, T, 4) int64 boxes of `measures.moving_boxes`, of joints that are visible in the truth and the reference."""
    key = "boxes of the moving joints"
    if key not in compared.cache:
        poses, pictures = compared.truth.values["coords"], compared.truth.values["tok_rgb"]
        xy, reference_xy = poses.xy[:, 1:], poses.xy[:, :1]
        is_present = compared.truth.is_present[:, 1:] & compared.truth.is_present[:, :1]
        is_seen = poses.is_visible[:, 1:] & poses.is_visible[:, :1] & is_present[..., None]
        is_moving = is_seen & measures.has_moved(xy, reference_xy, compared.extent, measures.MOVED)
        compared.cache[key] = measures.moving_boxes(xy, reference_xy, is_moving, compared.extent, pictures.shape[2:4])
    return compared.cache[key]


def _accuracy(modality: str, of_changed: bool = False) -> Callable[[Frames, Comparison], Ratio | None]:
    """x and y tokens are scored for the truth's visible joints only: the others are never targets.

    of_changed: only of tokens whose true id is not that of the reference.
    """

    def measure(frames: Frames, compared: Comparison) -> Ratio | None:
        tokens, true = frames.tokens, compared.truth.tokens
        if tokens is None or true is None or modality not in tokens.ids:
            return None
        if not _has_successors(compared.truth, modality):
            return None
        ids, true_ids = tokens.ids[modality][:, 1:], true.ids[modality][:, 1:]
        is_present = (true.is_present & tokens.is_present)[:, 1:, None]
        is_scored = np.broadcast_to(is_present, true_ids.shape)
        if modality == "coords":
            is_visible = true_ids[..., 2 * NUM_JOINTS :].astype(bool)
            is_target = np.concatenate([is_visible, is_visible, np.ones_like(is_visible)], -1)
            is_scored = is_scored & is_target
        else:  # of a text that ends too early the rest counts as wrong
            is_there = tokens.is_known[modality].any(-1, keepdims=True)
            is_scored = is_scored & (true.is_known[modality] & is_there)[:, 1:]
        if of_changed:
            is_reference = true.is_known[modality][:, :1] & true.is_present[:, :1, None]
            is_scored = is_scored & is_reference & (true_ids != true.ids[modality][:, :1])
        return measures.token_accuracy(ids, true_ids, is_scored)

    return measure


def _agreement(name: str) -> Callable[[Frames, Comparison], Ratio | None]:
    """Both agreements of a series are computed at once, over all horizons."""

    def measure(frames: Frames, compared: Comparison) -> Ratio | None:
        needed = {"tok_rgb", "coords"}
        has_truth = all(_has_successors(compared.truth, name) for name in needed)
        if not has_truth or not needed <= frames.values.keys() or not _has_successors(frames, "coords"):
            return None
        key = "agreement", id(frames)
        if key not in compared.cache:
            compared.cache[key] = _agreements(frames, compared)
        return compared.cache[key][name]

    return measure


def _agreements(frames: Frames, compared: Comparison) -> dict[str, Ratio]:
    truth, key = compared.truth, "limb colors of the references"
    if key not in compared.cache:
        poses = truth.values["coords"][:, :1]
        rows = zip(truth.values["tok_rgb"][:, 0], poses.xy, poses.is_visible)
        compared.cache[key] = np.concatenate([limb_colors(*row) for row in rows])  # (N, 10, 3, 3)
    pictures, poses = frames.values["tok_rgb"], frames.values["coords"]
    columns = [
        agreement(
            pictures[:, horizon],
            poses.xy[:, horizon],
            poses.is_visible[:, horizon],
            truth.is_present[:, horizon],
            compared.cache[key],
            compared.clips,
        )  # fmt: skip
        for horizon in range(1, truth.is_present.shape[1])
    ]
    return {
        name: Ratio(*(np.concatenate([getattr(column[name], part) for column in columns], 1)
                      for part in ("numerator", "denominator")))
        for name in columns[0]
    }  # fmt: skip


def _diversity(
    modality: str, measure: Callable[[Sequence[Frames], Comparison], Ratio | None]
) -> Callable[[Sequence[Frames], Comparison], Ratio | None]:
    def measure_all(samples: Sequence[Frames], compared: Comparison) -> Ratio | None:
        return measure(samples, compared) if _has_successors(samples[0], modality) else None

    return measure_all


Over = Literal["truth", "both", "moved"]
"""The joints of a PCK."""

_PCK_OVER: dict[Over, tuple[str, str, str | None]] = {
    "truth": ("pck", "PCK@{}", "PCK@{}"),
    "both": ("pck_both", "PCK@{}, joints of the reference", None),
    "moved": ("pck_moved", "PCK@{}, moved joints", "moved@{}"),
}
"""Joints → name of the metric, label and short label."""


def pck_spec(
    threshold: float, description: str, headline: int = sys.maxsize, over: Over = "truth", **options: Any
) -> MetricSpec:
    """Percentage of correct keypoints at a threshold in units of L.

    over: "truth": the joints visible in the truth; "both": those visible in the reference too; "moved": of these the
        ones that truly moved by more than the threshold from the reference, of which "nothing moves" has 0.
    """
    name, label, short = _PCK_OVER[over]
    return MetricSpec(
        f"{name}@{threshold:g}", "coords", _pck(threshold, over), "share", "higher", label.format(f"{threshold:g}"),
        description, _NO_JOINTS, is_percent=True, short=short and short.format(f"{threshold:g}"), headline=headline,
        needs_annotation=True, in_preview=short is not None, **options,
    )  # fmt: skip


def accuracy_spec(modality: str, label: str, description: str) -> MetricSpec:
    """The share of a modality's tokens that equal the ground truth."""
    return MetricSpec(
        f"{modality}_accuracy", modality, _accuracy(modality), "share", "higher", label, description,
        f"no tokens of {modality}: the model or the ground truth has none",
        is_percent=True, is_of_tokens=True, needs_annotation=modality == "coords",
        series=MODEL_ONLY if modality in (*TRANSITIONS, *CLIP_MODALITIES) else _ROLL_OUTS,
    )  # fmt: skip


def _picture_spec(
    name: str, measure: Callable[[np.ndarray, np.ndarray], float], label: str, description: str, **options: Any
) -> MetricSpec:
    is_real = name.endswith("_real")
    return MetricSpec(
        name, "tok_rgb", _pictures(measure, is_real), options.pop("unit", "share"), "higher", label, description,
        _NO_PIXELS if is_real else _NO_PICTURES, series=_PICTURES_ONLY if is_real else _ROLL_OUTS, **options,
    )  # fmt: skip


def _moving_box_spec(
    name: str,
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    label: str,
    description: str,
    **options: Any,
) -> MetricSpec:
    is_real = name.endswith("_real")
    return MetricSpec(
        name, "tok_rgb", _pictures_in_boxes(measure, is_real), options.pop("unit", "share"), "higher", label,
        f"{description}, in {_MOVING_BOX}", f"{_NO_PIXELS}; or {_NO_BOX}" if is_real else _NO_BOX,
        series=_PICTURES_ONLY if is_real else _ROLL_OUTS, needs_annotation=True, **options,
    )  # fmt: skip


def _agreement_spec(name: str, label: str, description: str) -> MetricSpec:
    return MetricSpec(
        name, "tok_rgb", _agreement(name), "share", "higher", label, description, _NOT_BOTH, series=_AGREEMENT,
        chance=0.5,
    )  # fmt: skip


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        pck_spec(
            0.05, "share of the truth's visible joints closer than 0.05 L; L: larger side of the clip's pose box", 2
        ),
        pck_spec(0.1, "share of the truth's visible joints closer than 0.1 L", 1, by_action=True),
        MetricSpec(
            "joint_error", "coords", _joint_error, "px", "lower", "joint error",
            "mean distance over the truth's visible joints, in canvas pixels", _NO_JOINTS, is_error=True,
            short="joint error", headline=5, needs_annotation=True, in_preview=True, by_action=True,
        ),
        pck_spec(
            0.05,
            "PCK@0.05 over the joints that are truly more than 0.05 L from the reference, and visible there too",
            3, over="moved",
        ),
        pck_spec(0.05, "PCK@0.05 over the joints that are visible in the reference too", over="both"),
        MetricSpec(
            "motion_ratio", "coords", _motion_ratio, "ratio", "neither", "motion, predicted over true",
            "mean distance of the joints from the reference over the true mean, of joints visible in the truth and the "
            "reference: 1 is the true amount of motion, in whatever direction",
            "no joints, or none that moves: the truth is not annotated, or the model has none", short="motion ratio",
            headline=4, series=("model", *BASELINES, "argmax", "sample"), needs_annotation=True, in_preview=True,
            of_truth=1.0,
        ),
        MetricSpec(
            "motion_frechet", "coords", _motion_frechet, "L", "lower", "Fréchet distance of motion",
            "Fréchet distance between generated and true motion up to the horizon: features of displacements and "
            "accelerations of trunk, arms and legs",
            f"fewer than {MIN_SAMPLES} roll-outs whose truth shows trunk, arms and legs, or no joints",
            transform=frechet_distance, min_samples=MIN_SAMPLES, is_error=True, short="Fréchet", headline=6,
            series=("model", *BASELINES, "argmax", "sample"), needs_annotation=True, rollouts_only=True,
        ),
        MetricSpec(
            "visibility_f1", "coords", _visibility_f1, "share", "higher", "visibility F1", "F1 of the visible joints",
            _NO_JOINTS, needs_annotation=True, in_preview=True,
        ),
        _picture_spec(
            "psnr", measures.squared_error, "PSNR, decoded truth",
            "against the truth's tokens, decoded; of the mean squared error over all pictures, 100 dB where it is 0",
            unit="dB", transform=measures.psnr_db, is_error=True, short="PSNR", headline=7, in_preview=True,
            by_action=True,
        ),
        _picture_spec(
            "ssim", measures.ssim, "SSIM, decoded truth", "against the truth's tokens, decoded", short="SSIM",
            headline=9, in_preview=True,
        ),
        _picture_spec(
            "psnr_real", measures.squared_error, "PSNR, real frame", "against the real frame on the canvas", unit="dB",
            transform=measures.psnr_db, is_error=True,
        ),
        _picture_spec("ssim_real", measures.ssim, "SSIM, real frame", "against the real frame on the canvas"),
        _moving_box_spec(
            "psnr_moving", measures.squared_error_in, "PSNR in the moving box, decoded truth",
            "against the truth's tokens, decoded, of the mean squared error over all pixels", unit="dB",
            transform=measures.psnr_db, is_error=True, short="box PSNR", headline=8, in_preview=True, by_action=True,
        ),
        _moving_box_spec(
            "ssim_moving", measures.ssim_in, "SSIM in the moving box, decoded truth",
            "against the truth's tokens, decoded, mean over all pixels", short="box SSIM", headline=10,
        ),
        _moving_box_spec(
            "psnr_moving_real", measures.squared_error_in, "PSNR in the moving box, real frame",
            "against the real frame on the canvas, of the mean squared error over all pixels", unit="dB",
            transform=measures.psnr_db, is_error=True,
        ),
        _moving_box_spec(
            "ssim_moving_real", measures.ssim_in, "SSIM in the moving box, real frame",
            "against the real frame on the canvas, mean over all pixels",
        ),
        accuracy_spec("tok_rgb", "picture tokens right", "share of picture tokens that are the truth's"),
        MetricSpec(
            "tok_rgb_changed_accuracy", "tok_rgb", _accuracy("tok_rgb", of_changed=True), "share", "higher",
            "changed picture tokens right",
            "share of picture tokens that are the truth's, of those that the truth changes from the reference's: "
            "“nothing moves” has 0", "no tokens of tok_rgb that change: the model or the ground truth has none",
            is_percent=True, is_of_tokens=True, short="new tokens", headline=11, in_preview=True,
        ),
        accuracy_spec(
            "coords", "joint tokens right",
            "share of joint tokens that are the truth's; x and y of the truth's visible joints only",
        ),
        _agreement_spec(
            "agreement", "joints fit the picture, not others'",
            "share of other people's poses whose limbs fit the reference's colors worse than the predicted joints do, "
            "in the predicted picture: 0.5 is chance, 1 the best",
        ),
        _agreement_spec(
            "agreement@0.05", "joints fit the picture to 0.05",
            "the same with the predicted joints moved by 0.05 of the pose's size in eight directions",
        ),
        MetricSpec(
            "diversity_joints", "coords", _diversity("coords", joint_diversity_px), "px", "neither",
            "diversity of joints",
            "mean distance between the joints of two samples of one reference, visible in both, canvas px",
            _NO_SAMPLES_OF_JOINTS, series=_SAMPLES_ONLY, needs_truth=False,
        ),
        MetricSpec(
            "diversity_pictures", "tok_rgb", _diversity("tok_rgb", picture_diversity), "levels", "neither",
            "diversity of pictures",
            "root of the mean squared difference of two samples' pictures, in levels of 0 … 255",
            _NO_SAMPLES_OF_PICTURES, transform=np.sqrt, series=_SAMPLES_ONLY, needs_truth=False,
        ),
    )
}  # fmt: skip
"""Name → metric, in the order of metrics.json."""


def first_metrics(specs: Sequence[MetricSpec]) -> list[MetricSpec]:
    """The metrics with a short label, most important first."""
    return sorted((spec for spec in specs if spec.short is not None), key=lambda spec: spec.headline)
