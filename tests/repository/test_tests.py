"""The tests themselves: what several modules share is in tests/support and in fixtures of conftest.py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))


def imported(tree: ast.Module) -> list[str]:
    """Dotted names of everything that a module imports, inside of functions too."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module or ''}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_test_module(module: str) -> None:
    names = imported(ast.parse((TESTS / module).read_text(encoding="utf-8")))
    # A function test_… that a support module offers would be collected twice, so no part of a name may begin so.
    assert [name for name in names if any(part.startswith("test_") for part in name.split("."))] == []


@pytest.mark.parametrize(
    "code", ["import test_x", "from test_x import a", "from tests.a.test_x import b", "from . import test_x"]
)
def test_such_an_import_is_noticed(code: str) -> None:
    assert any("test_x" in name for name in imported(ast.parse(f"def f():\n    {code}")))
