"""Frames of clips with their skeletons, to see whether joints are where they should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from m3.clips.base import ClipError, ClipSource, DamagedFrame
from m3.core.types import Clip
from m3.vocabularies.joints import draw_skeleton

USUAL_FPS = 30.0
"""Of a clip that does not say its rate."""


def preview_clips(source: ClipSource, num_clips: int) -> Iterator[Clip]:
    """Clips with joints, evenly spaced among the source's, at most `num_clips` of them; others are skipped."""
    ids, left = source.clip_ids(), num_clips
    for place in _spread(len(ids)):
        if not left:
            return
        try:
            clip = source.read(ids[place])
        except ClipError:  # listed in rejected.jsonl
            continue
        if clip.joints is not None:
            left -= 1
            yield clip


def _spread(num: int) -> Sequence[int]:
    """0 … num − 1 in an order of which every beginning is spread over all."""
    bits = max(1, (num - 1).bit_length())
    order = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(2**bits))
    return [place for place in order if place < num]


def preview_pictures(clip: Clip, height_px: int, max_frames: int) -> Iterator[Image.Image]:
    """The first frames of a clip with joints, `height_px` high and not enlarged, with the visible joints and limbs.

    Ends before a frame that cannot be decoded.
    """
    assert clip.joints is not None
    height, width = clip.size
    scale = min(1.0, height_px / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    for number in range(min(len(clip.frames), max_frames)):
        try:
            frame = clip.frames[number]
        except DamagedFrame:
            return
        picture = Image.fromarray(frame).resize(size, Image.Resampling.BOX)
        xy = clip.joints.xy[number] * (size[0] / width, size[1] / height)
        yield draw_skeleton(picture, np.asarray(xy), clip.joints.is_visible[number])
