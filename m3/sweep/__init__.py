"""Sweeps: every trial in a process of its own, and a table and a plot of all of them."""

from m3.sweep.outcomes import write_result
from m3.sweep.trial import ignore_sweep_warnings, run_trial

__all__ = ["ignore_sweep_warnings", "run_trial", "write_result"]
