from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from m3.clips.canvas import ZoomCanvas
from m3.clips.demo import demo_clip
from m3.tokens.base import to_frames, to_pixels
from m3.tokens.mini import FIRST_FINGERPRINT, WEIGHTS, MiniAutoEncoder, MiniTokenizer, save_weights
from m3.training.rendered_frames import demo_pair, held_out, pose_pair


@pytest.fixture(scope="module")
def tokenizer() -> MiniTokenizer:
    return MiniTokenizer()


def unseen_frames(size: int, num_frames: int) -> np.ndarray:
    """Clips of a seed that was not used in training, one frame each, with twelve actions and backgrounds."""
    return np.stack([demo_clip(987_654, k, 8, (size, size)).render(k % 8, (size, size)) for k in range(num_frames)])


def mean_psnr(frames: np.ndarray, decoded: np.ndarray) -> float:
    error = ((frames.astype(np.float64) - decoded) ** 2).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def test_shapes_and_legal_ids(tokenizer):
    ids = tokenizer.encode(to_pixels(np.zeros((2, 64, 96, 3), dtype=np.uint8)))
    assert ids.shape == (2, 4, 6) and ids.dtype == torch.int64
    assert 0 <= ids.min() and ids.max() < 64_000
    pixels = tokenizer.decode(ids.to(torch.int32))
    assert pixels.shape == (2, 3, 64, 96) and pixels.dtype == torch.float32
    assert pixels.abs().max() <= 1


@pytest.mark.parametrize("wrong", [-1, 64_000, 65_535])
def test_an_illegal_id_raises(tokenizer, wrong):
    ids = torch.zeros(1, 4, 4, dtype=torch.int64)
    ids[0, 3, 2] = wrong
    with pytest.raises(ValueError, match=str(wrong)):
        tokenizer.decode(ids)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 60, 64), (1, 3, 64, 0)])
def test_pixels_of_a_wrong_shape_raise(tokenizer, shape):
    with pytest.raises(ValueError, match="multiples of 16"):
        tokenizer.encode(torch.zeros(shape))


def test_all_ids_decode(tokenizer):
    assert tokenizer.decode(torch.arange(64_000).reshape(4, 160, 100)[:, ::8, ::8]).isfinite().all()


def test_the_fingerprint_is_that_of_the_file(tokenizer, tmp_path):
    assert tokenizer.fingerprint == hashlib.sha256(WEIGHTS[2].read_bytes()).hexdigest()
    other = tmp_path / "other.safetensors"
    save_weights(MiniAutoEncoder(), other)
    assert MiniTokenizer(str(other)).fingerprint == hashlib.sha256(other.read_bytes()).hexdigest()
    assert list(tmp_path.iterdir()) == [other]


def test_saved_weights_come_back_as_half_precision(tmp_path):
    model = MiniAutoEncoder()
    model.initialize(torch.Generator().manual_seed(3))
    save_weights(model, tmp_path / "weights.safetensors")
    loaded = MiniTokenizer(str(tmp_path / "weights.safetensors")).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor.half().float()), name


def test_initial_weights_depend_on_the_generator_alone():
    first, second, third = MiniAutoEncoder(), MiniAutoEncoder(), MiniAutoEncoder()
    first.initialize(torch.Generator().manual_seed(0))
    second.initialize(torch.Generator().manual_seed(0))
    third.initialize(torch.Generator().manual_seed(1))
    for name, tensor in first.named_parameters():
        assert torch.equal(tensor, second.get_parameter(name)), name
    assert not torch.equal(first.encoder.patch[0].weight, third.encoder.patch[0].weight)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        MiniTokenizer(str(tmp_path / "nowhere.safetensors"))
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="junk.safetensors"):
        MiniTokenizer(str(tmp_path / "junk.safetensors"))


def test_the_same_pictures_give_the_same_ids(tokenizer):
    pixels = to_pixels(unseen_frames(128, 3))
    ids = tokenizer.encode(pixels)
    assert torch.equal(tokenizer.encode(pixels), ids)
    assert torch.equal(MiniTokenizer().encode(pixels), ids)


@pytest.mark.parametrize("size, least", [(256, 28.5), (128, 23.5)])
def test_unseen_generated_motion_survives(tokenizer, size, least):
    frames = unseen_frames(size, 12)
    decoded = to_frames(tokenizer.decode(tokenizer.encode(to_pixels(frames))))
    assert mean_psnr(frames, decoded) >= least


@pytest.mark.parametrize("size, least", [(256, 28.0), (128, 23.8)])
def test_unseen_real_poses_survive(tokenizer, penn_labels: Path, size, least):
    ids = held_out(sorted(path.stem for path in penn_labels.glob("*.mat")))[::8]
    frames = np.stack([pose_pair(str(penn_labels), i, 987_654, ZoomCanvas(size)).frames[0] for i in ids])
    decoded = to_frames(tokenizer.decode(tokenizer.encode(to_pixels(frames))))
    assert mean_psnr(frames, decoded) >= least


def test_the_weights_are_small():
    assert WEIGHTS[2].stat().st_size <= 8_000_000
    assert sum(p.numel() for p in MiniAutoEncoder().parameters()) * 2 < WEIGHTS[2].stat().st_size


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_a_token_depends_on_its_patch_and_eight_pixels_around_it(tokenizer, size):
    """To the bit: all pixels beyond are replaced at random, for one patch after the other."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    ids = tokenizer.encode(to_pixels(frame[None].copy()))[0]
    for row, column in np.ndindex(size[0] // 16, size[1] // 16):
        other = rng.integers(0, 256, frame.shape, dtype=np.uint8)
        near = slice(max(0, 16 * row - 8), 16 * row + 24), slice(max(0, 16 * column - 8), 16 * column + 24)
        other[near] = frame[near]
        assert tokenizer.encode(to_pixels(other[None]))[0, row, column] == ids[row, column]


def test_the_decoder_looks_beyond_a_patch(tokenizer):
    ids = torch.zeros(1, 6, 6, dtype=torch.int64)
    changed = ids.clone()
    changed[0, 0, 0] = 40_000
    difference = (tokenizer.decode(ids) - tokenizer.decode(changed)).abs().amax((0, 1))
    assert difference[16:32, 16:32].max() > 0.01


def test_tokens_of_what_does_not_move_stay(tokenizer):
    """Of neighboring frames of generated clips, two thirds and more; the first version kept a quarter."""
    pairs = np.stack([demo_pair(k, 987_654, ZoomCanvas(128)).frames for k in range(24)])
    first, second = (tokenizer.encode(to_pixels(pairs[:, k].copy())) for k in (0, 1))
    assert (first == second).float().mean() >= 0.6
    old = MiniTokenizer(version=1)
    first, second = (old.encode(to_pixels(pairs[:, k].copy())) for k in (0, 1))
    assert (first == second).float().mean() <= 0.45


def test_the_first_version_works_by_number_and_by_path(tokenizer):
    by_number, by_path = MiniTokenizer(version=1), MiniTokenizer(str(WEIGHTS[1]))
    assert by_number.fingerprint == by_path.fingerprint == FIRST_FINGERPRINT != tokenizer.fingerprint
    pixels = to_pixels(unseen_frames(128, 2))
    assert torch.equal(by_number.encode(pixels), by_path.encode(pixels))
    frames = unseen_frames(128, 12)
    assert mean_psnr(frames, to_frames(by_number.decode(by_number.encode(to_pixels(frames))))) >= 23.5
    with pytest.raises(ValueError, match="tokenizer.version=3: choose 1 or 2"):
        MiniTokenizer(version=3)
