"""Scores of roll-outs: per horizon, beside baselines, with intervals over clips, as a record and as a plot."""

from m3.metrics.baselines import PoseFrames, constant_velocity, previous_rows
from m3.metrics.plot import plot_title, scores_plot
from m3.metrics.real_frames import check_source, real_frames
from m3.metrics.record import SCHEMA_VERSION, metrics_record, write_metrics
from m3.metrics.scores import Context, RolloutTokens, Score, Series, score

__all__ = [
    "SCHEMA_VERSION",
    "Context",
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
