"""The real frames of chains, read again from the source of the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m3.clips.base import ClipError, ClipSource
from m3.clips.canvas import Canvas
from m3.core.frames import Frames, PairChain, TokenFrames
from m3.core.progress import track
from m3.shards.manifest import Manifest
from m3.tokens.joints import JointCodec

PLACES = ("_target_", "root", "labels", "name", "max_clips")
"""Settings of a source that decide where or how many clips there are, not how a clip looks."""


def check_source(source: ClipSource, settings: Mapping[str, Any], manifest: Manifest) -> None:
    """Raises ValueError unless the clips are those that the shards were made of.

    settings: of the source, as `preprocess.py` takes them.
    """
    made_of = manifest.settings.get("source", {})
    differing = [
        f"source.{key}={settings[key]} here and {made_of[key]} there"
        for key in settings
        if key in made_of and key not in PLACES and settings[key] != made_of[key]
    ]
    if differing:
        raise ValueError(f"the shards were made with other settings of their source: {'; '.join(differing)}")
    if source.fingerprint() != manifest.source["fingerprint"]:
        raise ValueError(
            f"source={source.name} is not what the shards were made of ({manifest.source['name']}): its clips have "
            "another fingerprint; give source=… and its folder as for preprocess.py, or leave source out"
        )


def real_frames(
    source: ClipSource, canvas: Canvas, chains: Sequence[PairChain], truth: TokenFrames, has_joints: bool
) -> Frames:
    """(N, T + 1) frames: the pictures on the canvas, "tok_rgb", present where they could be read.

    has_joints: whether the joint tokens of `truth` were annotated, so that they can be compared.

    Raises ValueError for a clip whose joints differ from the joint tokens: its frames would not match either.
    """
    codec, is_real = JointCodec(canvas.size), np.zeros(truth.is_present.shape, bool)
    pictures = np.zeros((*is_real.shape, canvas.size, canvas.size, 3), np.uint8)
    for n, chain in track(enumerate(chains), len(chains), "real frames"):
        indices = [chain.pairs[0].reference, *(pair.successor for pair in chain.pairs)]
        try:
            clip = source.read(chain.pairs[0].clip)
            window = canvas.window(clip.size, clip.joints)
            for horizon, index in enumerate(indices):
                pictures[n, horizon] = window.picture(clip.frames[index])
                is_real[n, horizon] = True
        except (ClipError, IndexError):
            continue
        if has_joints and clip.joints is not None:
            joints = window.joints(clip.joints)
            stored = codec.encode(joints.xy[indices], joints.is_visible[indices]).reshape(len(indices), -1)
            if (stored != truth.ids["coords"][n, : len(indices)]).any():
                raise ValueError(f"source={source.name}: joints of clip {clip.id} are not those of the shards")
    return Frames({"tok_rgb": pictures}, is_real)
