"""Which frame is the successor of which."""

from m3.pairs.mining import Chain, Dense, Stride

__all__ = ["Chain", "Dense", "Stride"]
