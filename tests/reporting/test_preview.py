"""Previews: what they show and log, what they leave alone, what they say where they cannot."""

from __future__ import annotations

import csv
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from PIL import Image
from support.frames import known_tokens
from support.train_runs import ROOT, TINY, assert_same_training_state, config, state_of, write_data
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import m3.reporting.preview
import train
from m3.metrics.specs import METRICS, pck_spec
from m3.reporting.preview import Preview
from m3.tokens.mini import MiniTokenizer

PREVIEW = [
    "callbacks=preview", "callbacks.preview.num_samples=3", "callbacks.preview.num_frames=2",
    "callbacks.preview.sampling.schemes.tok_rgb_next.num_steps=2", "callbacks.preview.cell_px=48",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 5, "test": 1}, fingerprint=MiniTokenizer().fingerprint)
    return root


@pytest.fixture(scope="module")
def drawn(data: Path, tmp_path_factory) -> tuple[Path, train.TrainingRun]:
    run_dir = tmp_path_factory.mktemp("drawn")
    return run_dir, train.run(config(data, run_dir, "logger=default", *PREVIEW))


def preview_of(data: Path, tmp_path: Path, *overrides: str) -> Preview:
    parts = train.assemble(config(data, tmp_path, *PREVIEW, *overrides))
    return next(callback for callback in parts.trainer.callbacks if isinstance(callback, Preview))


def test_every_evaluation_is_drawn_and_logged(drawn) -> None:
    run_dir, _ = drawn
    files = sorted(path.name for path in (run_dir / "preview").iterdir())
    assert files == [f"step_{step:08d}.png" for step in (0, 7, 14, 20)]
    with Image.open(run_dir / "preview" / files[-1]) as picture:
        assert picture.width > 3 * 48 and picture.height > 6 * 48
    rows = [row for path in run_dir.glob("csv/*/metrics.csv") for row in csv.DictReader(path.open())]
    logged = {int(row["step"]): row for row in rows if row.get("preview/pck@0.1/1")}
    assert sorted(logged) == [0, 7, 14, 20]
    assert all(0 <= float(row["preview/pck@0.1/1"]) <= 1 for row in logged.values())
    assert all(math.isfinite(float(row[f"preview/{name}/1"])) for name in ("psnr", "ssim", "joint_error")
               for row in logged.values())  # fmt: skip
    assert "preview/pck@0.1/2" not in rows[0]  # these clips have one pair each: no truth there
    events = EventAccumulator(str(next(run_dir.glob("tensorboard/version_*"))), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("preview/rollouts")] == [0, 7, 14, 20]
    assert len(events.Scalars("preview/pck@0.1/1")) == 4 and len(events.Scalars("eval/loss")) == 4


def test_training_is_the_same_to_the_bit_without_it(data, drawn, tmp_path) -> None:
    train.run(config(data, tmp_path))
    assert_same_training_state(state_of(tmp_path), state_of(drawn[0]))
    assert not (tmp_path / "preview").exists()


def test_drawing_touches_no_global_randomness_and_repeats(data, drawn, tmp_path) -> None:
    preview, model = preview_of(data, tmp_path), drawn[1].module.model.train()

    def randomness() -> tuple:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = randomness()
    for step in (1, 2):
        preview.draw(model, step, [])
    assert randomness() == before and model.training and all(p.grad_fn is None for p in model.parameters())
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    one, other = ((tmp_path / "preview" / f"step_0000000{step}.png").read_bytes() for step in (1, 2))
    assert one == other


def scores_of_a_perfect_model(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """Its tokens at the one horizon that has a truth are taken from the data, not from the code under test."""
    preview = preview_of(data, tmp_path)
    rows = preview.prompts.sample
    tokens = np.stack([np.asarray(batch) for batch in train.assemble(config(data, tmp_path)).datamodule.eval_rows.read(
        rows)[0]])  # fmt: skip
    tok_rgb = np.stack([tokens[:, :4], tokens[:, 43:47], tokens[:, 43:47]], 1)
    coords = np.stack([tokens[:, 4:43], tokens[:, 47:86], tokens[:, 47:86]], 1)
    truth = known_tokens(np.ones((3, 3), bool), tok_rgb=tok_rgb, coords=coords)
    monkeypatch.setattr(m3.reporting.preview, "roll_out", lambda *_, **__: truth)
    preview.draw(torch.nn.Linear(1, 1), 0, [])
    return {score.name: score.model for score in preview.scores}


def test_a_perfect_model_has_perfect_scores(data, tmp_path, monkeypatch) -> None:
    scores = scores_of_a_perfect_model(data, tmp_path, monkeypatch)
    assert list(scores) == [
        "pck@0.05", "pck@0.1", "joint_error", "pck_moved@0.05", "motion_ratio", "visibility_f1", "psnr", "ssim",
        "psnr_moving", "tok_rgb_changed_accuracy"
    ]  # fmt: skip
    assert (scores["pck@0.05"][0], scores["joint_error"][0], scores["psnr"][0]) == (1.0, 0.0, 100.0)
    assert all(values[1] is None for values in scores.values())


def test_a_new_metric_is_previewed_by_one_entry(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(METRICS, "pck@0.2", pck_spec(0.2, "share of joints closer than 0.2 L", 9))
    assert scores_of_a_perfect_model(data, tmp_path, monkeypatch)["pck@0.2"] == [1.0, None]


def test_the_average_of_the_weights_is_rolled_out(data, tmp_path, monkeypatch) -> None:
    models = []
    monkeypatch.setattr(Preview, "draw", lambda self, model, step, loggers: models.append((model, step)))
    options = ["optim.ema_decay=0.9", "trainer.max_steps=15", "callbacks.preview.every_n_evaluations=2"]
    made = train.run(config(data, tmp_path, *PREVIEW, *options))
    assert [step for _, step in models] == [0, 14, 15]
    assert all(model is made.module.ema_model for model, _ in models)


def test_data_of_another_tokenizer_are_shown_as_skeletons(tmp_path, capsys) -> None:
    write_data(tmp_path / "data", {"train": 8, "eval": 3, "test": 1}, fingerprint="c" * 64)
    train.run(config(tmp_path / "data", tmp_path / "run", *PREVIEW, "trainer.max_steps=1"))
    assert capsys.readouterr().out.count("tokenizer@callbacks.preview.tokenizer=mini draws them") == 1
    header = next((tmp_path / "run").glob("csv/*/metrics.csv")).read_text().splitlines()[0]
    assert "preview/pck@0.1/1" in header and "preview/psnr/1" not in header
    with Image.open(tmp_path / "run" / "preview" / "step_00000001.png") as picture:
        assert (np.asarray(picture) == 32).all(-1).sum() > 3 * 48 * 48  # (−0.75 + 1) · 127.5


def poses_alone(*names: str) -> list[str]:
    """Overrides for a run of joint modalities."""
    ones = [1] * len(names)
    keys = [
        f"modalities=[{','.join(names)}]",
        f"vocab_sizes={[65536] * len(names)}",
        f"max_seq_lens={[39] * len(names)}",
    ]
    keys += [f"input_alphas={ones}", f"target_alphas={ones}", "input_tokens_range=[8,19]", "target_tokens_range=[8,19]"]
    return ["modalities=coords", "callbacks=preview", "trainer.max_steps=1", *(f"modalities.{key}" for key in keys)]


def test_a_run_without_pictures_previews_skeletons(data, tmp_path, capsys) -> None:
    train.run(config(data, tmp_path, *poses_alone("coords", "coords_next")))
    assert "no previews" not in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "preview").iterdir()) == ["step_00000000.png", "step_00000001.png"]


def test_a_run_without_a_successor_has_no_previews_and_says_so(data, tmp_path, capsys) -> None:
    train.run(config(data, tmp_path, *poses_alone("coords")))
    assert capsys.readouterr().out.count("no previews: modalities.modalities=['coords'] has no successor") == 1
    assert not (tmp_path / "preview").exists()


def test_a_successor_that_is_never_learned_has_no_previews(data, tmp_path, capsys) -> None:
    never = "modalities.target_alphas=[1,0]"
    train.run(config(data, tmp_path, *poses_alone("coords", "coords_next"), never, "trainer.max_steps=0"))
    message = "no previews: modalities.target_alphas: coords_next of the successor is never a target"
    assert capsys.readouterr().out.count(message) == 1


def test_previews_damp_as_roll_outs_do(data, tmp_path, monkeypatch) -> None:
    factors, rolled_out = [], m3.reporting.preview.roll_out

    def spy(*arguments, damping, **named):
        factors.append(damping)
        return rolled_out(*arguments, damping=damping, **named)

    monkeypatch.setattr(m3.reporting.preview, "roll_out", spy)
    for name, options in (("own", ["callbacks.preview.damping=0.8"]), ("default", [])):
        parts = train.assemble(config(data, tmp_path / name, *PREVIEW, *options))
        preview = next(callback for callback in parts.trainer.callbacks if isinstance(callback, Preview))
        preview.draw(parts.module.evaluated_model, 0, [])
    assert factors == [0.8, OmegaConf.load(ROOT / "conf/generate.yaml").rollout.damping]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks.preview.num_samples=0", r"callbacks\.preview\.num_samples=0"),
        ("callbacks.preview.num_frames=1.5", r"callbacks\.preview\.num_frames=1\.5"),
        ("callbacks.preview.every_n_evaluations=0", r"callbacks\.preview\.every_n_evaluations=0"),
        ("callbacks.preview.cell_px=2", r"callbacks\.preview\.cell_px=2"),
        ("callbacks.preview.sampling.schemes.tok_rgb_next.num_steps=8", r"preview\.sampling\.schemes\.tok_rgb_next"),
        ("callbacks.preview.sampling.generate=[coords_next]", r"preview\.sampling generates \['coords_next'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_stops_before_any_work(data, tmp_path, override, message) -> None:
    with pytest.raises(InstantiationException, match=message):
        preview_of(data, tmp_path, override)


@pytest.mark.slow
def test_two_processes_draw_once_and_end(data, tmp_path, drawn) -> None:
    options = ["hardware.devices=2", "hardware.strategy=ddp", "optim.batch_size=2", f"data.root={data}"]
    command = [sys.executable, "train.py", *TINY, *PREVIEW, *options, f"run_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "preview").iterdir())) == 4
    assert done.stdout.count("logs: ") == 2


def test_weights_and_biases_offline_gets_pictures_and_tables(data, tmp_path, capsys, monkeypatch) -> None:
    for key in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    train.run(config(data, tmp_path / "run", *PREVIEW, "logger=wandb", "trainer.max_steps=1"))
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert len(list(folder.glob("files/media/images/preview/rollouts_*.png"))) == 2
    assert len(list(folder.glob("files/media/table/preview/scores_*.table.json"))) == 2
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("logs: ")]
    assert len(said) == 2 and said[0] == said[1] and str(folder) in said[0] and "version_0" in said[0]
    with pytest.raises(InstantiationException, match=r"logger\.wandb\.offline='maybe'"):
        train.assemble(config(data, tmp_path / "other", "logger=wandb", "logger.wandb.offline=maybe"))


def test_a_continued_run_continues_its_weights_and_biases_run(data, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for folder, *more in (["a"], ["a", "resume=auto", "trainer.max_steps=2"], ["b"]):
        options = ["logger=wandb", "logger.wandb.offline=true", "trainer.max_steps=1", *more]
        train.run(config(data, tmp_path / folder, *options))
    # offline-run-TIME-ID; one more number where two begin in the same second
    ids = {name: [path.name.split("-")[3] for path in tmp_path.glob(f"{name}/wandb/offline-run-*")] for name in "ab"}
    assert len(ids["a"]) == 2 and len(set(ids["a"])) == 1 and len(ids["b"]) == 1
    assert ids["b"] != ids["a"][:1] and (tmp_path / "a/wandb/run_id").read_text() == f"{ids['a'][0]}\n"


def test_a_run_without_weights_and_biases_does_not_wait_for_its_import() -> None:
    code = "import sys, train; print('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout == "False\n", done.stderr
