"""Trainings whose every step is saved: their gradients, their logged values; trainings on two processes."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import torch

from support.train_runs import ROOT, TINY

FEW_TARGETS = ["modalities.target_tokens_range=[1,3]", "model.joints=table"]
"""Many batches then lack some modality."""

EVERY_STEP = ["trainer.checkpoint_every_tokens=0.001", "trainer.keep_checkpoints=9", "trainer.log_every_n_steps=1"]


def checkpoint(run_dir: Path, step: int) -> dict:
    return torch.load(run_dir / "checkpoints" / f"step_{step:08d}.ckpt", weights_only=True)


def gradients(run_dir: Path) -> list[torch.Tensor]:
    """What AdamW saw in the first step."""
    moments = checkpoint(run_dir, 1)["optimizer_states"][0]["state"].values()
    return [moment["exp_avg"] / (1 - 0.9) for moment in moments]


def assert_same_gradients(one: Path, other: Path, tolerance: float = 1e-6) -> None:
    for ours, theirs in zip(gradients(one), gradients(other), strict=True):
        assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm()) + 1e-12


def logged(run_dir: Path, prefix: str) -> list[dict[str, float]]:
    """For each logged step the values whose names begin so; NaN, which never equals itself, as −1."""
    rows = [row for path in run_dir.glob("csv/*/metrics.csv") for row in csv.DictReader(path.open())]
    found = [{name: float(v) for name, v in row.items() if name.startswith(prefix) and v} for row in rows]
    return [{name: -1.0 if math.isnan(v) else v for name, v in row.items()} for row in found if row]


def run_on_two_processes(data: Path, run_dir: Path, *overrides: str, strategy: str = "ddp") -> None:
    command = [sys.executable, "train.py", *TINY, f"data.root={data}", f"run_dir={run_dir}", *overrides]
    command += ["hardware.devices=2", f"hardware.strategy={strategy}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=180
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
