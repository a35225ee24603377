"""Captions of a clip's frames."""

from __future__ import annotations

from typing import Protocol

import numpy as np

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
    """Captions for the reference frames of a clip.

    name: "label", "blip", …
    fingerprint: hexadecimal sha256 of the weights; None without weights.
    needs_pictures: whether `captions` reads pictures.
    """

    name: str
    fingerprint: str | None
    needs_pictures: bool

    def captions(self, action: str | None, num_frames: int, pictures: np.ndarray | None) -> list[str | None]:
        """A caption for each of a clip's distinct reference frames, or None.

        Args:
            action: the clip's label as the source spells it, or None.
            num_frames: number of these reference frames.
            pictures: (num_frames, H, W, 3) uint8 canvas pictures of them, in order; None if `needs_pictures` is False.
        """
        ...


class LabelCaptioner:
    """Captions from the clip's action label: "golf_swing" → "a person doing a golf swing"."""

    name = "label"
    fingerprint = None
    needs_pictures = False

    def captions(self, action: str | None, num_frames: int, pictures: np.ndarray | None) -> list[str | None]:
        if action is None:
            return [None] * num_frames
        activity = _ACTIVITIES.get(action) or _describe(action)
        return [f"a person {activity}"] * num_frames


class NoCaptioner:
    """No captions."""

    name = "none"
    fingerprint = None
    needs_pictures = False

    def captions(self, action: str | None, num_frames: int, pictures: np.ndarray | None) -> list[str | None]:
        return [None] * num_frames


def _describe(action: str) -> str:
    """A description of a label without an entry in `_ACTIVITIES`: "boxing", "opening_door", "high_kick"."""
    words = action.replace("_", " ").replace("-", " ").lower().split()
    if not words:
        return "moving"
    is_gerund = any(word.endswith("ing") and len(word) > 4 for word in (words[0], words[-1]))
    return " ".join(words) if is_gerund else f"performing the action {' '.join(words)}"
