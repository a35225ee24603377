"""Sharing models: `python -m m3.hub`."""
