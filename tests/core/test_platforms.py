"""Training and generation where Unix's signals, locks and limits are missing, as on Windows; Apple's GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.random_world import write_world
from support.train_runs import write_data

from m3.core import devices
from m3.core.devices import default_device, lightning_accelerator, torch_device

ROOT = Path(__file__).resolve().parents[2]

WITHOUT = """
import os, signal, sys
import torch, pytorch_lightning  # which ask for the platform's name, not for what it has
from pytorch_lightning.trainer.connectors import signal_connector
signal_connector._IS_WINDOWS = True
signal_connector._SignalConnector._valid_signals = staticmethod(lambda: {signal.SIGINT, signal.SIGTERM})
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("killpg", "getpgid", "setsid", "fork", "forkpty", "register_at_fork", "sched_getaffinity", "getuid"):
    if hasattr(os, name):
        delattr(os, name)
sys.modules |= {"resource": None, "fcntl": None}
sys.path.insert(0, "tests")
"""

TRAIN = """
from pathlib import Path
from support.train_runs import config
import train
run = Path(sys.argv[2])
done = train.run(config(Path(sys.argv[1]), run, "trainer.max_steps=2"))
assert done.trainer.global_step == 2 and (run / "train.log").is_file() and (run / "run.json").is_file()
from m3.core.threads import wait_politely_when_busy
wait_politely_when_busy()
from m3.sweep.stopping import SweepStop, end
import subprocess
with SweepStop() as request, subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
    request.add(process)
    end(process)
    assert process.wait(timeout=10)
print("DONE")
"""

GENERATE = """
from pathlib import Path
from support.random_world import config
import generate
out = Path(sys.argv[2])
made = generate.run(config(Path(sys.argv[1]), f"out={out}", "rollout.frames=1", "rollout.max_samples=1"))
assert made.metrics.is_file()
print("DONE")
"""


def without_unix(code: str, *arguments: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_training_runs_without_unix(tmp_path) -> None:
    write_data(tmp_path / "data", {"train": 30, "eval": 13, "test": 2})
    assert "DONE" in without_unix(TRAIN, tmp_path / "data", tmp_path / "run")


def test_a_generation_runs_without_unix(tmp_path) -> None:
    write_world(tmp_path)
    assert "DONE" in without_unix(GENERATE, tmp_path, tmp_path / "out")


@pytest.fixture
def mac(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    devices._say_no_mps.cache_clear()


def test_apples_gpu_is_passed_over_with_one_line(mac, caplog) -> None:
    assert default_device() == "cpu" and lightning_accelerator("auto") == "cpu"
    (line,) = caplog.messages
    assert "float64" in line and "the processor is used" in line


def test_apples_gpu_is_refused_by_its_key(mac) -> None:
    with pytest.raises(ValueError, match=r"^device=mps: .*float64.*; choose cpu$"):
        torch_device("device", "mps")
    for name in ("gpu", "mps"):
        with pytest.raises(ValueError, match=rf"^hardware\.accelerator={name}: .*choose auto or cpu$"):
            lightning_accelerator(name)
