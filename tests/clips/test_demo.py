"""The demo: rigid bones, labels that are the projected joints, correct occlusion, and files written once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from m3.clips.demo import Demo, demo_clip, write_demo
from m3.clips.penn_action import read_label
from m3.core.rng import numpy_generator
from m3.rendering import body
from m3.rendering.motion import ACTIONS, Bones, Rig, mirror_points, rotation_matrices, two_bone_ik
from m3.rendering.scene import occluder_cover

SIZE = (96, 128)
NUM_ACTIONS = len(ACTIONS)


def lengths(points: np.ndarray) -> np.ndarray:
    """(T, 14) bones, widths and trunk of (T, 13, 3) joints."""
    ends = [(1, 3), (3, 5), (2, 4), (4, 6), (7, 9), (9, 11), (8, 10), (10, 12), (1, 2), (7, 8)]
    bones = [np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in ends]
    neck, pelvis = points[:, [1, 2]].mean(1), points[:, [7, 8]].mean(1)
    return np.stack([*bones, np.linalg.norm(neck - pelvis, axis=-1), np.linalg.norm(points[:, 0] - neck, axis=-1)], -1)


@pytest.mark.parametrize("clip", range(NUM_ACTIONS))
def test_bones_keep_their_lengths(clip: int):
    found = lengths(demo_clip(0, clip, 40, SIZE).points)
    assert np.ptp(found, axis=0).max() < 1e-9
    assert (found[0] > 0.1).all() and (found[0] < 0.32).all()


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_are_smooth_periodic_and_stay_above_the_ground(action: str):
    perform, bones = ACTIONS[action], Bones()
    cycles = np.linspace(0, 2, 401)
    points = perform(cycles, 1.0, bones, numpy_generator(3))
    steps = np.linalg.norm(np.diff(points, axis=0), axis=-1)  # (400, 13)
    assert steps.max() < 0.05, "a joint jumps"
    drift = (points[200] - points[0]).mean(0)
    assert points[200] - points[0] == pytest.approx(np.broadcast_to(drift, (13, 3)), abs=1e-6)
    assert abs(drift[0]) < 1e-9 and abs(drift[1]) < 1e-9  # walking may travel, forward only
    assert points[..., 1].min() > 0.01
    assert np.ptp(points, axis=0).max() > 0.15, "nothing moves"


@pytest.mark.parametrize("action", ACTIONS)
def test_knees_and_elbows_bend_the_human_way(action: str):
    """Knees are ahead of the straight line from hip to ankle, in the frame of the pelvis or on their outer side."""
    points = ACTIONS[action](np.linspace(0, 1, 60), 1.0, Bones(), numpy_generator(0))
    left = points[:, body.HIPS[0]] - points[:, body.HIPS[1]]
    spine = points[:, list(body.SHOULDERS)].mean(1) - points[:, list(body.HIPS)].mean(1)
    ahead = np.cross(left, spine)
    for hip, knee, ankle in zip(body.HIPS, body.KNEES, body.ANKLES):
        offset = points[:, knee] - 0.5 * (points[:, hip] + points[:, ankle])
        assert (np.einsum("tk,tk->t", offset, ahead) > -0.002).all()


def test_two_bones_reach_their_target():
    rng = np.random.default_rng(0)
    root, hint = rng.normal(size=(500, 3)), rng.normal(size=(500, 3))
    way = rng.normal(size=(500, 3))
    target = root + way / np.linalg.norm(way, axis=-1, keepdims=True) * rng.uniform(0.1, 0.49, (500, 1))
    middle, end = two_bone_ik(root, target, 0.3, 0.2, hint)
    assert end[np.linalg.norm(target - root, axis=-1) > 0.13] == pytest.approx(
        target[np.linalg.norm(target - root, axis=-1) > 0.13], abs=1e-9
    )
    assert np.linalg.norm(middle - root, axis=-1) == pytest.approx(0.3) and np.linalg.norm(
        end - middle, axis=-1
    ) == pytest.approx(0.2)
    _, far = two_bone_ik(root, root + 5 * (target - root) / 0.1, 0.3, 0.2, hint)
    assert np.linalg.norm(far - root, axis=-1) == pytest.approx(0.999 * 0.5)


def test_rotations_of_the_trunk():
    angle, zero = np.array([0.3]), np.array([0.0])
    lean, twist, roll = (
        rotation_matrices(*angles)[0] for angles in ((angle, zero, zero), (zero, angle, zero), (zero, zero, angle))
    )
    assert lean @ [0, 1, 0] == pytest.approx([0, np.cos(0.3), np.sin(0.3)])  # forward
    assert twist @ [0, 0, 1] == pytest.approx([np.sin(0.3), 0, np.cos(0.3)])  # to the own left
    assert roll @ [0, 1, 0] == pytest.approx([np.sin(0.3), np.cos(0.3), 0])  # to the own left
    rig = Rig(Bones(), np.zeros((1, 3)), np.eye(3)[None], np.eye(3)[None])
    assert rig.shoulders[0, 0, 0] > 0 > rig.shoulders[0, 1, 0]
    assert rig.toward(np.array([[np.pi / 2] * 2]), np.zeros((1, 2)), 1.0)[0, 0, 2] == pytest.approx(Bones().arm)


def test_mirroring_swaps_sides():
    points = np.random.default_rng(0).normal(size=(4, 13, 3))
    assert (mirror_points(points)[:, 5] == points[:, 6] * [-1, 1, 1]).all()
    assert (mirror_points(mirror_points(points)) == points).all()


@pytest.mark.parametrize("clip", range(NUM_ACTIONS))
def test_clip_is_large_inside_the_picture_and_moves(clip: int):
    size = (224, 224)
    demo = demo_clip(1, clip, 30, size)
    xy = demo.joints.xy
    assert (xy > 0).all() and (xy < size[::-1]).all()
    extent = np.ptp(xy, axis=(0, 1)) / 224
    assert extent.max() > 0.6
    traveled = np.linalg.norm(np.diff(xy, axis=0), axis=-1).mean() / 224
    assert 0.01 < traveled < 0.05
    assert 0.3 < demo.joints.is_visible.mean() <= 1


def test_clips_are_a_function_of_seed_and_number():
    first, again, other = demo_clip(0, 5, 8, SIZE), demo_clip(0, 5, 8, SIZE), demo_clip(1, 5, 8, SIZE)
    assert (first.joints.xy == again.joints.xy).all() and first.scene == again.scene
    assert (first.render(3, SIZE) == again.render(3, SIZE)).all()
    assert (first.joints.xy != other.joints.xy).any() and first.scene != other.scene
    longer = demo_clip(0, 5, 12, SIZE)
    assert longer.scene.shirt == first.scene.shirt


def test_left_joint_is_on_the_left_of_the_picture_when_facing_the_viewer():
    """Penn Action's convention, which the demo shares."""
    seen = {"front": [], "back": []}
    for clip in range(40):
        demo = demo_clip(2, clip, 10, SIZE)
        if demo.pose in seen:
            seen[demo.pose].append(np.median(demo.joints.xy[:, 7, 0] - demo.joints.xy[:, 8, 0]))
    assert len(seen["front"]) > 3 and np.mean(np.array(seen["front"]) < 0) > 0.85
    assert len(seen["back"]) > 1 and np.mean(np.array(seen["back"]) > 0) > 0.85


def test_visible_joints_are_on_the_body():
    """Where a joint is visible the picture differs from the same scene without the person."""
    hits = []
    for clip in range(2 * NUM_ACTIONS):
        demo = demo_clip(3, clip, 6, SIZE)
        empty = replace(demo, joints=replace(demo.joints, xy=demo.joints.xy - 10_000)).render(0, SIZE).astype(int)
        difference = np.abs(demo.render(2, SIZE).astype(int) - empty).max(-1)
        columns, rows = np.floor(demo.joints.xy[2, demo.joints.is_visible[2]]).astype(int).T
        hits += (difference[rows, columns] > 8).tolist()
    assert len(hits) > 200 and np.mean(hits) > 0.95


def test_occluded_joints_are_invisible():
    num_occluded = 0
    for clip in range(60):
        demo = demo_clip(4, clip, 4, SIZE)
        cover = occluder_cover(demo.scene, SIZE)
        columns, rows = np.moveaxis(np.floor(demo.joints.xy).astype(int), -1, 0)
        is_behind = cover[rows, columns] > 0.5
        assert not demo.joints.is_visible[is_behind].any()
        num_occluded += bool(is_behind.any())
    assert 3 <= num_occluded <= 30


def test_far_arm_is_invisible_in_a_side_view():
    """Of the joints that a nearer part of the body hides, most are on the far side."""
    is_far_hidden = []
    for clip in range(60):
        demo = demo_clip(5, clip, 6, SIZE)
        if demo.scene.occluder is None and demo.pose in ("left", "right"):
            hidden = ~demo.joints.is_visible
            for left, right in (body.ELBOWS, body.HIPS, body.KNEES):
                for one, other in ((left, right), (right, left)):
                    frames = hidden[:, one] & ~hidden[:, other]
                    is_far_hidden += (demo.depth[frames, one] < demo.depth[frames, other]).tolist()
    assert len(is_far_hidden) > 30 and np.mean(is_far_hidden) > 0.9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "clips"
    write_demo(root, 3, 4, SIZE, seed=7)
    return root


def test_layout_and_labels(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["demo.json", "frames", "labels"]
    assert sorted(path.name for path in (folder / "frames" / "0002").iterdir()) == [f"{k:06d}.jpg" for k in range(1, 5)]
    for clip in range(3):
        label, truth = read_label(folder / "labels" / f"{clip + 1:04d}.mat"), demo_clip(7, clip, 4, SIZE)
        assert label.joints.xy == pytest.approx(truth.joints.xy, abs=1e-9)
        assert (label.joints.is_visible == truth.joints.is_visible).all()
        assert (label.action, label.size, label.num_frames) == (truth.action, SIZE, 4)
        assert label.is_train == truth.is_train and label.notes == ()


def test_frames_are_those_rendered(folder: Path):
    source = Demo(folder, 3, 4, *SIZE, seed=7)
    assert source.clip_ids() == ["0001", "0002", "0003"] and source.name == "demo"
    clip, truth = source.read("0003"), demo_clip(7, 2, 4, SIZE)
    for frame in range(4):
        error = clip.frames[frame].astype(float) - truth.render(frame, SIZE)
        assert np.sqrt((error**2).mean()) < 4, "more than JPEG takes"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_files_are_deterministic_and_written_once(folder: Path, tmp_path: Path):
    write_demo(tmp_path / "again", 3, 4, SIZE, seed=7)
    assert contents(tmp_path / "again") == contents(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_demo(folder, 3, 4, SIZE, seed=7)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_several_processes_write_the_same_bytes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("m3.clips.demo._MIN_FRAMES_FOR_PROCESSES", 1)
    write_demo(tmp_path / "parallel", 3, 4, SIZE, seed=7)
    assert contents(tmp_path / "parallel") == contents(folder)


def test_interrupted_demo_is_continued(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("m3.clips.demo._label_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "cut", 3, 4, SIZE, seed=7)
    assert not list((tmp_path / "cut" / "labels").iterdir())
    monkeypatch.undo()
    (tmp_path / "cut" / "frames" / ".0002.tmp").mkdir()
    (tmp_path / "cut" / "frames" / ".0002.tmp" / "000001.jpg").write_bytes(b"half a pict")
    write_demo(tmp_path / "cut", 3, 4, SIZE, seed=7)
    assert contents(tmp_path / "cut") == contents(folder)


def test_other_settings_and_foreign_folders_are_refused(folder: Path, tmp_path: Path):
    before = contents(folder)
    with pytest.raises(FileExistsError, match="other settings"):
        write_demo(folder, 3, 4, SIZE, seed=8)
    assert contents(folder) == before
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        write_demo(tmp_path, 3, 4, SIZE, seed=7)
    with pytest.raises(ValueError, match="num_clips=0"):
        write_demo(tmp_path / "none", 0, 4, SIZE, seed=7)


def test_config_instantiates(tmp_path: Path):
    config = OmegaConf.load(Path(__file__).resolve().parents[2] / "conf" / "source" / "demo.yaml")
    config.update(root=str(tmp_path / "demo"), num_clips=2, num_frames=2, height=48, width=64)
    assert len(instantiate(config)) == 2
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["size"] == [48, 64]
