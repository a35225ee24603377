from __future__ import annotations

from pathlib import Path

import numpy as np
from support.tiny_world import write_label

from m3.clips.demo import Demo
from m3.clips.poses import Poses
from m3.clips.poses_and_demo import PosesAndDemo


def both(labels: Path, root: Path, **changes) -> PosesAndDemo:
    settings = dict(max_clips=None, max_side=64, num_clips=2, num_frames=3, height=48, width=64, seed=1)
    return PosesAndDemo(labels, root=root, **(settings | changes))


def test_the_clips_of_both_are_those_of_each(tmp_path: Path):
    labels, root = tmp_path / "labels", tmp_path / "demo"
    labels.mkdir()
    for name in ("0001", "0002"):
        write_label(labels / f"{name}.mat", size=(96, 128))
    source = both(labels, root)
    assert source.clip_ids() == ["poses_0001", "poses_0002", "demo_0001", "demo_0002"] and len(source) == 4
    for clip_id, alone in (
        ("poses_0002", Poses(labels, max_side=64, seed=1)),
        ("demo_0001", Demo(root, 2, 3, 48, 64, 1)),
    ):
        clip, expected = source.read(clip_id), alone.read(clip_id.split("_")[1])
        assert clip.id == clip_id and np.array_equal(clip.frames[1], expected.frames[1])
        assert np.array_equal(clip.joints.xy, expected.joints.xy) and clip.action == expected.action
    fingerprint = source.fingerprint()
    assert both(labels, root).fingerprint() == fingerprint
    write_label(labels / "0003.mat", size=(96, 128))
    assert both(labels, root).fingerprint() != fingerprint
