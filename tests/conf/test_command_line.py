"""The command line: what is misspelt is named before torch is imported, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from m3.commands.arguments import check_command_line, parse_arguments, version_line
from m3.commands.help import help_text
from m3.commands.known_keys import _arguments, check_keys, dotted, groups_of, known_keys
from m3.sweep import trial as sweep_trial

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("train", "preprocess", "generate")


def said(command: str, *arguments: str) -> str:
    """What is said of a command line, "" where nothing is wrong."""
    try:
        check_command_line(command, parse_arguments(arguments))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("train", ["optim.lrr=1"], "optim.lrr=1: no such key; did you mean optim.lr?"),
        ("train", ["lr=1e-3"], "lr=1e-3: no such key; did you mean optim.lr?"),
        ("train", ["modell=tiny"], "modell=tiny: no such key; did you mean model?"),
        ("train", ["modell.width=8"], "did you mean model?"),
        ("train", ["model=tinny"], "model=tinny: no such option; did you mean model=tiny?"),
        ("train", ["experiment=dem"], "did you mean experiment=demo?"),
        ("train", ["-m", "model=tiny,smal"], "model=smal: no such option; did you mean model=small?"),
        ("train", ["-m", "optim.lrr=1,2"], "did you mean optim.lr?"),
        ("train", ["+trainer.max_step=3"], "trainer.max_step: no such key (from +trainer.max_step=3); did you mean"),
        ("train", ["++nosuch=1"], "nosuch: no such key"),
        ("train", ["+model.widht=3"], "did you mean model.width?"),
        ("train", ["data.backend=stream", "data=futures"], "data.backend=stream: data=futures has no such key"),
        ("train", ["--config-dir=nowhere"], "--config-dir=nowhere: no such folder"),
        ("train", ["name"], "name"),
        ("preprocess", ["sourc=demo"], "did you mean source?"),
        ("preprocess", ["source=video_file"], "did you mean source=video_files?"),
        ("preprocess", ["source=demo", "source.num_clip=3"], "did you mean source.num_clips?"),
        ("generate", ["rollout.frame=3"], "did you mean rollout.frames?"),
        ("generate", ["sampling.schemes.tok_new.num_steps=3"], "+sampling.schemes.tok_new.num_steps=… adds it"),
    ],
)
def test_what_is_misspelt_is_named_with_what_was_meant(command: str, arguments: list[str], words: str) -> None:
    found = said(command, *arguments)
    assert words in found and "\n" not in found


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", []),
        ("train", ["-m", "optim.lr=1e-3,3e-4", "model=tiny,small"]),
        ("train", ["-m", "sweep=optuna", "optim.lr=interval(1e-4,1e-3)", "model.width=choice(64,128)"]),
        ("train", ["+callbacks.mine={_target_: my.Callback, every: 3}"]),
        ("train", ["+half=0.5", "optim.lr=${half}"]),
        ("train", ["hydra.launcher.n_jobs=2", "hydra/launcher=joblib", "-m"]),
        ("train", ["~callbacks.preview"]),
        ("train", ["-m", "model=glob(m*)", "seed=range(1,4)"]),
        ("preprocess", ["++source={_target_: my.Source, anything: 1, name: mine}"]),
        ("generate", ["+sampling.schemes.tok_depth_next={num_steps: 3}", "experiment=inpaint"]),
        ("generate", ["+rollout.sample_schemes.tok_depth_next={num_steps: 3}", "source=penn_action", "source.root=x"]),
        ("generate", ["experiment=penn_forecast"]),
    ],
)
def test_what_is_right_passes(command: str, arguments: list[str]) -> None:
    assert said(command, *arguments) == ""


def test_every_shipped_experiment_passes() -> None:
    for command in COMMANDS:
        for path in sorted((ROOT / "conf" / command / "experiment").glob("*.yaml")):
            assert said(command, f"experiment={path.stem}") == ""


def test_a_file_of_ones_own_is_checked_like_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    mine = tmp_path / "experiment/mine.yaml"
    mine.write_text("# @package _global_\ntrainer: {max_step: 3}\n")
    arguments = [f"--config-dir={tmp_path}", "experiment=mine"]
    assert said("train", *arguments) == (
        "trainer.max_step: no such key (from experiment=mine); did you mean trainer.max_steps?"
    )
    mine.write_text("# @package _global_\nwide: 64\nmodel: {width: '${wide}'}\nloss: {average: all}\n")  # an old name
    assert said("train", *arguments) == ""
    mine.write_text("# @package _global_\noptim: {ema_deccay: 0.9}\n")
    assert "did you mean optim.ema_decay?" in said("train", *arguments)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/own.yaml").write_text("defaults: [small]\nwidth: 96\ndropout: 0.1\n")
    assert "model.dropout: no such key (from model=own)" in said("train", f"--config-dir={tmp_path}", "model=own")


def test_arguments_are_read_from_the_source() -> None:
    """Against the signatures, for every target of the shipped options."""
    import inspect

    from hydra.utils import get_object

    targets = {value for path in (ROOT / "conf").rglob("*.yaml") for value in targets_in(path.read_text())}
    known = {target: _arguments(target) for target in targets}
    assert len(targets) > 25 and sum(each is not None for each in known.values()) > 20
    for target, arguments in known.items():
        if arguments is not None:
            assert set(inspect.signature(get_object(target)).parameters) <= arguments, target


def targets_in(text: str) -> list[str]:
    return [word.strip(" {},") for line in text.splitlines() for at, _, word in [line.partition("_target_: ")]
            if word.startswith("m3.") and "," not in word]  # fmt: skip


def test_keys_of_another_section_are_found_by_their_last_part() -> None:
    content: dict[str, Any] = {"max_steps": 3}
    with pytest.raises(ValueError, match=r"max_steps: no such key \(from x\); did you mean trainer\.max_steps\?"):
        check_keys("train", content, " (from x)")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_groups_of_this_command_with_comments(command: str) -> None:
    text = help_text(command, parse_arguments([]))
    listed = {line.split()[0] for line in text.split("Groups")[1].split("Keys")[0].splitlines() if line[2:3].strip()}
    assert set(groups_of(command)) <= listed and "/experiment" not in text.split("Keys")[0]
    others = {group for other in COMMANDS for group in groups_of(other)} - set(groups_of(command))
    assert others and not others & listed
    assert len(list(dotted(known_keys(command)))) > 50
    if command == "train":
        assert "keep_checkpoints: 2                 # number of newest ones" in text and "  lr: 0.0006" in text
        assert "# 5,308,416" not in text and "width: 384" in help_text(command, parse_arguments(["model=tiny"]))


def test_the_version_is_that_of_the_package() -> None:
    assert version_line().startswith("m3 ") and "torch " in version_line()


def python(tmp_path: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


LOADED = """
import sys
from m3.commands import entry
try:
    getattr(entry, sys.argv.pop(1))()
finally:
    large = {"torch", "pytorch_lightning", "transformers", "wandb", "matplotlib", "scipy", "skimage", "optuna"}
    print("LOADED", sorted(large & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "--help"], 0),
        (["generate", "--version"], 0),
        (["train", "optim.lrr=1"], 1),
        (["train", "run_dir=/dev/null/run"], 1),
        (["generate", "out=/dev/null/out", "input=x.png"], 1),
        (["preprocess", "out=/dev/null/out"], 1),
    ],
)
def test_nothing_large_is_imported_before_the_check_and_nothing_is_left(tmp_path, arguments, code) -> None:
    done = python(tmp_path, LOADED, *arguments)
    assert done.returncode == code, done.stderr
    assert "LOADED []" in done.stdout
    assert not list(tmp_path.iterdir())
    if code:
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    if "/dev/null" in arguments[1]:
        key = arguments[1].partition("=")[0]
        assert done.stderr.startswith(f"error: {key}=/dev/null/") and f"choose another {key}=…" in done.stderr


def test_wandb_and_transformers_are_imported_only_where_they_are_used(tmp_path) -> None:
    """Transformers by BLIP alone; Lightning's torchmetrics imports it too, where it is installed."""
    at_start = re.compile(r"^(?:import|from) (?:wandb|transformers|gradio|tensorboard)\b", re.MULTILINE)
    files = [path for path in (ROOT / "m3").rglob("*.py") if at_start.search(path.read_text(encoding="utf-8"))]
    assert [path for path in files if "app" not in path.parts] == [ROOT / "m3/captions/blip.py"]
    done = python(tmp_path, "import sys, m3.commands.train; print({'wandb', 'gradio'} & sys.modules.keys())")
    assert done.stdout.strip() == "set()", done.stderr


def test_completion_imports_nothing_large(tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COMP_LINE": "train.py optim.warm"}
    done = subprocess.run([sys.executable, "-c", LOADED, "train", "-sc", "query=bash"], cwd=tmp_path, text=True,
                          env=environment, capture_output=True)  # fmt: skip
    assert "optim.warmup_tokens=" in done.stdout and "LOADED []" in done.stdout


def test_trials_get_the_folder_of_ones_own_options(tmp_path, monkeypatch) -> None:
    sources = [SimpleNamespace(provider="main", path="m3.conf"), SimpleNamespace(provider="command-line", path="/own")]
    runtime = SimpleNamespace(output_dir=str(tmp_path), config_sources=sources)
    job = SimpleNamespace(num=0, name="train", config_name="train")
    hydra = SimpleNamespace(runtime=runtime, overrides=SimpleNamespace(task=["experiment=mine"]), job=job)
    monkeypatch.setattr(sweep_trial.HydraConfig, "get", lambda: hydra)
    with sweep_trial.later():
        ready = sweep_trial.run_trial(Path("train.py"), "run_dir", "minimize", can_resume=True)
        job.config_name = "mine"
        other = sweep_trial.run_trial(Path("train.py"), "run_dir", "minimize", can_resume=True)
    assert ready.command[2:] == ("--config-dir=/own", "experiment=mine", f"run_dir='{tmp_path}'")
    assert "--config-name=mine" in other.command
