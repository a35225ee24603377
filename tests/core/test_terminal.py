"""Texts from outside neither style nor control the terminal, and none of them ends a command."""

from __future__ import annotations

import ast
from io import StringIO
from pathlib import Path

import pytest
from rich.table import Table

from m3.core.errors import one_line_errors
from m3.core.progress import track
from m3.core.terminal import PlainConsole, printable

PACKAGE = Path(__file__).parents[2] / "m3"


@pytest.mark.parametrize(("text", "expected"), [
    ("walk é 日本 \u00a0x\n\ty", "walk é 日本 \u00a0x\n\ty"),
    ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    ("\x9b31m\r\x08", "\\x9b31m\\r\\x08"),
    ("abc\u202egpj.exe\u2066", "abc\\u202egpj.exe\\u2066"),
    ("\ud800\u2028", "\\ud800\\u2028"),
])  # fmt: skip
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize("text", ["[/red]", "[red]x", "[link=file:///etc]x[/]", ":smile:", "[", "\x1b[31mx", "[/]"])
def test_a_console_prints_what_it_is_given(text: str) -> None:
    file = StringIO()
    console = PlainConsole(file=file, width=200)
    console.print(text)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    assert file.getvalue().count(printable(text)) == 4
    for is_terminal in (False, True):
        assert list(track([1], 1, text, PlainConsole(file=StringIO(), force_terminal=is_terminal))) == [1]
        assert list(track([1], 1, "x", PlainConsole(file=StringIO(), force_terminal=is_terminal), lambda: text)) == [1]


def test_errors_are_escaped() -> None:
    with pytest.raises(SystemExit) as raised, one_line_errors():
        raise ValueError("clip \x1b[2J")
    assert str(raised.value) == "error: clip \\x1b[2J"


def test_there_is_no_other_console() -> None:
    """`Console(…)` of rich reads markup in whatever it prints."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "Console", f"{path}: use PlainConsole"
