"""Keys that are null, empty or lists and must not be, by the types of what a `_target_` constructs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from m3.commands import nulls
from m3.commands.nulls import check_nulls


class Part:
    def __init__(
        self,
        size: int,
        root: str | Path,
        limit: float | None = None,
        mode: Literal["a", "b"] = "a",
        sizes: Sequence[int] = (),
        anything: Any = None,
    ) -> None: ...


TARGET = {"_target_": f"{__name__}.Part", "size": 1, "root": "x", "limit": None, "mode": "a", "sizes": [1]}
WHOLE = {"part": TARGET, "out": "here", "input": None, "logger": {}, "plain": {"number": 1, "maybe": None}, "many": [1]}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("part.size", None, "part.size=null: need a whole number"),
        ("part.root", None, "part.root=null: need a text or a path"),
        ("part.mode", None, "part.mode=null: need a or b"),
        ("part.size", [], "part.size=[]: need a whole number"),
        ("part.sizes", None, "part.sizes=null: need keys or a list"),
        ("part.limit", [1], "part.limit=[1]: need a number or null"),
        ("out", None, "out=null: need a value"),
        ("out", "", "out='': need a value"),
        ("out", [], "out=[]: need one value, not a list"),
        ("plain.number", None, "plain.number=null: need a value"),
        ("logger", None, "logger=null: logger=none chooses nothing"),
        ("part", None, "part=null: choose an option of part"),
        ("part.limit", None, None),
        ("part.limit", 2.0, None),
        ("part.sizes", [], None),
        ("part.anything", None, None),
        ("input", ["a", "b"], None),
        ("plain.maybe", None, None),
        ("many", [2], None),
    ],
)
def test_a_misfit_is_named_with_what_it_needs(monkeypatch, key: str, value: Any, message: str | None) -> None:
    cfg = OmegaConf.create(WHOLE)
    OmegaConf.update(cfg, key, value, merge=False)
    monkeypatch.setattr(nulls, "_defaults_of", {"command": {"input": None, "many": [1]}}.get)
    options = ("command", ("part", "logger"), ("plain.maybe",), ("input",))
    if message is None:
        check_nulls(cfg, *options)
        return
    with pytest.raises(ValueError) as caught:
        check_nulls(cfg, *options)
    assert str(caught.value) == message


@pytest.mark.parametrize("command", ["train", "generate", "preprocess"])
def test_what_is_null_in_the_file_may_be_null(command: str) -> None:
    defaults = nulls._defaults_of(command)
    known = {"train": "trainer.max_steps", "generate": "checkpoint", "preprocess": "modalities"}
    assert defaults[known[command]] is None and not all(value is None for value in defaults.values())
