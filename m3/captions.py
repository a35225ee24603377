"""Captions of a clip's frames."""

from __future__ import annotations

from typing import Protocol

from m3.records import Clip

_ACTIVITIES = {
    "baseball_pitch": "throwing a baseball pitch",
    "baseball_swing": "swinging a baseball bat",
    "bench_press": "doing a bench press",
    "bowl": "bowling",
    "clean_and_jerk": "lifting a barbell in a clean and jerk",
    "golf_swing": "doing a golf swing",
    "high_knees": "running in place with high knees",
    "jump_rope": "jumping rope",
    "jumping_jacks": "doing jumping jacks",
    "pullup": "doing a pull-up",
    "pushup": "doing a push-up",
    "situp": "doing a sit-up",
    "squat": "doing a squat",
    "strum_guitar": "strumming a guitar",
    "tennis_forehand": "playing a tennis forehand",
    "tennis_serve": "serving in tennis",
    "walk": "walking",
    "wave": "waving",
}
"""Labels of Penn Action and of the demo."""


class Captioner(Protocol):
    """Words for the reference frame of a pair."""

    name: str

    def caption(self, clip: Clip, frame: int) -> str | None:
        """A caption of a frame (an index from 0), or None where there is nothing to say."""


class LabelCaptioner:
    """Words from the clip's action label: "golf_swing" → "a person doing a golf swing"."""

    name = "label"

    def caption(self, clip: Clip, frame: int) -> str | None:
        if clip.action is None:
            return None
        activity = _ACTIVITIES.get(clip.action) or _describe(clip.action)
        return f"a person {activity}"


class NoCaptioner:
    """No words."""

    name = "none"

    def caption(self, clip: Clip, frame: int) -> str | None:
        return None


def _describe(action: str) -> str:
    """Words for a label that the table does not know: "boxing", "opening_door", "high_kick"."""
    words = action.replace("_", " ").replace("-", " ").lower().split()
    if not words:
        return "moving"
    is_gerund = any(word.endswith("ing") and len(word) > 4 for word in (words[0], words[-1]))
    return " ".join(words) if is_gerund else f"performing the action {' '.join(words)}"
