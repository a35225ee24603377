"""Cuts are found where the scene changes, and nowhere else."""

from __future__ import annotations

import numpy as np

from m3.annotation.cuts import change, find_cuts, first_cut, may_be_cut, thumbnail


def scene(seed: int, num_frames: int, speed: float = 1.0) -> list[np.ndarray]:
    """A pattern that moves to the right."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    picture = np.kron(small, np.ones((10, 10, 1), np.uint8))
    return [np.roll(picture, round(k * speed), axis=1) for k in range(num_frames)]


def changes_of(frames: list[np.ndarray]) -> list[float]:
    seen = [thumbnail(frame) for frame in frames]
    return [change(before, after) for before, after in zip(seen, seen[1:])]


def test_a_thumbnail_holds_the_means_of_its_cells():
    frame = np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8)
    wanted = frame.reshape(16, 6, 16, 4, 3).astype(np.float64).mean((1, 3))
    assert np.allclose(thumbnail(frame), wanted, atol=1e-3)
    assert thumbnail(np.zeros((1080, 1920, 3), np.uint8)).shape == thumbnail(np.zeros((7, 9, 3), np.uint8)).shape


def test_scenes_begin_where_the_picture_jumps():
    frames = scene(0, 8) + scene(1, 5) + scene(2, 9)
    assert find_cuts(changes_of(frames)) == [8, 13] and first_cut(frames, 99) == 8
    assert find_cuts(changes_of(scene(0, 20))) == [] and first_cut(scene(0, 20), 99) is None
    assert find_cuts([]) == [] and first_cut(frames[:1], 99) is None and first_cut(frames, 8) is None


def test_every_cut_is_noticed_as_it_comes():
    changes = changes_of(scene(0, 8) + scene(1, 5) + scene(2, 9))
    noticed = [k + 1 for k in range(len(changes)) if may_be_cut(changes[: k + 1])]
    assert {8, 13} <= set(noticed)


def test_what_changes_all_the_time_is_no_cut():
    noise = [np.random.default_rng(k).integers(0, 255, (60, 60, 3), dtype=np.uint8) for k in range(12)]
    assert find_cuts(changes_of(noise)) == []
    assert find_cuts(changes_of(scene(0, 20, speed=25))) == []  # a swift camera, or a video of few frames per second


def test_a_flash_and_a_change_of_light_are_no_cuts():
    frames = scene(0, 20)
    frames[9] = np.full_like(frames[9], 250)
    assert find_cuts(changes_of(frames)) == []
    darker = [frame // 2 + (0 if k < 9 else 100) for k, frame in enumerate(scene(0, 20))]
    assert find_cuts(changes_of([frame.astype(np.uint8) for frame in darker])) == []
