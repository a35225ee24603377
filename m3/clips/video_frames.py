"""Frames of a video file: which there are, found without holding them, and each of them when it is asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from m3.clips.base import ClipError, DamagedFrame, check_frame_size, reason_of


@dataclass(frozen=True)
class Orientation:
    """From the stored picture to the one that is shown: axes exchanged, then rows and columns reversed."""

    is_transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, 3) stored → (height, width, 3) shown."""
        picture = picture.transpose(1, 0, 2) if self.is_transposed else picture
        picture = picture[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]
        return np.ascontiguousarray(picture)


def orientation_of(matrix: Sequence[float]) -> Orientation | None:
    """The turn of a display matrix (a, b, u, c, d, v, x, y, w), or None where it is no multiple of 90°.

    The stored point (p, q) is shown at (a p + c q, b p + d q), up to a shift.
    """
    a, b, _, c, d = matrix[:5]
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, crossed) > 0.01 * max(straight, crossed):
        return None
    return Orientation(True, b < 0, c < 0) if crossed > straight else Orientation(False, d < 0, a < 0)


@dataclass(frozen=True)
class FrameIndex:
    """What is known of a video's frames, in the order in which they are shown.

    ticks: (T,) int64 time stamps, ascending, `seconds_per_tick` apart.
    is_key: (T,) bool, whether decoding can start at the frame.
    can_seek: whether a frame is known by its tick after a jump; else every jump back decodes from the start.
    size: (height, width) as shown, pixels.
    turn: from stored to shown pictures.
    notes: what was odd, for the manifest.
    """

    ticks: np.ndarray
    is_key: np.ndarray
    seconds_per_tick: float
    can_seek: bool
    size: tuple[int, int]
    turn: Orientation
    notes: tuple[str, ...] = ()

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) before the turn."""
        return self.size[::-1] if self.turn.is_transposed else self.size

    @property
    def seconds(self) -> np.ndarray:
        """(T,) float64, the first frame at 0."""
        return (self.ticks - self.ticks[0]) * self.seconds_per_tick


def scan(path: Path, name: str) -> FrameIndex:
    """The frames that a video has. Raises ClipError, which calls the file `name`, where it has none.

    Where every packet is a frame with a time stamp, in a sound file, only the first frame is decoded. Other files (AVI,
    VP8 with its hidden frames, files cut off) are decoded once, no frame held, up to the first that is damaged.
    """
    try:
        with _opened(path, name) as (container, stream):
            if (first := next(_frames(container, stream), None)) is None:
                raise ClipError(f"{name}: no frame of its video stream decodes")
            table = _table_of_one(first, stream, name)
            claimed_frames, claimed_seconds = stream.frames, (container.duration or 0) / av.time_base
            slack_seconds = 0.2 if len(container.streams) == 1 else 1.0  # sound may last a little longer
        with _opened(path, name) as (container, stream):
            packets = _reliable_packets(container, stream, first)
        table = _of_decoded(path, name, table) if packets is None else _of_packets(packets, table)
    except ClipError:
        raise
    except Exception as error:  # libav's errors of all kinds
        reason = "the file is empty" if _is_empty(path) else reason_of(error, path)
        raise ClipError(f"{name}: not a readable video ({reason})") from error
    num_frames, end = len(table.ticks), table.seconds[-1]
    if claimed_frames not in (0, num_frames):
        return replace(table, notes=(*table.notes, f"{name}: says {claimed_frames} frames, {num_frames} were found"))
    if claimed_seconds > end + slack_seconds:
        return replace(table, notes=(*table.notes, f"{name}: says {claimed_seconds:.1f} s, frames end at {end:.1f} s"))
    return table


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first stream of moving pictures (a cover picture is none)."""
    with av.open(str(path)) as container:
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            kinds = ", ".join(s.type for s in container.streams) or "no stream at all"
            raise ClipError(f"{name}: no video stream in it ({kinds})")
        context = videos[0].codec_context
        context.thread_count = 1  # clips are spread over the cores, and errors come at the same frame everywhere
        if context.width or context.height:
            check_frame_size(name, (context.height, context.width))
        yield container, videos[0]


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        if packet.size or packet.dts is None:  # the last, empty one flushes; another empty one is a dropped frame
            yield from packet.decode()


def _table_of_one(frame: VideoFrame, stream: VideoStream, name: str) -> FrameIndex:
    """The table of the first frame alone."""
    notes: tuple[str, ...] = ()
    turn: Orientation | None = Orientation()
    if "DISPLAYMATRIX" in frame.side_data:
        turn = orientation_of(struct.unpack("<9i", bytes(frame.side_data["DISPLAYMATRIX"])))
        if turn is None:
            notes += (f"{name}: turned by {frame.rotation}°, no multiple of 90: used as stored",)
    aspect = float(stream.sample_aspect_ratio or 1)
    if abs(aspect - 1) > 0.02:
        notes += (f"{name}: its pixels are {aspect:.3g} times as wide as high: used as square ones",)
    turn = turn or Orientation()
    size = (frame.width, frame.height) if turn.is_transposed else (frame.height, frame.width)
    check_frame_size(name, size)
    tick = float(stream.time_base or 1 / (stream.average_rate or 25))
    return FrameIndex(np.array([frame.pts or 0]), np.array([True]), tick, False, size, turn, notes)


def _reliable_packets(
    container: InputContainer, stream: VideoStream, first: VideoFrame
) -> list[tuple[int, bool]] | None:
    """Time stamp of each packet, and whether it is a keyframe; None where these may not be the frames."""
    if stream.codec_context.name == "vp8" or not {"mov", "matroska"} & set(container.format.name.split(",")):
        return None
    packets = []
    try:
        for packet in container.demux(stream):
            if packet.dts is None and packet.pts is None and not packet.size:
                continue  # the end
            if packet.pts is None or not packet.size or packet.is_corrupt or packet.is_discard:
                return None
            packets.append((packet.pts, packet.is_keyframe))
    except av.FFmpegError:
        return None
    ticks = [tick for tick, _ in packets]
    is_reliable = packets and packets[0][1] and len(set(ticks)) == len(ticks) and first.pts == min(ticks)
    return packets if is_reliable else None


def _of_packets(packets: list[tuple[int, bool]], table: FrameIndex) -> FrameIndex:
    ticks, is_key = zip(*sorted(packets))
    return replace(table, ticks=np.array(ticks), is_key=np.array(is_key), can_seek=True)


def _of_decoded(path: Path, name: str, table: FrameIndex) -> FrameIndex:
    """The frames before the first damaged one, with a note on that one."""
    ticks: list[int | None] = []
    notes = table.notes
    try:
        for _, frame in decode_frames(path, name, table):
            ticks.append(frame.pts)
    except DamagedFrame as error:
        if error.index < 2:
            raise ClipError(f"{error}; a pair needs 2 frames, {error.index} came before it") from error
        notes += (f"{error}: used the {error.index} frames before it",)
    if None in ticks:
        raise ClipError(f"{name}: frame {ticks.index(None)} has no time stamp; convert it to .mp4")
    # A container may number its frames badly; the order in which they come is that in which they are shown.
    shown = np.maximum.accumulate(np.array(ticks))
    return replace(table, ticks=shown, is_key=np.arange(len(shown)) == 0, notes=notes)


def decode_frames(
    path: Path, name: str, table: FrameIndex, near: int | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    """Frames with their numbers from the start on, or from the last keyframe before frame `near`.

    Raises DamagedFrame at the first that does not decode, is damaged, of another size, or not the one of the table.
    """
    with _opened(path, name) as (container, stream):
        if near is not None:
            container.seek(int(table.ticks[near]), stream=stream)
        number, frames = 0, _frames(container, stream)
        while True:
            try:
                frame = next(frames, None)
            except Exception as error:  # libav's errors of all kinds
                raise DamagedFrame(
                    f"{name}: frame {number} does not decode ({reason_of(error, path)})", number
                ) from error
            if frame is None:
                return
            if near is not None:
                number, near = int(np.searchsorted(table.ticks, -1 if frame.pts is None else frame.pts)), None
            if fault := _fault(frame, number, table):
                raise DamagedFrame(f"{name}: frame {number} {fault}", number)
            yield number, frame
            number += 1


def _fault(frame: VideoFrame, number: int, table: FrameIndex) -> str | None:
    if frame.is_corrupt:
        return "is damaged"
    if (frame.height, frame.width) != table.stored_size:
        height, width = table.stored_size
        return f"is {frame.width} x {frame.height} px, those before it {width} x {height}"
    if table.can_seek and (number >= len(table.ticks) or frame.pts != table.ticks[number]):
        return "is missing"
    return None


class VideoFrames(Sequence):
    """Frames of a video, decoded when indexed: in order each once, after a jump from the last keyframe before it.

    Args:
        path: the file.
        name: of the file, for errors.
        table: its frames.
        order: (T,) int64, ascending, which of the table's frames these are; a frame may come several times.
    """

    def __init__(self, path: Path, name: str, table: FrameIndex, order: np.ndarray) -> None:
        self._path = path
        self._name = name
        self._table = table
        self._order = order
        self._decoder: Iterator[tuple[int, VideoFrame]] = iter(())
        self._number = len(table.ticks)  # of the frame decoded last: none yet, so that every other lies before it
        self._picture = np.empty(0)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8. Raises DamagedFrame where the video cannot be decoded up to there."""
        number = int(self._order[index])
        if number != self._number:
            try:
                frame = self._find(number)
            except DamagedFrame as error:
                self._number = len(self._table.ticks)
                raise DamagedFrame(str(error), int(np.searchsorted(self._order, error.index))) from error
            self._picture = self._table.turn(frame.to_ndarray(format="rgb24"))
            self._number = number
        return self._picture

    def _find(self, number: int) -> VideoFrame:
        if self._number < number and not self._has_key_between(number):
            return self._advance(number)
        if self._table.can_seek and number:
            self._decoder = decode_frames(self._path, self._name, self._table, near=number)
            try:
                return self._advance(number)
            except DamagedFrame:  # the jump may have missed; the way from the start does not
                pass
        self._decoder = decode_frames(self._path, self._name, self._table)
        return self._advance(number)

    def _has_key_between(self, number: int) -> bool:
        """Whether there are frames before `number` that can be jumped over rather than decoded."""
        return self._table.can_seek and bool(self._table.is_key[self._number + 2 : number + 1].any())

    def _advance(self, number: int) -> VideoFrame:
        for found, frame in self._decoder:
            if found == number:
                return frame
            if found > number:
                break
        raise DamagedFrame(f"{self._name}: frame {number} is missing", number)


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False
