"""Captions from action labels."""

from __future__ import annotations

import pytest

from m3.captions import LabelCaptioner, NoCaptioner
from m3.rendering.motion import ACTIONS

PENN_ACTION = (
    "baseball_pitch baseball_swing bench_press bowl clean_and_jerk golf_swing jump_rope jumping_jacks pullup pushup "
    "situp squat strum_guitar tennis_forehand tennis_serve"
).split()


def label_caption(action: str | None) -> str | None:
    """The caption of each of a clip's frames; it must be the same for all."""
    captions = LabelCaptioner().captions(action, 3, None)
    assert len(captions) == 3 and len(set(captions)) == 1
    return captions[0]


@pytest.mark.parametrize("action", [*PENN_ACTION, *ACTIONS])
def test_every_known_action_reads_as_a_sentence_of_its_own(action: str):
    caption = label_caption(action)
    assert caption.startswith("a person ") and "_" not in caption
    assert caption.split()[2].endswith("ing")  # "a person doing …", "a person bowling"
    assert "performing the action" not in caption
    others = {label_caption(other) for other in {*PENN_ACTION, *ACTIONS} - {action}}
    assert caption not in others


@pytest.mark.parametrize(
    "action, caption",
    [
        ("golf_swing", "a person doing a golf swing"),
        ("boxing", "a person boxing"),
        ("opening_door", "a person opening door"),
        ("Cross-Country_Skiing", "a person cross country skiing"),
        ("high_kick", "a person performing the action high kick"),
        ("sing", "a person performing the action sing"),
        ("__", "a person moving"),
        (None, None),
    ],
)
def test_captions(action: str | None, caption: str | None):
    assert label_caption(action) == caption


def test_no_captions():
    assert NoCaptioner().captions("golf_swing", 2, None) == [None, None]
