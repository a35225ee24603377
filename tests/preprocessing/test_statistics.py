"""The summary's numbers, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from m3.core.types import FramePair
from m3.preprocessing.staging import StagedClip
from m3.preprocessing.statistics import DatasetStatistics


def staged(
    clip: str, ssims: list[float | None], num_visible: int = 13, has_joints: bool = True, fps: float | None = None
) -> StagedClip:
    """A clip whose pair n is of frames 2n and 2n + 2."""
    frames = tuple(2 * n for n in range(len(ssims) + 1))
    coords = np.zeros((len(frames), 3, 13), np.uint16)
    coords[:, 2, :num_visible] = 1
    return StagedClip(
        clip=clip,
        action=None,
        is_train=None,
        notes=(),
        has_joints=has_joints,
        canvas={},
        pose_extent_px=None,
        pairs=tuple(FramePair(2 * n, 2 * n + 2, ssim) for n, ssim in enumerate(ssims)),
        captions=(None,) * len(ssims),
        frames=frames,
        tokens={"coords": coords},
        fps=fps,
    )


def dataset_statistics(clips: list[StagedClip]) -> dict[str, Any]:
    statistics = DatasetStatistics()
    for clip in clips:
        statistics.add(clip)
    return statistics.record()


def test_counts_and_quantiles():
    found = dataset_statistics([staged("a", [0.5]), staged("b", [0.81, 0.849, 0.85], 0), staged("c", [0.1] * 60, 12)])
    assert found["pairs_per_clip"] == {"min": 1, "p10": 1, "median": 3, "p90": 60, "max": 60}
    assert found["pairs_per_clip_histogram"] == {"1": 1, "2–4": 1, "50–99": 1}
    assert found["ssim"] == {"min": 0.1, "p10": 0.1, "median": 0.1, "p90": 0.1, "max": 0.85}
    assert found["ssim_histogram"] == {"0.00–0.30": 60, "0.50–0.60": 1, "0.80–0.85": 2, "0.85–0.90": 1}
    assert found["frame_distance"] == {"min": 2, "p10": 2, "median": 2, "p90": 2, "max": 2}
    # frames: 2 of a with 13 joints, 4 of b with none, 61 of c with 12
    assert found["visible_joints"] == round((2 * 13 + 61 * 12) / (67 * 13), 4)
    assert found["invisible_frames"] == 4


def test_pairs_without_ssim_and_clips_without_joints():
    found = dataset_statistics([staged("a", [None, None], has_joints=False)])
    assert (found["ssim"], found["ssim_histogram"], found["visible_joints"]) == (None, {}, None)
    assert found["invisible_frames"] == 0


def test_the_time_of_a_pair_is_known_where_the_rate_is():
    found = dataset_statistics([staged("a", [0.5] * 3, fps=8.0), staged("b", [0.5] * 5, fps=50.0), staged("c", [0.5])])
    assert found["pair_duration_s"] == {"min": 0.04, "p10": 0.04, "median": 0.04, "p90": 0.25, "max": 0.25}
    assert dataset_statistics([staged("c", [0.5])])["pair_duration_s"] is None
