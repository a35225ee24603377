"""Tiny videos whose frames tell their own number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from m3.core.joints import JOINT_NAMES
from support.tiny_world import frame

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx-vp9"}


def number_picture(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(height, width, 3) uint8: `number` < 256 as 8 black and white fields from left to right in the upper half."""
    height, width = size
    picture = frame(number % 8, size)
    fields = np.array([255 * ((number >> bit) & 1) for bit in range(8)], np.uint8)
    picture[: height // 2] = fields[np.arange(width) * 8 // width][None, :, None]
    return picture


def number_in(picture: np.ndarray) -> int:
    """The number that `number_picture` drew, lossy compression allowed for."""
    height, width = picture.shape[:2]
    columns = (2 * np.arange(8) + 1) * width // 16
    return sum(int(picture[height // 4, column].mean() > 127) << bit for bit, column in enumerate(columns))


def write_video(
    path: Path,
    num_frames: int = 12,
    size: tuple[int, int] = (48, 64),
    fps: int = 25,
    codec: str | None = None,
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    times_ms: Sequence[int] | None = None,
    pictures: Sequence[np.ndarray] | None = None,
    movflags: str = "faststart",
) -> Path:
    """rotation: counterclockwise degrees by which it is to be shown. times_ms: when each frame is shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    muxing = {"movflags": movflags} if movflags and path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec or CODECS[path.suffix], rate=fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            shown = av.VideoFrame.from_ndarray(pictures[number] if pictures else number_picture(number, size))
            if times_ms is not None:
                shown.pts, shown.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    return path


def write_joints(path: Path, num_frames: int, seed: int = 0, hidden: tuple[str, ...] = ()) -> Path:
    """A .csv of joints that walk; those in `hidden` have no place in any frame."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(8, 40, (13, 2))
    lines = [",".join(f"{name}_{axis}" for name in JOINT_NAMES for axis in "xy")]
    for t in range(num_frames):
        cells = ["," if name in hidden else f"{x + t:.2f},{y:.2f}" for name, (x, y) in zip(JOINT_NAMES, places)]
        lines.append(",".join(cells))
    path.write_text("\n".join(lines) + "\n")
    return path
