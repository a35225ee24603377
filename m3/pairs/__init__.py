"""Mining of frame pairs from clips."""

from m3.pairs.mining import Chain, Dense, Stride

__all__ = ["Chain", "Dense", "Stride"]
