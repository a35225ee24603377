"""Joints beside a video or a folder of pictures: three file formats with the same content."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from support.tiny_world import label_fields, write_label

from m3.clips.base import ClipError
from m3.clips.sidecar import Sidecar, find_sidecar, read_sidecar
from m3.core.joints import JOINT_NAMES

SIZE = (48, 64)


def columns(num_frames: int = 6) -> dict[str, np.ndarray]:
    """The label of `write_label` in continuous pixels."""
    fields = label_fields(num_frames)
    return {"x": fields["x"] - 0.5, "y": fields["y"] - 0.5, "visibility": fields["visibility"].astype(float)}


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def write_csv(path: Path, arrays: dict[str, np.ndarray], **more: list) -> Path:
    """NaN becomes an empty cell."""
    header = [f"{joint}_{axis}" for joint in JOINT_NAMES for axis in arrays]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, *more])
        for row in range(len(arrays["x"])):
            cells = [arrays[axis][row, joint] for joint in range(13) for axis in arrays]
            writer.writerow(["" if np.isnan(cell) else cell for cell in cells] + [more[name][row] for name in more])
    return path


def assert_same(a: Sidecar, b: Sidecar) -> None:
    assert np.array_equal(a.joints.xy, b.joints.xy) and np.array_equal(a.joints.is_visible, b.joints.is_visible)


def test_three_formats_of_one_annotation(tmp_path: Path):
    visibility = label_fields()["visibility"]
    visibility[1, 4] = 0
    label = read_sidecar(write_label(tmp_path / "a.mat", visibility=visibility), 6, SIZE)
    named = {**columns(), "visibility": visibility.astype(float)}
    arrays = read_sidecar(write_npz(tmp_path / "a.npz", **named, action=np.array("squat")), 6, SIZE)
    table = read_sidecar(write_csv(tmp_path / "a.csv", named, action=["squat"] * 6), 6, SIZE)
    assert (label.action, label.is_train) == ("golf_swing", True)
    assert (arrays.action, arrays.is_train, table.action, table.is_train) == ("squat", None, "squat", None)
    assert label.notes == arrays.notes == table.notes == () and not label.joints.is_visible[1, 4]
    assert_same(label, arrays)
    assert_same(label, table)
    assert label.joints.xy[0, 0].tolist() == [3.5, 15.5]  # 1-based 4, 16


def test_a_joint_with_a_position_is_visible_without_visibilities(tmp_path: Path):
    arrays = columns()
    del arrays["visibility"]
    arrays["x"][2, 5] = np.nan
    for path in (write_npz(tmp_path / "a.npz", **arrays), write_csv(tmp_path / "a.csv", arrays)):
        found = read_sidecar(path, 6, SIZE)
        assert found.joints.is_visible.sum() == 6 * 13 - 1 and not found.joints.is_visible[2, 5] and found.notes == ()
        assert np.isfinite(found.joints.xy).all()


def test_some_frames_annotated(tmp_path: Path):
    """Rows in any order; the others have all joints invisible, where they do not enlarge the box around a pose."""
    arrays = {name: values[[3, 0]] for name, values in columns().items()}
    for path in (
        write_npz(tmp_path / "a.npz", **arrays, frame=np.array([3, 0])),
        write_csv(tmp_path / "a.csv", arrays, frame=[3, 0]),
    ):
        found = read_sidecar(path, 6, SIZE)
        assert found.joints.is_visible.all(axis=1).tolist() == [True, False, False, True, False, False]
        assert np.array_equal(found.joints.xy[[0, 3], :, 0], columns()["x"][[0, 3]])
        assert np.array_equal(found.joints.xy.max(axis=(0, 1)), found.joints.xy[[0, 3]].max(axis=(0, 1)))
        assert found.notes == (f"{path.name}: joints of 2 of 6 frames",)
        assert read_sidecar(path, 3, SIZE).notes[0].endswith("joints of 1 of 3 frames, 1 rows of frames not there")


@pytest.mark.parametrize("num_rows", [4, 9])
def test_rows_and_frames_may_differ(tmp_path: Path, num_rows: int):
    for path in (
        write_npz(tmp_path / "a.npz", **columns(num_rows)),
        write_csv(tmp_path / "a.csv", columns(num_rows)),
        write_label(tmp_path / "a.mat", num_frames=num_rows),
    ):
        found, common = read_sidecar(path, 6, SIZE), min(num_rows, 6)
        assert len(found.joints.xy) == common
        assert found.notes[0] == f"{path.name}: joints of {num_rows} frames for 6: used the first {common}"


def test_no_sidecar_and_two(tmp_path: Path):
    video = tmp_path / "a.b.mp4"
    video.touch()
    assert find_sidecar(video) is None
    write_label(tmp_path / "a.b.mat")
    assert find_sidecar(video) == tmp_path / "a.b.mat"
    (tmp_path / "a.b.csv").touch()
    with pytest.raises(ClipError, match="^a.b.mat and a.b.csv: two files with joints of one clip"):
        find_sidecar(video)


def test_a_label_of_another_size(tmp_path: Path):
    path = write_label(tmp_path / "a.mat", size=(64, 48))
    with pytest.raises(ClipError, match=r"^a.mat: frames of 64 x 48 px \(height x width\), the pictures .* 48 x 64$"):
        read_sidecar(path, 6, SIZE)


def changed(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: values for name, values in {**columns(), **changes}.items() if values is not None}


@pytest.mark.parametrize(
    "arrays, reason",
    [
        (changed(x=None), "no array 'x'"),
        (changed(x=np.zeros((6, 14))), r"x has shape \(6, 14\), need \(frames, 13\)"),
        (changed(y=np.zeros((5, 13))), "x of 6 frames, y of 5"),
        (changed(x=np.zeros((0, 13)), y=np.zeros((0, 13))), "x of 0 frames, y of 0"),
        (changed(visibility=np.full((6, 13), 2.0)), "visibility must be 0 or 1, found 2"),
        (changed(visibility=np.ones((5, 13))), "x of 6 frames, visibility of 5"),
        (changed(x=np.full((6, 13), "a")), "x holds no numbers"),
        (changed(x=np.full((6, 13), np.nan)), "no joint has a valid position"),
        (changed(z=np.zeros(3)), "unknown array 'z'"),
        (changed(frame=np.arange(5)), r"frame has shape \(5,\), need \(6,\)"),
        (changed(frame=np.array([0, 1, 2, 2, 3, 4])), "frame 2 has several rows"),
        (changed(frame=np.array([0, 1, 2, -3, 3, 4])), "frame -3, need whole numbers from 0"),
        (changed(frame=np.arange(6) + 0.5), "frame 0.5, need whole numbers from 0"),
        (changed(frame=np.arange(6) + 90), r"frames 90 … 95 of a clip of 6"),
        (changed(action=np.array(["run", "walk"])), r"action is \['run', 'walk'\], need one word"),
        (changed(action=np.array(7)), r"action is \['7'\], need one word"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str):
    with pytest.raises(ClipError, match=f"^a.npz: {reason}"):
        read_sidecar(write_npz(tmp_path / "a.npz", **arrays), 6, SIZE)


def test_pickles_are_not_opened(tmp_path: Path):
    write_npz(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object), y=np.zeros((6, 13)))
    with pytest.raises(ClipError, match="^a.npz: not a readable .npz file .*allow_pickle=False"):
        read_sidecar(tmp_path / "a.npz", 6, SIZE)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "not a readable .csv file"),
        ("head_x,haed_y\n1,2\n", "unknown column 'haed_y'"),
        ("head_x,head_x\n1,2\n", "column 'head_x' occurs twice"),
        ("head_x,head_y\n1,2\n3\n", "row 3 does not have 2 cells like the header"),
        ("head_x,head_y\n1,2\n", "no column 'left_shoulder_x'"),
        (",".join(f"{joint}_{axis}" for joint in JOINT_NAMES for axis in "xy") + "\n", "no row"),
        ('head_x\n"1', "not a readable .csv file"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, reason: str):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ClipError, match=f"^a.csv: .*{reason}"):
        read_sidecar(tmp_path / "a.csv", 6, SIZE)


def test_words_among_the_numbers_of_a_table(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", columns())
    path.write_text(path.read_text().replace("15.5", "here", 1))
    with pytest.raises(ClipError, match="^a.csv: y holds no numbers .*here"):
        read_sidecar(path, 6, SIZE)


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".csv"])
def test_any_damage_raises_clip_errors_only(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    {".mat": write_label, ".npz": lambda p: write_npz(p, **columns()), ".csv": lambda p: write_csv(p, columns())}[
        suffix
    ](path)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    num_errors = 0
    for _ in range(60):
        damaged = bytearray(data)
        start = int(rng.integers(len(data)))
        damaged[start : start + 6] = rng.bytes(6)
        path.write_bytes(damaged[: int(rng.integers(len(data) // 2, 2 * len(data)))])
        try:
            read_sidecar(path, 6, SIZE)
        except ClipError as error:
            num_errors += 1
            assert str(error).startswith(f"a{suffix}: ") and str(tmp_path) not in str(error)
    assert num_errors
