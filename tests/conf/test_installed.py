"""What is in the wheel: every command composes every option and experiment from it alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

COMPOSE = """
import contextlib, io, sys
from pathlib import Path

from hydra import compose, initialize_config_module

from m3.commands import entry

import m3, hydra_plugins.m3_launchers

conf = Path(m3.__file__).parent / "conf"
files = [path.relative_to(conf).with_suffix("") for path in sorted(conf.rglob("*.yaml"))]
for command in ("train", "preprocess", "generate"):
    main = getattr(entry, command)
    experiments = [file.name for file in files if str(file.parent) == f"{command}/experiment"]
    assert experiments
    for overrides in [[], *([f"experiment={name}"] for name in experiments)]:
        sys.argv = [f"m3-{command}", *overrides, "--cfg", "job"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main()
        assert printed.getvalue()
    sys.argv = [f"m3-{command}", "--info", "searchpath"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main()
    assert "pkg://m3.conf" in printed.getvalue()
with initialize_config_module("m3.conf", version_base="1.3"):
    for group, option in (file.parts for file in files if len(file.parts) == 2):
        compose(overrides=[f"+{group}={option}"])
print(m3.__file__, len(files))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked wheel, made of a copy of what belongs to the package."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("m3", "hydra_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"import sys; from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def run(wheel: Path, folder: Path, *arguments: str, returns: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(wheel), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == returns, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_all_options_and_weights_and_nothing_else(wheel: Path) -> None:
    def files(root: Path, pattern: str) -> set[Path]:
        return {path.relative_to(root) for path in root.rglob(pattern)}

    assert files(wheel / "m3", "*.yaml") == files(ROOT / "m3", "*.yaml")
    assert files(wheel / "m3", "*.safetensors") == files(ROOT / "m3", "*.safetensors") != set()
    assert files(wheel / "m3", "*.j2") == files(ROOT / "m3", "*.j2") != set()  # the report
    assert {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"} == {"m3", "hydra_plugins"}
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    for command in ("train", "preprocess", "generate"):
        assert f"m3-{command} = m3.commands.entry:{command}" in entry_points.read_text()


def test_every_command_composes_its_options_and_experiments(wheel: Path, tmp_path: Path) -> None:
    path, num_files = run(wheel, tmp_path, "-c", COMPOSE).split()
    assert Path(path).parent == wheel / "m3" and int(num_files) > 70
    assert not list(tmp_path.iterdir())


def test_a_sweep_starts_its_trials_without_a_checkout(wheel: Path, tmp_path: Path) -> None:
    code = "from m3.commands.entry import generate; generate()"
    sweep = ["-m", "seed=1", "checkpoint=nowhere", f"hydra.sweep.dir={tmp_path}/sweep"]
    run(wheel, tmp_path, "-c", code, *sweep, returns=1)  # for no trial has succeeded
    assert "nowhere: no checkpoint there" in (tmp_path / "sweep/0/output.txt").read_text()


def test_conf_at_the_root_is_that_of_the_package() -> None:
    assert (ROOT / "conf").is_symlink() and (ROOT / "conf").resolve() == ROOT / "m3/conf"
    assert not Path(os.readlink(ROOT / "conf")).is_absolute()
