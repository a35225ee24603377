"""Random roll-outs with gaps everywhere, and their scores by name."""

from __future__ import annotations

import numpy as np

from m3 import metrics
from m3.core.frames import Frames, TokenFrames
from m3.metrics import Context, Draw, RolloutTokens
from m3.tokens.joints import JointCodec


def by_name(*arguments, **options) -> dict[str, metrics.Score]:
    return {s.name: s for s in metrics.score(*arguments, **options)}


def random_roll_outs(num_samples: int = 12, num_horizons: int = 3) -> tuple[Frames, Frames, np.ndarray, Context]:
    """Everything is random, with gaps everywhere; six clips of two samples each, two actions."""
    rng = np.random.default_rng(0)
    shape = num_samples, num_horizons + 1

    def frames() -> Frames:
        pictures = rng.integers(0, 256, (*shape, 16, 16, 3), np.uint8)
        xy = rng.uniform(0, 16, (*shape, 13, 2))
        is_present = np.arange(num_horizons + 1) <= rng.integers(1, num_horizons + 1, num_samples)[:, None]
        return Frames(pictures, xy, rng.random((*shape, 13)) < 0.7, is_present)

    def tokens(of: Frames) -> TokenFrames:
        coords = codec.encode(of.xy, of.is_visible).reshape(*shape, 39).astype(int)
        return TokenFrames(rng.integers(0, 3, (*shape, 1)), coords, of.is_present)

    def draw() -> Draw:
        drawn = frames()
        drawn = Frames(drawn.pictures, drawn.xy, drawn.is_visible, np.ones(shape, bool))
        return Draw(drawn, tokens(drawn))

    codec, truth, predicted = JointCodec(16), frames(), frames()
    predicted = Frames(predicted.pictures, predicted.xy, predicted.is_visible, np.ones(shape, bool))
    has_previous = rng.random(num_samples) < 0.6
    previous = rng.uniform(0, 16, (num_samples, 13, 2))
    moving = metrics.constant_velocity(truth, previous, rng.random((num_samples, 13)) < 0.8, has_previous)
    context = Context(
        clip=np.repeat(list("abcdef"), num_samples // 6),
        action=["run", "jump"] * (num_samples // 2 - 1) + ["run", None],
        constant_velocity=moving,
        tokens=RolloutTokens(tokens(predicted), tokens(truth), codec),
        real_pictures=rng.integers(0, 256, (*shape, 16, 16, 3), np.uint8),
        is_real=rng.random(shape) < 0.8,
        argmax=draw(),
        draws=[draw(), draw(), draw()],
    )
    return predicted, truth, rng.uniform(20, 60, num_samples), context
