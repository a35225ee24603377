"""Tokens of gaps."""

from __future__ import annotations

import numpy as np

from m3.core.modalities import NUM_GAP_IDS, NUM_SECONDS_IDS
from m3.tokens.gaps import decode_gap, decode_seconds, encode_gap, encode_seconds


def test_gaps_are_numbers_of_frames() -> None:
    frames = np.array([1, 2, 10, 64, 65, 1000])
    assert encode_gap(frames).tolist() == [0, 1, 9, 63, 63, 63]
    assert decode_gap(np.arange(NUM_GAP_IDS)).tolist() == list(range(1, 65))


def test_seconds_are_met_within_six_percent() -> None:
    seconds = np.geomspace(1 / 120, 12, 1000)
    ids = encode_seconds(seconds)
    assert ids.min() == 0 and ids.max() == NUM_SECONDS_IDS - 1
    assert (np.abs(decode_seconds(ids) / seconds - 1) < 0.061).all()
    assert encode_seconds(np.array([1 / 120, 1 / 60, 0.001, 100.0])).tolist() == [0, 6, 0, 63]
