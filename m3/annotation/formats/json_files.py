"""Joint files in JSON: OpenPose, COCO keypoints, AlphaPose, MMPose, MediaPipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from m3.annotation.formats.detections import UNKNOWN, Detections, FormatError, PoseList, number_or_nan, whole_or
from m3.core.keypoints import Layout, layout_named, layout_of_names, layout_of_number
from m3.core.reading import MAX_DEPTH, shown

_MAX_FRAME_BYTES = 2**24
_LANDMARK_KEYS = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark", "keypoints", "pose")
_FRAMES_KEYS = ("frames", "results", "data", "landmarks", "pose_landmarks", "poseLandmarks", "predictions")
_FRAME_KEYS = ("frame_id", "frame", "frame_number", "frame_index", "frame_idx", "frameNumber", "index")
_PERSON_KEYS = ("track_id", "instance_id", "person_id", "idx")


def parse(content: bytes) -> Any:
    """The value of a JSON text, NaN allowed, with or without a byte order mark. Raises FormatError."""
    try:
        value = json.loads(content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"))
    except RecursionError:
        raise FormatError("not JSON (nested too deeply)") from None
    except ValueError as error:
        raise FormatError(f"not JSON ({str(error)[:200]})") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for node in level for item in _items(node)]
        if not level:
            return value
    raise FormatError("not JSON (nested too deeply)")


def _items(node: Any) -> list[Any]:
    found = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return [item for item in found if isinstance(item, dict | list)]


def read_json(content: bytes, clip: str) -> Detections:
    """The poses of one file. clip: name of the video's file, for a COCO file of several. Raises FormatError."""
    value = parse(content)
    if isinstance(value, dict):
        if "images" in value and "annotations" in value:
            return _coco(value, clip)
        if "instance_info" in value:
            return _mmpose(_list(value["instance_info"]), value.get("meta_info"))
        if "people" in value:
            return _openpose([(0, value)], is_numbered=False)
        for key in _FRAMES_KEYS:
            if isinstance(value.get(key), list):
                value = value[key]
                break
    if isinstance(value, list):
        first = next((item for item in value if item), None)
        if isinstance(first, dict):
            if "image_id" in first and "keypoints" in first:
                return _alphapose(value)
            if "instances" in first:
                return _mmpose(value, None)
            if "keypoint_scores" in first:
                return _mmpose([{"frame_id": 0, "instances": value}], None)
        if first is not None and (found := _mediapipe(value)) is not None:
            return found
    raise FormatError(
        f"JSON that begins with {shown(content[:60].decode(errors='replace'))}: of no format that m3 knows (OpenPose, "
        "COCO keypoints, AlphaPose, MMPose, MediaPipe; docs/joints.md); move it away if it holds no joints"
    )


def read_frame_files(contents: Iterator[tuple[int, bytes]]) -> Detections:
    """The poses of files per frame. contents: number of the frame in the file's name, content. Raises FormatError."""
    frames: list[tuple[int, Any]] = []
    for number, content in contents:
        value = parse(content)
        if not isinstance(value, dict) or "people" not in value:
            raise FormatError(f"its file of frame {number} has no list of people as OpenPose's have")
        frames.append((number, value))
    return _openpose(frames, is_numbered=True)


def _openpose(frames: Sequence[tuple[int, Any]], is_numbered: bool) -> Detections:
    poses = PoseList()
    for number, value in frames:
        for person in map(_mapping, _list(value["people"])):
            flat = person.get("pose_keypoints_2d", person.get("pose_keypoints"))
            if not flat and not poses.num_keypoints:
                continue
            poses.add_flat(
                number, whole_or(person.get("person_id"), UNKNOWN), flat or [0.0] * 3 * (poses.num_keypoints or 0)
            )
    span = (frames[0][0], frames[-1][0] + 1) if frames else None
    return _detections("OpenPose", poses, span=span, is_numbered=is_numbered)


def _alphapose(value: list[Any]) -> Detections:
    """AlphaPose's list of people, and COCO's list of results, which look alike."""
    poses = PoseList()
    for person in map(_mapping, value):
        digits = re.findall("[0-9]{1,12}", PurePosixPath(str(person.get("image_id", ""))[:300]).stem)
        if not digits:
            raise FormatError(f"image_id {shown(person.get('image_id'))} without a number of its frame")
        poses.add_flat(int(digits[-1]), whole_or(person.get("idx"), UNKNOWN), person.get("keypoints", []))
    return _detections("AlphaPose", poses, is_numbered=True)


def _mmpose(value: list[Any], meta: Any) -> Detections:
    poses = PoseList()
    numbers = [whole_or(_mapping(frame).get("frame_id"), place) for place, frame in enumerate(value)]
    for number, frame in zip(numbers, map(_mapping, value)):
        for instance in map(_mapping, _list(frame.get("instances", []))):
            x, y, depth = _columns(instance.get("keypoints"), number)
            scores = instance.get("keypoint_scores")
            person = next((whole_or(instance[key], UNKNOWN) for key in _PERSON_KEYS if key in instance), UNKNOWN)
            poses.add(number, person, x, y, scores if isinstance(scores, list) else [1.0] * len(x))
            if depth:
                raise FormatError("keypoints in three dimensions; give those of the picture (x, y)")
    names = _mapping(meta or {}).get("keypoint_id2name")
    layout = None
    if isinstance(names, dict) and poses.num_keypoints:
        layout = layout_of_names([str(names.get(str(k), ""))[:100] for k in range(poses.num_keypoints)])
    span = (min(numbers), max(numbers) + 1) if numbers else None
    return _detections("MMPose", poses, layout, span=span, is_numbered=True)


def _coco(value: dict[str, Any], clip: str) -> Detections:
    images = sorted(map(_mapping, _list(value["images"])), key=lambda each: whole_or(each.get("id"), -1))
    images = _images_of(images, clip)
    numbers = {}
    sizes = set()
    for place, image in enumerate(images):
        digits = re.findall("[0-9]{1,12}", PurePosixPath(str(image.get("file_name", ""))[:500]).stem)
        stated = next((image[key] for key in _FRAME_KEYS if key in image), None)
        by_name = int(digits[-1]) if digits else place
        numbers[whole_or(image.get("id"), -1)] = whole_or(stated, by_name)
        sizes.add((whole_or(image.get("height"), 0), whole_or(image.get("width"), 0)))
    poses, flags = PoseList(), set()
    for person in map(_mapping, _list(value["annotations"])):
        image = whole_or(person.get("image_id"), -2)
        if image not in numbers or person.get("iscrowd") == 1 or not isinstance(person.get("keypoints"), list):
            continue
        who = next((whole_or(person[key], UNKNOWN) for key in _PERSON_KEYS if key in person), UNKNOWN)
        poses.add_flat(numbers[image], who, person["keypoints"])
        flags.update(person["keypoints"][2::3])
    categories = _list(value.get("categories", []))
    names = [str(name)[:100] for name in _list(_mapping(categories[0] if categories else {}).get("keypoints", []))]
    layout = layout_of_names(names) if len(names) == poses.num_keypoints else None
    found = _detections(
        "COCO", poses, layout, span=_span(numbers.values()), is_numbered=True,
        size=sizes.pop() if len(sizes) == 1 and (0, 0) not in sizes else None,
    )  # fmt: skip
    if not flags <= {0, 1, 2}:
        return found  # confidences in the place of COCO's flags
    is_labeled, is_seen = found.confidence > 0, found.confidence == (2 if 2 in flags else 1)
    note = () if 2 in flags else ("no keypoint has COCO's flag 2, visible: 1 is taken as visible",)
    xy = np.where(is_labeled[..., None], found.xy, np.nan)
    return replace(found, xy=xy, confidence=is_seen.astype(np.float64), is_visibility=True, notes=found.notes + note)


def _span(numbers: Iterable[int]) -> tuple[int, int] | None:
    """First number and the one after the last, where none between is left out."""
    found = {*numbers}
    return (min(found), max(found) + 1) if found and max(found) - min(found) + 1 == len(found) else None


def _images_of(images: list[dict[str, Any]], clip: str) -> list[dict[str, Any]]:
    """The images of one video in a COCO file."""
    folders = {str(PurePosixPath(str(image.get("file_name", ""))[:500]).parent) for image in images}
    if len(folders) < 2:
        return images
    stem = clip.rpartition(".")[0] or clip
    own = [
        image for image in images if {stem, clip} & {*PurePosixPath(str(image.get("file_name", ""))[:500]).parent.parts}
    ]
    if not own:
        raise FormatError(
            f"pictures of {len(folders)} folders, none is called {stem}; give each video a file of its own"
        )
    return own


def _mediapipe(value: list[Any]) -> Detections | None:
    """Landmarks of MediaPipe as programs write them: for each frame nothing, a list of points, or lists of points."""
    poses, is_numbered = PoseList(), False
    if _is_point(value[0]) if value else False:
        value = [value]
    depth_seen = False
    for place, frame in enumerate(value):
        number = place
        if isinstance(frame, dict):
            stated = next((frame[key] for key in _FRAME_KEYS if key in frame), None)
            is_numbered |= stated is not None
            number = whole_or(stated, place)
            frame = next((frame[key] for key in _LANDMARK_KEYS if key in frame), None)
            if isinstance(frame, dict):
                frame = next((frame[key] for key in _LANDMARK_KEYS if key in frame), None)
        if not frame:
            continue
        if not isinstance(frame, list):
            return None
        people = [frame] if _is_point(frame[0]) else frame
        for points in people:
            if isinstance(points, dict):
                points = next((points[key] for key in _LANDMARK_KEYS if key in points), None)
            if not isinstance(points, list) or not points or not all(map(_is_point, points)):
                return None
            columns = [_point(point) for point in points]
            x, y, confidence = zip(*columns)
            poses.add(number, UNKNOWN, x, y, confidence)
            depth_seen = True
    if not depth_seen:
        return None
    name = "MediaPipe" if poses.num_keypoints == 33 else "keypoints"
    found = _detections(name, poses, span=None if is_numbered else (0, len(value)), is_numbered=is_numbered)
    return replace(found, is_visibility=poses.num_keypoints == 33)


def _is_point(node: Any) -> bool:
    if isinstance(node, dict):
        return "x" in node and "y" in node
    return isinstance(node, list) and 2 <= len(node) <= 5 and not any(isinstance(item, list | dict) for item in node)


def _point(point: Any) -> tuple[float, float, float]:
    if isinstance(point, dict):
        seen = next((point[key] for key in ("visibility", "score", "confidence", "presence") if key in point), None)
        values = point["x"], point["y"], 1.0 if seen is None else seen
    else:  # x, y | x, y, confidence | x, y, z, visibility
        values = point[0], point[1], 1.0 if len(point) == 2 else point[2] if len(point) == 3 else point[3]
    x, y, confidence = map(number_or_nan, values)
    return x, y, confidence


def _columns(points: Any, frame: int) -> tuple[list[Any], list[Any], bool]:
    """x and y of a list of points, and whether these have three dimensions."""
    if isinstance(points, list) and len(points) == 1 and isinstance(points[0], list) and points[0]:
        points = points[0] if isinstance(points[0][0], list) else points
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) in (2, 3) for p in points):
        raise FormatError(f"keypoints of frame {frame} that are no list of x and y")
    return [p[0] for p in points], [p[1] for p in points], any(len(p) == 3 for p in points)


def _detections(format: str, poses: PoseList, layout: tuple[Layout, str] | None = None, **facts: Any) -> Detections:
    if not len(poses):
        raise FormatError(f"{format}: nobody in any of its frames")
    frames, people, xy, confidence = poses.arrays()
    known, note = (layout_of_number(xy.shape[1], xy), "") if layout is None else layout
    if isinstance(known, str) and xy.shape[1] == 17:  # of these formats COCO's is the usual one
        known = layout_named("source.joint_files.layout", "coco17")
    return Detections(format, known, frames, people, xy, confidence, notes=(note,) * bool(note), **facts)


def _mapping(node: Any) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise FormatError(f"{shown(node)} where a mapping is expected")
    return node


def _list(node: Any) -> list[Any]:
    if not isinstance(node, list):
        raise FormatError(f"{shown(node)} where a list is expected")
    return node
