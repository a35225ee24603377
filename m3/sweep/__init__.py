"""Sweeps: every trial runs in its own process; at the end come a table and a plot of all trials."""

from m3.sweep.outcomes import write_result
from m3.sweep.trial import ReadyTrial, ignore_sweep_warnings, run_trial

__all__ = ["ReadyTrial", "ignore_sweep_warnings", "run_trial", "write_result"]
