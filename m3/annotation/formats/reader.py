"""Reads the joint file of another program, recognized by what it holds, as tracks of people in a video."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from m3.annotation.formats.arrays import from_hdf5, read_npy_file, read_npz_file
from m3.annotation.formats.detections import MAX_BYTES, Detections, FormatError
from m3.annotation.formats.json_files import read_frame_files, read_json
from m3.annotation.formats.tables import read_table
from m3.annotation.formats.understanding import JointFileOptions, Poses, understood
from m3.annotation.people import Belief
from m3.annotation.regions import Region
from m3.annotation.tracking import Track
from m3.clips.base import ClipError, found_instead, reason_of
from m3.clips.hdf5_files import read_hdf5
from m3.clips.joint_paths import JointFile, frame_number
from m3.core.joints import NUM_JOINTS
from m3.core.reading import read_file

_MAX_FRAME_BYTES = 2**24
_MAX_GAP_SECONDS = 1.0
"""A person who is gone for longer is another track."""

_MAX_STEP = 0.6
"""Farthest that a person moves from one frame to the next, in sides of the box around the joints."""


def read_poses(
    file: JointFile, clip: str, options: JointFileOptions, num_frames: int, size: tuple[int, int], fps: float
) -> tuple[Detections, Poses]:
    """What a joint file holds, and the poses in the frames of a video.

    clip: name of the video's file. num_frames, size: of the video; (height, width) in pixels.
    Raises ClipError naming the file, the reason, and what to do.
    """
    try:
        found = _detections(file, clip)
        return found, understood(found, options, num_frames, size, fps)
    except FormatError as error:
        raise ClipError(f"{file.name}: {error}") from error
    except (OSError, ValueError) as error:
        raise ClipError(f"{file.name}: not readable ({reason_of(error, file.path)})") from error


def _detections(file: JointFile, clip: str) -> Detections:
    if file.frames:
        return read_frame_files(_contents(file))
    content = read_file(file.path, MAX_BYTES)
    if instead := found_instead(content[:1000]):
        raise FormatError(instead)
    if not content.strip():
        raise FormatError("the file is empty")
    if content.startswith(b"\x89HDF\r\n\x1a\n"):
        return from_hdf5(read_hdf5(content))
    if content.startswith(b"\x93NUMPY"):
        return read_npy_file(content)
    if content.startswith(b"PK\x03\x04"):
        return read_npz_file(content)
    if content[:2] == b"\x80\x04" or content[:1] == b"\x80":
        raise FormatError("a pickle, which could run anything: it is not read; write .json, .csv or .npy instead")
    if content.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")[:1] in (b"{", b"["):
        return read_json(content, clip)
    return read_table(content)


def _contents(file: JointFile) -> Iterator[tuple[int, bytes]]:
    num_bytes = 0
    for name in file.frames:
        content = read_file(file.path / name, _MAX_FRAME_BYTES)
        num_bytes += len(content)
        if num_bytes > 4 * MAX_BYTES:
            raise FormatError(f"its files have more than {4 * MAX_BYTES:,} bytes; divide the video")
        yield frame_number(name), content


BELIEF = Belief(min_seconds=0.0, min_mean_score=0.0, min_confidence=0.0, visibility=1e-9, smoothing=0.0)
"""People of a file are believed; how sure a joint has to be was decided when the file was understood."""


def tracks_of(poses: Poses, cuts: Sequence[int], fps: float, visibility: float) -> list[Track]:
    """The tracks of the people of a file, none over a cut; people that the file does not follow are followed here.

    cuts: numbers of the first frames of scenes, without 0. visibility: see `JointFileOptions`.
    """
    is_placed = np.isfinite(poses.xy).all(-1).any(-1)
    order = np.argsort(poses.frames[is_placed], kind="stable")
    places = np.flatnonzero(is_placed)[order]
    frames = poses.frames[places]
    scenes = np.array([bisect_right(cuts, frame) for frame in frames.tolist()])
    max_gap = max(poses.max_gap + 1, round(_MAX_GAP_SECONDS * fps))
    tracks: list[Track] = []
    for scene in np.unique(scenes):
        here = places[scenes == scene]
        if poses.is_one_person:
            groups = [here.tolist()]
        elif (poses.people[here] >= 0).all():
            groups = [part for who in np.unique(poses.people[here])
                      for part in _divided(here[poses.people[here] == who], poses.frames, max_gap)]  # fmt: skip
        else:
            groups = _followed(here, poses, max_gap)
        tracks += [_track(poses, group, visibility) for group in groups if group]
    return sorted(tracks, key=lambda each: each.first)


def _divided(places: np.ndarray, frames: np.ndarray, max_gap: int) -> list[list[int]]:
    """The poses of a person, divided where nothing is known of it for long."""
    breaks = np.flatnonzero(np.diff(frames[places]) > max_gap) + 1
    return [part.tolist() for part in np.split(places, breaks)]


def _followed(places: np.ndarray, poses: Poses, max_gap: int) -> list[list[int]]:
    """The poses of each person: in each frame those that are nearest to the last ones, all together."""
    tracks: list[list[int]] = []
    active: list[int] = []
    for frame in np.unique(poses.frames[places]):
        here = places[poses.frames[places] == frame]
        active = [number for number in active if frame - poses.frames[tracks[number][-1]] <= max_gap]
        taken: set[int] = set()
        if active:
            cost = np.array([[_step(poses, tracks[number][-1], int(pose)) for pose in here] for number in active])
            for row, column in zip(*linear_sum_assignment(cost)):
                if cost[row, column] <= _MAX_STEP:
                    tracks[active[row]].append(int(here[column]))
                    taken.add(int(column))
        for column, pose in enumerate(here):
            if column not in taken:
                active.append(len(tracks))
                tracks.append([int(pose)])
    return tracks


def _step(poses: Poses, before: int, after: int) -> float:
    """Distance of two poses in sides of the box around the joints, less the farther they are apart in time."""
    first, second = poses.xy[before], poses.xy[after]
    both = np.isfinite(first).all(-1) & np.isfinite(second).all(-1)
    if not both.any():
        return 1e3
    extent = max(float(np.ptp(each[np.isfinite(each).all(-1)], axis=0).max()) for each in (first, second))
    moved = float(np.median(np.hypot(*(first - second)[both].T)))
    gap = max(1, int(poses.frames[after] - poses.frames[before]))
    return moved / max(extent, 1.0) / (1 + 0.1 * (gap - 1))


def _track(poses: Poses, group: Sequence[int], visibility: float) -> Track:
    """The track of some poses, filled along straight lines where the joints have fewer frames than the video."""
    frames = poses.frames[list(group)]
    group = [pose for pose, is_new in zip(group, np.diff(frames, prepend=-1) > 0) if is_new]
    frames = poses.frames[group]
    first, num = int(frames[0]), int(frames[-1] - frames[0]) + 1
    xy, sure = np.full((num, NUM_JOINTS, 2), np.nan), np.zeros((num, NUM_JOINTS))
    xy[frames - first] = poses.xy[group]
    sure[frames - first] = np.where(poses.confidence[group] >= visibility, poses.confidence[group], 0)
    for before, after in zip(frames - first, frames[1:] - first):
        if 1 < after - before <= poses.max_gap:
            share = (np.arange(1, after - before) / (after - before))[:, None]
            xy[before + 1 : after] = xy[before] + share[..., None] * (xy[after] - xy[before])
            sure[before + 1 : after] = np.minimum(sure[before], sure[after])
    is_found = np.isfinite(xy).all(axis=-1).any(axis=-1)
    track = Track(first, Region(0, 0, 0, 0))
    track.xy, track.confidence = list(xy.astype(np.float32)), list(sure.astype(np.float32))
    track.scores = np.where(is_found, np.maximum(sure.mean(1), 1e-6), 0.0).tolist()
    return track
