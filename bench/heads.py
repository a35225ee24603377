"""Flat or factorized head: eval loss against time, on the same data, at the same time, on as many cores each.

    python bench/heads.py --data ROOT [--minutes 10] [--plot docs/heads.png] [--json FILE]

ROOT is a data set of preprocess.py with pictures of 128 px. Both heads train the model of `experiment=demo` on the
budgets of `modalities=m3`, in which all four modalities are predicted; only `model.head` differs. Each has a process
with half of the cores, and as many tokens as it gets through in the given minutes: a short run measures that first, so
that both finish their learning-rate schedules. Time is that of training alone (`time/train_s`); evaluations do not
count. Losses are nats per token: that of a factorized token is the sum over its six digits, so that the heads compare.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
HEADS = ("flat", "factorized")
MODALITIES = ("tok_rgb", "tok_rgb_next", "coords", "coords_next")
CALIBRATION_TOKENS, NUM_EVALUATIONS = 0.4, 12
BUDGETS = [
    "modalities=m3", "modalities.max_seq_lens=[64,39,64,39]", "modalities.target_tokens_range=[16,64]",
    "optim.num_tokens_per_sample=192",
]  # fmt: skip
COLORS = {"flat": "#b3541e", "factorized": "#1f5f8b"}


def train_both(data: Path, folder: Path, tokens: dict[str, float]) -> dict[str, list[dict[str, str]]]:
    """Trains each head for so many millions of tokens, both at once; what they logged, row after row."""
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    running = {}
    for head in HEADS:
        command = [
            sys.executable, "train.py", "experiment=demo", *BUDGETS, f"model.head={head}", f"data.root={data}",
            f"run_dir={folder / head}", f"optim.total_tokens={tokens[head]}",
            f"optim.warmup_tokens={tokens[head] / 20}", f"trainer.eval_every_tokens={tokens[head] / NUM_EVALUATIONS}",
            "trainer.checkpoint_every_tokens=1000", "callbacks=none", "logger=csv", "hardware=cpu",
        ]  # fmt: skip
        log = open(folder / f"{head}.log", "wb")
        running[head] = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    for head, process in running.items():
        if process.wait():
            raise SystemExit(f"{head}: {(folder / f'{head}.log').read_text()[-2000:]}")
    rows = {}
    for head in HEADS:
        (path,) = (folder / head).glob("csv/*/metrics.csv")
        with path.open(newline="") as file:
            rows[head] = list(csv.DictReader(file))
    return rows


def values(rows: list[dict[str, str]], name: str) -> dict[int, float]:
    """Step → value, of the rows that have one."""
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


def curves(rows: list[dict[str, str]]) -> dict[str, list[tuple[float, float]]]:
    """Modality, or "" for the mean → (seconds of training, eval loss) of each evaluation but the first."""
    times = values(rows, "time/train_s")
    found = {}
    for name in ("", *MODALITIES):
        losses = values(rows, f"eval/loss_{name}" if name else "eval/loss")
        found[name] = [
            (max(t for step, t in times.items() if step <= at), loss)
            for at, loss in losses.items()
            if any(step <= at for step in times)
        ]
    return found


def draw(found: dict[str, dict[str, list[tuple[float, float]]]], path: Path) -> None:
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.4), layout="constrained")
    for axis, name in zip(axes, ("", *MODALITIES)):
        for head in HEADS:
            minutes, losses = zip(*((t / 60, loss) for t, loss in found[head][name]))
            axis.plot(minutes, losses, marker="o", markersize=3, color=COLORS[head], label=f"{head} head")
        axis.set_title(name or "mean over modalities", fontsize=10)
        axis.set_xlabel("minutes of training", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("eval loss, nats per token", fontsize=9)
    axes[0].legend(fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "heads.png")
    parser.add_argument("--json", type=Path, help="write the curves to this file")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    result: dict[str, Any] = {"minutes": arguments.minutes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("short", "long"):
            (folder / part).mkdir()
        short = train_both(data, folder / "short", dict.fromkeys(HEADS, CALIBRATION_TOKENS))
        speed = {head: sorted(values(rows, "speed/tokens_per_s").values()) for head, rows in short.items()}
        median = {head: found[len(found) // 2] for head, found in speed.items()}
        result["tokens"] = {head: round(one * arguments.minutes * 60 / 1e6, 2) for head, one in median.items()}
        print(f"millions of tokens in {arguments.minutes:g} min: {result['tokens']}", flush=True)
        found = {head: curves(rows) for head, rows in train_both(data, folder / "long", result["tokens"]).items()}
    draw(found, arguments.plot)
    result["curves"] = found
    for name in ("", *MODALITIES):
        last = "   ".join(f"{head} {found[head][name][-1][1]:.3f}" for head in HEADS)
        print(f"{name or 'mean':13} {last}")
    print("seconds of training: " + "   ".join(f"{head} {found[head][''][-1][0]:.0f}" for head in HEADS))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
