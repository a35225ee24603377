"""The check of an annotator by calibrated cameras, on points whose places are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"

QUALISYS = """<?xml version='1.0' encoding='ASCII'?><calibration><cameras><camera serial="cam01">
<fov_video left="0" top="0" right="1087" bottom="1919"/>
<transform x="1000" y="2000" z="3000" r11="1" r12="0" r13="0" r21="0" r22="1" r23="0" r31="0" r32="0" r33="1"/>
<intrinsic focalLengthU="64000" focalLengthV="128000" centerPointU="32000" centerPointV="64000"/>
</camera></cameras></calibration>"""


@pytest.fixture
def triangulation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import triangulation

    yield triangulation
    sys.modules.pop("triangulation"), sys.modules.pop("annotate")


def test_a_qualisys_camera_projects_as_it_says(triangulation, tmp_path: Path):
    """It looks along −z from (1, 2, 3) m: a point 2 m in front of it, 0.1 m to the right and 0.1 m up."""
    (tmp_path / "a.qca.txt").write_text(QUALISYS)
    (camera,) = triangulation.read_cameras(tmp_path / "a.qca.txt").values()
    assert np.allclose(triangulation.projected(camera, np.array([1.1, 2.1, 1.0])), [500 + 50, 1000 - 100])


def test_errors_are_those_of_the_camera_that_is_wrong(triangulation):
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (3, 13, 3))
    cameras = []
    for angle in (0.0, 0.7, 1.5, 2.4):
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        cameras.append(np.diag([800.0, 800.0, 1.0]) @ np.hstack([turn, [[0], [0], [4]]]))
    cameras = np.stack(cameras)
    xy = np.array([[[triangulation.projected(c, p) for p in frame] for frame in points] for c in cameras])
    seen = np.ones(xy.shape[:3], bool)
    assert np.nanmax(triangulation.left_out_errors(cameras, xy, seen)) < 1e-6
    xy[1, 2, 5] += (30, 40)
    errors = triangulation.left_out_errors(cameras, xy, seen)
    assert errors[1, 2, 5] == pytest.approx(50) and (errors[:, :2] < 1e-6).all()
    seen[2:, 0, 0] = False
    assert np.isnan(triangulation.left_out_errors(cameras, xy, seen)[:, 0, 0]).all()
