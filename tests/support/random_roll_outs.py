"""Random roll-outs with gaps everywhere, and scores by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from m3 import metrics
from m3.core.frames import Frames
from m3.metrics import Comparison
from m3.tokens.joints import JointCodec
from support.frames import frames_of, known_tokens


def by_name(*arguments, **options) -> dict[str, metrics.Score]:
    """Name → score; arguments of `m3.metrics.score`."""
    return {score.name: score for score in metrics.score(*arguments, **options)}


def random_roll_outs(num_samples: int = 12, num_horizons: int = 3) -> Comparison:
    """Everything is random, with gaps everywhere; six clips of two samples each, two actions."""
    rng = np.random.default_rng(0)
    shape = num_samples, num_horizons + 1

    def frames() -> Frames:
        pictures = rng.integers(0, 256, (*shape, 16, 16, 3), np.uint8)
        xy = rng.uniform(0, 16, (*shape, 13, 2))
        is_present = np.arange(num_horizons + 1) <= rng.integers(1, num_horizons + 1, num_samples)[:, None]
        return frames_of(is_present, pictures, xy, rng.random((*shape, 13)) < 0.7)

    def with_tokens(of: Frames) -> Frames:
        poses = of.values["coords"]
        coords = codec.encode(poses.xy, poses.is_visible).reshape(*shape, 39).astype(int)
        tokens = known_tokens(of.is_present, tok_rgb=rng.integers(0, 3, (*shape, 1)), coords=coords)
        return replace(of, tokens=tokens)

    def whole(of: Frames) -> Frames:
        return replace(of, is_present=np.ones(shape, bool))

    codec, truth, predicted = JointCodec(16), frames(), whole(frames())
    has_previous = rng.random(num_samples) < 0.6
    before = rng.uniform(0, 16, (num_samples, 1, 13, 2))
    previous = frames_of(has_previous[:, None], xy=before, is_visible=rng.random((num_samples, 1, 13)) < 0.8)
    predicted, truth = with_tokens(predicted), with_tokens(truth)
    pictures = rng.integers(0, 256, (*shape, 16, 16, 3), np.uint8)
    real = frames_of(rng.random(shape) < 0.8, pictures)
    argmax, *samples = (with_tokens(whole(frames())) for _ in range(4))
    return Comparison(
        predicted,
        truth,
        rng.uniform(20, 60, num_samples),
        clip=np.repeat(list("abcdef"), num_samples // 6),
        action=["run", "jump"] * (num_samples // 2 - 1) + ["run", None],
        constant_velocity=metrics.constant_velocity(truth, previous, codec),
        damped_velocity=metrics.damped_velocity(truth, previous, codec),
        real=real,
        argmax=argmax,
        samples=samples,
    )
