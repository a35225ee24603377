"""train.py in-process on tiny shards of random tokens: exact resume, evaluation that ignores batch sizes, refusals."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, HydraException
from support.train_runs import ROOT, TINY, assert_same_training_state, config, state_of, write_data

import train
from m3.checkpoint import load_model, newest_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


@pytest.fixture(scope="module")
def whole_run(data: Path, tmp_path_factory) -> tuple[Path, train.TrainingRun]:
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, train.run(config(data, run_dir))


def test_a_run_evaluates_logs_and_saves(whole_run) -> None:
    run_dir, made = whole_run
    assert made.trainer.global_step == 20
    assert made.first_eval_loss == pytest.approx((math.log(64_000) + math.log(8_192)) / 2, abs=1e-3)
    assert made.last_eval_loss < made.first_eval_loss - 0.1
    assert newest_checkpoint(run_dir).name == "step_00000020.ckpt"
    loaded = load_model(run_dir)
    assert loaded.step == 20 and loaded.data["canvas_size"] == 32 and not loaded.model.training
    assert torch.equal(loaded.model.dec_context_proj.weight, made.module.model.dec_context_proj.weight)
    rows = [row for path in run_dir.glob("csv/*/metrics.csv") for row in csv.DictReader(path.open())]
    seconds = [float(row["time/train_s"]) for row in rows if row.get("time/train_s")]
    assert len(seconds) == 10 and seconds == sorted(seconds) and seconds[0] > 0
    assert {int(row["step"]) for row in rows if row.get("eval/loss")} == {0, 6, 13, 19}
    # Each logged learning rate is that of the step about to come, by the formula of the recipe (W = 4, T = 20).
    rates = [float(row["train/lr"]) for row in rows if row.get("train/lr")]
    cosine = [1e-6 + (6e-4 - 1e-6) / 2 * (1 + math.cos(math.pi * (i - 4) / 15)) for i in range(4, 20)]
    assert rates[0] == pytest.approx(6e-4 * 3 / 4) and rates[1:9] == pytest.approx(cosine[0::2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(data, tmp_path, whole_run, num_workers) -> None:
    train.run(config(data, tmp_path, "trainer.max_steps=10"))
    made = train.run(config(data, tmp_path, "resume=auto", f"data.num_workers={num_workers}"))
    assert made.trainer.global_step == 20
    assert_same_training_state(state_of(tmp_path), state_of(whole_run[0]))


def test_a_resumed_run_mirrors_the_same_samples(tmp_path) -> None:
    write_data(tmp_path / "data", {"train": 30, "eval": 3, "test": 1}, variants=("flip",))
    short = ["trainer.max_steps=12", "trainer.eval_every_tokens=1"]
    whole = train.run(config(tmp_path / "data", tmp_path / "whole", "data.flip=true", *short))
    train.run(config(tmp_path / "data", tmp_path / "parts", "data.flip=true", "trainer.max_steps=5"))
    with pytest.raises(ValueError, match="data.flip was True and is False"):
        train.run(config(tmp_path / "data", tmp_path / "parts", "resume=auto"))
    train.run(config(tmp_path / "data", tmp_path / "parts", "data.flip=true", "resume=auto", *short))
    assert_same_training_state(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))
    plain = train.run(config(tmp_path / "data", tmp_path / "plain", *short))
    assert plain.first_eval_loss == whole.first_eval_loss and plain.last_eval_loss != whole.last_eval_loss


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("coords", ["modalities=coords", "modalities.max_seq_lens=[39,39]",
                    "modalities.input_tokens_range=[8,39]", "modalities.target_tokens_range=[8,39]"]),
        ("tok_rgb", ["modalities.modalities=[tok_rgb,tok_rgb_next]", "modalities.max_seq_lens=[4,4]",
                     "modalities.input_tokens_range=[1,4]", "modalities.target_tokens_range=[1,4]",
                     "model.positions=2d"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stored", ["its own", "all"])
def test_training_on_one_kind_of_modality(tmp_path, data, kind: str, overrides: list[str], stored: str) -> None:
    root = data
    if stored == "its own":
        root = tmp_path / "data"
        write_data(root, {"train": 30, "eval": 3, "test": 1}, names=(kind, f"{kind}_next"))
    pairs_of = [f"modalities.{key}=[{value},{value}]" for key, value in
                (("vocab_sizes", 65536), ("input_alphas", 1), ("target_alphas", 1))]  # fmt: skip
    made = train.run(config(root, tmp_path / "run", *overrides, *pairs_of, "trainer.max_steps=6"))
    num_ids = {"coords": 8_192, "tok_rgb": 64_000}[kind]
    assert made.first_eval_loss == pytest.approx(math.log(num_ids), abs=1e-3)
    assert math.isfinite(made.last_eval_loss) and made.last_eval_loss != made.first_eval_loss
    assert load_model(tmp_path / "run").table.modalities == (kind, f"{kind}_next")


def test_a_run_killed_at_any_moment_continues_to_the_same_weights(data, tmp_path, whole_run) -> None:
    command = [sys.executable, "train.py", *TINY, f"data.root={data}", f"run_dir={tmp_path}", "resume=auto"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while newest_checkpoint(tmp_path) is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and newest_checkpoint(tmp_path) is not None
    train.run(config(data, tmp_path, "resume=auto"))
    assert_same_training_state(state_of(tmp_path), state_of(whole_run[0]))


def test_eval_loss_does_not_depend_on_the_batch_size(data, tmp_path, whole_run) -> None:
    _, made = whole_run
    for size in (1, 7, 13):
        made.datamodule.eval_batch_size = size
        loss = made.trainer.validate(made.module, datamodule=made.datamodule, verbose=False)[0]["eval/loss"]
        assert loss == pytest.approx(made.last_eval_loss, rel=1e-5)


def test_every_sample_comes_once_an_epoch_in_new_order(data, whole_run) -> None:
    _, made = whole_run
    loader = made.datamodule.train_dataloader()
    seen = [(int(e), int(s)) for batch in loader for e, s in zip(batch.epoch, batch.sample)]
    assert len(seen) == 80
    epochs = [[s for e, s in seen if e == epoch] for epoch in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30)) and len(epochs[2]) == 20
    assert epochs[0] != epochs[1]
    tokens = made.datamodule.train_table.tokens
    assert all(np.array_equal(b.tokens.numpy(), tokens[b.sample.numpy()]) for b in loader)


def test_overfit_as_shipped_goes_to_nearly_zero(data, tmp_path) -> None:
    own = [each for each in TINY if not each.startswith(("optim.", "trainer."))]
    own += ["model.width=128", "model.encoder_depth=2", "model.decoder_depth=2", "model.joints=table"]
    own += [f"data.root={data}", f"run_dir={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["debug=overfit", *own])
    made = train.run(cfg)
    rows = [row for path in tmp_path.glob("csv/*/metrics.csv") for row in csv.DictReader(path.open())]
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    assert losses[0] > 5 and losses[-1] < 0.05
    assert made.trainer.global_step == 300 and made.trainer.optimizers[0].param_groups[0]["lr"] < 1.1e-5


def test_debugging_an_experiment_leaves_its_run_alone() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for option in ("overfit", "one_step", "profile"):
            cfg = compose("train", ["experiment=demo", f"debug={option}"])
            assert cfg.resume is None and cfg.run_dir.startswith("outputs/debug/")
            assert cfg.optim.batch_size == (4 if option == "overfit" else 40)


def test_the_last_step_is_logged_as_it_was(data, tmp_path) -> None:
    train.run(config(data, tmp_path, "trainer.max_steps=5", "trainer.log_every_n_steps=3"))
    rows = [row for path in tmp_path.glob("csv/*/metrics.csv") for row in csv.DictReader(path.open())]
    losses = {int(row["step"]): float(row["train/loss"]) for row in rows if row.get("train/loss")}
    train.run(config(data, tmp_path / "every", "trainer.max_steps=5", "trainer.log_every_n_steps=1"))
    rows = [row for path in (tmp_path / "every").glob("csv/*/metrics.csv") for row in csv.DictReader(path.open())]
    every = {int(row["step"]): float(row["train/loss"]) for row in rows if row.get("train/loss")}
    assert losses.keys() == {2, 4} and losses == {step: every[step] for step in losses}


def test_half_precision(data, tmp_path) -> None:
    made = train.run(config(data, tmp_path, "optim.dtype=bf16", "trainer.max_steps=3"))
    assert made.trainer.precision == "bf16-mixed" and made.last_eval_loss < made.first_eval_loss
    assert all(p.dtype == torch.float32 for p in made.module.parameters())


def test_hardware_overrides_the_dtype(data, tmp_path) -> None:
    cfg = config(data, tmp_path, "hardware=fp32", "optim.dtype=bf16", "hardware.accelerator=cpu", "trainer.max_steps=1")
    assert train.run(cfg).trainer.precision == "32-true"


def test_hardware_says_how_matrices_are_multiplied(data, tmp_path) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        train.assemble(config(data, tmp_path, "hardware.matmul_precision=medium"))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_gradients_are_clipped(data, tmp_path) -> None:
    norms = []
    for clip in (1e9, 0.01):
        train.run(config(data, tmp_path / str(clip), "trainer.max_steps=1", f"optim.clip_grad={clip}"))
        moments = state_of(tmp_path / str(clip))["optimizer_states"][0]["state"].values()
        norms.append(math.hypot(*(float(m["exp_avg"].norm()) for m in moments)) / (1 - 0.9))  # beta_1 is 0.9
    assert norms[0] > 0.1 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_one_step(data, tmp_path) -> None:
    assert train.run(config(data, tmp_path, "debug=one_step")).trainer.global_step == 1


def test_an_occupied_run_folder_and_changed_settings_are_refused(data, tmp_path, whole_run) -> None:
    with pytest.raises(ValueError, match="resume=auto"):
        train.run(config(data, whole_run[0]))
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.0006 and is 0\.001"):
        train.run(config(data, whole_run[0], "resume=auto", "optim.lr=0.001"))
    write_data(tmp_path / "other", {"train": 30, "eval": 13, "test": 2}, seed=1)
    with pytest.raises(ValueError, match=r"data\.train_shards were 1 and are 1 shards, .* is 000000\.tar"):
        train.run(config(tmp_path / "other", whole_run[0], "resume=auto"))
    write_data(tmp_path / "evaluated", {"train": 30, "eval": 60, "test": 2})
    with pytest.raises(ValueError, match=r"data\.eval_shards were 1 and are 2 shards"):
        train.run(config(tmp_path / "evaluated", whole_run[0], "resume=auto"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=-1", r"optim\.lr"),
        ("optim.warmup_tokens=1", r"optim\.warmup_tokens"),
        ("optim.dtype=fp8", r"optim\.dtype"),
        ("model.width=33", r"model\.width"),
        ("loss.reduction=mean", r"loss\.reduction"),
        ("modalities.input_tokens_range=[0,5]", "input_tokens_range"),
        ("modalities.max_seq_lens=[64,39,64,39]", "64 tokens of tok_rgb"),
        ("resume=yes", "resume"),
        ("hardware.devices=0", r"hardware\.devices"),
        ("hardware.devices=auto", r"hardware\.devices"),
        ("hardware.accelerator=tpux", r"hardware\.accelerator"),
        ("hardware.strategy=foo", r"hardware\.strategy"),
        ("hardware.attention=flash", r"hardware\.attention"),
        ("hardware.matmul_precision=low", r"hardware\.matmul_precision"),
        ("optim.dtype=fp16", r"optim\.dtype=fp16: float16 needs a GPU; .*bf16"),
        ("hardware.precision=16-mixed", r"hardware\.precision=16-mixed: float16 needs a GPU; .*bf16-mixed"),
        ("optim.batch_size=2.5", r"optim\.batch_size"),
        ("optim.betas=[2,3]", r"optim\.betas"),
        ("optim.lr=abc", r"optim\.lr"),
        ("seed=-1", "seed"),
        ("model.mlp_ratio=-1", r"model\.mlp_ratio"),
        ("modalities.input_tokens_range=[8]", "input_tokens_range"),
        ("modalities.max_seq_lens=[4.5,39,4,39]", "max_seq_lens"),
        ("data.root=nowhere", r"preprocess\.py"),
        ("data.num_workers=-1", r"data\.num_workers"),
        ("trainer.log_every_n_steps=0", r"trainer\.log_every_n_steps"),
    ],
)
def test_what_cannot_be_stops_before_any_work(data, tmp_path, override, message) -> None:
    with pytest.raises((ValueError, FileNotFoundError, HydraException), match=message):
        train.run(config(data, tmp_path, override))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("override", ["optim.learning_rate=1", "modelx=m3", "nonsense=1"])
def test_unknown_keys_are_refused_by_name(data, tmp_path, override) -> None:
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0].split(".")[-1]):
        config(data, tmp_path, override)


def test_a_resumed_overfit_run_goes_on_with_the_same_batch(data, tmp_path) -> None:
    options = ["data.repeat_batches=1", "data.num_workers=0"]
    train.run(config(data, tmp_path / "whole", *options))
    train.run(config(data, tmp_path / "parts", *options, "trainer.max_steps=10"))
    train.run(config(data, tmp_path / "parts", *options, "resume=auto"))
    assert_same_training_state(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))


def test_only_the_newest_checkpoints_are_kept(whole_run, data, tmp_path) -> None:
    train.run(config(data, tmp_path, "trainer.max_steps=12", "trainer.keep_checkpoints=2"))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.ckpt",
        "step_00000010.ckpt",
        "step_00000012.ckpt",
    ]


def test_a_checkpoint_chooses_no_code(whole_run, tmp_path) -> None:
    content = state_of(whole_run[0])
    folder = tmp_path / "made"
    content["m3"]["config"]["model"] |= {"_target_": "os.mkdir", "path": str(folder)}
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="'path'"):  # which is no option of the model
        load_model(tmp_path / "bad.ckpt")
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"hello", b"", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content) -> None:
    (tmp_path / "odd.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.ckpt"):
        load_model(tmp_path / "odd.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match=r"odd\.ckpt"):
        load_model(tmp_path / "odd.ckpt")


def test_no_checkpoint_says_how_to_get_one(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.py"):
        load_model(tmp_path)
