"""Paths and dotted names of the package that documents and comments mention exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "bench/RESULTS")]
DOCUMENTS += [*ROOT.glob("docs/*.md")]
OPTIONS = [*ROOT.glob("m3/conf/**/*.yaml")]
NEW = {"m3/clips/pendulum.py", "m3.clips.pendulum.Pendulum", "m3/vocabularies/depth.py"}
"""Files that docs/extending.md tells its reader to write."""
NAMES = [
    pytest.param(name, id=f"{path.relative_to(ROOT)}: {name}")
    for path in [*DOCUMENTS, *OPTIONS]
    for name in sorted(set(re.findall(r"(?<![\w./{-])m3[/.][\w./]*\w/?", path.read_text(encoding="utf-8"))) - NEW)
]


def exists(name: str) -> bool:
    """`m3/clips/`, `m3/loss.py`, m3.clips.canvas or m3.clips.canvas.CropCanvas."""
    if "/" in name:
        return (ROOT / name).is_dir() if name.endswith("/") else (ROOT / name).exists()
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:number]))
        except ModuleNotFoundError:
            continue
        for part in parts[number:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_what_is_mentioned_exists(name: str) -> None:
    assert exists(name)


@pytest.mark.parametrize("name", ["m3/starts.py", "m3/nothing/", "m3.starts", "m3.core.files.nothing"])
def test_what_does_not_exist_is_noticed(name: str) -> None:
    assert len(NAMES) > 50 and not exists(name)


def packages() -> set[str]:
    return {f"m3/{path.parent.name}/" for path in ROOT.glob("m3/*/__init__.py")} | {"m3/loss.py"}


def test_the_tables_of_packages_are_complete() -> None:
    for path in ("docs/design.md", "CONTRIBUTING.md"):
        rows = [line for line in (ROOT / path).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        mentioned = {f"m3/{name}" for row in rows for name in re.findall(r"`m3/(loss\.py|\w+/)", row)}
        assert packages() - {"m3/conf/"} <= mentioned, path
