"""Captions of a clip's frames."""

from __future__ import annotations

from typing import Protocol

from m3.records import Clip

_ACTIVITIES = {
    # Penn Action
    "baseball_pitch": "throwing a baseball pitch",
    "baseball_swing": "swinging a baseball bat",
    "bench_press": "doing a bench press",
    "bowl": "bowling",
    "bowling": "bowling",
    "clean_and_jerk": "lifting a barbell in a clean and jerk",
    "golf_swing": "doing a golf swing",
    "jump_rope": "jumping rope",
    "jumping_jacks": "doing jumping jacks",
    "pullup": "doing a pull-up",
    "pullups": "doing pull-ups",
    "pushup": "doing a push-up",
    "pushups": "doing push-ups",
    "situp": "doing a sit-up",
    "situps": "doing sit-ups",
    "squat": "doing a squat",
    "squats": "doing squats",
    "strum_guitar": "strumming a guitar",
    "strumming_guitar": "strumming a guitar",
    "tennis_forehand": "playing a tennis forehand",
    "tennis_serve": "serving in tennis",
}


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
    """Readable words for a label that the table above does not know: "jumping_jacks", "wave", "high_kick"."""
    words = action.replace("_", " ").replace("-", " ").lower().split()
    if not words:
        return "moving"
    if any(word.endswith("ing") and len(word) > 4 for word in words[:1]):
        return " ".join(words)
    if words[-1].endswith("s") and not words[-1].endswith("ss"):
        return "doing " + " ".join(words)
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"doing {article} " + " ".join(words)
