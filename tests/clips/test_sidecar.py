"""Joints beside a video or a folder of pictures: three file formats with the same content."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from support.tiny_world import label_fields, write_label

from m3.clips.base import ClipError
from m3.clips.joint_paths import JointsBeside
from m3.clips.sidecar import Sidecar, is_own, read_sidecar
from m3.core.joints import JOINT_NAMES, pose_extent

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
    assert JointsBeside({"a": video}).own("a") is None
    write_label(tmp_path / "a.b.mat")
    assert JointsBeside({"a": video}).own("a") == tmp_path / "a.b.mat"
    (tmp_path / "a.b.csv").touch()
    with pytest.raises(ClipError, match="^a.b.csv and a.b.mat: two files with joints of one clip"):
        JointsBeside({"a": video}).own("a")


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


# ── looks right, is wrong ──────────────────────────────────────────────────────────────────────────────────────────


def person(num_frames: int = 10) -> dict[str, np.ndarray]:
    """A person in 64 x 48 px who moves 1 px per frame to the right."""
    x = np.array([30, 22, 38, 18, 42, 17, 43, 25, 35, 24, 36, 24, 36.0]) + np.arange(num_frames)[:, None]
    y = np.tile([5, 11, 11, 18, 18, 24, 24, 26, 26, 34, 34, 43, 43.0], (num_frames, 1))
    return {"x": x, "y": y}


@pytest.mark.parametrize(("change", "reason"), [
    (lambda a: {"x": a["x"] / 64, "y": a["y"] / 48}, "perhaps shares of width and height; m3's own are pixels"),
    (lambda a: {"x": a["x"] * 3, "y": a["y"] * 3}, "lie outside the picture, .*: of another resolution"),
    (lambda a: {"x": a["y"] + 300, "y": a["x"]}, "lie outside the picture"),
    (lambda a: {"x": a["x"], "y": a["y"], "visibility": np.full((10, 13), 0.8)}, "found 0.8; write 1 where"),
    (lambda a: {"x": a["x"][::2], "y": a["y"][::2]}, "5 rows for 10 frames: of another frame rate"),
    (lambda a: {"x": a["x"][:, [0, 2, 1, *range(3, 13)]], "y": a["y"]}, "shoulders and hips are crossed in 10 frames"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_the_remedy(tmp_path: Path, change, reason: str):
    for write, name in ((write_npz, "a.npz"), (lambda path, **arrays: write_csv(path, arrays), "a.csv")):
        with pytest.raises(ClipError, match=f"^{name}: .*{reason}"):
            read_sidecar(write(tmp_path / name, **change(person())), 10, SIZE)


def test_exchanged_axes_are_refused_where_they_do_not_fit(tmp_path: Path):
    """A frame that is higher than wide: y of the legs is more than its width."""
    arrays = person()
    path = write_csv(tmp_path / "a.csv", {"x": arrays["y"] * 3, "y": arrays["x"]})
    with pytest.raises(ClipError, match="x and y exchanged.*exchange the columns"):
        read_sidecar(path, 10, (140, 50))


@pytest.mark.parametrize("missing", [(0.0, 0.0), (-1.0, -1.0), (np.nan, np.nan)])
def test_missing_joints_are_invisible_and_do_not_widen_the_box(tmp_path: Path, missing: tuple[float, float]):
    arrays = person()
    arrays["x"][:, 6], arrays["y"][:, 6] = missing
    found = read_sidecar(write_csv(tmp_path / "a.csv", arrays), 10, SIZE)
    assert found.joints.is_visible.sum(1).tolist() == [12] * 10 and not found.joints.is_visible[:, 6].any()
    assert pose_extent(found.joints) == 43 - 5  # y; x from 0 or -1 to the elbow would be 51 and more
    assert found.notes == (
        () if np.isnan(missing[0]) else ("a.csv: 10 joints at (0, 0) or the like: taken as missing",)
    )


def test_frames_counted_from_1_are_understood(tmp_path: Path):
    found = read_sidecar(write_csv(tmp_path / "a.csv", person(), frame=list(range(1, 11))), 10, SIZE)
    assert found.joints.xy[0, 0].tolist() == [30, 5] and found.joints.is_visible.all()
    assert found.notes == ("a.csv: frames 1 … 10 are taken as counted from 1",)


@pytest.mark.parametrize(("separator", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (";", "utf-8")])
def test_separators_decimal_commas_and_byte_order_marks(tmp_path: Path, separator: str, encoding: str):
    arrays = {axis: values + 0.25 for axis, values in person().items()}
    text = write_csv(tmp_path / "a.csv", arrays).read_text().replace(",", separator).replace(".", ",")
    (tmp_path / "a.csv").write_text(text, encoding=encoding)
    assert is_own(tmp_path / "a.csv")
    assert read_sidecar(tmp_path / "a.csv", 10, SIZE).joints.xy[0, 0].tolist() == [30.25, 5.25]


def test_decimal_commas_between_commas_are_refused_with_the_remedy(tmp_path: Path):
    lines = write_csv(tmp_path / "a.csv", person()).read_text().replace(".0", ",0")
    (tmp_path / "a.csv").write_text(lines)
    with pytest.raises(
        ClipError, match="does not have 26 cells like the header; with decimal commas, separate cells by"
    ):
        read_sidecar(tmp_path / "a.csv", 10, SIZE)


def test_two_people_in_a_frame_are_refused(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", person(), frame=[0, 0, *range(1, 9)])
    with pytest.raises(ClipError, match="frame 0 has several rows; a file has the joints of one person"):
        read_sidecar(path, 10, SIZE)
