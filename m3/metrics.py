"""Scores of a roll-out against the truth, per horizon, beside the baseline "nothing moves"."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from m3.rollout import Frames, nothing_moves

SCHEMA_VERSION = 1
MAX_PSNR_DB = 100.0
"""What equal pictures count, so that a mean over pictures stays finite."""

PICTURES_AGAINST = "the truth's tokens, decoded; scores against the real frames are absent, shards hold no pixels"


def pck(xy: np.ndarray, true_xy: np.ndarray, is_scored: np.ndarray, extent: np.ndarray, a: float) -> float:
    """Percentage of correct keypoints: the share in [0, 1] of scored joints closer than a · L to the truth.

    Args:
        xy, true_xy: (N, 13, 2) canvas pixels.
        is_scored: (N, 13) bool, the joints visible in the truth.
        extent: (N,) L in canvas pixels, `PairInfo.pose_extent_px`.
    """
    is_correct = np.linalg.norm(xy - true_xy, axis=-1) < a * extent[:, None]
    return float(is_correct[is_scored].mean())


def joint_error_px(xy: np.ndarray, true_xy: np.ndarray, is_scored: np.ndarray) -> float:
    """Mean distance in canvas pixels over the scored joints; shapes as in `pck`."""
    return float(np.linalg.norm(xy - true_xy, axis=-1)[is_scored].mean())


def visibility_f1(is_visible: np.ndarray, is_truly_visible: np.ndarray) -> float:
    """F1 of "this joint is visible" over (N, 13) joints; 1 where neither says so of any joint."""
    num_hits = (is_visible & is_truly_visible).sum()
    num_claims = is_visible.sum() + is_truly_visible.sum()
    return float(2 * num_hits / num_claims) if num_claims else 1.0


def psnr_db(picture: np.ndarray, true_picture: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures of one shape; `MAX_PSNR_DB` where they are equal."""
    error = np.square(picture.astype(np.float64) - true_picture).mean()
    return min(MAX_PSNR_DB, 10 * math.log10(255**2 / error)) if error else MAX_PSNR_DB


def ssim(picture: np.ndarray, true_picture: np.ndarray) -> float:
    """Structural similarity (Wang et al., TIP 2004) of two (H, W, 3) uint8 pictures, as scikit-image computes it."""
    return float(structural_similarity(picture, true_picture, data_range=255, channel_axis=-1))


@dataclass(frozen=True)
class Score:
    """One number per horizon, for the model and for "nothing moves".

    name: such as "pck@0.1"; unit: "share", "px" or "dB"; is_better: "higher" or "lower".
    PCK and joint error are means over the samples' scored joints, PSNR and SSIM over their pictures.
    num_samples: [T] samples that the number of each horizon rests on; 0 makes both numbers None.
    model, nothing_moves: [T] finite numbers or None.
    """

    name: str
    unit: str
    is_better: str
    num_samples: list[int]
    model: list[float | None]
    nothing_moves: list[float | None]


def score(predicted: Frames, truth: Frames, extent: np.ndarray, on_horizon: Callable[[], None]) -> list[Score]:
    """All scores of N roll-outs over T horizons.

    Args:
        predicted, truth: (N, T + 1) frames with the same references.
        extent: (N,) pose_extent_px, NaN where unknown: such samples count for no PCK.
        on_horizon: called after each horizon, for a progress bar.
    """
    baseline = nothing_moves(truth)
    columns: dict[str, list[tuple[int, float | None, float | None]]] = {}
    for horizon in range(1, truth.is_present.shape[1]):
        model = _scores_at(predicted, truth, extent, horizon)
        still = _scores_at(baseline, truth, extent, horizon)
        for name, (num_samples, value) in model.items():
            columns.setdefault(name, []).append((num_samples, value, still[name][1]))
        on_horizon()
    return [Score(name, *_KINDS[name], *(list(column) for column in zip(*rows))) for name, rows in columns.items()]


_KINDS = {
    "pck@0.05": ("share", "higher"),
    "pck@0.1": ("share", "higher"),
    "joint_error": ("px", "lower"),
    "visibility_f1": ("share", "higher"),
    "psnr": ("dB", "higher"),
    "ssim": ("share", "higher"),
}


def _scores_at(frames: Frames, truth: Frames, extent: np.ndarray, horizon: int) -> dict[str, tuple[int, float | None]]:
    """Score name → (samples it rests on, value or None) at one horizon."""
    present = truth.is_present[:, horizon].nonzero()[0]
    posed = present[truth.is_visible[present, horizon].any(-1)]
    sized = posed[np.isfinite(extent[posed])]

    def joints(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return frames.xy[rows, horizon], truth.xy[rows, horizon], truth.is_visible[rows, horizon]

    def visibility(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return frames.is_visible[rows, horizon], truth.is_visible[rows, horizon]

    def mean_over_pictures(measure: Callable[[np.ndarray, np.ndarray], float]) -> float:
        return float(np.mean([measure(frames.pictures[n, horizon], truth.pictures[n, horizon]) for n in present]))

    found: dict[str, tuple[np.ndarray, Callable[[], float]]] = {
        "pck@0.05": (sized, lambda: pck(*joints(sized), extent[sized], 0.05)),
        "pck@0.1": (sized, lambda: pck(*joints(sized), extent[sized], 0.1)),
        "joint_error": (posed, lambda: joint_error_px(*joints(posed))),
        "visibility_f1": (present, lambda: visibility_f1(*visibility(present))),
        "psnr": (present, lambda: mean_over_pictures(psnr_db)),
        "ssim": (present, lambda: mean_over_pictures(ssim)),
    }
    return {name: (len(rows), value() if len(rows) else None) for name, (rows, value) in found.items()}


def metrics_record(scores: list[Score], facts: dict[str, Any]) -> dict[str, Any]:
    """What `metrics.json` holds: the facts of the run, then each score with its numbers per horizon."""
    num_horizons = len(scores[0].num_samples)
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "pictures_against": PICTURES_AGAINST,
        "scores": {
            s.name: {
                "unit": s.unit,
                "is_better": s.is_better,
                "horizons": [
                    {
                        "horizon": k + 1,
                        "num_samples": s.num_samples[k],
                        "model": s.model[k],
                        "nothing_moves": s.nothing_moves[k],
                    }
                    for k in range(num_horizons)
                ],
            }
            for s in scores
        },
    }


def write_metrics(path: Path, record: dict[str, Any]) -> None:
    """Write JSON under its final name only when complete. Raises ValueError for a number that is not finite."""
    text = json.dumps(record, indent=2, allow_nan=False)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text + "\n")
    os.replace(unfinished, path)
