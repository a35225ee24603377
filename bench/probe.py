"""What a trained encoder knows of the action: a linear probe on its features of one pair of poses.

    python bench/probe.py RUN --data ROOT [--inputs coords motion_prev] [--max-pairs 20000] [--json FILE]

RUN is a checkpoint (as for generate.py), ROOT a data set with actions and the model's modalities, of `preprocess.py
split=official`. The encoder is frozen; its output is averaged over the tokens of each pair (`LoadedModel.encode`).
Multinomial logistic regression learns the action from the pairs of train; its regularization is chosen on eval; top-1
is that on test. For comparison: the same regression on the joints themselves (26 coordinates, relative to the box of
the earlier pose, and 13 visibilities of each pose), and the most frequent action of train. The prediction for a clip is
the action with the largest mean log-probability over its pairs. Intervals are from a bootstrap over clips.

`--inputs` names the modalities that the encoder is given. The default is the first entry of PAIRS whose modalities were
inputs in the model's training. Gaps and pictures can be named too, action and captions cannot: they tell the label.
Pairs that lack one of the inputs are left out. The joints are those of the frames that the inputs show.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from m3.batches.datamodule import SampleRows  # noqa: E402
from m3.batches.table import TokenTable  # noqa: E402
from m3.checkpoint import LoadedModel, load_model  # noqa: E402
from m3.core.joints import NUM_JOINTS  # noqa: E402
from m3.core.modalities import CLIP_MODALITIES, ModalityTable, frame_of, modality_at  # noqa: E402
from m3.core.validation import check  # noqa: E402
from m3.generation.compatibility import check_compatible  # noqa: E402
from m3.metrics.bootstrap import ClipBootstrap, interval  # noqa: E402
from m3.metrics.measures import Ratio  # noqa: E402
from m3.sampling.given import given_mask  # noqa: E402
from m3.shards.manifest import Manifest, manifest_hash  # noqa: E402
from m3.tokens.base import NoTokenizer  # noqa: E402
from m3.tokens.pose_box import PoseBox, has_place  # noqa: E402

SPLITS = ("train", "eval", "test")
ENCODER, JOINTS, MAJORITY = "encoder", "joints", "most frequent action"
PAIRS = (("coords", "coords_next"), ("coords", "motion_next"), ("coords", "motion_prev"), ("coords_prev", "coords"))
"""Modalities that are a pair of poses, by preference; "motion_prev" is the one of the frame before the reference."""

C_CHOICES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse regularizations that are tried, as scikit-learn's C."""

MAX_ITERATIONS = 1000
CHUNK = 4096
"""Pairs whose tokens are read at once."""


class Pairs(NamedTuple):
    """N pairs of a split.

    features: of the encoder, (N, D) float64. joints: (N, F) float64.
    action: (N,) index of the label among those of train, −1 for any other. clip: (N,) ids.
    """

    features: np.ndarray
    joints: np.ndarray
    action: np.ndarray
    clip: np.ndarray


class Probe(NamedTuple):
    """Logistic regression on standardized inputs.

    mean, deviation: (F,) of the training inputs. weight: (F + 1, K); its last row is the bias.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weight: np.ndarray

    def log_probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """(N, F) → (N, K)."""
        return log_softmax(_with_ones((inputs - self.mean) / self.deviation) @ self.weight, axis=1)


def fit(inputs: np.ndarray, action: np.ndarray, num_actions: int, c: float, start: Probe | None = None) -> Probe:
    """Minimizes c · (summed cross-entropy) + |weight|² / 2, in which the bias does not count.

    This is scikit-learn's LogisticRegression, and SciPy's L-BFGS that it runs, without a dependency for one class.

    Args:
        inputs: (N, F). action: (N,) 0 … num_actions − 1.
        c: inverse regularization.
        start: of the optimization, a probe of the same inputs; None for zeros.
    """
    mean, deviation = inputs.mean(0), inputs.std(0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)  # a constant input stays 0
    rows = _with_ones((inputs - mean) / deviation)
    penalized = np.ones((rows.shape[1], 1))
    penalized[-1] = 0
    penalized /= c * len(rows)
    truth = np.eye(num_actions)[action]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(rows.shape[1], num_actions)
        logits = rows @ weight
        loss = -(log_softmax(logits, axis=1) * truth).sum() / len(rows) + (penalized * weight**2).sum() / 2
        gradient = rows.T @ (softmax(logits, axis=1) - truth) / len(rows) + penalized * weight
        return loss, gradient.ravel()

    first = np.zeros((rows.shape[1], num_actions)) if start is None else start.weight
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS})
    return Probe(mean, deviation, found.x.reshape(first.shape))


def _with_ones(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def pair_inputs(table: ModalityTable) -> tuple[str, ...]:
    """The first of PAIRS that the model was given while it was trained. Raises ValueError where there is none."""
    alphas = np.array([alpha_set.input_alphas for alpha_set in table.alpha_sets])  # (sets, K)
    trained = {name for name, column in zip(table.modalities, alphas.T) if (column > 0).any()}
    for names in PAIRS:
        if trained >= set(names):
            return names
    raise ValueError(f"the model was given no pair of poses, but {', '.join(sorted(trained))}: name --inputs")


def poses_of(inputs: Sequence[str]) -> list[str]:
    """The poses of the frames that the inputs show or go between, the earlier first.

    "coords", "motion_prev" → "coords_prev", "coords". Raises ValueError for inputs of no frame, and for labels.
    """
    frames = set()
    for name in inputs:
        kind, frame = frame_of(name)
        if kind in CLIP_MODALITIES:
            raise ValueError(f"--inputs: {name} tells the action, leave it out")
        frames |= {"coords": {frame}, "tok_rgb": {frame}, "motion": {frame - 1, frame}}.get(kind, set())
    if not frames:
        raise ValueError(f"--inputs: {', '.join(inputs)} shows no frame; add coords or tok_rgb")
    return [str(modality_at("coords", frame)) for frame in sorted(frames)]


def joint_inputs(poses: np.ndarray) -> np.ndarray:
    """(N, P, 3, 13) joint tokens of P poses → (N, P · 39) coordinates and visibilities.

    Coordinates are in sides of the box of the first pose, from its center; joints without a place are at the center.
    """
    box = PoseBox.around(poses[:, 0])
    xy = (poses[:, :, :2] - box.center[:, None, :, None]) / box.side[:, None, None, None]  # (N, P, 2, 13)
    xy = np.where(has_place(poses)[:, :, None], xy, 0)
    return np.concatenate([xy, poses[:, :, 2:]], axis=2).reshape(len(poses), -1)


def read_pairs(
    loaded: LoadedModel, split: TokenTable, inputs: Sequence[str], actions: Sequence[str], max_pairs: int
) -> Pairs:
    """Pairs of a split that have a label and all inputs: all of them, or `max_pairs`, evenly spaced.

    actions: the labels of train, in the order of their indices.
    Raises ValueError where there are none.
    """
    rows, poses = SampleRows(split, loaded.table), poses_of(inputs)
    columns = [loaded.table.index(name) for name in inputs]
    is_whole = []
    for chunk in _chunks(np.arange(len(split))):
        lengths = rows.read(chunk)[1]
        is_whole.append(np.ones(len(chunk), bool) if lengths is None else (lengths[:, columns] > 0).all(1).numpy())
    is_labeled = np.array([bool(pair.action) for pair in split.pairs], dtype=bool)
    (chosen,) = (np.concatenate([*is_whole, np.zeros(0, bool)]) & is_labeled).nonzero()
    if not len(chosen):
        raise ValueError(f"none of its {len(split)} pairs has an action and {', '.join(inputs)}; choose other --inputs")
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), max_pairs)).round().astype(np.int64)]
    is_known, features = given_mask(loaded.table, list(inputs)), []
    for chunk in _chunks(chosen):
        tokens, lengths = rows.read(chunk)
        features.append(loaded.encode(tokens, is_known, lengths).double().cpu().numpy())
    coords = split.columns(poses)[chosen].reshape(len(chosen), len(poses), 3, NUM_JOINTS).astype(np.int64)
    numbers = {action: number for number, action in enumerate(actions)}
    pairs = [split.pairs[row] for row in chosen]
    return Pairs(
        np.concatenate(features),
        joint_inputs(coords),
        np.array([numbers.get(pair.action or "", -1) for pair in pairs], dtype=np.int64),
        np.array([pair.clip for pair in pairs]),
    )


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]


class Clips(NamedTuple):
    """The C clips of N pairs.

    id: (C,), sorted. action: (C,) as in `Pairs`. place: (N,) index of each pair's clip.
    """

    id: np.ndarray
    action: np.ndarray
    place: np.ndarray

    @staticmethod
    def of(pairs: Pairs) -> Clips:
        ids, first, place = np.unique(pairs.clip, return_index=True, return_inverse=True)
        return Clips(ids, pairs.action[first], place)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(N, K) of pairs → (C, K) means over each clip's pairs."""
        sums = np.zeros((len(self.id), values.shape[1]))
        np.add.at(sums, self.place, values)
        return sums / np.bincount(self.place)[:, None]


def choose_probe(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], cs: Sequence[float]
) -> tuple[Probe, float, dict[float, float]]:
    """The probe with the best top-1 on eval, the most regularized of equal ones; its C; top-1 of each C.

    train, held_out: (N, F) inputs and (N,) actions of train and of eval.
    """
    probes: dict[float, Probe] = {}
    scores: dict[float, float] = {}
    last = None
    for c in sorted(cs):
        probes[c] = last = fit(*train, int(train[1].max()) + 1, c, last)
        scores[c] = float((last.log_probabilities(held_out[0]).argmax(1) == held_out[1]).mean())
    best = max(scores, key=scores.__getitem__)
    return probes[best], best, scores


def top1(is_right: dict[str, np.ndarray], clip: np.ndarray) -> dict[str, dict[str, float]]:
    """Top-1 of each series with its interval, and gains of the encoder over the others on the same resamples.

    is_right: series → (N,) bool. clip: (N,) ids.
    """
    bootstrap, ones = ClipBootstrap(clip), np.ones((len(clip), 1))
    values = {name: float(right.mean()) for name, right in is_right.items()}
    resampled = {
        name: bootstrap.resampled(Ratio(right[:, None].astype(float), ones), lambda share: share)
        for name, right in is_right.items()
    }
    for name in (JOINTS, MAJORITY):
        values[f"gain over {name}"] = values[ENCODER] - values[name]
        resampled[f"gain over {name}"] = resampled[ENCODER] - resampled[name]
    found = {}
    for name, value in values.items():
        low, high = interval(resampled[name])
        found[name] = {"value": value, "low": float(low[0]), "high": float(high[0])}
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is printed and written; raises ValueError or OSError for arguments that do not fit each other."""
    begin = time.perf_counter()
    check("--max-pairs", arguments.max_pairs, int, low=1)
    for c in arguments.c:
        check("--c", c, float, low=1e-12)
    loaded, manifest = load_model(arguments.checkpoint, arguments.device), Manifest.load(arguments.data)
    check_compatible(loaded, str(arguments.checkpoint), manifest, str(arguments.data), NoTokenizer())
    inputs = tuple(arguments.inputs or pair_inputs(loaded.table))
    splits = {name: TokenTable.open(arguments.data, name) for name in SPLITS}
    actions = sorted({pair.action for pair in splits["train"].pairs if pair.action})
    pairs = {}
    for name, split in splits.items():
        try:
            pairs[name] = read_pairs(loaded, split, inputs, actions, arguments.max_pairs)
        except ValueError as error:
            raise ValueError(f"{arguments.data}, split {name}: {error}") from None
    seconds = {"features": time.perf_counter() - begin}
    test, clips = pairs["test"], Clips.of(pairs["test"])
    by_pair, by_clip, chosen_c, on_eval = {}, {}, {}, {}
    for name, field in ((ENCODER, "features"), (JOINTS, "joints")):
        begin = time.perf_counter()
        train, held_out = ((getattr(pairs[split], field), pairs[split].action) for split in ("train", "eval"))
        found, chosen_c[name], on_eval[name] = choose_probe(train, held_out, arguments.c)
        log_probabilities = found.log_probabilities(getattr(test, field))
        by_pair[name] = log_probabilities.argmax(1) == test.action
        by_clip[name] = clips.mean(log_probabilities).argmax(1) == clips.action
        seconds[name] = time.perf_counter() - begin
    by_pair[MAJORITY] = test.action == np.bincount(pairs["train"].action).argmax()
    by_clip[MAJORITY] = clips.action == np.bincount(Clips.of(pairs["train"]).action).argmax()
    return {
        "checkpoint": str(arguments.checkpoint),
        "weights": loaded.fingerprint,
        "data": manifest_hash(arguments.data),
        "split": manifest.settings.get("split"),
        "is_training_data": loaded.data.get("train_shards") == [shard.sha256 for shard in manifest.shards["train"]],
        "has_learned_actions": set(loaded.table.modalities) & set(CLIP_MODALITIES) != set(),
        "inputs": inputs,
        "joints": poses_of(inputs),
        "actions": actions,
        "num_pairs": {name: len(found.clip) for name, found in pairs.items()},
        "num_clips": {name: len(np.unique(found.clip)) for name, found in pairs.items()},
        "num_features": {ENCODER: test.features.shape[1], JOINTS: test.joints.shape[1]},
        "c": chosen_c,
        "top1_on_eval": on_eval,
        "top1": {"pair": top1(by_pair, test.clip), "clip": top1(by_clip, clips.id)},
        "chance": 1 / len(actions),
        "seconds": seconds,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "m3-motion")},
        "threads": torch.get_num_threads(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"action from {' + '.join(result['inputs'])}, top-1 on test, %")
    table.add_column("")
    for unit in ("pair", "clip"):
        table.add_column(f"from one {unit}, 95%", justify="right")
    for name in result["top1"]["pair"]:
        cells = []
        for unit in ("pair", "clip"):
            value, low, high = (100 * result["top1"][unit][name][key] for key in ("value", "low", "high"))
            cells.append(f"{value:.1f} ({low:.1f} … {high:.1f})")
        table.add_row(name, *cells)
    console.print(table)
    sizes = ", ".join(f"{name} {result['num_pairs'][name]:,} of {result['num_clips'][name]} clips" for name in SPLITS)
    console.print(f"pairs: {sizes}; {len(result['actions'])} actions, chance {100 * result['chance']:.1f}")
    console.print(
        f"C: {result['c']}; seconds: { {name: round(value, 1) for name, value in result['seconds'].items()} }"
    )
    if not result["is_training_data"]:
        console.print("The model was trained on other data or another split: it may have seen these clips of test.")
    if result["has_learned_actions"]:
        console.print("The model was trained with action or captions among its modalities.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a run, a .ckpt file, or a shared model")
    parser.add_argument("--data", required=True, help="root of the data set")
    parser.add_argument("--inputs", nargs="+", help="modalities that the encoder is given; default: a pair of poses")
    parser.add_argument("--max-pairs", type=int, default=20_000, help="of each split")
    parser.add_argument("--c", type=float, nargs="+", default=C_CHOICES, help="inverse regularizations to choose from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    try:
        result = measure(arguments)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    show(result, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
