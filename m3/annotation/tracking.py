"""Follows people through the frames of a scene: detection, estimation around where each was, and links after losses."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from m3.annotation.blazepose import Detection, Detector, Estimate
from m3.annotation.regions import Region
from m3.core.joints import JOINT_NAMES, MIRRORED, NUM_JOINTS
from m3.core.keypoints import KeypointMap, to_joints

_SAME_PERSON = 0.08
"""Mean distance of the joints of two estimates of the same person, at most, in sides of their regions."""

_SAME_REGION = 0.1
"""Distance of the centers of two regions of about the same size that show the same person, at most, in sides."""

_SAME_PLACE = 0.15
"""Distance of a detection to a tracked person whom it shows again, at most, in sides of the smaller region."""

_SECONDS_BETWEEN_LOOKS = 0.2
"""From one look for further people to the next."""

_SECONDS_BETWEEN_TILES = 1.0
_TILE_SIDE, _TILE_STEP = 288, 2 / 3
"""Side of the smallest tiles, pixels, which show people of 60 px large enough; from tile to tile, in sides."""

_MIN_SHARE_OF_JUMP = 0.5
"""Of `max_jump`, whatever the frame rate: the noise of an estimate does not shrink with the time between frames."""

_MAX_GAP_SECONDS, _MAX_REACH = 0.25, 0.4
"""Between two tracks of the same person: time, and how far the median joint moves in it, in sides of the region."""


_GROUPS = tuple(
    np.array([n for n, name in enumerate(JOINT_NAMES) if name.endswith(parts)])
    for parts in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
)
"""Indices of the joints of the arms and of the legs, whose sides are exchanged together."""

_MIN_EXCHANGE = 0.03
"""Mean distance of these joints to where they should be, in sides of the region, from which on sides are doubted."""


class Estimator(Protocol):
    """A network that estimates the keypoints of the person in a region of a frame."""

    def __call__(self, frame: np.ndarray, region: Region) -> Estimate: ...


@dataclass(frozen=True)
class TrackingSettings:
    """How people are followed.

    min_score: of an estimate, 0 … 1; below, the person is lost.
    max_jump: farthest that the median joint leaves its course in 1/30 s, in sides of the region; farther is another
        person.
    max_people: tracked at the same time.
    tiles: look for small people in overlapping tiles of the frame: "auto" only while nobody is tracked.
    """

    min_score: float
    max_jump: float
    max_people: int
    tiles: bool | str


@dataclass
class Track:
    """One person in consecutive frames.

    first: number of the first frame.
    xy: per frame (13, 2) float32 pixels, NaN where the person was lost for a moment.
    confidence: per frame (13,) float32, 0 … 1, that a joint is in view.
    scores: per frame, 0 … 1, that there is a person.
    region: where to look for the person in the next frame.
    has_jumped: it ended because the joints jumped: whoever follows is another person.
    exchanged: per frame (2,) whether left and right of arms and legs are other ones than the network said, so that they
        go on where they were: seen from the side, it often mistakes one for the other.
    """

    first: int
    region: Region
    xy: list[np.ndarray] = field(default_factory=list)
    confidence: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    exchanged: list[np.ndarray] = field(default_factory=list)
    start: Region = field(init=False)
    has_jumped: bool = False

    def __post_init__(self) -> None:
        self.start = self.region

    @property
    def end(self) -> int:
        """Number of the frame after the last one."""
        return self.first + len(self.scores)

    def add(
        self, estimate: Estimate, xy: np.ndarray, confidence: np.ndarray, exchanged: np.ndarray | None = None
    ) -> None:
        """xy: (13, 2) places of the joints. confidence: (13,). exchanged: (2,), see the class."""
        self.exchanged.append(np.zeros(len(_GROUPS), bool) if exchanged is None else exchanged)
        self.xy.append(xy.astype(np.float32))
        self.confidence.append(confidence.astype(np.float32))
        self.scores.append(estimate.score)
        self.region = estimate.region

    def append(self, later: Track) -> None:
        """Continue with a later track of the same person."""
        num_lost = later.first - self.end
        self.xy += [np.full((NUM_JOINTS, 2), np.nan, np.float32)] * num_lost + later.xy
        self.confidence += [np.zeros(NUM_JOINTS, np.float32)] * num_lost + later.confidence
        self.scores += [0.0] * num_lost + later.scores
        self.exchanged += [np.zeros(len(_GROUPS), bool)] * num_lost + later.exchanged
        self.region, self.has_jumped = later.region, later.has_jumped

    def expected(self, num_frames: int) -> np.ndarray:
        """(13, 2) where the joints are `num_frames` after the last frame if they move on as they did."""
        if len(self.xy) < 2 or num_frames > 1 or np.isnan(self.xy[-2]).any():
            return self.xy[-1]
        return 2 * self.xy[-1] - self.xy[-2]

    def with_likelier_sides(self) -> Track:
        """The track with the sides that the network said in most of its frames."""
        for members, is_mostly in zip(_GROUPS, np.mean(self.exchanged, axis=0) > 0.5):
            if is_mostly:
                order = np.arange(NUM_JOINTS)
                order[members] = MIRRORED[members]
                self.xy, self.confidence = [xy[order] for xy in self.xy], [sure[order] for sure in self.confidence]
        return self


def continued(
    expected: np.ndarray, xy: np.ndarray, confidence: np.ndarray, side: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (13, 2) and confidences (13,) with the sides of arms and legs that go on where they were, and `exchanged`.

    expected: (13, 2) where the joints should be. side: of the region, pixels.
    """
    order, exchanged = np.arange(NUM_JOINTS), np.zeros(len(_GROUPS), bool)
    for group, members in enumerate(_GROUPS):
        kept, swapped = (
            float(np.linalg.norm(expected[members] - xy[chosen], axis=-1).mean()) / side
            for chosen in (members, MIRRORED[members])
        )
        if kept > _MIN_EXCHANGE and swapped < 0.5 * kept:
            order[members], exchanged[group] = MIRRORED[members], True
    return xy[order], confidence[order], exchanged


class Tracker:
    """Adds the frames of a clip in order, and gives the tracks of its people.

    detector: finds people anywhere. estimator: in a region. joints: from its keypoints to m3's joints.
    fps: frames per second of the video.
    """

    def __init__(
        self, detector: Detector, estimator: Estimator, joints: KeypointMap, settings: TrackingSettings, fps: float
    ) -> None:
        self._detector, self._estimator, self._joints, self._settings = detector, estimator, joints, settings
        self._interval = max(1, round(fps * _SECONDS_BETWEEN_LOOKS))
        self._tile_interval = max(1, round(fps * _SECONDS_BETWEEN_TILES))
        self._max_gap = max(1, round(fps * _MAX_GAP_SECONDS))
        self._max_jump = settings.max_jump * max(_MIN_SHARE_OF_JUMP, 30 / fps)
        self._active: list[Track] = []
        self._ended: list[Track] = []
        self._num_frames = 0

    def add(self, number: int, frame: np.ndarray) -> None:
        """number: of the frame, one more than that of the last one. frame: (H, W, 3) uint8."""
        for track in list(self._active):
            estimate = self._estimator(frame, track.region)
            if self._is_lost(estimate):
                self._end(track)
                continue
            expected = track.expected(1)
            xy, confidence, exchanged = continued(
                expected, *to_joints(estimate.xy, estimate.confidence, self._joints), track.region.width
            )
            if _apart(expected, xy, track.region) > self._max_jump:
                track.has_jumped = True
                self._end(track)
            else:
                track.add(estimate, xy, confidence, exchanged)
        for track in self._doubles():
            self._end(track)
        if len(self._active) < self._settings.max_people:
            if not self._active or self._num_frames % self._interval == 0:
                self._look(number, frame)
        self._num_frames += 1

    def restart(self) -> None:
        """End all tracks: the next frame may be that of another scene."""
        self._ended += self._active
        self._active, self._num_frames = [], 0

    def tracks(self, cuts: Sequence[int]) -> list[Track]:
        """All tracks in the order of their first frames, with those of the same person joined within a scene.

        cuts: numbers of the first frames of scenes, each after a `restart`.
        """
        self.restart()
        joined: list[Track] = []
        for track in sorted(self._ended, key=lambda each: each.first):
            scene = bisect_right(cuts, track.first)
            same_scene = (each for each in joined if bisect_right(cuts, each.first) == scene)
            before = [each for each in same_scene if self._continues(each, track)]
            if before:
                min(before, key=lambda each: _distance(each.region, track.start)).append(track)
            else:
                joined.append(track)
        return [track.with_likelier_sides() for track in joined]

    def _end(self, track: Track) -> None:
        self._active.remove(track)
        self._ended.append(track)

    def _is_lost(self, estimate: Estimate) -> bool:
        region = estimate.region
        return estimate.score < self._settings.min_score or not region.is_finite() or region.width < 8

    def _doubles(self) -> list[Track]:
        """Of tracks that show the same person now, those that began later."""
        doubles: list[Track] = []
        for number, track in enumerate(self._active):
            if any(_is_same(earlier, track) for earlier in self._active[:number] if earlier not in doubles):
                doubles.append(track)
        return doubles

    def _look(self, number: int, frame: np.ndarray) -> None:
        """Begin tracks of people who are not tracked yet."""
        found = self._detector(frame)
        tiles = self._settings.tiles
        if (tiles is True or (tiles == "auto" and not found and not self._active)) and (
            self._num_frames % self._tile_interval < (self._interval if self._active else 1)
        ):
            found = [*found, *self._in_tiles(frame)]
        for detection in found:
            if len(self._active) >= self._settings.max_people:
                return
            if not any(_is_at(detection.region, track.region) for track in self._active):
                self._begin(number, frame, detection)

    def _begin(self, number: int, frame: np.ndarray, detection: Detection) -> None:
        estimate = self._estimator(frame, detection.region)
        if self._is_lost(estimate):
            return
        estimate = self._estimator(frame, estimate.region)  # a detection's region is rough
        if self._is_lost(estimate):
            return
        track = Track(number, estimate.region)
        track.add(estimate, *to_joints(estimate.xy, estimate.confidence, self._joints))
        if not any(_is_same(other, track) for other in self._active):
            self._active.append(track)

    def _in_tiles(self, frame: np.ndarray) -> list[Detection]:
        found: list[Detection] = []
        for left, top, side in tiles_of(frame.shape[1], frame.shape[0]):
            for detection in self._detector(frame[top : top + side, left : left + side]):
                region = detection.region
                moved = Region(region.x + left, region.y + top, region.width, region.height, region.angle)
                found.append(Detection(moved, detection.score))
        return sorted(found, key=lambda each: -each.score)

    def _continues(self, earlier: Track, later: Track) -> bool:
        """Whether a later track shows the person of an earlier one."""
        gap = later.first - earlier.end + 1
        if earlier.has_jumped or not 1 <= gap <= self._max_gap:
            return False
        ratio = later.start.width / earlier.region.width
        allowed = min(self._max_jump * gap, _MAX_REACH)
        return 1 / 1.5 < ratio < 1.5 and _apart(earlier.expected(gap), later.xy[0], earlier.region) <= allowed


def tiles_of(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """(left, top, side) of overlapping tiles that cover a frame, smallest first; none for a frame that is a tile."""
    side = _TILE_SIDE
    while side < 0.75 * max(width, height):
        tops, lefts = (_starts(extent, side) for extent in (height, width))
        yield from ((left, top, side) for top in tops for left in lefts)
        side *= 2


def _starts(extent: int, side: int) -> Sequence[int]:
    if extent <= side:
        return [0]
    num = math.ceil((extent - side) / (side * _TILE_STEP)) + 1
    return [round(start) for start in np.linspace(0, extent - side, num).tolist()]


def _distance(first: Region, second: Region) -> float:
    """Of the centers, in sides of the smaller region."""
    return math.hypot(second.x - first.x, second.y - first.y) / max(min(first.width, second.width), 1e-6)


def _apart(first: np.ndarray, second: np.ndarray, region: Region) -> float:
    """Median distance of the joints of two poses, in sides of the region."""
    return float(np.median(np.linalg.norm(first - second, axis=-1))) / region.width


def _is_at(found: Region, tracked: Region) -> bool:
    """Whether a detection shows a person who is tracked."""
    return _distance(found, tracked) < _SAME_PLACE


def _is_same(first: Track, second: Track) -> bool:
    """Whether the joints are the same, or the regions are: the sides of a person may be exchanged for a moment."""
    apart = np.linalg.norm(first.xy[-1] - second.xy[-1], axis=-1)
    smaller, larger = sorted((first.region.width, second.region.width))
    is_same_region = _distance(first.region, second.region) < _SAME_REGION and larger < 1.25 * smaller
    return is_same_region or float(np.mean(apart)) < _SAME_PERSON * smaller
