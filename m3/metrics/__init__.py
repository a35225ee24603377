"""Scores of roll-outs: per horizon, beside baselines, with intervals over clips, as a record and as a plot."""

from m3.metrics.baselines import PoseFrames, constant_velocity, previous_rows
from m3.metrics.context import Context, Draw
from m3.metrics.plot import plot_title, scores_plot
from m3.metrics.real_frames import check_source, real_frames
from m3.metrics.record import NO_TRUTH, SCHEMA_VERSION, metrics_record, write_metrics
from m3.metrics.scores import Score, Series, score
from m3.metrics.tallies import RolloutTokens

__all__ = [
    "NO_TRUTH",
    "SCHEMA_VERSION",
    "Context",
    "Draw",
    "PoseFrames",
    "RolloutTokens",
    "Score",
    "Series",
    "check_source",
    "constant_velocity",
    "metrics_record",
    "plot_title",
    "previous_rows",
    "real_frames",
    "score",
    "scores_plot",
    "write_metrics",
]
