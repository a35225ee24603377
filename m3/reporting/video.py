"""Animations as files: GIF for everywhere, MP4 for sharp pictures in a browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image

from m3.core.files import atomic_file, atomic_path

_FRAME_MS, _LAST_FRAME_MS = 350, 1200
_FPS = 20
_X264 = {"crf": "16", "preset": "medium", "x264-params": "threads=1:lookahead-threads=1:sync-lookahead=0"}
"""One thread and no parallel lookahead give the same bytes every time; without, 2 of 25 files differed."""
_OPTIONS = {"movflags": "faststart"}
"""The index first: a browser plays before it has the whole file. Needs a path, for the index is moved at the end."""


def write_gif(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write an endless GIF. One palette for all pictures, so that colors do not flicker."""
    height = pictures[0].height
    strip = Image.new("RGB", (pictures[0].width, height * len(pictures)))
    for n, picture in enumerate(pictures):
        strip.paste(picture, (0, n * height))
    palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    with atomic_file(path) as file:
        frames[0].save(
            file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
        )


def write_mp4(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write an MP4: each picture for 0.35 s, the last one for 1.2 s."""
    times = [_FRAME_MS] * (len(pictures) - 1) + [_LAST_FRAME_MS]
    write_film(path, (picture for picture, time in zip(pictures, times) for _ in range(time * _FPS // 1000)), _FPS)


def write_film(path: Path, pictures: Iterable[Image.Image], fps: float) -> None:
    """Write an MP4 of pictures of one size, at least one, taken one after the other.

    H.264 of 4:2:0 pixels with the index first, which every browser plays. It needs even sides: the last row or column
    is repeated where they are odd.
    """
    pictures = iter(pictures)
    first = next(pictures)
    width, height = (side + side % 2 for side in first.size)
    with atomic_path(path) as file, av.open(str(file), "w", format="mp4", options=_OPTIONS) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in chain((first,), pictures):
            values = np.asarray(picture.convert("RGB"))
            even = np.pad(values, ((0, height - values.shape[0]), (0, width - values.shape[1]), (0, 0)), mode="edge")
            # Converted here: the encoder's own conversion gives other bytes now and then.
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even)).reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
