"""Annotators: they follow the people of a video and estimate their joints."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from m3.annotation.blazepose import BlazePose, Detector
from m3.annotation.networks import DETECTOR, LANDMARKS
from m3.annotation.onnx_pose import OnnxPose
from m3.annotation.people import Belief, Person, chosen, person_of
from m3.annotation.regions import Region
from m3.annotation.tracking import Track, Tracker, TrackingSettings
from m3.clips.base import ClipError, FirstFrames
from m3.clips.joint_options import PERSONS
from m3.clips.sanitize_joints import sanitize_joints
from m3.core.joints import NUM_JOINTS, Joints
from m3.core.keypoints import LAYOUTS, KeypointMap, checked_map
from m3.core.types import Clip
from m3.core.validation import check
from m3.core.weights import fingerprint

_VERSION = 1  # to be raised when the same settings give other joints

USUAL_FPS = 30.0
"""Frames per second of a video that does not say it."""

_MIN_DETECTION_SCORE = 0.35
"""Of a detection that is looked at closer, 0 … 1: whether there is a person is for the landmarks to say."""


class Session(Protocol):
    """The annotation of one clip."""

    def add(self, number: int, frame: np.ndarray) -> None:
        """number: of the frame from 0, in order. frame: (H, W, 3) uint8."""
        ...

    def restart(self) -> None:
        """The next frame may be that of another scene."""
        ...

    def tracks(self, cuts: Sequence[int]) -> list[Track]:
        """All tracks, none over a cut. cuts: numbers of the first frames of scenes, without 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class Annotator(ABC):
    """What all annotators have.

    person: who becomes a clip, see `m3.annotation.people.chosen`.
    min_seconds: that a person is seen.
    min_mean_score: mean over a person's frames, 0 … 1, that it is one.
    min_confidence: mean confidence of a person's joints, 0 … 1.
    visibility: confidence from which on a joint is visible, 0 … 1.
    smoothing: standard deviation of the smoothing in time, frames of 1/30 s; 0 for none.

    name: for the manifest and the folder of the joint files.

    Raises ValueError naming the key of an impossible value.
    """

    person: str
    min_seconds: float
    min_mean_score: float
    min_confidence: float
    visibility: float
    smoothing: float

    name: ClassVar[str]

    _PLACES: ClassVar[tuple[str, ...]] = ("person", "path")
    """Fields that decide who is kept or where a file is, not the joints."""

    def __post_init__(self) -> None:
        if self.person not in PERSONS:
            raise ValueError(f"annotator.person={self.person!r}: choose {', '.join(PERSONS)}")
        check("annotator.min_seconds", self.min_seconds, float, low=0)
        for key in ("min_mean_score", "min_confidence", "visibility"):
            check(f"annotator.{key}", getattr(self, key), float, low=0, high=1)
        check("annotator.smoothing", self.smoothing, float, low=0, high=30)

    @property
    def belief(self) -> Belief:
        return Belief(self.min_seconds, self.min_mean_score, self.min_confidence, self.visibility, self.smoothing)

    @abstractmethod
    def weights_fingerprint(self) -> str:
        """Hexadecimal sha256 of the networks."""

    @abstractmethod
    def begin(self, clip: Clip) -> Session:
        """The annotation of a clip with all of its frames."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the joint files, for their folder and the manifest."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in self._PLACES}
        return {"name": self.name, "version": _VERSION, "weights": self.weights_fingerprint(), **own}

    def key(self) -> str:
        """Name of the folder of the joint files: other settings write to another one."""
        text = json.dumps(self.settings(), sort_keys=True, default=list)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class TrackingAnnotator(Annotator):
    """An annotator that detects people, and follows each by a network that looks at a region around it.

    min_score: of a frame, 0 … 1; below, the person is lost.
    max_jump: see `TrackingSettings`.
    max_people: tracked at the same time.
    tiles: look for small people in overlapping tiles: true, false, or "auto": with person="every", and else only while
        nobody is tracked.
    """

    min_score: float
    max_jump: float
    max_people: int
    tiles: bool | str

    def __post_init__(self) -> None:
        super().__post_init__()
        check("annotator.min_score", self.min_score, float, low=0, high=1)
        check("annotator.max_jump", self.max_jump, float, low=0.001)
        check("annotator.max_people", self.max_people, int, low=1)
        if self.tiles not in ("auto", True, False):
            raise ValueError(f"annotator.tiles={self.tiles!r}: choose auto, true or false")

    @property
    def tracking(self) -> TrackingSettings:
        tiles = True if self.tiles == "auto" and self.person == "every" else self.tiles
        return TrackingSettings(self.min_score, self.max_jump, self.max_people, tiles)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "tiles": self.tracking.tiles}


@dataclass(frozen=True, kw_only=True)
class BlazePoseAnnotator(TrackingAnnotator):
    """BlazePose with the shipped weights. model: "full" or "lite", which is faster and less exact."""

    model: str

    name: ClassVar[str] = "blazepose"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model not in LANDMARKS:
            raise ValueError(f"annotator.model={self.model!r}: choose {' or '.join(LANDMARKS)}")
        _blazepose(self.model)  # says at once that LiteRT is missing

    def weights_fingerprint(self) -> str:
        return fingerprint([DETECTOR, LANDMARKS[self.model]])

    def begin(self, clip: Clip) -> Session:
        joints = LAYOUTS["blazepose33"]
        return Tracker(_detector(), _blazepose(self.model), joints, self.tracking, clip.fps or USUAL_FPS)


@dataclass(frozen=True, kw_only=True)
class OnnxAnnotator(TrackingAnnotator):
    """A pose network of one's own, see `m3.annotation.onnx_pose`; people are detected by BlazePose's detector.

    path: the .onnx file.
    keypoints: the layout of its keypoints: a name of `m3.core.keypoints.LAYOUTS`, or for each of the 13 joints a
        keypoint's number or several.
    mean, std: of the red, green and blue values of its input, 0 … 255.
    """

    path: str
    keypoints: str | Sequence[int | Sequence[int]]
    mean: Sequence[float]
    std: Sequence[float]

    name: ClassVar[str] = "onnx"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("mean", "std"):
            if len(getattr(self, key)) != 3:
                raise ValueError(f"annotator.{key}={list(getattr(self, key))}: need three numbers: red, green, blue")
        layout = (
            self.keypoints
            if isinstance(self.keypoints, str)
            else [entry if isinstance(entry, int) else list(entry) for entry in self.keypoints]
        )
        for key, value in (("keypoints", layout), ("mean", tuple(self.mean)), ("std", tuple(self.std))):
            object.__setattr__(self, key, value)  # plain values: a configuration's own lists cannot be sent to workers
        self._network()

    @property
    def joints(self) -> KeypointMap:
        return checked_map("annotator.keypoints", self.keypoints)

    def weights_fingerprint(self) -> str:
        return fingerprint([DETECTOR, Path(self.path)])

    def begin(self, clip: Clip) -> Session:
        return Tracker(_detector(), self._network(), self.joints, self.tracking, clip.fps or USUAL_FPS)

    def _network(self) -> OnnxPose:
        num_keypoints = 1 + max(point for points in self.joints for point in points)
        return _onnx_pose(self.path, tuple(self.mean), tuple(self.std), num_keypoints)


@dataclass(frozen=True, kw_only=True)
class FunctionAnnotator(Annotator):
    """Any function from the frames of a clip to the joints of one person.

    function: "package.module.function", importable where m3 runs. It takes the frames, a sequence of (H, W, 3) uint8
        arrays that are decoded when indexed, and returns (T, 13, 3) numbers: x, y in pixels and confidence, 0 … 1, in
        the order of `m3.core.joints.JOINT_NAMES`; NaN where the person is not in view.
    """

    function: str

    name: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._function()

    def weights_fingerprint(self) -> str:
        """Of the module that the function is written in."""
        return fingerprint([Path(inspect.getfile(self._function()))])

    def begin(self, clip: Clip) -> Session:
        return _FunctionSession(self._function(), self.function, clip)

    def _function(self) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        module, _, name = self.function.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"annotator.function={self.function}: cannot be imported ({error}); give package.module.function, and "
                "PYTHONPATH if it is not installed"
            ) from error


class _FunctionSession:
    def __init__(self, function: Callable[[Sequence[np.ndarray]], np.ndarray], name: str, clip: Clip) -> None:
        self._function, self._name, self._clip, self._num_frames = function, name, clip, 0

    def add(self, number: int, frame: np.ndarray) -> None:
        self._num_frames = number + 1

    def restart(self) -> None: ...

    def tracks(self, cuts: Sequence[int]) -> list[Track]:
        frames = FirstFrames(self._clip.frames, self._num_frames)
        found = np.asarray(self._function(frames), dtype=np.float32)
        if found.shape != (self._num_frames, NUM_JOINTS, 3):
            raise ClipError(
                f"{self._clip.id}: {self._name} gave an array of shape {found.shape}, need "
                f"{(self._num_frames, NUM_JOINTS, 3)}"
            )
        scenes = zip([0, *cuts], [*cuts, self._num_frames])
        return [track for first, end in scenes for track in _found_track(found[first:end], first)]


def _found_track(found: np.ndarray, first: int) -> list[Track]:
    """The person of one scene, from the first to the last frame in view; none where that is never.

    found: (n, 13, 3), see `FunctionAnnotator`. first: number of the scene's first frame.
    """
    in_view = np.flatnonzero(np.isfinite(found).all(axis=(1, 2)))
    if not len(in_view):
        return []
    start, end = int(in_view[0]), int(in_view[-1]) + 1
    found, is_found = found[start:end], np.isin(np.arange(start, end), in_view)
    track = Track(first + start, Region(0, 0, 0, 0))
    track.xy = list(np.where(is_found[:, None, None], found[..., :2], np.nan))
    track.confidence = list(np.where(is_found[:, None], found[..., 2], 0.0))
    track.scores = np.where(is_found, np.maximum(found[..., 2].max(axis=1), 1e-6), 0.0).tolist()
    return [track]


def joints_of_picture(clip: Clip, annotator: Annotator) -> Joints:
    """The largest person of a clip of one frame. Raises ClipError where there is nobody."""
    session, belief = annotator.begin(clip), replace(annotator.belief, min_seconds=0.0, smoothing=0.0)
    session.add(0, clip.frames[0])
    found = [person_of(track, clip.size, USUAL_FPS, belief) for track in session.tracks(())]
    people = chosen([each for each in found if isinstance(each, Person)], "largest")
    if not people:
        raise ClipError("; ".join(["nobody found", *(each for each in found if isinstance(each, str))]))
    return sanitize_joints(people[0].xy, people[0].is_visible, clip.size, clip.id)[0]


@lru_cache(maxsize=1)
def _detector() -> Detector:
    """One for each process."""
    return Detector(_MIN_DETECTION_SCORE)


@lru_cache(maxsize=1)
def _blazepose(model: str) -> BlazePose:
    return BlazePose(model)


@lru_cache(maxsize=1)
def _onnx_pose(path: str, mean: tuple[float, ...], std: tuple[float, ...], num_keypoints: int) -> OnnxPose:
    return OnnxPose(path, mean, std, num_keypoints)
