"""Decoded frames from arrays, and frames that lack a modality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from m3.core.frames import Frames, Poses, TokenFrames


def frames_of(
    is_present: np.ndarray,
    pictures: np.ndarray | None = None,
    xy: np.ndarray | None = None,
    is_visible: np.ndarray | None = None,
    tokens: TokenFrames | None = None,
) -> Frames:
    """Frames of pictures, joints or both; the arrays are kept, not copied.

    is_visible: None: all joints.
    """
    values = {}
    if pictures is not None:
        values["tok_rgb"] = pictures
    if xy is not None:
        values["coords"] = Poses(xy, np.ones(xy.shape[:-1], bool) if is_visible is None else is_visible)
    return Frames(values, is_present, tokens)


def known_tokens(is_present: np.ndarray, **ids: np.ndarray) -> TokenFrames:
    """Tokens all of which are known."""
    return TokenFrames(ids, {name: np.ones(each.shape, bool) for name, each in ids.items()}, is_present)


def without(frames: Frames, modality: str) -> Frames:
    """Frames of a model that lacks a modality."""

    def other(part: dict) -> dict:
        return {name: value for name, value in part.items() if name != modality}

    tokens = frames.tokens and TokenFrames(
        other(frames.tokens.ids), other(frames.tokens.is_known), frames.tokens.is_present
    )
    return replace(frames, values=other(frames.values), tokens=tokens)
