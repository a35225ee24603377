"""Frames of a video file: an index of all of them, and random access that decodes on demand."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from m3.clips.base import ClipError, DamagedFrame, LazyFrames, check_frame_size, reason_of
from m3.core.reading import open_regular

MAX_FPS = 1000.0
"""Frames per second of a video, at most: time stamps that give more are wrong."""

_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,wav,"
    "gif,mxf,nut,ivf,dv,yuv4mpegpipe",
    "protocol_whitelist": "file",
}
"""FFmpeg looks at a file's content, not its name: it would read a list of files or addresses named .mp4, and what it
lists. These are containers that hold all of their content."""


@dataclass(frozen=True)
class Orientation:
    """How to turn a stored picture into the displayed one: transpose, then reverse rows and columns."""

    is_transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(h, w, 3) stored picture → (height, width, 3) displayed picture."""
        picture = picture.transpose(1, 0, 2) if self.is_transposed else picture
        picture = picture[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]
        return np.ascontiguousarray(picture)


def orientation_of(matrix: Sequence[float]) -> Orientation | None:
    """The orientation of a display matrix (a, b, u, c, d, v, x, y, w), or None where it is no multiple of 90°.

    The stored point (p, q) is displayed at (a p + c q, b p + d q), up to a translation.
    """
    a, b, _, c, d = matrix[:5]
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, crossed) > 0.01 * max(straight, crossed):
        return None
    return Orientation(True, b < 0, c < 0) if crossed > straight else Orientation(False, d < 0, a < 0)


@dataclass(frozen=True)
class FrameIndex:
    """An index of a video's frames in display order.

    ticks: (T,) int64 presentation time stamps, ascending, in units of `seconds_per_tick`.
    is_key: (T,) bool, whether decoding can start at the frame.
    seconds_per_tick: duration of a tick, seconds.
    can_seek: whether a frame can be identified by its tick after a seek; else every step back decodes from the start.
    size: (height, width) of the displayed pictures, pixels.
    orientation: from stored to displayed pictures.
    notes: irregularities that did not prevent the video's use, for the manifest.
    """

    ticks: np.ndarray
    is_key: np.ndarray
    seconds_per_tick: float
    can_seek: bool
    size: tuple[int, int]
    orientation: Orientation
    notes: tuple[str, ...] = ()

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) of the stored pictures, pixels."""
        height, width = self.size
        return (width, height) if self.orientation.is_transposed else (height, width)

    @property
    def seconds(self) -> np.ndarray:
        """(T,) float64 presentation times, seconds; the first frame is at 0."""
        return (self.ticks - self.ticks[0]) * self.seconds_per_tick

    @property
    def fps(self) -> float | None:
        """Average frames per second of the time stamps, to 6 digits; None where they give no rate that can be.

        The rate that a container names is off where the distances of its frames vary.
        """
        duration = float(self.seconds[-1])
        fps = round((len(self.ticks) - 1) / duration, 6) if duration > 0 else 0.0
        return fps if 0 < fps <= MAX_FPS else None


def scan(path: Path, name: str) -> FrameIndex:
    """The index of a video's frames.

    If every packet is a frame with a time stamp and the file is intact, only the first frame is decoded. Other files
    (AVI, VP8 with its hidden frames, truncated files) are decoded once, up to the first damaged frame, without keeping
    pictures.

    Raises ClipError, which calls the file `name`, where no frame can be decoded.
    """
    try:
        with _open(path, name) as (container, stream):
            if (first := next(_frames(container, stream), None)) is None:
                raise ClipError(f"{name}: no frame of its video stream decodes")
            index = _index_of_first(first, stream, name)
            claimed_frames, claimed_seconds = stream.frames, (container.duration or 0) / av.time_base
            slack_seconds = 0.2 if len(container.streams) == 1 else 1.0  # sound may last a little longer
            index = replace(index, notes=(*index.notes, *_odd_pictures(first, stream, name)))
        with _open(path, name) as (container, stream):
            packets = _reliable_packets(container, stream, first)
        index = _index_by_decoding(path, name, index) if packets is None else _index_from_packets(packets, index)
    except ClipError:
        raise
    except Exception as error:  # libav's errors of all kinds
        reason = "the file is empty" if _is_empty(path) else reason_of(error, path)
        raise ClipError(f"{name}: not a readable video ({reason})") from error
    if index.can_seek:  # other containers' time stamps may be out of order
        index = replace(index, notes=(*index.notes, *_uneven_times(index.seconds, name)))
    num_frames, end = len(index.ticks), index.seconds[-1]
    if claimed_frames not in (0, num_frames):
        return replace(index, notes=(*index.notes, f"{name}: says {claimed_frames} frames, {num_frames} were found"))
    if claimed_seconds > end + slack_seconds:
        return replace(index, notes=(*index.notes, f"{name}: says {claimed_seconds:.1f} s, frames end at {end:.1f} s"))
    return index


_HDR = {16: "PQ", 18: "HLG"}
"""FFmpeg's number of a transfer characteristic → what it is called."""

_MIN_UNEVEN, _MAX_UNEVEN, _MAX_DEVIATION = 3, 0.02, 0.25
"""A rate varies where this number of frames, and this share, differ in their distance from the frame before by more
than the third, as a share of the usual distance."""


def _odd_pictures(first: VideoFrame, stream: VideoStream, name: str) -> tuple[str, ...]:
    """Notes on pictures that do not look as they should."""
    notes: tuple[str, ...] = ()
    if transfer := _HDR.get(int(stream.codec_context.color_trc or 0)):
        notes += (f"{name}: HDR ({transfer}): its colors are used as stored, paler than meant",)
    if first.interlaced_frame:
        notes += (f"{name}: interlaced: moving edges have combs; deinterlace it (ffmpeg -vf yadif)",)
    return notes


def _uneven_times(seconds: np.ndarray, name: str) -> tuple[str, ...]:
    """A note on a frame rate that varies. seconds: (T,) ascending."""
    steps = np.diff(seconds)
    if not len(steps) or not (usual := float(np.median(steps))) > 0:
        return ()
    uneven = np.abs(steps - usual) > _MAX_DEVIATION * usual
    if uneven.sum() < _MIN_UNEVEN or uneven.mean() <= _MAX_UNEVEN:
        return ()
    slow, fast = 1 / steps.max(), 1 / max(float(steps[steps > 0].min()), 1e-6)
    return (
        f"{name}: its frame rate varies, {slow:.3g} … {fast:.4g} frames per second; source.fps takes frames by time",
    )


@contextmanager
def _open(path: Path, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; cover pictures do not count."""
    open_regular(path).close()  # a pipe or a device would be waited for
    # As "file:" and an absolute path: of "12:30:05.mp4" FFmpeg takes "12" for a protocol, of "http:/host/x.mp4" "http".
    with av.open(f"file:{path.absolute()}", "r", None, _OPTIONS) as container:
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            kinds = ", ".join(s.type for s in container.streams) or "no stream at all"
            raise ClipError(f"{name}: no video stream in it ({kinds})")
        context = videos[0].codec_context
        context.thread_count = 1  # clips run in parallel; with one thread errors always occur at the same frame
        if context.width or context.height:
            check_frame_size(name, (context.height, context.width))
        yield container, videos[0]


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        if packet.size or packet.dts is None:  # the last, empty one flushes; another empty one is a dropped frame
            yield from packet.decode()


def _index_of_first(frame: VideoFrame, stream: VideoStream, name: str) -> FrameIndex:
    """The index that the first frame alone gives."""
    notes: tuple[str, ...] = ()
    orientation: Orientation | None = Orientation()
    if "DISPLAYMATRIX" in frame.side_data:
        orientation = orientation_of(struct.unpack("<9i", bytes(frame.side_data["DISPLAYMATRIX"])))
        if orientation is None:
            notes += (f"{name}: turned by {frame.rotation}°, no multiple of 90: used as stored",)
    aspect = float(stream.sample_aspect_ratio or 1)
    if abs(aspect - 1) > 0.02:
        notes += (f"{name}: its pixels are {aspect:.3g} times as wide as high: used as square ones",)
    orientation = orientation or Orientation()
    size = (frame.width, frame.height) if orientation.is_transposed else (frame.height, frame.width)
    check_frame_size(name, size)
    tick = float(stream.time_base or 1 / (stream.average_rate or 25))
    return FrameIndex(np.array([frame.pts or 0]), np.array([True]), tick, False, size, orientation, notes)


def _reliable_packets(
    container: InputContainer, stream: VideoStream, first: VideoFrame
) -> list[tuple[int, bool]] | None:
    """(time stamp, is keyframe) of each packet, or None unless packets and frames correspond one to one."""
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
    except FFmpegError:
        return None
    ticks = [tick for tick, _ in packets]
    is_reliable = packets and packets[0][1] and len(set(ticks)) == len(ticks) and first.pts == min(ticks)
    return packets if is_reliable else None


def _index_from_packets(packets: list[tuple[int, bool]], index: FrameIndex) -> FrameIndex:
    ticks, is_key = zip(*sorted(packets))
    return replace(index, ticks=np.array(ticks), is_key=np.array(is_key), can_seek=True)


def _index_by_decoding(path: Path, name: str, index: FrameIndex) -> FrameIndex:
    """The index of the frames before the first damaged one, with a note on it."""
    ticks: list[int | None] = []
    notes = index.notes
    try:
        for _, frame in decode_frames(path, name, index):
            ticks.append(frame.pts)
    except DamagedFrame as error:
        if error.index < 2:
            raise ClipError(f"{error}; a pair needs 2 frames, {error.index} came before it") from error
        notes += (f"{error}: used the {error.index} frames before it",)
    if None in ticks:
        raise ClipError(f"{name}: frame {ticks.index(None)} has no time stamp; convert it to .mp4")
    # Time stamps of a container may be out of order; the decoder's order is the display order.
    ascending = np.maximum.accumulate(np.array(ticks))
    return replace(index, ticks=ascending, is_key=np.arange(len(ascending)) == 0, notes=notes)


def decode_frames(
    path: Path, name: str, index: FrameIndex, near: int | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    """(number, frame) from the first frame on, or from the last keyframe before frame `near`.

    Raises DamagedFrame at the first frame that cannot be decoded, is damaged, has another size, or is not in the
    index.
    """
    with _open(path, name) as (container, stream):
        if near is not None:
            container.seek(int(index.ticks[near]), stream=stream)
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
                number, near = int(np.searchsorted(index.ticks, -1 if frame.pts is None else frame.pts)), None
            if fault := _fault(frame, number, index):
                raise DamagedFrame(f"{name}: frame {number} {fault}", number)
            yield number, frame
            number += 1


def _fault(frame: VideoFrame, number: int, index: FrameIndex) -> str | None:
    if frame.is_corrupt:
        return "is damaged"
    if (frame.height, frame.width) != index.stored_size:
        height, width = index.stored_size
        return f"is {frame.width} x {frame.height} px, those before it {width} x {height}"
    if index.can_seek and (number >= len(index.ticks) or frame.pts != index.ticks[number]):
        return "is missing"
    return None


class VideoFrames(LazyFrames):
    """Frames of a video, decoded when indexed.

    Read in order, each frame is decoded once; other accesses decode from the last keyframe before the frame.

    Args:
        path: the file.
        name: name of the file, for errors.
        index: index of the file's frames.
        order: (T,) int64, ascending, number of each frame in the index; numbers may repeat.
    """

    def __init__(self, path: Path, name: str, index: FrameIndex, order: np.ndarray) -> None:
        self._path = path
        self._name = name
        self._frame_index = index
        self._order = order
        self._decoder: Iterator[tuple[int, VideoFrame]] = iter(())
        self._number = len(index.ticks)  # of the frame decoded last; initially beyond the last frame
        self._picture = np.empty(0)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def numbers(self) -> np.ndarray:
        """(T,) int64: the number of each frame in the video, from 0; read-only."""
        numbers = self._order.view()
        numbers.flags.writeable = False
        return numbers

    def frame(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8. Raises DamagedFrame where the video cannot be decoded up to the frame."""
        number = int(self._order[index])
        if number != self._number:
            try:
                frame = self._find(number)
            except DamagedFrame as error:
                self._number = len(self._frame_index.ticks)
                raise DamagedFrame(str(error), int(np.searchsorted(self._order, error.index))) from error
            self._picture = self._frame_index.orientation(frame.to_ndarray(format="rgb24"))
            self._number = number
        return self._picture

    def _find(self, number: int) -> VideoFrame:
        if self._number < number and not self._has_key_between(number):
            return self._advance(number)
        if self._frame_index.can_seek and number:
            self._decoder = decode_frames(self._path, self._name, self._frame_index, near=number)
            try:
                return self._advance(number)
            except DamagedFrame:  # the seek may have missed the frame; decoding from the start cannot
                pass
        self._decoder = decode_frames(self._path, self._name, self._frame_index)
        return self._advance(number)

    def _has_key_between(self, number: int) -> bool:
        """Whether seeking to `number` skips frames that would otherwise be decoded."""
        return self._frame_index.can_seek and bool(self._frame_index.is_key[self._number + 2 : number + 1].any())

    def _advance(self, number: int) -> VideoFrame:
        for found, frame in self._decoder:
            if found == number:
                return frame
            if found > number:
                break
        raise DamagedFrame(f"{self._name}: frame {number} is missing", number)


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False
