"""A run folder's train.log and run.json, and the lines of progress."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from support.train_runs import config, write_data

import train
from m3.batches import samples
from m3.checkpoint.files import checkpoint_path, newest_checkpoint, numbered_checkpoints
from m3.core.signals import Interrupted
from m3.training import run_log
from m3.training.progress import ProgressLines, duration


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


def test_a_run_and_its_continuation_leave_one_log_and_their_circumstances(data, tmp_path, capsys) -> None:
    train.run(config(data, tmp_path, "trainer.max_steps=5"))
    first = newest_checkpoint(tmp_path)
    assert first == tmp_path / "checkpoints/step_00000005.ckpt"
    old_name = first.rename(first.with_name("step=00000005.ckpt"))  # as earlier versions wrote it
    log = (tmp_path / "train.log").read_text()
    train.run(config(data, tmp_path, "trainer.max_steps=12", "resume=auto", "trainer.keep_checkpoints=2"))
    both = (tmp_path / "train.log").read_text()
    assert both.startswith(log) and both.count("--- ") == 2
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d step 1/5, .*ETA", log, re.MULTILINE)
    assert "step 5/5, train loss " in log and "eval loss" in log and str(old_name) in both
    assert "step 6/12, " in both and "step 12/12, " in both and both.count("; checkpoint ") == 2
    printed = capsys.readouterr().out
    assert "step 12/12, " in printed and "\r" not in printed  # no terminal here
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [(each["first_step"], each["last_step"], each["end"]) for each in sessions] == [
        (0, 5, "finished"),
        (5, 12, "finished"),
    ]
    for each in sessions:
        assert each["versions"]["torch"] == torch.__version__ and each["host"] and each["command"]
        assert each["duration_s"] > 0 and each["device"] == "cpu" and each["start"].endswith("+00:00")
    kept = [path.name for path in numbered_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["step_00000010.ckpt", "step_00000012.ckpt"]  # the one with the old name was pruned with the rest


def test_a_run_that_never_began_leaves_no_folder(data, tmp_path) -> None:
    with pytest.raises(InstantiationException, match="model.width=33"):
        train.run(config(data, tmp_path / "runs/mine", "model.width=33"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    with pytest.raises(InstantiationException, match="model.width=33"):
        train.run(config(data, tmp_path / "runs/mine", "model.width=33"))
    assert (tmp_path / "runs").is_dir() and not (tmp_path / "runs/mine").exists()


@pytest.mark.parametrize(("length", "option"), [(16, "experiment=demo"), (64, "experiment=small")])
def test_the_experiment_that_fits_the_data_is_named(tmp_path, length, option) -> None:
    """Data of 4 tokens a picture, of which the manifest says another number."""
    write_data(tmp_path, {"train": 30, "eval": 13, "test": 2})
    with pytest.raises(InstantiationException, match=f"the data set has 4 .*: {samples._fitting('tok_rgb', 4)}"):
        train.run(config(tmp_path, tmp_path / "run", f"modalities.max_seq_lens=[{length},39,{length},39]"))
    assert option in samples._fitting("tok_rgb", 4 * length)


def test_data_without_pictures_are_named() -> None:
    assert "experiment=motion" in samples._fitting("tok_rgb_next", 0)


def test_checkpoints_with_old_and_new_names_are_in_the_order_of_their_steps(tmp_path) -> None:
    for name in ("step=00000010.ckpt", "step_00000005.ckpt", "step_00000100.ckpt", "step.ckpt", "step-1.ckpt"):
        (tmp_path / name).touch()
    found = [path.name for path in numbered_checkpoints(tmp_path)]
    assert found == ["step_00000005.ckpt", "step=00000010.ckpt", "step_00000100.ckpt"]
    assert checkpoint_path(tmp_path, 7).name == "step_00000007.ckpt"


def test_the_commit_is_that_of_the_checkout(monkeypatch) -> None:
    root = Path(run_log.__file__).parents[2]
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    found = run_log._git()
    assert found is None if head.returncode else found is not None and found["commit"] == head.stdout.strip()


@pytest.mark.parametrize(("error", "end"), [(ValueError("x"), "ValueError"), (Interrupted(15), "SIGTERM")])
def test_how_a_session_ended_is_recorded(tmp_path, error, end) -> None:
    with pytest.raises(type(error)), run_log.open_log(tmp_path), run_log.recorded_session(tmp_path, {}, lambda: 3):
        assert run_log.read_sessions(tmp_path)[-1]["end"] is None  # as it stays after SIGKILL
        logging.getLogger("m3.anything").warning("watch \x1b[31mout")
        raise error
    (session,) = run_log.read_sessions(tmp_path)
    assert session["end"] == end
    log = (tmp_path / "train.log").read_text()
    assert f"ended by {end}" in log and r"watch \x1b[31mout" in log
    assert not any(isinstance(each, run_log._LogFile) for each in logging.getLogger().handlers)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"sessions": 3}', '{"sessions": [1, {"end": "finished"}]}'])
def test_a_damaged_record_is_replaced(tmp_path, content) -> None:
    (tmp_path / "run.json").write_text(content)
    with run_log.recorded_session(tmp_path, {"device": "cpu"}, lambda: 0):
        pass
    assert json.loads((tmp_path / "run.json").read_text())["sessions"][-1]["end"] == "finished"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.2, "3 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h"), (50 * 3600, "2.1 days")],
)
def test_durations(seconds, words) -> None:
    assert duration(seconds) == words


def lines_of(step_s: float, max_steps: int, num_steps: int, capsys: Any, eval_after: int | None = None) -> list[str]:
    """The lines of a training whose first step takes ten times as long as the others."""
    now = 0.0
    callback = ProgressLines(is_printed=True, clock=lambda: now)
    trainer: Any = SimpleNamespace(
        global_step=0, max_steps=max_steps, is_global_zero=True, log_every_n_steps=5, progress_bar_callback=None,
        progress_bar_metrics={"train_loss": 2.5, "tokens/s": 9.0}, state=SimpleNamespace(fn="fit"),
        callback_metrics={"eval/loss": 1.5},
    )  # fmt: skip
    module: Any = None
    callback.on_train_start(trainer, module)
    for step in range(1, num_steps + 1):
        now += step_s * (10 if step == 1 else 1)
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step - 1)
        if step == eval_after:
            callback.on_validation_start(trainer, module)
            now += 1000
            callback.on_validation_end(trainer, module)
    return capsys.readouterr().out.splitlines()


def test_the_remaining_time_is_that_of_the_steps_after_the_first(capsys) -> None:
    lines = lines_of(2.0, 100, 100, capsys, eval_after=20)
    assert lines[0] == "step 1/100, train loss 2.500, 0.05 steps/s, ETA 33 min"
    assert lines[1] == "step 10/100, train loss 2.500, 0.5 steps/s, ETA 3 min"
    assert "step 20: eval loss 1.500" in lines
    assert "step 25/100, train loss 2.500, 0.5 steps/s, ETA 2 min" in lines  # the evaluation is not counted
    assert lines[-1] == "step 100/100, train loss 2.500, 0.5 steps/s"


def test_lines_are_ten_seconds_apart(capsys) -> None:
    assert len(lines_of(0.1, 1000, 1000, capsys)) == 1 + 9 + 1


def test_a_run_of_days_is_warned_of_once_after_its_first_steps(capsys) -> None:
    lines = lines_of(4.0, 38147, 10, capsys)
    (warning,) = [line for line in lines if "optim.total_tokens" in line]
    assert lines.index(warning) == 1 and "takes about 42.4 h here: 38,147 steps at 4 s" in warning
    assert not any("optim.total_tokens" in line for line in lines_of(0.5, 1000, 10, capsys))
