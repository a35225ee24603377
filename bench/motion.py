"""Roll-outs of joints on real labels: `experiment=motion` beside baselines, and without each thing that it is given.

    python bench/motion.py --labels DIR [--seeds 3] [--ablations] [--work FOLDER] [--json FILE]

DIR is Penn Action's labels/. All files become pairs four frames apart (`pairs=stride`, canvas crop of 256 px), divided
by clip. A roll-out starts where there is a frame before it and has up to six steps on the model's own predictions.
`pck_both@0.05` is over the joints that are visible in the truth and in the reference, `pck@0.05` over those visible in
the truth. Figures are means over the seeds.

With --ablations also models of seed 0 and --ablation-steps steps: one for each row of `ABLATIONS`, and, as all gaps
are alike there, two more on data in which they differ (`pairs.step=[2,4,8,12]`), with and without the gap as an input.
These are scored at each of the gaps alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("coords", "motion_prev", "gap_prev", "gap_next", "action", "motion_next", "coords_next")
SIZES = {"coords": (8192, 39), "motion_prev": (4226, 13), "gap_prev": (64, 1), "gap_next": (64, 1), "action": (64, 1),
         "motion_next": (4226, 13), "coords_next": (8192, 39)}  # fmt: skip
ABLATIONS = {
    "all": ("coords", "motion_prev", "gap_prev", "gap_next", "action", "motion_next"),
    "without history": ("coords", "gap_next", "action", "motion_next"),
    "without action": ("coords", "motion_prev", "gap_prev", "gap_next", "motion_next"),
    "places instead of displacements": ("coords", "motion_prev", "gap_prev", "gap_next", "action", "coords_next"),
}
"""Modalities of each variant; the last one is the target, all others are inputs in every sample."""
ABLATIONS_OF_GAPS = {"all": ABLATIONS["all"], "without gap": ("coords", "motion_prev", "action", "motion_next")}
"""Likewise, for data of several gaps."""
STEP, STEPS = 4, (2, 4, 8, 12)
"""Frames from a frame to the next: of the first data, and of those of several gaps."""
ONE_POSE = {"one pose": ("coords", "gap_next"), "one pose and its action": ("coords", "gap_next", "action")}
"""What the model of seed 0 is given without history; the first is what a photo has."""
HORIZONS = (1, 3, 6)
SCORES = ("pck_both@0.05", "pck@0.05", "pck_moved@0.05", "motion_ratio", "visibility_f1")
BASELINES = ("nothing_moves", "constant_velocity", "damped_velocity")
TOKENS_PER_STEP = 128 * 68


def modalities(names: tuple[str, ...]) -> list[str]:
    """Overrides for a table in which the last modality is predicted from all others."""
    num_inputs = len(names) - 1
    room = sum(SIZES[name][1] for name in names[:-1])
    target = SIZES[names[-1]][1]
    columns = {
        "modalities": list(names), "vocab_sizes": [SIZES[name][0] for name in names],
        "max_seq_lens": [SIZES[name][1] for name in names], "input_alphas": [1] * num_inputs + [0],
        "target_alphas": [0] * num_inputs + [1], "input_tokens_range": [room, room],
        "target_tokens_range": [target, target],
    }  # fmt: skip
    texts = [f"modalities.{key}=[{','.join(map(str, value))}]" for key, value in columns.items()]
    return [*texts, "modalities.mixture=null"]


def run(script: str, *overrides: str, done: Path) -> None:
    """Runs one of m3's scripts, unless the file that it ends with is there."""
    if done.exists():
        return
    command = [sys.executable, script, *overrides]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


def data(work: Path, labels: Path, step: int | tuple[int, ...]) -> Path:
    """The folder of the data of one gap or of several."""
    steps = f"[{','.join(map(str, step))}]" if isinstance(step, tuple) else str(step)
    folder = work / ("data_of_gaps" if isinstance(step, tuple) else f"data_{step}")
    run("preprocess.py", "source=poses", f"source.labels={labels.resolve()}", "pairs=stride", f"pairs.step={steps}",
        "tokenizer=none", "augment.flip=true", f"out={folder}", done=folder / "dataset.json")  # fmt: skip
    return folder


def train(root: Path, folder: Path, overrides: list[str]) -> Path:
    """Trains on the data `root`; returns the run's folder."""
    run("train.py", "experiment=motion", f"data.root={root}", f"run_dir={folder}", "callbacks=none",
        *overrides, done=folder / "done")  # fmt: skip
    (folder / "done").touch()
    return folder


def scores_of(checkpoint: Path, root: Path, out: Path, *sampling: str) -> dict[str, Any]:
    """Rolls a run out on the data `root`: score → series → values at `HORIZONS`."""
    run("generate.py", f"checkpoint={checkpoint}", f"data.root={root}", "tokenizer=none",
        "rollout.max_samples=null", "rollout.starts=history", "rollout.batch_size=256", "pictures.num_reported=0",
        "pictures.num_folders=0", f"out={out}", *sampling, done=out / "metrics.json")  # fmt: skip
    record = json.loads((out / "metrics.json").read_text())["scores"]
    return {
        name: {
            series: [record[name]["horizons"][k - 1][series] for k in HORIZONS]
            for series in ("model", *BASELINES)
            if series in record[name]["horizons"][0]
        }
        for name in SCORES
    }


def text(values: list[list[float]], is_share: bool) -> str:
    """Means over runs of the values at each horizon: "88.1 66.2 51.0"."""
    factor, digits = (100, 1) if is_share else (1, 2)
    means = [sum(column) / len(column) * factor for column in zip(*values)]
    return " ".join(f"{mean:.{digits}f}" for mean in means)


def row(name: str, runs: list[dict[str, Any]], series: str = "model") -> str:
    cells = [
        text([each[score][series] for each in runs], score != "motion_ratio") if series in runs[0][score] else "–"
        for score in SCORES
    ]
    return f"| {name} | {' | '.join(cells)} |"


def head(columns: tuple[str, ...]) -> str:
    return f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}"


def shortened(names: tuple[str, ...], num_steps: int) -> list[str]:
    """Overrides for a variant."""
    tokens = num_steps * TOKENS_PER_STEP / 1e6
    return [*modalities(names), f"optim.total_tokens={tokens}", f"optim.warmup_tokens={tokens / 20}",
            f"trainer.eval_every_tokens={tokens}", f"trainer.checkpoint_every_tokens={tokens}"]  # fmt: skip


def scores_by_gap(work: Path, labels: Path, num_steps: int) -> dict[str, Any]:
    """Trains on data of several gaps, and scores at each of them: "2 frames, all" → as `scores_of`."""
    root, found = data(work, labels, STEPS), {}
    for name, names in ABLATIONS_OF_GAPS.items():
        path = train(root, work / f"gaps_{name.replace(' ', '_')}", shortened(names, num_steps))
        for step in STEPS:
            out = work / f"{path.name}_{step}_out"
            found[f"{step} frames, {name}"] = scores_of(path, data(work, labels, step), out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="Penn Action's labels/")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of experiment=motion")
    parser.add_argument("--ablations", action="store_true", help="the variants too")
    parser.add_argument("--ablation-steps", type=int, default=3000, help="steps of each variant")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/bench/motion", help="folder of data and runs")
    parser.add_argument("--json", type=Path, help="file for all values")
    args = parser.parse_args()
    root = data(args.work, args.labels, STEP)
    runs = [train(root, args.work / f"seed_{seed}", [f"seed={seed}"]) for seed in range(args.seeds)]
    found = {path.name: scores_of(path, root, args.work / f"{path.name}_out") for path in runs}
    seeds = list(found.values())
    for name, given in ONE_POSE.items():
        out = args.work / name.replace(" ", "_")
        found[name] = scores_of(runs[0], root, out, f"sampling.given=[{','.join(given)}]")
    if args.ablations:
        for name, names in ABLATIONS.items():
            path = train(root, args.work / name.replace(" ", "_"), shortened(names, args.ablation_steps))
            found[name] = scores_of(path, root, args.work / f"{path.name}_out")
    print(f"{STEP} frames to a step; at +{', +'.join(map(str, HORIZONS))}\n{head(SCORES)}")
    for series in BASELINES:
        print(row(series.replace("_", " "), seeds[:1], series))
    print(row(f"experiment=motion, mean of {len(seeds)} seeds", seeds))
    for name in (name for name in found if not name.startswith("seed_")):
        print(row(name, [found[name]]))
    if args.ablations:
        of_gaps = scores_by_gap(args.work, args.labels, args.ablation_steps)
        print(f"\ntrained with {', '.join(map(str, STEPS))} frames to a step\n{head(SCORES)}")
        for step in STEPS:
            print(row(f"{step} frames, nothing moves", [of_gaps[f"{step} frames, all"]], "nothing_moves"))
            for name in ABLATIONS_OF_GAPS:
                print(row(f"{step} frames, {name}", [of_gaps[f"{step} frames, {name}"]]))
        found |= of_gaps
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
