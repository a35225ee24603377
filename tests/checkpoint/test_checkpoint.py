"""Checkpoints: when they are saved, what a signal, a torn file and a full disk do, and what they refuse."""

from __future__ import annotations

import csv
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.train_runs import ROOT, TINY, assert_same_training_state, config, state_of, write_data

from m3.checkpoint import (
    CheckpointWriteError,
    load_model,
    newest_checkpoint,
    read_checkpoint,
)
from m3.checkpoint.resume_check import resume_differences
from m3.commands import train
from m3.core.locks import locked
from m3.core.signals import Interrupted, interruptible


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


@pytest.fixture(scope="module")
def whole_run(data: Path, tmp_path_factory) -> tuple[Path, train.TrainingRun]:
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, train.run(config(data, run_dir))


def logged(run_dir: Path, column: str) -> dict[int, float]:
    """Step → value over all parts of a run; a later part wins."""
    values = {}
    for path in sorted(run_dir.glob("csv/*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        values |= {int(row["step"]): float(row[column]) for row in csv.DictReader(path.open()) if row.get(column)}
    return values


class Nuisance(pl.Callback):
    """Sends this process a signal at a step, before it ends or in the middle of its evaluation."""

    def __init__(self, step: int, number: signal.Signals, in_evaluation: bool = False) -> None:
        self.step, self.number, self.in_evaluation = step, number, in_evaluation

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_) -> None:
        if not self.in_evaluation and trainer.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_) -> None:
        if self.in_evaluation and trainer.state.fn == "fit" and trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)
            self.step = -1


def run_with(cfg, callback: pl.Callback) -> train.TrainingRun:
    parts = train.assemble(cfg)
    parts.trainer.callbacks.insert(0, callback)
    return train.fit(cfg, parts)


@pytest.mark.parametrize(
    ("number", "step", "in_evaluation"),
    [
        (signal.SIGTERM, 3, False),
        (signal.SIGINT, 8, False),
        (signal.SIGTERM, 7, False),  # an evaluation is due at 7 and 14, a checkpoint at 5, 10 and 15
        (signal.SIGINT, 14, True),
        (signal.SIGUSR1, 4, False),
    ],
)
def test_a_signal_stops_between_steps_and_the_run_continues_to_the_bit(
    data, tmp_path, whole_run, capfd, number, step, in_evaluation
) -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        run_with(config(data, tmp_path), Nuisance(step, number, in_evaluation))
    assert stopped.value.code == 128 + number
    said = capfd.readouterr().err
    assert number.name in said and "resume=auto continues" in said and f"step_{step:08d}.ckpt" in said
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert newest_checkpoint(tmp_path).name == f"step_{step:08d}.ckpt"
    made = train.run(config(data, tmp_path, "resume=auto"))
    assert_same_training_state(state_of(tmp_path), state_of(whole_run[0]))
    for column in ("train/loss", "train/lr", "eval/loss"):
        assert logged(tmp_path, column) == logged(whole_run[0], column), column
    assert (made.checkpoints.best_step, made.checkpoints.best_loss) == (20, whole_run[1].last_eval_loss)


def test_a_signal_in_the_last_step_lets_the_run_finish(data, tmp_path, whole_run) -> None:
    run_with(config(data, tmp_path), Nuisance(20, signal.SIGTERM))
    assert_same_training_state(state_of(tmp_path), state_of(whole_run[0]))


def start(data: Path, run_dir: Path, *overrides: str, **environment: str) -> subprocess.Popen:
    """A run of 120 steps in a session of its own, with a checkpoint after step 5."""
    command = [sys.executable, "train.py", *TINY, f"data.root={data}", f"run_dir={run_dir}", *LONG, *overrides]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while newest_checkpoint(run_dir) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


LONG = ["optim.total_tokens=0.12288", "resume=auto", "trainer.eval_every_tokens=1"]


@pytest.mark.slow
def test_sigterm_of_a_process(data, tmp_path) -> None:
    process = start(data, tmp_path / "parts")
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "resume=auto continues" in said and "Traceback" not in said
    step = read_checkpoint(newest_checkpoint(tmp_path / "parts"))["global_step"]
    assert 5 <= step < 120
    train.run(config(data, tmp_path / "parts", *LONG))
    train.run(config(data, tmp_path / "whole", *LONG))
    assert_same_training_state(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))


def slurm(folder: Path, returns: int = 0) -> dict[str, str]:
    """The environment of a SLURM job that was started by srun, with an `scontrol` that writes down its arguments."""
    folder.mkdir()
    scontrol = folder / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {folder}/said\necho no such job >&2\nexit {returns}\n')
    scontrol.chmod(0o755)
    job = {"JOB_ID": "77", "JOB_NAME": "m3", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    return {"PATH": f"{folder}:{os.environ['PATH']}", **{f"SLURM_{key}": value for key, value in job.items()}}


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_preempted_slurm_job_saves_requeues_and_continues(data, tmp_path, number) -> None:
    environment = slurm(tmp_path / "bin")
    process = start(data, tmp_path / "parts", **environment)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert (tmp_path / "bin/said").read_text() == "requeue 77\n" and "it waits in the queue again" in said
    step = read_checkpoint(newest_checkpoint(tmp_path / "parts"))["global_step"]
    assert 5 <= step < 120
    command = [sys.executable, "train.py", *TINY, f"data.root={data}", f"run_dir={tmp_path}/parts", *LONG]
    assert subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True).returncode == 0
    train.run(config(data, tmp_path / "whole", *LONG))
    assert_same_training_state(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))


@pytest.mark.slow
def test_jobs_that_are_not_requeued(data, tmp_path) -> None:
    """After Ctrl-C, from a shell, where SLURM refuses, and without resume=auto, which alone makes a job go on."""
    environment = slurm(tmp_path / "bin", returns=1)
    for name, number, overrides, changes in [
        ("ctrl_c", signal.SIGINT, [], {}),
        ("shell", signal.SIGUSR1, [], {"SLURM_JOB_NAME": "bash"}),
        ("anew", signal.SIGUSR1, ["resume=null"], {}),
        ("refused", signal.SIGUSR1, [], {}),
    ]:
        process = start(data, tmp_path / name, *overrides, **{**environment, **changes})
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        if name == "refused":
            assert "scontrol requeue 77: no such job; submit it again to continue" in said
        else:
            assert not (tmp_path / "bin/said").exists(), name


def test_a_cluster_s_signal_before_training_interrupts_at_once() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)]
    with pytest.raises(Interrupted) as stopped, interruptible():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(10)
    assert (stopped.value.code, stopped.value.signal) == (128 + signal.SIGUSR1, signal.SIGUSR1)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)] == handlers


@pytest.mark.slow
def test_ctrl_c_with_loader_processes_and_a_second_one(data, tmp_path) -> None:
    """A terminal sends Ctrl-C to the loader processes too."""
    process = start(data, tmp_path, "data.num_workers=2")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "resume=auto continues" in said and "Traceback" not in said
    # An evaluation of a thousand batches gives the time for a second signal.
    process = start(data, tmp_path, "data.eval_batch_size=1", "trainer.eval_every_tokens=0.001")
    process.send_signal(signal.SIGINT)
    time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    train.run(config(data, tmp_path, *LONG))


class Ascent(pl.Callback):
    """Turns the gradient round after step 8, so that the loss rises again whatever the masks and weights are."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, *_) -> None:
        if trainer.global_step >= 8:
            for parameter in module.parameters():
                parameter.grad.neg_()


def test_the_best_checkpoint_is_that_of_the_lowest_eval_loss(data, tmp_path) -> None:
    options = ["optim.lr=0.01", "trainer.eval_every_tokens=0.002"]
    made = run_with(config(data, tmp_path / "whole", *options), Ascent())
    losses = {step + 1: loss for step, loss in logged(tmp_path / "whole", "eval/loss").items() if step}
    best = min(losses, key=losses.get)
    assert 2 < best < 14 and set(losses) == set(range(2, 21, 2))
    assert (made.checkpoints.best_step, made.checkpoints.best_loss) == (best, pytest.approx(losses[best]))
    loaded = load_model(tmp_path / "whole" / "checkpoints" / "best.ckpt")
    assert loaded.step == best and load_model(tmp_path / "whole").step == 20
    made.module.model.load_state_dict(loaded.model.state_dict())
    assert train._evaluate(made.trainer, made.module, made.datamodule) == pytest.approx(losses[best])
    # A run in two parts remembers what the first part reached.
    run_with(config(data, tmp_path / "parts", *options, "trainer.max_steps=15"), Ascent())
    made = run_with(config(data, tmp_path / "parts", *options, "resume=auto"), Ascent())
    assert (made.checkpoints.best_step, made.checkpoints.best_loss) == (best, pytest.approx(losses[best]))


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(data, tmp_path, whole_run, caplog, damage) -> None:
    train.run(config(data, tmp_path, "trainer.max_steps=12"))
    newest = tmp_path / "checkpoints" / "step_00000012.ckpt"
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"torn": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    assert newest_checkpoint(tmp_path).name == "step_00000010.ckpt"
    assert "step_00000012.ckpt: " in caplog.text and "it is passed over" in caplog.text
    train.run(config(data, tmp_path, "resume=auto"))
    assert_same_training_state(state_of(tmp_path), state_of(whole_run[0]))


def test_a_full_disk_keeps_the_previous_checkpoint(data, tmp_path, whole_run) -> None:
    """A bound on the size of files, set after the first checkpoint, stops a write half-way as a full disk does."""

    class FullDisk(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
            if trainer.global_step == 9:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointWriteError, match=r"step_00000010\.ckpt.*MiB are free.*step_00000005\.ckpt"):
            run_with(config(data, tmp_path, "trainer.eval_every_tokens=1"), FullDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000005.ckpt"]
    train.run(config(data, tmp_path, "resume=auto"))
    assert_same_training_state(state_of(tmp_path), state_of(whole_run[0]))


@pytest.mark.slow
def test_a_command_says_that_the_disk_is_full(data, tmp_path) -> None:
    limited = f"ulimit -f 40; exec {sys.executable} train.py {' '.join(TINY)} data.root={data} run_dir={tmp_path}"
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "error: " in done.stderr and "resume=auto" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=0.001", r"optim\.lr was 0\.0006 and is 0\.001"),
        ("optim.batch_size=8", r"optim\.batch_size was 4 and is 8"),
        ("model.width=48", r"model\.width was 32 and is 48"),
        ("modalities.input_alphas=[1,1,1,2]", r"modalities\.input_alphas was \[1, 1, 1, 1\] and is \[1, 1, 1, 2\]"),
        ("loss.reduction=all", r"loss\.reduction was 'present' and is 'all'"),
        ("optim.accumulation=2", r"optim\.accumulation was 1 and is 2"),
        ("optim.ema_decay=0.9", r"optim\.ema_decay was None and is 0\.9"),
        ("loss.label_smoothing=0.1", r"loss\.label_smoothing"),
        ("seed=1", r"seed was 0 and is 1"),
        ("data.repeat_batches=1", r"data\.repeat_batches was None and is 1"),
        ("hardware.precision=bf16-mixed", r"hardware\.precision"),
    ],
)
def test_a_run_with_other_settings_is_not_continued(data, whole_run, override, message) -> None:
    with pytest.raises(ValueError, match=message):
        train.assemble(config(data, whole_run[0], "resume=auto", override))


def test_settings_that_change_no_weights_may_change(data, whole_run, tmp_path) -> None:
    free = ["trainer.eval_every_tokens=2", "trainer.log_every_n_steps=3", "name=other", "data.eval_batch_size=2"]
    assert train.assemble(config(data, whole_run[0], "resume=auto", *free)).resume_from


def test_the_composed_configuration_lies_with_the_run(whole_run) -> None:
    text = (whole_run[0] / "config.yaml").read_text()
    assert "total_tokens: 0.02048" in text and "${" not in text


def test_first_weights_from_a_run(data, tmp_path, whole_run) -> None:
    made = train.run(config(data, tmp_path, f"init_from={whole_run[0]}", "trainer.max_steps=0", "seed=5"))
    assert made.first_eval_loss == made.last_eval_loss == pytest.approx(whole_run[1].last_eval_loss)
    loaded, source = load_model(tmp_path), load_model(whole_run[0])
    assert loaded.step == 0
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), source.model.parameters()))
    made = train.run(config(data, tmp_path, f"init_from={whole_run[0]}", "seed=5", "resume=auto"))
    assert made.trainer.global_step == 20 and made.last_eval_loss < whole_run[1].last_eval_loss


def test_first_weights_that_do_not_fit_are_refused(data, tmp_path, whole_run) -> None:
    def refused(*overrides: str, match: str, root: Path = data) -> None:
        with pytest.raises(ValueError, match=match):
            train.assemble(config(root, tmp_path, f"init_from={whole_run[0]}", *overrides))

    refused("model.width=48", match=r"model\.dec_context_proj\.weight was \(32, 32\) and is \(48, 48\)")
    swapped = "modalities.modalities=[tok_rgb_next,coords,tok_rgb,coords_next]"
    refused(swapped, match=r"modalities\.modalities was")
    write_data(tmp_path / "other", {"train": 30, "eval": 13, "test": 2}, fingerprint="1" * 64)
    refused(match="data.tokenizer_fingerprint", root=tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"train\.py"):
        train.assemble(config(data, tmp_path, "init_from=nowhere"))


def test_mirrored_samples_and_one_without_are_told_apart(tmp_path) -> None:
    write_data(tmp_path / "data", {"train": 30, "eval": 13, "test": 2}, variants=("flip",))
    train.run(config(tmp_path / "data", tmp_path / "run", "data.flip=true", "trainer.max_steps=1"))
    with pytest.raises(ValueError, match=r"settings: data\.flip was True and is False$"):
        train.assemble(config(tmp_path / "data", tmp_path / "run", "resume=auto"))


def in_old_names(value: Any) -> Any:
    """A configuration as versions with flat modules stored it."""
    if isinstance(value, dict):
        renamed = {"m3.core.modalities.ModalityTable": "m3.modalities.ModalityTable",
                   "m3.training.optim.OptimConfig": "m3.training.optim.Recipe",
                   "m3.reporting.preview.Preview": "m3.preview.Preview"}  # fmt: skip
        value = {key: in_old_names(entry) for key, entry in value.items()}
        if "_target_" in value:
            value["_target_"] = renamed.get(value["_target_"], value["_target_"])
        return value
    return [in_old_names(entry) for entry in value] if isinstance(value, list) else value


def rewrite_in_old_names(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    config = in_old_names(content["m3"]["config"])
    config["loss"]["average"] = config["loss"].pop("reduction")
    config["task"]["loss_average"] = config["task"].pop("reduction")
    content["m3"]["config"] = config
    torch.save(content, checkpoint)


def test_a_run_stored_in_old_names_is_continued_and_loaded(data, tmp_path, whole_run) -> None:
    train.run(config(data, tmp_path / "run", "trainer.max_steps=10"))
    rewrite_in_old_names(newest_checkpoint(tmp_path / "run"))
    stored = read_checkpoint(newest_checkpoint(tmp_path / "run"))["m3"]["config"]
    assert stored["model"]["table"]["_target_"] == "m3.modalities.ModalityTable" and "average" in stored["loss"]
    loaded = load_model(tmp_path / "run")
    assert loaded.config["loss"]["reduction"] == "present" and "average" not in loaded.config["loss"]
    assert train.assemble(config(data, tmp_path / "new", f"init_from={tmp_path / 'run'}"))
    with pytest.raises(ValueError, match=r"other settings: loss\.reduction was 'present' and is 'all'$"):
        train.assemble(config(data, tmp_path / "run", "resume=auto", "loss.reduction=all"))
    train.run(config(data, tmp_path / "run", "resume=auto"))
    assert_same_training_state(state_of(tmp_path / "run"), state_of(whole_run[0]))


def test_an_identity_in_old_names_differs_in_nothing_but_its_values() -> None:
    table = {"max_seq_lens": [64, 39], "clamped": "redistribute"}
    old = {
        "loss": {"average": "present", "eval_seed": 0},
        "modalities": {"_target_": "m3.modalities.ModalityTable", **table},
        "model": {"table": {"_target_": "m3.modalities.ModalityTable", **table}, "width": 128},
        "optim": {"_target_": "m3.training.optim.Recipe", "lr": 0.003},
        "task": {"_target_": "m3.training.module.MaskedTraining", "loss_average": "present", "optim": {"lr": 0.003}},
    }
    new = {
        "loss": {"reduction": "present", "eval_seed": 0},
        "modalities": {"_target_": "m3.core.modalities.ModalityTable", **table},
        "model": {"table": {"_target_": "m3.core.modalities.ModalityTable", **table}, "width": 128},
        "optim": {"_target_": "m3.training.optim.OptimConfig", "lr": 0.003},
        "task": {"_target_": "m3.training.module.MaskedTraining", "reduction": "present", "optim": {"lr": 0.003}},
    }
    properties = {"canvas_size": 128}
    assert resume_differences({"config": old, "data": properties}, {"config": new, "data": properties}) == []
    with_gap = {**properties, "median_gap": 4}  # follows from the shards
    assert resume_differences({"config": old, "data": properties}, {"config": new, "data": with_gap}) == []
    new["optim"]["lr"] = 0.001
    new["loss"]["reduction"] = "all"
    assert resume_differences({"config": old, "data": properties}, {"config": new, "data": properties}) == [
        "loss.reduction was 'present' and is 'all'",
        "optim.lr was 0.003 and is 0.001",
    ]


def test_two_runs_of_one_folder_are_not_allowed(data, tmp_path) -> None:
    """The second one is refused before it touches a file; the first may be followed by another."""
    held = threading.Event(), threading.Event()

    def hold() -> None:
        with train.locked_run(config(data, tmp_path)):
            held[0].set()
            held[1].wait(60)

    first = threading.Thread(target=hold)
    first.start()
    assert held[0].wait(60)
    try:
        with pytest.raises(ValueError, match=rf"^{tmp_path}: another train\.py trains in this folder; wait .*name=…$"):
            train.run(config(data, tmp_path, "resume=auto"))
        assert not list(tmp_path.iterdir())
        code = "from pathlib import Path\nfrom m3.core.locks import locked\n"
        code += f"with locked(Path({str(tmp_path)!r}), 'in use'): pass"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "in use" in done.stderr
    finally:
        held[1].set()
        first.join()
    train.run(config(data, tmp_path, "trainer.max_steps=1"))


def test_a_child_process_does_not_keep_the_lock(tmp_path) -> None:
    """Loader processes live on for some seconds after a run was killed."""
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom m3.core.locks import locked\n"
        f"with locked(Path({str(tmp_path)!r}), 'in use'):\n"
        "    if os.fork() == 0:\n        print('held', flush=True)\n        time.sleep(30)\n        os._exit(0)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    with locked(tmp_path, "in use"):
        pass
