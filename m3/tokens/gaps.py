"""Gaps between frames as tokens: a number of frames, and the seconds that it lasts."""

from __future__ import annotations

import numpy as np

from m3.core.modalities import NUM_GAP_IDS, NUM_SECONDS_IDS

_SHORTEST_S = 1 / 120
"""Duration of id 0: a frame of a fast camera."""

_PER_OCTAVE = 6
"""Ids for each doubling of the duration: neighboring ids differ by 12%; the last one is 12 s."""


def encode_gap(num_frames: np.ndarray) -> np.ndarray:
    """(…) numbers of frames, at least 1 → (…) int64 ids; more than 64 frames count as 64."""
    return np.clip(num_frames, 1, NUM_GAP_IDS).astype(np.int64) - 1


def decode_gap(ids: np.ndarray) -> np.ndarray:
    """(…) ids → (…) int64 numbers of frames."""
    return ids.astype(np.int64) + 1


def encode_seconds(seconds: np.ndarray) -> np.ndarray:
    """(…) positive durations → (…) int64 ids on a logarithmic scale from 1/120 s to 12 s; others are clipped."""
    octaves = np.log2(np.asarray(seconds, np.float64) / _SHORTEST_S)
    return np.clip(np.round(_PER_OCTAVE * octaves), 0, NUM_SECONDS_IDS - 1).astype(np.int64)


def decode_seconds(ids: np.ndarray) -> np.ndarray:
    """(…) ids → (…) float64 durations in seconds."""
    return _SHORTEST_S * 2.0 ** (ids.astype(np.float64) / _PER_OCTAVE)
