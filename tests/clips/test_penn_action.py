"""Penn Action's label files and folders, with their quirks."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from support.tiny_world import frame, label_fields, write_clip, write_label, write_world

from m3.clips import penn_action
from m3.clips.base import ClipError, DamagedFrame, evenly_spaced
from m3.clips.canvas import CropCanvas, Window
from m3.clips.penn_action import PennAction, read_label
from m3.core.joints import Joints
from m3.core.types import Rejection
from m3.pairs import Chain
from m3.preprocessing.prepare import ClipPreparer


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
        (holes("visibility", 2), "visibility must be 0 or 1, found 2.0"),
        (holes("visibility", np.nan), "visibility must be 0 or 1, found nan"),
        ({"x": np.full((6, 13), np.nan)}, r"no joint has a valid position, the first one is \[nan, 15.5\]"),
        ({"x": None}, "no field 'x'"),
        ({"x": np.zeros((5, 13))}, "x, y, visibility have 5, 6, 6 frames"),
        ({"y": np.zeros((6, 14))}, r"y has shape \(6, 14\)"),
        ({"dimensions": np.array([[48, 64, 6, 3]])}, "dimensions"),
        ({"dimensions": np.array([[0, 64]])}, "dimensions"),
        ({"nframes": np.array([[0]])}, "no frames"),
        ({"dimensions": np.array([[48, np.inf]])}, "dimensions"),
        ({"nframes": np.array([[np.nan]])}, r"nframes is \[\[nan\]\]"),
        ({"x": np.zeros((0, 13)), "y": np.zeros((0, 13)), "visibility": np.zeros((0, 13))}, "no frames"),
        ({"x": np.array([["a"] * 13] * 6)}, "not numbers"),
    ],
)
def test_bad_labels_are_rejected_with_file_and_reason(tmp_path: Path, changes: dict, reason: str):
    with pytest.raises(ClipError, match=f"0007.mat: .*{reason}"):
        read_label(write_label(tmp_path / "0007.mat", **changes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("is_visible", [True, False])
def test_a_joint_without_a_valid_position_becomes_invisible(tmp_path: Path, value: float, is_visible: bool):
    """The other joints of its frame are kept; a note is made only if it was labeled visible."""
    visibility = label_fields()["visibility"]
    visibility[2, 3] = is_visible
    label = read_label(write_label(tmp_path / "0007.mat", visibility=visibility, **holes("y", value)))
    sound = read_label(write_label(tmp_path / "0008.mat"))
    expected = sound.joints.is_visible.copy()
    expected[2, 3] = False
    assert np.array_equal(label.joints.is_visible, expected)
    assert np.array_equal(label.joints.xy[expected], sound.joints.xy[expected])
    corners = label.joints.xy.min(axis=(0, 1)), label.joints.xy.max(axis=(0, 1))
    assert np.array_equal(corners, (sound.joints.xy.min(axis=(0, 1)), sound.joints.xy.max(axis=(0, 1))))
    assert len(label.notes) == is_visible
    if is_visible:
        where = f"left_elbow of frame 2 at (17.5, {value - 0.5:g})"
        assert label.notes == (f"0007.mat: 1 visible joints have no place, the first is {where}: taken as invisible",)


def test_visible_joints_outside_the_frame_are_noted(tmp_path: Path):
    label = read_label(write_label(tmp_path / "0007.mat", **holes("x", -20)))
    where = "left_elbow of frame 2 at (-20.5, 19.5)"
    assert label.notes == (
        f"0007.mat: 1 visible joints lie outside the frame, the first is {where}: taken as invisible",
    )


@pytest.mark.parametrize(
    "changes, note",
    [
        ({"action": None}, "no field 'action'"),
        ({"action": np.zeros((1, 1))}, "action is not a word"),
        ({"train": None}, "no field 'train'"),
        ({"train": np.array([[0]])}, r"train is \[\[0\]\]"),
    ],
)
def test_action_and_split_are_optional(tmp_path: Path, changes: dict, note: str):
    label = read_label(write_label(tmp_path / "0007.mat", **changes))
    assert (label.action is None) == ("action" in changes) and (label.is_train is None) == ("train" in changes)
    assert len(label.notes) == 1 and re.match(f"0007.mat: {note}", label.notes[0])


def test_a_matlab_v73_file_is_named(tmp_path: Path):
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(600)
    (tmp_path / "0007.mat").write_bytes(header)
    with pytest.raises(ClipError, match=r"0007.mat: a MATLAB v7.3 \(HDF5\) file"):
        read_label(tmp_path / "0007.mat")


def test_an_unreadable_label_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_world(tmp_path, 2)

    def refuse(path: Path, max_bytes: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(penn_action, "read_file", refuse)
    source = PennAction(tmp_path)
    with pytest.raises(ClipError, match=r"^0001.mat: not readable \(Permission denied\)$"):
        source.read("0001")
    assert len(source.fingerprint()) == 64


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


def test_all_real_labels(penn_labels: Path):
    """Figures counted from the raw arrays, without this reader."""
    paths = sorted(penn_labels.glob("*.mat"))
    labels = [read_label(path) for path in paths]
    assert len(labels) == 1861 and sum(label.num_frames for label in labels) == 129_432
    assert {label.action for label in labels} >= {"golf_swing", "strum_guitar", "bench_press"}
    assert len({label.action for label in labels}) == 15 and len({label.size for label in labels}) == 61
    assert sum(label.is_train for label in labels) == 1002
    notes = [note for label in labels for note in label.notes]
    assert all("lie outside the frame" in note for note in notes)
    assert sum(int(re.search(r": (\d+) visible", note).group(1)) for note in notes) == 1007
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
    write_world(tmp_path, 6)
    (tmp_path / "frames/0001/000002.jpg").unlink()
    Image.new("L", (10_000, 2_000)).save(tmp_path / "frames/0002/000002.jpg")
    Image.fromarray(frame(0, (48, 60))).save(tmp_path / "frames/0003/000001.jpg")
    (tmp_path / "labels/0004.mat").unlink()
    for path in (tmp_path / "frames/0005").iterdir():
        path.unlink()
    write_clip(tmp_path, "0007", num_frames=1)
    write_label(tmp_path / "labels/0008.mat")
    write_label(tmp_path / "labels/0006.mat", size=(10_000, 10_000))
    source = PennAction(tmp_path)
    assert len(source) == 8
    with pytest.raises(ClipError, match="frames/0001: a pair needs 2 frames; .*expected 000002.jpg, found 000003.jpg"):
        source.read("0001")
    with pytest.raises(ClipError, match="0002/000002.jpg: frames of 10000 x 2000 px"):
        source.read("0002").frames[1]
    with pytest.raises(ClipError, match="0003/000001.jpg: 48 x 60 px .*need 48 x 64 as in the label"):
        source.read("0003").frames[0]
    with pytest.raises(ClipError, match="0004.mat: no such label"):
        source.read("0004")
    with pytest.raises(ClipError, match="frames/0005: no JPEGs"):
        source.read("0005")
    with pytest.raises(ClipError, match="0006.mat: frames of 10000 x 10000 px"):
        source.read("0006")
    with pytest.raises(ClipError, match="frames/0007: a pair needs 2 frames"):
        source.read("0007")
    with pytest.raises(ClipError, match="frames/0008: no JPEGs"):
        source.read("0008")


def test_frames_before_a_missing_one_are_used(tmp_path: Path):
    write_clip(tmp_path, "0001", num_frames=6)
    (tmp_path / "frames/0001/000004.jpg").unlink()
    clip = PennAction(tmp_path).read("0001")
    assert len(clip.frames) == len(clip.joints.xy) == 3
    assert clip.notes == ("frames/0001: expected 000004.jpg, found 000005.jpg: used the 3 frames before it",)


def damage(path: Path, kind: str) -> None:
    if kind == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "no picture":
        path.write_bytes(b"no picture at all")
    elif kind == "empty":
        path.write_bytes(b"")


class FollowingCanvas(CropCanvas):
    """Its window depends on all joints of the clip: those of unused frames must not move it."""

    def window(self, source_size: tuple[int, int], joints: Joints | None = None) -> Window:
        return Window(source_size, 0, 0, joints.xy[..., 0].max(), source_size[0], self.size)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("truncated", "image file is truncated"),
        ("no picture", "cannot identify image file '000005.jpg'"),
        ("empty", "the file is empty"),
    ],
)
def test_frames_before_a_damaged_one_are_used(tmp_path: Path, kind: str, reason: str):
    write_clip(tmp_path, "0001", num_frames=6)
    write_clip(tmp_path, "0002", num_frames=6)
    damage(tmp_path / "frames/0001/000005.jpg", kind)
    damage(tmp_path / "frames/0002/000002.jpg", kind)
    source = PennAction(tmp_path)
    with pytest.raises(DamagedFrame, match=f"^0001/000005.jpg: .*{reason}") as error:
        source.read("0001").frames[4]
    assert error.value.index == 4 and str(tmp_path) not in str(error.value)
    preparer = ClipPreparer(source, FollowingCanvas(32), Chain(0.99))
    prepared = preparer("0001")
    assert prepared.num_frames == 4 and prepared.staged.pairs[-1].successor == 3
    assert prepared.staged.notes == (f"{error.value}: used the 4 frames before it",)
    shown = dict(preparer.pictures(replace(prepared, pictures={})))
    assert list(shown) == [0, 1, 2, 3]
    assert all(np.array_equal(shown[index], picture) for index, picture in prepared.pictures.items())
    rejected = preparer("0002")
    assert isinstance(rejected, Rejection) and re.search(
        "^0002/000002.jpg: .*a pair needs 2 frames, 1 came before it", rejected.reason
    )


def test_a_wrong_folder_names_the_key(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="source.root=.*no folder frames/"):
        PennAction(tmp_path)


def test_the_fingerprint_covers_labels_and_pictures(tmp_path: Path):
    write_world(tmp_path, 2)
    before = PennAction(tmp_path).fingerprint()
    assert PennAction(tmp_path).fingerprint() == before
    write_label(tmp_path / "labels/0001.mat", num_frames=6, action="bowl")
    changed_label = PennAction(tmp_path).fingerprint()
    (tmp_path / "frames/0002/000001.jpg").write_bytes(b"shorter")
    assert len({before, changed_label, PennAction(tmp_path).fingerprint()}) == 3


def test_fewer_clips_are_evenly_spaced():
    ids = [f"{n:04d}" for n in range(10)]
    assert evenly_spaced(ids, 5) == ["0000", "0002", "0004", "0006", "0008"]
    assert evenly_spaced(ids, None) == evenly_spaced(ids, 99) == ids
    for count in range(1, 11):
        assert len(set(evenly_spaced(ids, count))) == count
    with pytest.raises(ValueError, match="source.max_clips=0"):
        evenly_spaced(ids, 0)


def test_folders_as_people_have_them(tmp_path: Path) -> None:
    """Names without zeros, copies by operating systems, metadata files."""
    for number, num_frames in ((1, 12), (2, 6)):
        write_clip(tmp_path, f"{number:04d}", num_frames)
    wanted = PennAction(tmp_path).read("0001")
    pictures = [np.asarray(wanted.frames[t]) for t in range(12)]
    for path in sorted((tmp_path / "frames/0001").iterdir()):
        path.rename(path.with_name(f"{int(path.stem)}.JPG"))
    (tmp_path / "frames/0001").rename(tmp_path / "frames/1")
    for name in ("1 (1).jpg", "2 copy.jpg", "Thumbs.db", ".DS_Store", "._3.jpg", "desktop.ini"):
        (tmp_path / "frames/1" / name).write_bytes(b"no picture")
    for name in ("labels/._0001.mat", "labels/.DS_Store", "frames/.DS_Store", "frames/list.txt"):
        (tmp_path / name).write_bytes(b"no label")
    source = PennAction(tmp_path)
    clip = source.read("0001")
    assert source.clip_ids() == ["0001", "0002"] and len(clip.frames) == 12
    assert all((clip.frames[t] == pictures[t]).all() for t in range(12))
    assert clip.notes[-1:] == ("frames/1: 1 (1).jpg is no number (2 such JPEGs): left out",)
