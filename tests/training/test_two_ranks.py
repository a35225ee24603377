"""With two ranks a full disk and a signal end a training as they do with one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.train_runs import ROOT, TINY, write_data

from m3.checkpoint import newest_checkpoint

TWO = ["hardware.devices=2", "hardware.strategy=ddp", "optim.batch_size=2", "resume=auto"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


def command(data: Path, run_dir: Path, *overrides: str) -> list[str]:
    return [sys.executable, "train.py", *TINY, f"data.root={data}", f"run_dir={run_dir}", *TWO, *overrides]


@pytest.mark.slow
def test_a_full_disk_ends_both_ranks_in_one_line(data: Path, tmp_path: Path) -> None:
    """A bound on the size of files stops the write of a checkpoint half-way, as a full disk does."""
    limited = f"ulimit -f 40; exec {' '.join(command(data, tmp_path))}"
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "cannot be written" in done.stderr and "resume=auto" in done.stderr
    assert "Traceback" not in done.stderr and "gloo" not in done.stderr.lower(), done.stderr
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.slow
def test_a_signal_stops_two_ranks_between_log_points(data: Path, tmp_path: Path) -> None:
    """20,000 steps, the first logged one is the last."""
    long = ("optim.total_tokens=20.48", "trainer.log_every_n_steps=100000", "trainer.eval_every_tokens=100")
    process = subprocess.Popen(
        command(data, tmp_path, *long), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while newest_checkpoint(tmp_path) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "resume=auto continues" in said and "Traceback" not in said
