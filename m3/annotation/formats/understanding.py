"""From what a joint file says to the 13 joints of a video's frames, in pixels.

Each fault that makes a file look right and be wrong is understood, and said in a note, or refused with what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from m3.annotation.formats.detections import Detections, FormatError
from m3.clips.joint_faults import SHARE_OUTSIDE, SURE_SHARE_OUTSIDE, crossed, is_share_of_sides, no_place, outside_fault
from m3.clips.joint_options import JointFileOptions
from m3.core.joints import JOINT_NAMES, MIRRORED, NUM_JOINTS
from m3.core.keypoints import Layout, layout_named

_MIN_POSES, _MIN_AGREEMENT = 8, 0.8
"""Poses that show on which side the eyes are; of these so many have to agree."""

_HEAD_ABOVE_NECK = 0.42
"""Of the distance from the hips to the shoulders: from there to the head, where a layout has no head."""

_SURE = 0.3
"""Confidence of a keypoint whose place is compared with the picture."""


@dataclass(frozen=True)
class Poses:
    """m poses of the 13 joints in the frames of a video.

    frames: (m,) int64 number of the frame. people: (m,) int64, see `Detections`.
    xy: (m, 13, 2) float64 pixels, NaN where unknown. confidence: (m, 13) float64, 0 where unknown or derived.
    is_one_person: in all frames.
    max_gap: frames between two poses of a person that are filled along a straight line, because the joints have fewer
        frames per second than the video.
    notes: how the file was understood, for the manifest.
    """

    frames: np.ndarray
    people: np.ndarray
    xy: np.ndarray
    confidence: np.ndarray
    is_one_person: bool
    max_gap: int
    notes: tuple[str, ...]


def part_of(poses: Poses, first: int, end: int) -> Poses:
    """The poses of the frames first … end − 1, which become number 0 and so on."""
    kept = (poses.frames >= first) & (poses.frames < end)
    return replace(
        poses, frames=poses.frames[kept] - first, people=poses.people[kept], xy=poses.xy[kept],
        confidence=poses.confidence[kept],
    )  # fmt: skip


def understood(
    found: Detections, options: JointFileOptions, num_frames: int, size: tuple[int, int], fps: float
) -> Poses:
    """The poses of a file, for a video of `num_frames` frames of (height, width) pixels. Raises FormatError."""
    layout = found.layout if options.layout is None else layout_named("source.joint_files.layout", options.layout)
    if isinstance(layout, str):
        raise FormatError(
            f"{found.format}: {layout}; source.joint_files.layout=… names the layout, or a keypoint for each joint"
        )
    num_keypoints = found.xy.shape[1]
    highest = max(point for points in (*layout.joints, *layout.other_heads) for point in points)
    if highest >= num_keypoints:
        raise FormatError(
            f"{found.format}: {num_keypoints} keypoints, source.joint_files.layout asks for number {highest}"
        )
    frames, kept, max_gap, notes = _frames(found, options, num_frames, fps)
    frames, people = frames[kept], found.people[kept]
    confidence, xy = found.confidence[kept], found.xy[kept]
    confidence, sure_notes = _confidences(found.format, confidence)
    xy = np.where(no_place(xy)[..., None] | ((confidence <= 0) & ~found.is_visibility)[..., None], np.nan, xy)
    if not np.isfinite(xy).any():
        raise FormatError(f"{found.format}: no keypoint has a place")
    if options.exchange_xy:
        xy, notes = xy[..., ::-1], (*notes, "x and y are exchanged, as source.joint_files.exchange_xy asks")
    xy, scale_notes = _in_pixels(found, xy, confidence, options, size)
    if options.exchange_sides is None and not found.is_visibility:
        _check_sides(layout, xy, confidence)
    if not found.is_visibility:  # what a network is not sure of may be anywhere
        xy = np.where((confidence >= options.visibility)[..., None], xy, np.nan)
    joints, sure, joint_notes = _joints(layout, xy, np.where(np.isfinite(xy).all(-1), confidence, 0.0))
    if options.exchange_sides:
        joints, sure = joints[:, MIRRORED], sure[:, MIRRORED]
        joint_notes += ("left and right are exchanged, as source.joint_files.exchange_sides asks",)
    else:
        _check_pairs(joints, sure, options)
    return Poses(
        frames, people, joints, sure, found.is_one_person, max_gap,
        (*found.notes, *notes, *sure_notes, *scale_notes, *joint_notes),
    )  # fmt: skip


def _frames(
    found: Detections, options: JointFileOptions, num_frames: int, fps: float
) -> tuple[np.ndarray, np.ndarray, int, tuple[str, ...]]:
    """Number of the video's frame of each pose, which poses are kept, `Poses.max_gap`, and notes."""
    low, end = found.span or (int(found.frames.min()), int(found.frames.max()) + 1)
    first, notes = options.first_frame, ()
    if first is None:
        first = 0
        if found.is_numbered and low == 1 and (found.span is not None or end == num_frames + 1):
            first, notes = 1, ("frames are counted from 1",)
        elif found.is_numbered and found.span is None and low > 0 and options.fps is None:
            notes = (f"frames {low} … {end - 1} are taken as counted from 0; else source.joint_files.first_frame=1",)
    count, slack = end - first, max(2, round(0.02 * num_frames))
    if options.fps is None:
        is_other = abs(count - num_frames) > slack if found.span is not None else count > num_frames + slack
        if is_other:
            rate = f", perhaps {fps * count / num_frames:.4g}" if found.span is not None and count < num_frames else ""
            raise FormatError(
                f"{found.format}: joints of {count} frames, the video has {num_frames}: of another frame rate or "
                f"another video? source.joint_files.fps=… says the rate of the joints{rate}; the video has {fps:.4g}"
            )
        frames = found.frames - first
    else:
        frames = np.round((found.frames - first) / options.fps * fps).astype(np.int64)
        notes += (f"joints of {options.fps:g} frames per second, the video has {fps:.4g}",) * (options.fps != fps)
    kept = (frames >= 0) & (frames < num_frames)
    if options.fps is not None:  # a higher rate: one pose of a person in each frame
        keys = np.stack([frames, found.people, np.zeros_like(frames)], axis=1)
        if found.is_one_person or (found.people >= 0).all():
            is_first = np.zeros(len(frames), bool)
            is_first[np.unique(keys, axis=0, return_index=True)[1]] = True
            kept &= is_first
        elif options.fps > fps:
            by_frame: dict[int, int] = {}
            for frame, own in zip(frames.tolist(), found.frames.tolist()):
                by_frame.setdefault(frame, own)
            kept &= np.array([by_frame[f] == own for f, own in zip(frames.tolist(), found.frames.tolist())])
    if not kept.any():
        raise FormatError(f"{found.format}: frames {low} … {end - 1}, none of which is in the video of {num_frames}")
    if lost := int((~kept).sum()) if options.fps is None else 0:
        notes += (f"{lost} poses of frames that are not in the video",)
    max_gap = math.ceil(fps / options.fps) if options.fps is not None and options.fps < fps else 1
    return frames, kept, max_gap, notes


def _confidences(format: str, confidence: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    known = confidence[np.isfinite(confidence)]
    if not len(known):
        return np.ones_like(confidence), (f"{format} without confidences: every keypoint with a place is visible",)
    if known.max() > 2 or known.min() < -1:
        raise FormatError(f"{format}: confidences of {known.min():g} … {known.max():g}, need 0 … 1")
    return np.clip(np.nan_to_num(confidence), 0, 1), ()


def _in_pixels(
    found: Detections, xy: np.ndarray, confidence: np.ndarray, options: JointFileOptions, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Places in pixels of the video. Raises FormatError where they cannot be."""
    height, width = size
    known = xy[np.isfinite(xy).all(-1) & (confidence >= _SURE)]  # (k, 2)
    known = known if len(known) else xy[np.isfinite(xy).all(-1)]
    notes: tuple[str, ...] = ()
    is_share = found.is_share or is_share_of_sides(known)
    if is_share:
        if (known < -0.2).any() and found.is_share is False and float((known < 0).mean()) > 0.15:
            raise FormatError(
                f"{found.format}: coordinates {known.min():.3g} … {known.max():.3g}: shares of −1 … 1 or meters; write "
                "pixels, or shares of width and height of 0 … 1"
            )
        xy, notes = xy * (width, height), ("coordinates are shares of width and height",)
        known = known * (width, height)
    elif options.size is not None or found.size is not None:
        from_width, from_height = options.size or (found.size or (0, 0))[::-1]
        if (from_width, from_height) != (width, height):
            across, down = width / from_width, height / from_height
            if abs(across / down - 1) > 0.02:
                raise FormatError(
                    f"{found.format}: coordinates of pictures of {from_width} x {from_height} px, the video has "
                    f"{width} x {height}: other proportions, so it was cut or turned; use the video of the joints"
                )
            xy, known = xy * (across, down), known * (across, down)
            notes = (f"coordinates are of pictures of {from_width} x {from_height} px",)
    fault = outside_fault(known, size, SHARE_OUTSIDE if found.is_visibility else SURE_SHARE_OUTSIDE)
    if fault is not None:
        reason, is_exchanged = fault
        remedy = "exchange_xy=true" if is_exchanged else "size=[WIDTH,HEIGHT] says which"
        raise FormatError(f"{found.format}: {reason}? source.joint_files.{remedy}")
    farthest = known.max(axis=0) / (width, height)
    if (farthest <= 0.52).all() and options.size is None and found.size is None and not is_share:
        raise FormatError(
            f"{found.format}: all places are in the upper left quarter of the picture, up to "
            f"({known[:, 0].max():.0f}, {known[:, 1].max():.0f}) of {width} x {height} px: of a smaller resolution? "
            f"source.joint_files.size=[WIDTH,HEIGHT] says which, [{width},{height}] that they are right"
        )
    return xy, notes


def _check_sides(layout: Layout, xy: np.ndarray, confidence: np.ndarray) -> None:
    """Raises FormatError where faces that look at the camera have their left eye where the right one has to be.

    Of a person who looks at the camera and stands upright, the own left eye is at the right. x and y exchanged, or
    sides, or a mirrored picture, turn that around.
    """
    if layout.eyes is None:
        return
    points = {
        name: layout.joints[JOINT_NAMES.index(name)]
        for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    }
    if not all(points.values()):
        return
    places = {name: xy[:, each[0]] for name, each in points.items()}
    up = (places["left_shoulder"] + places["right_shoulder"] - places["left_hip"] - places["right_hip"]) / 2  # (m, 2)
    left, right = (xy[:, eye] for eye in layout.eyes)
    across = left - right
    is_sure = (confidence[:, list(layout.eyes)] >= 0.5).all(axis=1)
    length = np.hypot(*up.T)
    is_wide = np.hypot(*across.T) > 0.06 * length  # not a profile
    turn = (up[:, 0] * across[:, 1] - up[:, 1] * across[:, 0]) / np.maximum(length * np.hypot(*across.T), 1e-9)
    known = is_sure & is_wide & np.isfinite(turn) & (np.abs(turn) > 0.5)
    if known.sum() < _MIN_POSES or (turn[known] < 0).mean() < _MIN_AGREEMENT:
        return
    is_lying = float((np.abs(up[known, 0]) > np.abs(up[known, 1])).mean()) > _MIN_AGREEMENT
    if is_lying:
        raise FormatError(
            "all faces are mirrored and all bodies lie: x and y exchanged? source.joint_files.exchange_xy=true, or "
            "false where it is right"
        )
    raise FormatError(
        "the left eye is at the left of faces that look at the camera: left and right exchanged, or the picture "
        "mirrored after its joints were found? source.joint_files.exchange_sides=true, or false where it is right"
    )


def _check_pairs(xy: np.ndarray, sure: np.ndarray, options: JointFileOptions) -> None:
    """Raises FormatError where shoulders and hips have their sides at different sides in nearly all frames."""
    if options.exchange_sides is False:
        return
    fault = crossed(xy, sure > 0)
    if fault is not None:
        raise FormatError(f"{fault}; mend the names, or source.joint_files.exchange_sides=false where it is right")


def _joints(layout: Layout, xy: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(m, 13, 2) places and (m, 13) confidences of the joints, and notes on those that the layout lacks."""
    joints, sure = np.full((len(xy), NUM_JOINTS, 2), np.nan), np.zeros((len(xy), NUM_JOINTS))
    for number, points in enumerate(layout.joints):
        groups = [points, *layout.other_heads] if JOINT_NAMES[number] == "head" else [points]
        for group in groups:
            if not group:
                continue
            is_open = ~np.isfinite(joints[:, number]).all(-1)
            known = np.isfinite(xy[:, list(group)]).all(-1)  # (m, g)
            # The mean of the known ones: of a person seen from the side the hidden ear is where the other one is.
            weight = known / np.maximum(known.sum(1, keepdims=True), 1)
            mean = (np.nan_to_num(xy[:, list(group)]) * weight[..., None]).sum(1)
            is_new = is_open & known.any(axis=-1)
            joints[is_new, number] = mean[is_new]
            sure[is_new, number] = (confidence[:, list(group)] * known).max(axis=1)[is_new]
    notes: list[str] = []
    if missing := [name for name in layout.missing if name != "head"]:
        notes.append(f"has no {', '.join(missing)}: invisible in all frames")
    if "head" in layout.missing and not layout.other_heads:
        neck, hips = (
            joints[:, [JOINT_NAMES.index(f"{side}_{part}") for side in ("left", "right")]].mean(1)
            for part in ("shoulder", "hip")
        )
        joints[:, 0] = neck + _HEAD_ABOVE_NECK * (neck - hips)
        notes.append("has no head: placed above the shoulders, in line with the hips, and invisible")
    return joints, np.where(np.isfinite(joints).all(-1), sure, 0.0), tuple(notes)
