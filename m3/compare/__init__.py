"""Comparing runs: `m3-compare`."""
