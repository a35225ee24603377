"""Pairs equal those of a plain loop over scikit-image's SSIM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from m3.clips.base import ClipError
from m3.clips.demo import demo_clip
from m3.clips.poses import Poses
from m3.pairs import Chain, ssim

REAL = Path(__file__).parent.parent.parent / "shared" / "penn_action" / "labels"


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (np.asarray(Image.fromarray(x).convert("L")).astype(np.float32) for x in (a, b))
    return structural_similarity(a, b, data_range=255)


def brute_force_chain(frames: list[np.ndarray], threshold: float) -> list[tuple[int, int, float]]:
    pairs, reference = [], 0
    while True:
        for later in range(reference + 1, len(frames)):
            similarity = reference_ssim(frames[reference], frames[later])
            if similarity < threshold:
                pairs.append((reference, later, round(similarity, 6)))
                reference = later
                break
        else:
            return pairs


@pytest.mark.parametrize("clip", [0, 3, 8])
def test_rendered_clips_give_the_pairs_of_the_plain_loop(clip: int):
    size = (120, 161)
    demo = demo_clip(seed=5, clip=clip, num_frames=14, size=size)
    frames = [demo.render(index, size) for index in range(14)]
    for threshold in (0.89, 0.97):
        expected = brute_force_chain(frames, threshold)
        assert expected and [tuple(pair) for pair in Chain(threshold).pairs(frames)] == expected


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real label files in {REAL}")
def test_a_rendered_real_clip_gives_the_pairs_of_the_plain_loop():
    clip = Poses(REAL, max_clips=9, max_side=200).read("0001")
    frames = [clip.frames[index] for index in range(0, 60, 2)]
    expected = brute_force_chain(frames, 0.95)
    assert len(expected) > 3 and [tuple(pair) for pair in Chain(0.95).pairs(frames)] == expected


def test_ssim_of_noise_at_many_levels_equals_scikit_image():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (53, 70, 3)).astype(np.uint8)
    for level in (0, 1, 5, 40, 200):
        b = (a + rng.normal(0, level, a.shape)).clip(0, 255).astype(np.uint8)
        assert ssim(a, b) == reference_ssim(a, b)
        expected = round(reference_ssim(a, b), 6)
        if expected < 1:
            assert next(Chain(1.0).pairs([a, b])).ssim == expected


def test_scikit_image_decides_near_the_threshold(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    b = (a + rng.normal(0, 20, a.shape)).clip(0, 255).astype(np.uint8)
    true = reference_ssim(a, b)
    monkeypatch.setattr("m3.pairs._fast_ssim", lambda *_: true - 5e-5)  # a fast SSIM that is a little off
    assert list(Chain(true).pairs([a, b])) == []
    assert next(Chain(true + 2e-5).pairs([a, b])).ssim == round(true, 6)


def test_a_clip_without_change_gives_nothing_and_a_limit_limits():
    still = [np.full((20, 20, 3), 90, np.uint8)] * 5
    assert list(Chain(0.89).pairs(still)) == [] == list(Chain(0.89).pairs(still[:1]))
    rng = np.random.default_rng(0)
    changing = [rng.integers(0, 256, (20, 20, 3)).astype(np.uint8) for _ in range(6)]
    assert [pair[:2] for pair in Chain(0.89, 2).pairs(changing)] == [(0, 1), (1, 2)]
    assert len(list(Chain(0.89).pairs(changing))) == 5


def test_frames_too_small_for_ssim_are_rejected():
    with pytest.raises(ClipError, match="6 x 40 px"):
        list(Chain(0.89).pairs([np.zeros((40, 6, 3), np.uint8)] * 2))


@pytest.mark.parametrize("arguments, key", [((2,), "pairs.threshold=2"), ((0,), "pairs.threshold=0"),
                                            ((0.9, 0), "pairs.max_pairs_per_clip=0")])  # fmt: skip
def test_impossible_values_name_the_key(arguments: tuple, key: str):
    with pytest.raises(ValueError, match=key):
        Chain(*arguments)
