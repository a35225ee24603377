"""Pairs equal those of a plain loop over scikit-image's SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import structural_similarity

from m3.clips.base import ClipError
from m3.clips.demo import demo_clip
from m3.clips.poses import Poses
from m3.pairs import Chain, Dense, Stride
from m3.pairs.ssim import FastSsim, exact_ssim, gray_picture


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (np.asarray(Image.fromarray(x).convert("L")).astype(np.float32) for x in (a, b))
    return structural_similarity(a, b, data_range=255)


def first_different(frames: Sequence[np.ndarray], reference: int, threshold: float) -> tuple[int, int, float] | None:
    for later in range(reference + 1, len(frames)):
        similarity = reference_ssim(frames[reference], frames[later])
        if similarity < threshold:
            return reference, later, round(similarity, 6)
    return None


Pair = tuple[int, int, float | None, int | None]  # reference, successor, SSIM, previous


def plain_chain(frames: Sequence[np.ndarray], threshold: float) -> list[Pair]:
    """The previous frame of a pair is the reference of the pair that ends where it begins."""
    pairs, reference = [], 0
    while pair := first_different(frames, reference, threshold):
        pairs.append(pair)
        reference = pair[1]
    came_from = {successor: reference for reference, successor, _ in pairs}
    return [(*pair, came_from.get(pair[0])) for pair in pairs]


def plain_dense(frames: Sequence[np.ndarray], threshold: float) -> list[Pair]:
    pairs = (first_different(frames, reference, threshold) for reference in range(len(frames)))
    return [(*pair, before(*pair[:2])) for pair in pairs if pair]


def before(reference: int, successor: int) -> int | None:
    """As many frames before the reference as the successor is after it."""
    gap = successor - reference
    return reference - gap if gap <= reference else None


def demo_frames(clip: int, num_frames: int = 14, size: tuple[int, int] = (120, 161)) -> list[np.ndarray]:
    demo = demo_clip(seed=5, clip=clip, num_frames=num_frames, size=size)
    return [demo.render(index, size) for index in range(num_frames)]


def noise(seed: int, num_frames: int, size: tuple[int, int] = (20, 20)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(num_frames)]


class CountedFrames(Sequence):
    def __init__(self, frames: Sequence[np.ndarray]) -> None:
        self.frames, self.read = frames, []

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> np.ndarray:
        self.read.append(index)
        return self.frames[index]


@pytest.mark.parametrize("clip", [0, 3, 8])
def test_rendered_clips_give_the_pairs_of_the_plain_loop(clip: int):
    frames = demo_frames(clip)
    for threshold in (0.89, 0.97):
        expected = plain_chain(frames, threshold)
        assert expected and list(Chain(threshold).pairs(frames)) == expected
        assert list(Chain(threshold, 2).pairs(frames)) == expected[:2]
        expected = plain_dense(frames, threshold)
        assert expected and list(Dense(threshold).pairs(frames)) == expected
        assert list(Dense(threshold, 3).pairs(frames)) == expected[:3]


def test_a_rendered_real_clip_gives_the_pairs_of_the_plain_loop(penn_labels: Path):
    clip = Poses(penn_labels, max_clips=9, max_side=200).read("0001")
    frames = [clip.frames[index] for index in range(0, 60, 2)]
    expected = plain_chain(frames, 0.95)
    assert len(expected) > 3 and list(Chain(0.95).pairs(frames)) == expected


def test_a_filmed_clip_gives_the_pairs_of_the_plain_loop(real_video: Path):
    with av.open(str(real_video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(60))]
    expected = plain_chain(frames, 0.89)
    assert len(expected) > 3 and list(Chain(0.89).pairs(frames)) == expected
    few = frames[::5]
    fast_ssim = FastSsim(few[0].shape[:2])
    a, b = fast_ssim.empty(), fast_ssim.empty()
    fast_ssim.fill(a, gray_picture(few[0]))
    fast_ssim.fill(b, gray_picture(few[-1]))
    assert fast_ssim(a, b) == pytest.approx(reference_ssim(few[0], few[-1]), abs=2e-7)
    expected = plain_dense(few, 0.85)
    assert len(expected) > 5 and list(Dense(0.85).pairs(few)) == expected


@pytest.mark.parametrize("size", [(7, 7), (8, 31), (53, 70), (400, 90), (333, 222), (8, 33_000), (9_000, 8)])
def test_the_fast_ssim_is_that_of_scikit_image(size: tuple[int, int]):
    """Sizes of one strip and of several, of one row and of many; buffers that contained another frame before."""
    rng = np.random.default_rng(0)
    fast_ssim = FastSsim(size)
    a, b = fast_ssim.empty(), fast_ssim.empty()
    ramp = np.linspace(0, 255, size[1])[None, :, None].repeat(size[0], 0).repeat(3, 2).astype(np.uint8)
    for first in (rng.integers(0, 256, (*size, 3)).astype(np.uint8), ramp, np.full((*size, 3), 255, np.uint8)):
        for level in (0, 2, 40):
            second = (first + rng.normal(0, level, first.shape)).clip(0, 255).astype(np.uint8)
            fast_ssim.fill(a, gray_picture(first))
            fast_ssim.fill(b, gray_picture(second))
            # In a single window no rounding error of scikit-image's float32 averages out; the miners' margin covers it.
            tolerance = Chain.tie_margin / 2 if size == (7, 7) else 1e-4
            assert fast_ssim(a, b) == pytest.approx(reference_ssim(first, second), abs=tolerance)
            expected = round(reference_ssim(first, second), 6)
            if expected < 1:
                assert next(Chain(1.0).pairs([first, second])).ssim == expected


def test_where_all_rounding_errors_agree_the_margin_covers_them():
    """Bright tiles of 7 × 7 px: all windows are alike, so that no error averages out, least of all scikit-image's."""
    rng = np.random.default_rng(0)
    fast_ssim = FastSsim((28, 28))
    a, b = fast_ssim.empty(), fast_ssim.empty()
    errors = []
    for _ in range(300):
        tile = rng.integers(180, 256) + rng.integers(-2, 3, (7, 7))
        first, second = (
            np.tile(t.clip(0, 255), (4, 4)).astype(np.uint8) for t in (tile, tile + rng.integers(-1, 2, (7, 7)))
        )
        fast_ssim.fill(a, first)
        fast_ssim.fill(b, second)
        errors.append(abs(fast_ssim(a, b) - exact_ssim(first, second)))
    assert 1e-5 < max(errors) < Chain.tie_margin / 2


@pytest.mark.parametrize("miner, error", [(Chain, -5e-4), (Dense, -5e-4), (Chain, 5e-4), (Dense, 5e-4)])
def test_scikit_image_decides_near_the_threshold(miner: type, error: float, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    b = (a + rng.normal(0, 20, a.shape)).clip(0, 255).astype(np.uint8)
    true = reference_ssim(a, b)
    monkeypatch.setattr(FastSsim, "__call__", lambda *_: true + error)  # a fast SSIM that is a little off
    assert list(miner(true).pairs([a, b])) == []
    assert next(miner(true + 2e-5).pairs([a, b])).ssim == round(true, 6)


@pytest.mark.parametrize("frames_in_memory", [0, 1, 3, 100])
def test_dense_is_the_same_in_any_amount_of_memory(frames_in_memory: int, monkeypatch: pytest.MonkeyPatch):
    frames = demo_frames(0, 30, (60, 80))
    frames[11:17] = [frames[11]] * 6  # a stretch without change
    monkeypatch.setattr(Dense, "max_bytes", frames_in_memory * FastSsim((60, 80)).bytes_per_frame)
    counted = CountedFrames(frames)
    expected = plain_dense(frames, 0.9)
    assert len({later - reference for reference, later, *_ in expected}) > 3 and len(expected) < 29
    assert list(Dense(0.9).pairs(counted)) == expected
    if frames_in_memory == 100:
        assert sorted(set(counted.read)) == list(range(30)) and len(counted.read) <= 31


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 4))
def test_miners_on_frames_that_repeat(levels: list[int], frames_in_memory: int):
    """Frames of few kinds, so that a frame equals its reference again after it differed."""
    kinds = noise(3, 4, (9, 8))
    frames = [kinds[level] for level in levels]
    assert list(Chain(0.89).pairs(frames)) == plain_chain(frames, 0.89)
    dense = Dense(0.89)
    dense.max_bytes = frames_in_memory * FastSsim((9, 8)).bytes_per_frame
    assert list(dense.pairs(frames)) == plain_dense(frames, 0.89)


def test_a_chain_reads_each_frame_once_and_its_successor_last():
    counted = CountedFrames(noise(0, 9))
    for pair in Chain(0.89).pairs(counted):
        assert counted.read[-1] == pair.successor
    assert counted.read == list(range(9))


@pytest.mark.parametrize("miner", [Chain, Dense])
def test_a_clip_without_change_gives_no_pairs_and_the_limit_is_respected(miner: type):
    still = [np.full((20, 20, 3), 90, np.uint8)] * 5
    assert list(miner(0.89).pairs(still)) == [] == list(miner(0.89).pairs(still[:1]))
    changing = noise(0, 6)
    assert [pair[:2] for pair in miner(0.89, 2).pairs(changing)] == [(0, 1), (1, 2)]
    assert len(list(miner(0.89).pairs(changing))) == 5


@pytest.mark.parametrize("miner", [Chain, Dense])
def test_frames_too_small_for_ssim_are_rejected(miner: type):
    with pytest.raises(ClipError, match="6 x 40 px"):
        list(miner(0.89).pairs([np.zeros((40, 6, 3), np.uint8)] * 2))


@pytest.mark.parametrize(
    "step, num_frames, distance",
    [
        (4, 18, 4), (4, 4, None), (1, 2, 1), (1, 1, None), ("4", 18, 4),
        ("1/17", 17, 1), ("1/17", 18, 1), ("1/17", 34, 1), ("1/17", 35, 2), ("1/17", 52, 3), ("1/17", 171, 10),
        (0.1, 11, 1), (0.3, 11, 3), (0.29, 101, 29), (0.99, 2, 1), (0.999, 1001, 999), ("2/3", 10, 6),
    ],
)  # fmt: skip
def test_stride_is_exact(step: int | float | str, num_frames: int, distance: int | None):
    pairs = list(Stride(step).pairs([None] * num_frames))
    expected = [] if distance is None else [
        (i, i + distance, None, before(i, i + distance)) for i in range(num_frames - distance)]  # fmt: skip
    assert pairs == expected


def test_every_number_of_frames_gives_the_step_of_whole_numbers():
    for num_frames in range(2, 700):
        reference, successor, *_ = next(Stride("1/17").pairs(range(num_frames)))
        assert (reference, successor) == (0, max(1, (num_frames - 1) // 17))


def test_stride_as_a_chain_and_with_a_limit():
    chain = [(0, 3, None, None), (3, 6, None, 0), (6, 9, None, 3)]
    assert list(Stride(3, "chain").pairs(range(11))) == chain == list(Stride(3, "chain").pairs(range(10)))
    assert list(Stride(3, "every", 4).pairs(range(11))) == [
        (0, 3, None, None), (1, 4, None, None), (2, 5, None, None), (3, 6, None, 0)]  # fmt: skip
    assert list(Stride(3, "chain", 1).pairs(range(11))) == chain[:1]


def test_several_steps_are_taken_in_turn():
    assert list(Stride([2, 4, 1]).pairs(range(8))) == [
        (0, 2, None, None), (1, 5, None, None), (2, 3, None, 1), (3, 5, None, 1), (5, 6, None, 4)]  # fmt: skip
    assert list(Stride([2, 4, 1], "chain").pairs(range(11))) == [
        (0, 2, None, None), (2, 6, None, None), (6, 7, None, 5), (7, 9, None, 5)]  # fmt: skip
    assert list(Stride([3]).pairs(range(9))) == list(Stride(3).pairs(range(9)))
    assert [len(list(Stride([2, 4, 8, 12], "every", limit).pairs(range(40)))) for limit in (None, 7)] == [34, 7]


@pytest.mark.parametrize("step", [[], [0], [2, -1], [2, 0.5], ["1/17"], [True], [2] * 101, (None,)])
def test_impossible_lists_of_steps_name_the_key(step):
    with pytest.raises(ValueError, match="pairs.step="):
        Stride(step)


def test_only_stride_needs_no_pictures():
    assert (Chain.needs_pictures, Dense.needs_pictures, Stride.needs_pictures) == (True, True, False)


@pytest.mark.parametrize("miner", [Chain, Dense])
@pytest.mark.parametrize("arguments, key", [((2,), "pairs.threshold=2"), ((0,), "pairs.threshold=0"),
                                            ((0.9, 0), "pairs.max_pairs_per_clip=0")])  # fmt: skip
def test_impossible_values_name_the_key(miner: type, arguments: tuple, key: str):
    with pytest.raises(ValueError, match=key):
        miner(*arguments)


@pytest.mark.parametrize("step", [0, -1, 1.5, "3/2", "1/0", "a", -0.5, "", True, float("nan"), float("inf"), None])
def test_impossible_steps_name_the_key(step):
    with pytest.raises(ValueError, match="pairs.step="):
        Stride(step)


@pytest.mark.parametrize("arguments, key", [((1, "all"), "pairs.starts=all"), ((1, "every", 0), "max_pairs_per_clip")])
def test_impossible_strides_name_the_key(arguments: tuple, key: str):
    with pytest.raises(ValueError, match=key):
        Stride(*arguments)
