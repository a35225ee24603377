"""Labels without pictures: frames are rendered on demand, labels are read fast."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from support.tiny_world import write_label

from m3.clips import poses
from m3.clips.base import ClipError
from m3.clips.poses import Poses


def test_a_clip_is_rendered_only_when_a_frame_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn, random_scene = [], poses.random_scene
    monkeypatch.setattr(poses, "random_scene", lambda *arguments: drawn.append(arguments) or random_scene(*arguments))
    write_label(tmp_path / "0001.mat", size=(96, 128))
    clip = Poses(tmp_path, max_side=64).read("0001")
    assert clip.size == (48, 64) and len(clip.frames) == 6 and drawn == []
    first = clip.frames[0]
    assert first.shape == (48, 64, 3) and not np.array_equal(first, clip.frames[5]) and len(drawn) == 1
    assert np.array_equal(Poses(tmp_path, max_side=64).read("0001").frames[0], first)
    assert not np.array_equal(Poses(tmp_path, max_side=64, seed=1).read("0001").frames[0], first)


def test_labels_too_large_to_draw_are_good_for_joints(tmp_path: Path):
    write_label(tmp_path / "0001.mat", size=(10_000, 10_000))
    clip = Poses(tmp_path).read("0001")
    assert clip.joints.xy.shape == (6, 13, 2)
    with pytest.raises(ClipError, match="0001.mat: frames of 10000 x 10000 px"):
        clip.frames[0]
    assert Poses(tmp_path, max_side=32).read("0001").frames[0].shape == (32, 32, 3)


def test_bad_labels_are_rejected(tmp_path: Path):
    write_label(tmp_path / "0001.mat", num_frames=1)
    (tmp_path / "0002.mat").write_bytes(b"")
    (tmp_path / "0003.mat").mkdir()
    write_label(tmp_path / "a.b.mat")
    (tmp_path / "._a.b.mat").write_bytes(b"what macOS writes beside a copied file")
    source = Poses(tmp_path)
    assert source.clip_ids() == ["0001", "0002", "0003", "a_b"] and len(source.fingerprint()) == 64
    assert source.read("a_b").id == "a_b"
    for clip_id, reason in {
        "0001": "^0001.mat: 1 frame, a pair needs 2$",
        "0002": "^0002.mat: not a readable .mat file",
        "0003": r"^0003.mat: not readable \(Is a directory\)$",
    }.items():
        with pytest.raises(ClipError, match=reason):
            source.read(clip_id)


def test_every_real_label_is_read_fast(penn_labels: Path):
    source = Poses(penn_labels)
    start = time.process_time()
    clips = [source.read(clip_id) for clip_id in source.clip_ids()]
    assert len(clips) == 1861 and all(len(clip.frames) == len(clip.joints.xy) for clip in clips)
    assert (time.process_time() - start) / len(clips) < 0.015
