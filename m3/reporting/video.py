"""Animations as files: GIF for everywhere, MP4 for sharp pictures in a browser."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

_FRAME_MS, _LAST_FRAME_MS = 350, 1200
_FPS = 20


def write_gif(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write an endless GIF under its final name only when complete. One palette for all, so that colours keep still."""
    height = pictures[0].height
    strip = Image.new("RGB", (pictures[0].width, height * len(pictures)))
    for n, picture in enumerate(pictures):
        strip.paste(picture, (0, n * height))
    palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    unfinished = path.with_name(path.name + ".tmp")
    frames[0].save(
        unfinished, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
    )
    os.replace(unfinished, path)


def write_mp4(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write an MP4 under its final name only when complete: each picture for 0.35 s, the last one for 1.2 s.

    H.264 of 4:2:0 pixels with the index first, which every browser plays. It needs even sides: the last row or column
    is repeated where they are odd.
    """
    unfinished = path.with_name(path.name + ".tmp")
    width, height = (side + side % 2 for side in pictures[0].size)
    with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"crf": "16", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for number, picture in enumerate(pictures):
            values = np.asarray(picture.convert("RGB"))
            even = np.pad(values, ((0, height - values.shape[0]), (0, width - values.shape[1]), (0, 0)), mode="edge")
            milliseconds = _LAST_FRAME_MS if number == len(pictures) - 1 else _FRAME_MS
            for _ in range(milliseconds * _FPS // 1000):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even))))
        container.mux(stream.encode())
    os.replace(unfinished, path)
