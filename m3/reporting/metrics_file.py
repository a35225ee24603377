"""`metrics.json`: the facts of a run, then each score with its numbers per horizon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from m3.metrics.bootstrap import LEVEL_PERCENT, NUM_RESAMPLES
from m3.metrics.kinds import KINDS, OF_JOINTS, OF_PICTURES
from m3.metrics.scores import Score, Series

SCHEMA_VERSION = 2
_NUM_DIGITS = 6
"""After the point."""

SERIES = {
    "model": "the roll-outs, as sampling.schemes says",
    "argmax": "the roll-outs with the likeliest id everywhere",
    "sample": "the mean over the rollout.num_samples roll-outs that were drawn from each reference",
    "best_of_n": "the best of these, chosen by the truth for each score, roll-out and horizon",
    "nothing_moves": "every successor is the reference: its tokens, decoded, and its joints",
    "constant_velocity": "joints go on as they went from the frame before the reference; only where there is one",
    "tokenizer": "the truth's tokens, decoded: the most that any tokens of this tokenizer can reach",
    "real_reference": "the real reference frame, copied",
    "reference_joints": "the predicted pictures with the reference's joints: above it, the picture moved with them",
    "truth": "the truth's joints in the truth's decoded pictures: the most that can be expected",
}

SCORES = {
    "pck@0.05": "share of the truth's visible joints closer than 0.05 L; L: larger side of the clip's pose box",
    "pck@0.1": "share of the truth's visible joints closer than 0.1 L",
    "joint_error": "mean distance over the truth's visible joints, in canvas pixels",
    "visibility_f1": "F1 of the visible joints",
    "psnr": "against the truth's tokens, decoded; of the mean squared error over all pictures, 100 dB where it is 0",
    "ssim": "against the truth's tokens, decoded",
    "psnr_real": "against the real frame on the canvas",
    "ssim_real": "against the real frame on the canvas",
    "tok_rgb_accuracy": "share of picture tokens that are the truth's",
    "coords_accuracy": "share of joint tokens that are the truth's; x and y of the truth's visible joints only",
    "agreement": "share of other people's poses whose limbs fit the reference's colours worse than the predicted "
    "joints do, in the predicted picture: 0.5 is chance, 1 the best",
    "agreement@0.05": "the same with the predicted joints moved by 0.05 of the pose's size in eight directions",
    "diversity_joints": "mean distance between the joints of two samples of one reference, visible in both, canvas px",
    "diversity_pictures": "root of the mean squared difference of two samples' pictures, in levels of 0 … 255",
}

_WHY_ABSENT = {
    **dict.fromkeys(OF_JOINTS, "no joints: the truth is not annotated, or the model knows none"),
    **dict.fromkeys(OF_PICTURES, "no pictures: the model knows none"),
    **dict.fromkeys(("psnr_real", "ssim_real"), "shards hold no pixels: give the data's source=…"),
    **dict.fromkeys(("tok_rgb_accuracy", "coords_accuracy"), "scored without tokens"),
    **dict.fromkeys(
        ("diversity_joints", "diversity_pictures"), "one roll-out of each reference: give rollout.num_samples=8"
    ),
}
NO_TRUTH = "nobody knows what came next: a picture alone, or nothing, was given"


def metrics_record(scores: list[Score], facts: dict[str, Any], has_truth: bool = True) -> dict[str, Any]:
    """What `metrics.json` holds. Intervals are named after their number: `model` and `model_ci95`.

    has_truth: False where nothing is known to follow the references.
    """
    found = {score.name: score for score in scores}
    actions = sorted({action for score in scores for action in score.by_action})
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "intervals": f"{LEVEL_PERCENT}% percentile bootstrap over clips, {NUM_RESAMPLES} resamples; null below 2 clips",
        "gains": "how much better than a baseline the model is on the baseline's samples, paired; positive is better",
        "series": {name: says for name, says in SERIES.items() if any(name in score.series for score in scores)},
        "absent": {name: _why_absent(name, has_truth) for name in KINDS if name not in found},
        "scores": {name: {"is": SCORES[name], **_entry(score)} for name, score in found.items()},
        "by_action": {
            action: {name: _entry(score.by_action[action]) for name, score in found.items()} for action in actions
        },
    }


def _why_absent(name: str, has_truth: bool) -> str:
    return _WHY_ABSENT[name] if has_truth or name.startswith("diversity") else NO_TRUTH


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
    return {"unit": score.unit, "is_better": score.is_better, "horizons": horizons}


def _numbers(name: str, series: Series, k: int) -> dict[str, Any]:
    value, low, high = (
        None if number is None else round(number, _NUM_DIGITS)
        for number in (series.value[k], series.low[k], series.high[k])
    )
    return {name: value, f"{name}_ci{LEVEL_PERCENT}": [low, high]}


def write_metrics(path: Path, record: dict[str, Any]) -> None:
    """Write JSON under its final name only when complete. Raises ValueError for a number that is not finite."""
    text = json.dumps(record, indent=2, allow_nan=False)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text + "\n")
    os.replace(unfinished, path)
