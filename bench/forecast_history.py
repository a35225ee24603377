"""Forecasts from two poses: the clips and the score of the forecasting benchmark, another protocol.

    python bench/forecast_history.py --labels DIR [--checkpoint RUN] [--every 8] [--json FILE]

The papers give one pose. Here a forecast is given the pose one step before it too (a step is a seventeenth of the
clip), so that sequences start at the frames of a test clip that have one. All rows are scored on the same sequences:
"nothing moves", constant velocity, damped velocity, and, from both poses and from the later one alone, a model of
`modalities=motion` trained on the clips of train:

    python preprocess.py source=poses source.labels=DIR pairs=stride pairs.step=1/17 canvas=pad split=official \
        augment.flip=true tokenizer=none out=DATA
    python train.py experiment=motion data.root=DATA

The model gets no action, as the label of a test clip is not known. --every N takes every N-th sequence.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from m3.checkpoint import LoadedModel, load_model  # noqa: E402
from m3.clips.canvas import PadCanvas  # noqa: E402
from m3.core.frames import TokenFrames, no_tokens  # noqa: E402
from m3.core.joints import NUM_JOINTS  # noqa: E402
from m3.core.modalities import NUM_HORIZONS, ModalityTable  # noqa: E402
from m3.core.progress import track  # noqa: E402
from m3.core.validation import check  # noqa: E402
from m3.forecast.protocol import ForecastClip, HitCounts, nothing_moves, read_clips, score_forecast  # noqa: E402
from m3.generation.rollout import roll_out  # noqa: E402
from m3.metrics.baselines import DECAY, FIRST_STEP  # noqa: E402
from m3.sampling.settings import DecodingConfig  # noqa: E402
from m3.tokens.displacement import displacement_tokens  # noqa: E402
from m3.tokens.gaps import encode_gap  # noqa: E402
from m3.tokens.joints import JointCodec  # noqa: E402

HORIZONS = (1, 2, 3, 6, 10, 16)
BATCH_SIZE = 512
DAMPING = 0.8
"""Of forecasts from one pose, the default of rollout.damping."""

Forecast = Callable[[ForecastClip, np.ndarray], np.ndarray]
"""A clip and (N,) first frames → (N, 16, 13, 2) joints in pixels of the label's frame."""


def sequences(clips: list[ForecastClip], every: int) -> list[tuple[ForecastClip, np.ndarray]]:
    """Every `every`-th sequence whose first frame has a frame one step before it: clips and (N,) first frames."""
    found, number = [], 0
    for clip in clips:
        starts = np.arange(clip.step, clip.label.num_frames) if clip.step else np.zeros(0, np.int64)
        numbers = np.arange(number, number + len(starts))
        number += len(starts)
        if (chosen := starts[numbers % every == 0]).size:
            found.append((clip, chosen))
    return found


def last_displacement(clip: ForecastClip, starts: np.ndarray) -> np.ndarray:
    """(N, 13, 2) pixels over the last step; 0 for joints that are invisible in one of the two frames."""
    joints, before = clip.label.joints, starts - clip.step
    moves = joints.is_visible[starts] & joints.is_visible[before]
    return np.where(moves[..., None], joints.xy[starts] - joints.xy[before], 0.0)


def moved_on(distance: np.ndarray) -> Forecast:
    """distance: (16,) multiples of the last displacement."""

    def forecast(clip: ForecastClip, starts: np.ndarray) -> np.ndarray:
        return nothing_moves(clip, starts) + distance[:, None, None] * last_displacement(clip, starts)[:, None]

    return forecast


def model_forecast(loaded: LoadedModel, with_history: bool) -> Forecast:
    """Roll-outs of a model of `modalities=motion`. Raises ValueError for another canvas or without its modalities."""
    table, size = loaded.table, loaded.data["canvas_size"]
    if lacking := {"coords", "motion_prev", "gap_prev", "gap_next", "motion_next"} - {*table.modalities}:
        raise ValueError(f"--checkpoint: it lacks {', '.join(sorted(lacking))}; train with modalities=motion")
    canvas, codec = PadCanvas(size), JointCodec(size)
    scheme = DecodingConfig("motion_next", 1, pick="median").for_table(table)

    def forecast(clip: ForecastClip, starts: np.ndarray) -> np.ndarray:
        joints, window = clip.label.joints, canvas.window(clip.label.size)
        on_canvas = window.joints(joints)
        poses = codec.encode(on_canvas.xy, on_canvas.is_visible).astype(np.int64)  # (T, 3, 13)
        earlier = poses[starts - clip.step] if with_history else None
        made = roll_out(loaded.model, given_frames(table, poses[starts], earlier, clip.step), [scheme], NUM_HORIZONS, 0,
                        torch.arange(len(starts)), BATCH_SIZE, damping=DAMPING)  # fmt: skip
        tokens = made.ids["coords"].reshape(len(starts), NUM_HORIZONS + 1, 3, NUM_JOINTS)
        return window.to_source(_last_places(codec.decode(tokens)[0], tokens))[:, 1:]

    return forecast


def given_frames(table: ModalityTable, poses: np.ndarray, earlier: np.ndarray | None, step: int) -> TokenFrames:
    """(N, 17) frames that are given to a roll-out: the pose, its displacement from the earlier one, and all gaps."""
    frames = no_tokens(table, (len(poses), NUM_HORIZONS + 1))
    frames.is_present[:] = True
    frames.ids["coords"][:, 0], frames.is_known["coords"][:, 0] = poses.reshape(len(poses), -1), True
    first = 1 if earlier is None else 0  # of the known gaps
    frames.ids["gap"][:, first:], frames.is_known["gap"][:, first:] = encode_gap(np.array(step)), True
    if earlier is not None:
        frames.ids["motion"][:, 0], frames.is_known["motion"][:, 0] = displacement_tokens(earlier, poses), True
    return frames


def _last_places(xy: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(N, 17, 13, 2): a joint that has left the canvas, and has no place, stays where it had the last one."""
    has_place = (tokens > 0).any(2)  # (N, 17, 13)
    for frame in range(1, xy.shape[1]):
        xy[:, frame] = np.where(has_place[:, frame, :, None], xy[:, frame], xy[:, frame - 1])
    return xy


def measure(labels: Path, loaded: LoadedModel | None, every: int) -> dict[str, HitCounts]:
    """Name of a row → its counts on the same sequences."""
    check("--every", every, int, low=1)
    steps = np.arange(NUM_HORIZONS)
    rows: dict[str, Forecast] = {
        "nothing moves": nothing_moves,
        "constant velocity": moved_on(steps + 1.0),
        "damped velocity": moved_on((FIRST_STEP * DECAY**steps).cumsum()),
    }
    if loaded is not None:
        rows["model, one pose"] = model_forecast(loaded, with_history=False)
        rows["model, two poses"] = model_forecast(loaded, with_history=True)
    counts: dict[str, list[HitCounts]] = {name: [] for name in rows}
    found = sequences(read_clips(labels)[0], every)
    for clip, starts in track(found, len(found), "forecasts"):
        for name, forecast in rows.items():
            counts[name].append(score_forecast(clip, starts, forecast(clip, starts)))
    return {name: HitCounts.total(parts) for name, parts in counts.items()}


def show(counts: Mapping[str, HitCounts]) -> None:
    print(f"{next(iter(counts.values())).num_sequences:,} sequences; PCK@0.05 in percent")
    print(f"| | {' | '.join(f'+{horizon}' for horizon in HORIZONS)} |\n|{'---|' * (len(HORIZONS) + 1)}")
    for name, each in counts.items():
        cells = ["–" if (value := each.pck[horizon - 1]) is None else f"{value:.2f}" for horizon in HORIZONS]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="Penn Action's labels/")
    parser.add_argument("--checkpoint", help="a model of modalities=motion; without it only the baselines")
    parser.add_argument("--every", type=int, default=1, help="score every N-th sequence")
    parser.add_argument("--json", type=Path, help="file for all values")
    args = parser.parse_args()
    try:
        loaded = None if args.checkpoint is None else load_model(args.checkpoint)
        counts = measure(args.labels, loaded, args.every)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    show(counts)
    if args.json:
        record = {name: {"pck": each.pck, "num_sequences": each.num_sequences} for name, each in counts.items()}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
