"""Penn Action's label files and folders, with their quirks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from tiny_world import frame, label_fields, write_clip, write_label, write_world

from m3.clips.base import ClipError, spread
from m3.clips.penn_action import PennAction, read_label

REAL = Path(__file__).parent.parent.parent / "shared" / "penn_action" / "labels"
needs_real_labels = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real label files in {REAL}")


def test_a_label(tmp_path: Path):
    label = read_label(write_label(tmp_path / "0001.mat"))
    fields = label_fields()
    assert (label.size, label.action, label.is_train, label.num_frames) == ((48, 64), "golf_swing", True, 6)
    assert np.allclose(label.joints.xy[..., 0], fields["x"] - 0.5)
    assert np.allclose(label.joints.xy[..., 1], fields["y"] - 0.5)
    assert label.joints.is_visible.all() and label.notes == ()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float64])
def test_coordinates_come_in_three_types(tmp_path: Path, kind: type):
    """Where all labels are whole numbers MATLAB stores bytes."""
    x, y = np.full((6, 13), 200 if kind != np.uint8 else 60, kind), np.ones((6, 13), kind)
    x[0, 0] = 0
    visibility = np.ones((6, 13), np.uint8)
    visibility[0, 0] = 0
    label = read_label(write_label(tmp_path / "1.mat", x=x, y=y, visibility=visibility, size=(270, 480)))
    assert label.joints.xy[0, 0].tolist() == [-0.5, 0.5] and label.joints.xy[1, 0].tolist() == [x[1, 0] - 0.5, 0.5]


def test_two_dimensions_are_enough(tmp_path: Path):
    path = write_label(tmp_path / "1.mat", dimensions=np.array([[48, 64]], np.uint16))
    assert read_label(path).size == (48, 64)


def test_visible_joints_outside_the_frame_become_invisible(tmp_path: Path):
    """Pixels 1 … 64 of a row cover 0.5 … 64.5 in the label's coordinates."""
    x = label_fields()["x"]
    x[0, :5] = [0.4, 0.5, 64.5, 64.6, -20]
    label = read_label(write_label(tmp_path / "1.mat", x=x))
    assert label.joints.is_visible[0].tolist() == [False, True, True, False, False] + [True] * 8
    assert label.joints.is_visible[1:].all()
    assert label.joints.xy[0, 4, 0] == -20.5  # where it is stays known: the pose's extent counts it


def test_nframes_and_joint_rows_may_differ(tmp_path: Path):
    label = read_label(write_label(tmp_path / "1.mat", nframes=np.array([[4]], np.uint8)))
    assert label.num_frames == 4 and label.joints.xy.shape == (4, 13, 2)
    assert label.notes == ("nframes says 4, joints of 6 frames: used the first 4",)


def holes(name: str, value: float) -> dict:
    fields = label_fields()
    fields[name] = fields[name].astype(np.float64)
    fields[name][2, 3] = value
    return {name: fields[name]}


@pytest.mark.parametrize(
    "changes, reason",
    [
        (holes("x", np.nan), r"x holds nan at \[2, 3\]"),
        (holes("y", np.inf), r"y holds inf at \[2, 3\]"),
        (holes("visibility", 2), "visibility must be 0 or 1"),
        ({"x": None}, "no field 'x'"),
        ({"train": None}, "no field 'train'"),
        ({"train": np.array([[0]])}, "train is"),
        ({"x": np.zeros((5, 13))}, "x, y, visibility have 5, 6, 6 frames"),
        ({"y": np.zeros((6, 14))}, r"y has shape \(6, 14\)"),
        ({"dimensions": np.array([[48, 64, 6, 3]])}, "dimensions"),
        ({"dimensions": np.array([[0, 64]])}, "dimensions"),
        ({"nframes": np.array([[0]])}, "no frames"),
        ({"action": np.zeros((1, 1))}, "action is not a word"),
        ({"x": np.array([["a"] * 13] * 6)}, "not numbers"),
    ],
)
def test_bad_labels_are_rejected_with_file_and_reason(tmp_path: Path, changes: dict, reason: str):
    with pytest.raises(ClipError, match=f"0007.mat: .*{reason}"):
        read_label(write_label(tmp_path / "0007.mat", **changes))


@pytest.mark.parametrize("content", [b"", b"not a mat file at all, but some text of some length " * 10])
def test_damaged_files_are_rejected(tmp_path: Path, content: bytes):
    (tmp_path / "0007.mat").write_bytes(content)
    with pytest.raises(ClipError, match="0007.mat: not a readable"):
        read_label(tmp_path / "0007.mat")


def test_a_truncated_file_is_rejected(tmp_path: Path):
    path = write_label(tmp_path / "0007.mat")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ClipError, match="0007.mat"):
        read_label(path)


@needs_real_labels
def test_all_real_labels():
    """Figures counted from the raw arrays, without this reader."""
    paths = sorted(REAL.glob("*.mat"))
    labels = [read_label(path) for path in paths]
    assert len(labels) == 1861 and sum(label.num_frames for label in labels) == 129_432
    assert {label.action for label in labels} >= {"golf_swing", "strum_guitar", "bench_press"}
    assert len({label.action for label in labels}) == 15 and len({label.size for label in labels}) == 61
    assert sum(label.is_train for label in labels) == 1002 and not any(label.notes for label in labels)
    num_raw_visible = num_visible = num_at_one = 0
    for path, label in zip(paths, labels):
        raw = scipy.io.loadmat(path)
        num_raw_visible += int(raw["visibility"].sum())
        num_visible += int(label.joints.is_visible.sum())
        num_at_one += int(((raw["x"] == 1) & (raw["y"] == 1)).sum())
        assert not (label.joints.is_visible & ~raw["visibility"].astype(bool)).any()
        assert np.array_equal(label.joints.xy[..., 0] + 0.5, raw["x"])
    num_joints = 129_432 * 13
    assert abs(1 - num_raw_visible / num_joints - 0.2212) < 1e-3
    assert num_raw_visible - num_visible == 1007  # visible, but outside the frame
    assert num_at_one == 8458


def test_a_folder(tmp_path: Path):
    write_world(tmp_path, 3)
    source = PennAction(tmp_path)
    assert source.clip_ids() == ["0001", "0002", "0003"] and len(source) == 3
    clip = source.read("0002")
    assert (clip.id, clip.action, clip.is_train, len(clip.frames), clip.notes) == ("0002", "bowl", True, 7, ())
    assert clip.joints.xy.shape == (7, 13, 2)
    assert np.abs(clip.frames[3].astype(int) - frame(3, seed=2)).mean() < 4  # JPEG
    assert source.read("0003").is_train is False


@pytest.mark.parametrize("num_pictures", [4, 9])
def test_jpegs_and_nframes_may_differ(tmp_path: Path, num_pictures: int):
    write_clip(tmp_path, "0001", num_frames=6, num_pictures=num_pictures)
    clip = PennAction(tmp_path).read("0001")
    common = min(6, num_pictures)
    assert len(clip.frames) == len(clip.joints.xy) == common
    assert clip.notes == (f"labels of 6 frames, {num_pictures} JPEGs: used the first {common}",)


def test_bad_clips_are_rejected(tmp_path: Path):
    write_world(tmp_path, 5)
    (tmp_path / "frames/0001/000003.jpg").unlink()
    (tmp_path / "frames/0002/000002.jpg").write_bytes(b"no picture")
    Image.fromarray(frame(0, (48, 60))).save(tmp_path / "frames/0003/000001.jpg")
    (tmp_path / "labels/0004.mat").unlink()
    for path in (tmp_path / "frames/0005").iterdir():
        path.unlink()
    source = PennAction(tmp_path)
    assert len(source) == 5
    with pytest.raises(ClipError, match="frames/0001: expected 000003.jpg, found 000004.jpg"):
        source.read("0001")
    with pytest.raises(ClipError, match="0002/000002.jpg: not a readable picture"):
        source.read("0002").frames[1]
    with pytest.raises(ClipError, match="0003/000001.jpg: 48 x 60 px .*label says 48 x 64"):
        source.read("0003").frames[0]
    with pytest.raises(ClipError, match="0004.mat: no such label"):
        source.read("0004")
    with pytest.raises(ClipError, match="frames/0005: no JPEGs"):
        source.read("0005")


def test_a_wrong_folder_names_the_key(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="source.root=.*no folder frames/"):
        PennAction(tmp_path)


def test_the_fingerprint_knows_labels_and_pictures(tmp_path: Path):
    write_world(tmp_path, 2)
    before = PennAction(tmp_path).fingerprint()
    assert PennAction(tmp_path).fingerprint() == before
    write_label(tmp_path / "labels/0001.mat", num_frames=6, action="bowl")
    changed_label = PennAction(tmp_path).fingerprint()
    (tmp_path / "frames/0002/000001.jpg").write_bytes(b"shorter")
    assert len({before, changed_label, PennAction(tmp_path).fingerprint()}) == 3


def test_fewer_clips_are_spread_over_all():
    ids = [f"{n:04d}" for n in range(10)]
    assert spread(ids, 5) == ["0000", "0002", "0004", "0006", "0008"]
    assert spread(ids, None) == spread(ids, 99) == ids
    for count in range(1, 11):
        assert len(set(spread(ids, count))) == count
    with pytest.raises(ValueError, match="source.max_clips=0"):
        spread(ids, 0)
