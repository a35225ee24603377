"""The workflow of continuous integration agrees with pyproject.toml, constraints.txt and the Makefile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
MATRIX = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
COMMANDS = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]


def found(pattern: str, file: str) -> str:
    (match,) = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), flags=re.M)
    return match


def test_python_versions_begin_with_the_oldest_that_is_supported() -> None:
    versions = [tuple(map(int, version.split("."))) for version in MATRIX["python"]]
    oldest = tuple(map(int, found(r'^requires-python = ">=([\d.]+)"', "pyproject.toml").split(".")))
    assert versions == [(3, minor) for minor in range(oldest[1], 14)]
    assert found(r'^target-version = "py(\d+)"', "pyproject.toml") == "".join(map(str, oldest))
    assert found(r'^pythonVersion = "([\d.]+)"', "pyproject.toml") == ".".join(map(str, oldest))


def test_torch_is_the_newest_and_the_oldest_that_is_allowed() -> None:
    newest = found(r"^torch==(\d+\.\d+)\.", "constraints.txt")
    oldest = found(r'^    "torch>=([\d.]+)"', "pyproject.toml")
    assert MATRIX["torch"] == [newest] and {job["torch"] for job in MATRIX["include"]} == {oldest}
    assert {job["os"] for job in MATRIX["include"]} == set(MATRIX["os"])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_those_of_the_makefile(command: str) -> None:
    if command.startswith("make "):
        assert re.search(rf"^{re.escape(command.split()[1])}:", MAKEFILE, flags=re.M), command
    elif "pip install" not in command:
        assert f"\t{command.replace('.venv/bin', '$(BIN)')}\n" in MAKEFILE, command


def test_the_hooks_of_pre_commit_are_part_of_make_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    lint = MAKEFILE.split("\nlint:")[1]
    for entry in hooks:
        tool = entry.replace(".venv/bin", "$(BIN)").split(" --")[0]
        assert f"\t{tool}" in lint, entry
    assert "secrets." not in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
