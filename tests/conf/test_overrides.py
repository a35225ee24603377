"""Values survive the way through a command line, whatever they hold."""

from __future__ import annotations

import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from m3.commands.overrides import command_line, literal, written

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
"""Hydra reads one line, and a shell no control characters."""

HARD = st.text(st.sampled_from("\\\"'${}[]:,= a#~&;`!*.1é"), max_size=10)
VALUES = st.one_of(TEXTS, HARD, st.booleans(), st.none(), st.integers(), st.floats(allow_nan=False, width=32))


def read_back(value: object) -> object:
    """What a configuration holds after the command line is pasted into a shell."""
    program, argument = shlex.split(command_line(["m3-generate"], (), {"key": value}))
    assert program == "m3-generate"
    (override,) = OverridesParser.create().parse_overrides([argument])
    cfg = OmegaConf.create({"key": None})
    OmegaConf.update(cfg, "key", override.value())
    return OmegaConf.to_container(cfg, resolve=True)["key"]


@settings(deadline=None, max_examples=300)
@given(VALUES)
@example("null")
@example("True")
@example("12")
@example("1e5")
@example(".0")
@example(".5e3")
@example("")
@example("a\\")
@example('a\\"')
@example("${oc.env:HOME}")
@example("\\\\${a}")
@example("outputs/train/x/checkpoints/step=00000040.ckpt")
def test_a_value_comes_back_as_it_was(value):
    found = read_back(value)
    assert found == value and type(found) is type(value)


@settings(deadline=None)
@given(st.lists(st.one_of(TEXTS, HARD), max_size=3), TEXTS)
def test_lists_and_mappings_come_back(texts, name):
    assert read_back(texts) == texts
    assert read_back([{"coords": texts}]) == [{"coords": texts}]


@settings(deadline=None)
@given(st.one_of(TEXTS, HARD, st.lists(HARD, max_size=2)))
def test_a_literal_is_no_interpolation(value):
    cfg = OmegaConf.create({"key": None})
    OmegaConf.update(cfg, "key", literal(value))
    assert OmegaConf.to_container(cfg, resolve=True)["key"] == value


def test_plain_words_stay_plain():
    assert written("outputs/train/demo") == "outputs/train/demo"
    assert written({"coords": ["head"]}) == "{coords:[head]}"
