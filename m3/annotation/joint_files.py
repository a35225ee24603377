"""Writes m3's own joint file, so that a person can look at found joints, mend them and keep them."""

from __future__ import annotations

import csv
import io

import numpy as np

from m3.core.joints import JOINT_NAMES

_AXES = ("x", "y", "visibility")


def joint_csv(xy: np.ndarray, is_visible: np.ndarray, first: int) -> bytes:
    """The `.csv` of `m3.clips.sidecar`, with the column `frame`.

    xy: (n, 13, 2) pixels; NaN becomes an empty cell. is_visible: (n, 13) bool.
    first: number of the first frame in the video.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", *(f"{joint}_{axis}" for joint in JOINT_NAMES for axis in _AXES)])
    for number, (places, visible) in enumerate(zip(xy.round(2).tolist(), is_visible.tolist()), start=first):
        row: list[str] = [str(number)]
        for (x, y), is_seen in zip(places, visible):
            row += ["", "", "0"] if x != x or y != y else [f"{x:.2f}", f"{y:.2f}", str(int(is_seen))]
        writer.writerow(row)
    return text.getvalue().encode()
