"""Text for the terminal: names and values from outside are shown as they are, and control it in no way."""

from __future__ import annotations

import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text


def printable(text: str) -> str:
    r"""`text` with control characters as escapes, "\x1b" for the one that begins commands to a terminal.

    Line ends and tabs stay; so do letters of all scripts. Characters that reverse the direction of writing, and those
    that UTF-8 cannot encode, are escaped too.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _escape(char) for char in text)


def _escape(char: str) -> str:
    is_space = unicodedata.category(char) == "Zs"
    return char if is_space else char.encode("unicode_escape", errors="surrogatepass").decode("ascii")


class PlainConsole(Console):
    """A console that takes every text as it is: no markup, no emoji codes, no highlighting, no control characters.

    Styled text is a `rich.text.Text`, or a style of a table or column.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
