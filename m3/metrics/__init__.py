"""Scores of roll-outs: per horizon, beside baselines, with intervals over clips."""

from m3.metrics.baselines import constant_velocity, damped_velocity
from m3.metrics.comparison import Comparison
from m3.metrics.confusion import Confusion, confusion
from m3.metrics.scores import Score, Series, score
from m3.metrics.specs import METRICS, MetricSpec

__all__ = [
    "METRICS",
    "Comparison",
    "Confusion",
    "MetricSpec",
    "Score",
    "Series",
    "confusion",
    "constant_velocity",
    "damped_velocity",
    "score",
]
