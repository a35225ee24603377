"""Tracks of made-up people: a detector and an estimator that know where everybody is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from m3.annotation.blazepose import Detection, Estimate
from m3.annotation.regions import Region
from m3.annotation.tracking import Tracker, TrackingSettings, tiles_of
from m3.core.joints import JOINT_NAMES, MIRRORED

SHAPE = np.random.default_rng(0).uniform(-0.4, 0.4, (13, 2))
"""Joints of everybody, in sides of the region around the center."""

ONE_TO_ONE = [[k] for k in range(13)]
SETTINGS = TrackingSettings(min_score=0.5, max_jump=0.06, max_people=3, tiles=False)


class Crowd:
    """People as (center, side) by frame; None where one is hidden. The frame's first pixel holds its number."""

    def __init__(self, *people: Sequence[tuple[float, float, float] | None]) -> None:
        self.people = people
        self.num_looks = self.num_estimates = 0

    def frame(self, number: int, size: tuple[int, int] = (400, 600)) -> np.ndarray:
        return np.full((*size, 3), number, np.uint8)

    def here(self, frame: np.ndarray) -> list[tuple[float, float, float]]:
        number = int(frame[0, 0, 0])
        return [person[number] for person in self.people if number < len(person) and person[number] is not None]

    def detector(self, frame: np.ndarray) -> list[Detection]:
        self.num_looks += 1
        return [Detection(Region(x + 3, y - 2, side, side), 0.9) for x, y, side in self.here(frame)]

    def estimator(self, frame: np.ndarray, region: Region) -> Estimate:
        """The nearest person, where one is in the region."""
        self.num_estimates += 1
        near = min(self.here(frame), key=lambda each: np.hypot(each[0] - region.x, each[1] - region.y), default=None)
        if near is None or max(abs(near[0] - region.x), abs(near[1] - region.y)) > region.width / 2:
            return Estimate(np.zeros((13, 2)), np.zeros(13), 0.1, region)
        x, y, side = near
        return Estimate(SHAPE * side + (x, y), np.full(13, 0.9), 0.8, Region(x, y, side, side))

    def tracked(self, num_frames: int, settings: TrackingSettings = SETTINGS, cuts: Sequence[int] = ()) -> list:
        tracker = Tracker(self.detector, self.estimator, ONE_TO_ONE, settings, 30.0)  # type: ignore[arg-type]
        for number in range(num_frames):
            if number in cuts:
                tracker.restart()
            tracker.add(number, self.frame(number))
        return tracker.tracks(cuts)


def walk(num_frames: int, x: float = 100, step: float = 4, y: float = 200, side: float = 100) -> list:
    return [(x + step * k, y, side) for k in range(num_frames)]


def test_a_person_is_followed_with_one_detection():
    crowd = Crowd(walk(30))
    (track,) = crowd.tracked(30, replace(SETTINGS, max_people=1))
    assert (track.first, track.end) == (0, 30) and crowd.num_looks == 1
    assert np.allclose(
        [np.mean(xy, axis=0) for xy in track.xy], [np.mean(SHAPE, axis=0) * 100 + p[:2] for p in walk(30)]
    )
    assert track.scores == [0.8] * 30


def test_everybody_is_followed_and_latecomers_are_found():
    late = [None] * 14 + walk(16, x=500, step=-2)
    tracks = Crowd(walk(30), walk(30, x=300, step=1), late).tracked(30)
    assert [(track.first, track.end) for track in tracks] == [
        (0, 30),
        (0, 30),
        (18, 30),
    ]  # looks in frames 0, 6, 12, 18


def test_no_more_people_than_asked_for():
    assert len(Crowd(walk(9), walk(9, x=300), walk(9, x=500)).tracked(9, replace(SETTINGS, max_people=2))) == 2


def test_a_jump_is_not_followed():
    here, there = walk(10), [None] * 10 + walk(10, x=190, step=0)
    tracks = Crowd([*here, *[None] * 10], there).tracked(20)
    assert [(track.first, track.end) for track in tracks] == [(0, 10), (10, 20)]


def test_a_person_who_was_hidden_for_a_moment_is_the_same():
    path = walk(30)
    path[12:18] = [None] * 6
    (track,) = Crowd(path).tracked(30)
    assert (track.first, track.end) == (0, 30)
    assert [bool(np.isnan(xy).all()) for xy in track.xy] == [12 <= k < 18 for k in range(30)]
    assert track.scores[12:18] == [0.0] * 6 and not track.confidence[15].any()
    long = walk(60)
    long[12:40] = [None] * 28
    assert [(track.first, track.end) for track in Crowd(long).tracked(60)] == [(0, 12), (40, 60)]


def test_no_track_spans_a_cut():
    tracks = Crowd(walk(20, step=0)).tracked(20, cuts=[8])
    assert [(track.first, track.end) for track in tracks] == [(0, 8), (8, 20)]


def test_a_restart_that_was_no_cut_leaves_one_track():
    crowd = Crowd(walk(20))
    tracker = Tracker(crowd.detector, crowd.estimator, ONE_TO_ONE, SETTINGS, 30.0)  # type: ignore[arg-type]
    for number in range(20):
        if number == 8:
            tracker.restart()
        tracker.add(number, crowd.frame(number))
    assert [(track.first, track.end) for track in tracker.tracks([])] == [(0, 20)]


def test_two_tracks_of_one_person_become_one():
    """Two people who meet: the estimator sees the same one for both."""
    meeting = [(300 - 8 * k, 200.0, 100.0) for k in range(12)]
    one = [*meeting, *[None] * 18]
    tracks = Crowd(walk(30, x=150, step=0), one).tracked(30)
    assert sum(track.end == 30 for track in tracks) == 1


@pytest.mark.parametrize("wrong", [(5, 6, 7, 12), range(4, 30)])
def test_sides_that_a_network_exchanges_for_some_frames_are_put_right(wrong: Sequence[int]):
    """Of the legs; the sides of most frames are believed."""
    legs = [n for n, name in enumerate(JOINT_NAMES) if name.endswith(("hip", "knee", "ankle"))]

    class Mistaken(Crowd):
        def estimator(self, frame: np.ndarray, region: Region) -> Estimate:
            estimate = super().estimator(frame, region)
            if int(frame[0, 0, 0]) in wrong:
                estimate.xy[legs] = estimate.xy[MIRRORED[legs]]
            return estimate

    (track,) = Mistaken(walk(30)).tracked(30)
    truth = SHAPE.copy()
    if len(wrong) > 15:
        truth[legs] = truth[MIRRORED[legs]]
    assert np.allclose(track.xy, [truth * 100 + place[:2] for place in walk(30)], atol=1e-3)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (400, 1000)])
def test_tiles_cover_the_frame_and_hold_whole_people(width: int, height: int):
    tiles = list(tiles_of(width, height))
    assert tiles[0][2] == 288 and all(left >= 0 and top >= 0 for left, top, _ in tiles)
    for x in range(0, width - 60, 17):
        for y in range(0, height - 60, 17):
            assert any(
                left <= x and x + 60 <= left + side and top <= y and y + 60 <= top + side for left, top, side in tiles
            )


def test_a_small_frame_has_no_tiles():
    assert list(tiles_of(320, 240)) == []


def test_tiles_are_looked_at_once_a_second_and_only_while_nobody_is_there():
    crowd = Crowd(walk(0))
    crowd.tracked(60, replace(SETTINGS, tiles="auto"))
    tiles = len(list(tiles_of(600, 400)))
    assert crowd.num_looks == 60 + 2 * tiles
    seen = Crowd(walk(60, step=0))
    seen.tracked(60, replace(SETTINGS, tiles="auto"))
    assert seen.num_looks == 10
    everywhere = Crowd(walk(60, step=0))
    everywhere.tracked(60, replace(SETTINGS, tiles=True))
    assert everywhere.num_looks == 10 + 2 * tiles
