"""Which tracks are people, their smoothing, and who becomes a clip."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from m3.annotation.people import Belief, Person, chosen, person_of, smoothed
from m3.annotation.regions import Region
from m3.annotation.tracking import Track

BELIEF = Belief(min_seconds=0.16, min_mean_score=0.6, min_confidence=0.4, visibility=0.5, smoothing=0.0)


def track(num_frames: int = 10, score: float = 0.9, confidence: float = 0.8, first: int = 3) -> Track:
    made = Track(first, Region(50, 50, 80, 80))
    places = np.random.default_rng(0).uniform(10, 90, (13, 2)).astype(np.float32)
    for _ in range(num_frames):
        made.xy.append(places)
        made.confidence.append(np.full(13, confidence, np.float32))
        made.scores.append(score)
    return made


def test_a_steady_motion_is_not_changed_by_smoothing():
    line = np.arange(20.0)[:, None] * [3.0, -2.0] + 5
    assert np.allclose(smoothed(line, 1.5), line)
    assert smoothed(line, 0.0) is line


def test_smoothing_is_a_gaussian_without_delay():
    noise = np.random.default_rng(0).normal(size=(40, 3))
    sigma, wanted = 1.2, np.zeros_like(noise)
    weights = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    for t in range(4, 36):
        wanted[t] = sum(w * noise[t + k] for w, k in zip(weights, range(-4, 5))) / weights.sum()
    assert np.allclose(smoothed(noise, sigma)[4:36], wanted[4:36])
    assert np.allclose(smoothed(noise[::-1], sigma)[::-1], smoothed(noise, sigma))  # the same in both directions


def test_frames_without_the_person_stay_empty_and_change_no_neighbor():
    values = np.ones((12, 2))
    values[5] = np.nan
    made = smoothed(values, 1.0)
    assert np.isnan(made[5]).all() and np.allclose(np.delete(made, 5, axis=0), 1)


def test_a_believed_track_keeps_its_places_and_hides_what_is_outside_or_unsure():
    made = track(6)
    made.confidence = [np.array([0.2] + [0.9] * 12, np.float32)] * 6
    made.xy = [np.concatenate([places[:-1], [[120, 50]]]) for places in made.xy]
    person = person_of(made, (100, 100), 30.0, BELIEF)
    assert isinstance(person, Person) and (person.first, person.end) == (3, 9)
    assert np.allclose(person.xy, made.xy)
    assert not person.is_visible[:, 0].any() and not person.is_visible[:, 12].any() and person.is_visible[:, 1:12].all()
    assert person.extent == pytest.approx(np.ptp(made.xy[0], axis=0).max())


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (track(4), "a track of frames 3 … 6: seen for 0.13 s, need 0.16 s"),
        (track(score=0.5), "a track of frames 3 … 12: a mean score of 0.50, need 0.6"),
        (track(confidence=0.3), "a mean confidence of its joints of 0.30, need 0.4"),
        (track(confidence=0.45), "none of its joints is visible"),
    ],
)
def test_other_tracks_are_left_out_with_their_reason(made: Track, reason: str):
    assert reason in str(person_of(made, (100, 100), 30.0, BELIEF))


def test_smoothing_is_measured_in_time():
    made = track(30)
    made.xy = [place + np.float32(k % 2 * 4) for k, place in enumerate(made.xy)]
    shaking = [
        np.abs(np.diff(person.xy, axis=0)).mean()
        for fps in (15.0, 30.0, 120.0)
        if isinstance(person := person_of(made, (200, 200), fps, replace(BELIEF, smoothing=1.0)), Person)
    ]
    assert shaking[0] > 2 * shaking[1] > 2 * shaking[2]


@dataclass(frozen=True)
class Somebody:
    first: int
    end: int
    extent: float


def test_who_becomes_a_clip():
    near, far, next_one = Somebody(0, 50, 200.0), Somebody(0, 100, 80.0), Somebody(60, 90, 150.0)
    people = [far, next_one, near]
    assert chosen(people, "largest") == [near, next_one]  # one at a time
    assert chosen(people, "track") == [far]  # in view longest
    assert chosen(people, "every") == [far, near, next_one] or chosen(people, "every") == [near, far, next_one]
    assert chosen([], "largest") == chosen([], "track") == chosen([], "every") == []
