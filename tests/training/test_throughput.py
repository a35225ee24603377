"""Every number that a run logs about itself, against another computation with a clock of its own."""

from __future__ import annotations

import csv
import math
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.throughput import get_available_flops
from omegaconf import OmegaConf
from pytorch_lightning.utilities.types import STEP_OUTPUT
from support.global_batches import run_on_two_processes
from support.train_runs import ROOT, config, write_data

import train
from m3.batches.datamodule import ResumableLoader
from m3.model.encoder_decoder import EncoderDecoder
from m3.model.flops import train_step_flops
from m3.training import throughput
from m3.training.device_flops import Peak, device_peak, matmul_dtype, matmul_flops, published_peak
from m3.training.profile import DataWait, StepProfile
from m3.training.throughput import Throughput

EVERY_2_STEPS = ["trainer.max_steps=6", "trainer.log_every_n_steps=2", "trainer.eval_every_tokens=0.003",
                 "trainer.checkpoint_every_tokens=1"]  # fmt: skip
"""Evaluated after step 3 and at the end."""
PEAK_FLOPS = 1e9


class Clock:
    """Stands still but for `pass_s`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


class SlowWorld(pl.Callback):
    """A step takes 2 s, an evaluation 50 s; notes what each step did."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.steps: list[Any] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.pass_s(2)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, *_: Any
    ) -> None:
        self.steps.append(pl_module.last_step)

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.clock.pass_s(50)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 7, "test": 2})
    return root


def logged(run_dir: Path) -> list[dict[str, float]]:
    """The rows that Throughput wrote."""
    rows = [row for path in sorted(run_dir.glob("csv/*/metrics.csv")) for row in csv.DictReader(path.open())]
    return [{name: float(v) for name, v in row.items() if v} for row in rows if row.get("speed/mfu")]


def slow_run(data: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> SlowWorld:
    """A training whose loader takes 0.5 s for a batch."""
    clock = Clock()
    world = SlowWorld(clock)
    monkeypatch.setattr(throughput, "device_peak", lambda *_: Peak(PEAK_FLOPS, "of a test"))
    parts = train.assemble(config(data, run_dir, *EVERY_2_STEPS, *overrides))
    monkeypatch.setattr(parts.module, "configure_callbacks", lambda: [Throughput(parts.module.optim, clock)])
    parts.trainer.profiler = DataWait(clock)
    parts.trainer.callbacks.append(world)

    class SlowLoader(ResumableLoader):
        def __iter__(self) -> Any:
            for item in super().__iter__():
                clock.pass_s(0.5)
                yield item

    monkeypatch.setattr("m3.batches.datamodule.ResumableLoader", SlowLoader)
    train.fit(config(data, run_dir, *EVERY_2_STEPS, *overrides), parts)
    return world


@pytest.mark.parametrize("sizes", [(4, 1), (2, 2)])
def test_every_logged_speed(data, tmp_path, monkeypatch, sizes) -> None:
    options = [f"optim.batch_size={sizes[0]}", f"optim.accumulation={sizes[1]}"]
    world = slow_run(data, tmp_path, monkeypatch, *options)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == [1, 3, 5] and len(world.steps) == 6
    assert [row["time/train_s"] for row in rows] == [5.0, 10.0, 15.0]  # 2 + 0.5 s a step, whatever the evaluations took
    model = EncoderDecoder(world_table(data, tmp_path), 32, 1, 1, 16, head="factorized", joints="ordinal")
    # Step 3 came before the evaluation of its window: the second window holds only step 4.
    for row, numbers in zip(rows, [(0, 1), (3,), (4, 5)]):
        steps = [world.steps[n] for n in numbers]
        seconds = 2.5 * len(steps)
        assert row["speed/samples_per_s"] == pytest.approx(4 / 2.5)
        assert row["speed/tokens_per_s"] == pytest.approx(4 * 256 / 2.5)
        real = sum(int(step.input_lengths.sum() + step.target_lengths.sum()) for step in steps)
        assert row["speed/real_tokens_per_s"] == pytest.approx(real / seconds)
        flops = sum(train_step_flops(model, s.input_lengths, s.target_lengths, s.counts) for s in steps)
        assert row["speed/flops_per_s"] == pytest.approx(flops / seconds)
        assert row["speed/mfu"] == pytest.approx(flops / seconds / PEAK_FLOPS)
        assert row["speed/data_wait_share"] == pytest.approx(0.5 / 2.5)
        assert row["train/grad_norm"] == pytest.approx(float(steps[-1].grad_norm))
    assert rows[0]["memory/peak_mib"] == pytest.approx(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, rel=0.2
    )


def world_table(data: Path, run_dir: Path) -> Any:
    return train.assemble(config(data, run_dir / "table")).module.table


def test_waiting_is_counted_by_lightnings_own_announcements() -> None:
    clock = Clock()
    wait = DataWait(clock)
    for action, seconds in (("[_TrainingEpochLoop].train_dataloader_next", 3), ("[_EvaluationLoop].val_next", 5),
                            ("[_TrainingEpochLoop].train_dataloader_next", 4)):  # fmt: skip
        with wait.profile(action):
            clock.pass_s(seconds)
    assert wait.waited_s == 7


@pytest.mark.slow
def test_two_ranks_log_the_numbers_of_both(data, tmp_path) -> None:
    options = [*EVERY_2_STEPS, "optim.batch_size=2"]
    run_on_two_processes(data, tmp_path / "two", *options)
    train.run(config(data, tmp_path / "one", *EVERY_2_STEPS, "optim.batch_size=4"))
    for two, one in zip(logged(tmp_path / "two"), logged(tmp_path / "one"), strict=True):
        # The same samples, so that what does not depend on time is equal.
        for quotient in (
            ("speed/real_tokens_per_s", "speed/samples_per_s"),
            ("speed/flops_per_s", "speed/samples_per_s"),
        ):
            assert two[quotient[0]] / two[quotient[1]] == pytest.approx(one[quotient[0]] / one[quotient[1]], rel=1e-5)
        assert two["train/grad_norm"] == pytest.approx(one["train/grad_norm"], rel=1e-4)
        assert 0 <= two["speed/data_wait_share"] < 1 and 0 < two["speed/mfu"] < 10


@pytest.mark.parametrize(
    ("name", "kind", "tera"),
    [("Tesla V100-SXM2-32GB", "fp16", 125), ("Tesla V100-PCIE-16GB", "fp16", 112),
     ("Tesla V100S-PCIE-32GB", "fp32", 16.4),
     ("NVIDIA A100-SXM4-80GB", "bf16", 312), ("NVIDIA A100 80GB PCIe", "tf32", 156),
     ("NVIDIA H100 80GB HBM3", "bf16", 989.4), ("NVIDIA H100 PCIe", "bf16", 756), ("NVIDIA H100 NVL", "fp16", 835.5),
     ("NVIDIA H200", "bf16", 989.4), ("NVIDIA H200 NVL", "tf32", 417.5)],
)  # fmt: skip
def test_published_peaks(name: str, kind: str, tera: float) -> None:
    assert published_peak(name, kind).flops_per_s == tera * 1e12


@pytest.mark.filterwarnings("ignore:.*does not support")
@pytest.mark.parametrize(
    "name",
    ["Tesla V100-SXM2-32GB", "Tesla V100-PCIE-16GB", "Tesla V100S-PCIE-32GB", "NVIDIA A100-SXM4-80GB",
     "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"],
)  # fmt: skip
def test_peaks_equal_those_of_lightning(monkeypatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr("lightning_fabric.accelerators.cuda._is_ampere_or_later", lambda: False)
    for dtype, torch_dtype in {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.items():
        peak, theirs = published_peak(name, dtype), get_available_flops(torch.device("cuda"), torch_dtype)
        assert theirs == (peak and pytest.approx(peak.flops_per_s))


def test_why_the_peaks_are_not_those_of_lightning(monkeypatch) -> None:
    """Should this fail, Lightning's table has been corrected and can take the place of ours."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    with pytest.warns(UserWarning, match="FLOPs not found"):
        assert get_available_flops(torch.device("cuda"), torch.bfloat16) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 NVL")
    with_sparsity = get_available_flops(torch.device("cuda"), torch.bfloat16)
    assert with_sparsity > 2 * published_peak("NVIDIA H100 NVL", "bf16").flops_per_s


def test_what_the_table_does_not_know_is_measured() -> None:
    assert published_peak("Tesla V100-SXM2-32GB", "bf16") is None and published_peak("GeForce 9", "fp32") is None
    peak = device_peak(torch.device("cpu"), "32-true")
    assert peak is device_peak(torch.device("cpu"), "32-true") and "1024 × 1024, measured" in peak.source
    again = matmul_flops(torch.device("cpu"), torch.float32, 1024, 0.0, 0.1)
    assert peak.flops_per_s == pytest.approx(again, rel=0.9) and peak.flops_per_s > 1e9


def test_a_rate_is_operations_over_time(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr("m3.training.device_flops.time.perf_counter", clock)
    monkeypatch.setattr(torch, "mm", lambda a, b, out: clock.pass_s(0.25))
    assert matmul_flops(torch.device("cpu"), torch.float32, 10, 1.0, 1.0) == 2 * 10**3 / 0.25


@pytest.mark.parametrize(
    ("precision", "device", "float32", "kind"),
    [("32-true", "cpu", "high", "fp32"), ("32-true", "cuda", "highest", "fp32"), ("32-true", "cuda", "high", "tf32"),
     ("16-mixed", "cuda", "highest", "fp16"), ("bf16-mixed", "cuda", "high", "bf16"),
     ("bf16-true", "cpu", "high", "bf16")],
)  # fmt: skip
def test_arithmetic_of_a_precision(monkeypatch, precision: str, device: str, float32: str, kind: str) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: float32)
    assert matmul_dtype(precision, torch.device(device)) == kind


def test_peak_memory_grows_with_what_is_held() -> None:
    script = """
import torch
from m3.training.memory import peak_bytes
before = peak_bytes(torch.device("cpu"))
held = torch.ones(2**26)  # 256 MiB
print(peak_bytes(torch.device("cpu")) - before)
"""
    # In a process of its own: in this one other tests may have held more.
    grown = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=ROOT).stdout)
    assert 200 * 2**20 < grown < 400 * 2**20


def profiled(clock: Clock, path: Path) -> StepProfile:
    """Steps of 1, 10, 20 and 40 s, announced as Lightning does."""
    profile = StepProfile(str(path), num_warmup_steps=1, clock=clock)
    with profile.profile("[Strategy]X.batch_to_device"):  # of an evaluation before
        clock.pass_s(100)
    for unit in (0.1, 1.0, 2.0, 4.0):
        with profile.profile("[_TrainingEpochLoop].train_dataloader_next"):
            clock.pass_s(unit)
        with profile.profile("run_training_batch"), profile.profile("[LightningModule]M.optimizer_step"):
            with profile.profile("[Strategy]X.optimizer_step"):
                with profile.profile("[Strategy]X.training_step"):
                    with profile.profile("masks"):
                        clock.pass_s(2 * unit)
                    clock.pass_s(unit)
                with profile.profile("[Strategy]X.backward"):
                    clock.pass_s(3 * unit)
                clock.pass_s(unit)
            clock.pass_s(unit)
        clock.pass_s(unit)
    return profile


def table_of(text: str) -> dict[str, tuple[float, float]]:
    """Part → ms a step and share in %."""
    rows = re.findall(r"│ (.+?)\s+│\s+([\d.,]+) │\s+([\d.]+)% │", text)
    return {part: (float(ms.replace(",", "")), float(share)) for part, ms, share in rows}


def test_a_profile_splits_the_time_of_the_counted_steps(tmp_path, capsys) -> None:
    profile = profiled(Clock(), tmp_path / "profile.txt")
    profile.describe()
    # Of the steps of 10 and 20 s, 15 s on average: the first is for warming up, the last has no end.
    expected = {"waiting for data": 1, "masks and packing": 2, "rest of the training step": 1, "backward": 3,
                "optimizer": 2, "Lightning, callbacks, logs": 1}  # fmt: skip
    found = table_of((tmp_path / "profile.txt").read_text())
    assert found == {part: (1500 * n, 10.0 * n) for part, n in expected.items()}
    said = capsys.readouterr().out
    assert table_of(said) == found and "15,000.0 ms, mean of 2" in said and str(tmp_path) in said.replace("\n", "")
    profile.describe()
    assert capsys.readouterr().out == ""


def test_debug_profile_prints_where_the_time_goes(data, tmp_path, capsys) -> None:
    made = train.run(config(data, tmp_path, "debug=profile"))
    assert made.trainer.global_step == 20  # of the 25, which is all that the tiny recipe has
    found = table_of((tmp_path / "profile.txt").read_text())
    assert {
        "waiting for data",
        "masks and packing",
        "forward: encoder",
        "forward: decoder",
        "heads and loss",
        "accuracies for the log",
        "backward",
        "gradient norm and clipping",
        "optimizer",
    } <= found.keys()
    assert sum(share for _, share in found.values()) == pytest.approx(100, abs=0.6)
    assert table_of(capsys.readouterr().out) == found and all(ms >= 0 for ms, _ in found.values())
    assert math.isfinite(made.last_eval_loss) and found["backward"][0] > 0


def test_the_composed_configuration_lies_beside_the_run(data, tmp_path) -> None:
    train.run(config(data, tmp_path, "trainer.max_steps=1", "optim.lr=0.00012"))
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert saved.optim.lr == 0.00012 and saved.data.batch_size == 4  # resolved
    assert "${" not in (tmp_path / "config.yaml").read_text()
