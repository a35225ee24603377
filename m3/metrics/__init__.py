"""Scores of roll-outs: per horizon, beside baselines, with intervals over clips."""

from m3.metrics.baselines import PoseFrames, constant_velocity
from m3.metrics.context import Context, Draw
from m3.metrics.scores import Score, Series, score
from m3.metrics.tallies import RolloutTokens

__all__ = [
    "Context",
    "Draw",
    "PoseFrames",
    "RolloutTokens",
    "Score",
    "Series",
    "constant_velocity",
    "score",
]
