"""Media and annotations made to do harm: other formats by a video's name, archives that expand, tables without end."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.io
from PIL import Image
from support.tiny_videos import write_joints, write_video
from support.tiny_world import frame

from m3.clips.base import ClipError, DamagedFrame
from m3.clips.frame_folders import FrameFolders
from m3.clips.penn_action import read_label
from m3.clips.picture_files import PictureFiles, picture_size
from m3.clips.sidecar import read_sidecar
from m3.clips.video_files import VideoFiles
from m3.core.joints import JOINT_NAMES

# ── pictures and videos ────────────────────────────────────────────────────────────────────────────────────────────


def eps(path: Path, marker: Path) -> None:
    """A page whose program writes a file when Ghostscript runs it."""
    path.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        f"({marker}) (w) file dup (harmed) writestring closefile\nshowpage\n%%EOF\n"
    )


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp"])
@pytest.mark.parametrize("kind", ["EPS", "TIFF", "GIF", "BMP", "PPM", "ICO", "PCX", "TGA", "SGI", "PDF"])
def test_pictures_are_jpeg_png_or_webp(tmp_path: Path, suffix: str, kind: str) -> None:
    path, marker = tmp_path / f"1{suffix}", tmp_path / "harmed"
    if kind == "EPS":
        eps(path, marker)
    else:
        Image.fromarray(frame(0)).save(path, format=kind)
    with pytest.raises(ClipError, match="not a readable picture"):
        picture_size(path, is_upright=True)
    with pytest.raises(DamagedFrame, match="not a readable picture"):
        PictureFiles([path], frame(0).shape[:2], "its header")[0]
    assert not marker.exists()


def test_the_three_formats_are_read_whatever_the_name_says(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        Image.fromarray(frame(0)).save(tmp_path / "1.jpg", format=kind)
        assert picture_size(tmp_path / "1.jpg", is_upright=True) == frame(0).shape[:2]


@pytest.mark.parametrize(("name", "content"), [
    ("list.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
    ("list.mkv", "ffconcat version 1.0\nfile secret.mp4\n"),
    ("list.avi", "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
    ("list.webm", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>x.mp4</BaseURL></MPD>'),
    ("list.mov", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
    ("list.m4v", "secret.mp4"),
])  # fmt: skip
def test_videos_do_not_list_other_files(tmp_path: Path, name: str, content: str) -> None:
    write_video(tmp_path / "secret.mp4", num_frames=4)
    folder = tmp_path / "data"
    folder.mkdir()
    os.rename(tmp_path / "secret.mp4", folder / "secret.mp4")
    (folder / name).write_text(content)
    source = VideoFiles(folder / name)
    with pytest.raises(ClipError, match=f"^{name}: not a readable video"):
        source.read(source.clip_ids()[0])


def test_paths_of_videos_are_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "plain.mp4", num_frames=4)
    opened: list[str] = []
    real_open = av.open
    monkeypatch.setattr(av, "open", lambda path, *rest: opened.append(path) or real_open(path, *rest))
    monkeypatch.chdir(tmp_path)
    for name in ("12:30:05.mp4", "http:/127.0.0.1:9/x.mp4", "concat:a|b.mp4", "pipe:0.mp4", "a%03d.mp4", "data:x.mp4"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "plain.mp4", name)
        source = VideoFiles(name)
        assert len(source.read(source.clip_ids()[0]).frames) == 4
        assert opened and all(path == f"file:{tmp_path / name}" for path in opened)
        opened.clear()


@pytest.mark.parametrize("name", ["a.mp4", "1.jpg", "a.csv", "a.npz", "a.mat"])
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path, name: str) -> None:
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        path = tmp_path / name
        make(path)
        with pytest.raises(ClipError, match="not a regular file"):
            if name == "a.mp4":
                VideoFiles(f"{tmp_path}/*.mp4").read("a")
            elif name == "1.jpg":
                picture_size(path, is_upright=True)
            elif name == "a.mat":
                read_label(path)
            else:
                read_sidecar(path, 4, (48, 64))
        path.unlink()


def test_a_folder_with_a_pipe_among_its_pictures_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    os.mkfifo(tmp_path / "walk/1.jpg")
    os.mkfifo(tmp_path / "walk.csv")
    source = FrameFolders(tmp_path)
    assert len(source.fingerprint()) == 64
    with pytest.raises(ClipError, match="not a regular file"):
        source.read("walk")


def test_time_stamps_are_not_believed(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", 3, times_ms=(0, 40, 2**40))
    for fps in (None, 25.0):
        source = VideoFiles(tmp_path / "a.mkv", fps=fps)
        if fps is None:
            assert len(source.read("a").frames) == 3
            continue
        with pytest.raises(ClipError, match=r"^a.mkv: 1,649,267,442 s long by its time stamps, more than 4,194,304 "):
            source.read("a")


# ── annotations ────────────────────────────────────────────────────────────────────────────────────────────────────


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(ClipError) as raised:
            work()
        assert "\n" not in str(raised.value)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def header_of(shape: str, dtype: str = "'<f8'") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def npz_of(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


ZEROS = bytes(2**26)


@pytest.mark.parametrize("members", [
    {"x": header_of("(40000000, 13)") + ZEROS, "y": header_of("(40000000, 13)")},
    {"x": header_of("(10000000000000, 13)")}, {"x": header_of("(1, 13)", "'<U1000000000'")},
    {"x": header_of("(4, 13)"), "action": header_of("(1,)", "'<U500000000'")},
    {"x": header_of("(4, 13)", "'|O'")}, {"big": header_of("(4,)") + ZEROS}, {"x": ZEROS}, {"../x": header_of("(1,)")},
    {"x": header_of("(4, 13)") + bytes(416), "y": header_of("(4, 13)") + bytes(416), "frame": header_of("(30000000,)")},
])  # fmt: skip
def test_archives_of_arrays_do_not_expand(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = npz_of(tmp_path / "a.npz", **members)
    assert path.stat().st_size < 2**18
    assert peak_bytes(lambda: read_sidecar(path, 4, (48, 64))) < 2**25


def compressed(*arrays: bytes) -> bytes:
    """A MATLAB file, version 5, of compressed elements."""
    content = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    for array in arrays:
        packed = zlib.compress(array)
        content += struct.pack("<II", 15, len(packed)) + packed
    return content


def array_of(name: str, shape: tuple[int, int], data: bytes, kind: int = 6, element: int = 9) -> bytes:
    """An array element of MATLAB: flags, dimensions, name, data; kind 6 is double, 1 a cell."""
    padded = name.encode().ljust(-(-len(name) // 8) * 8, b"\0")
    body = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<IIii", 5, 8, *shape)
    body += struct.pack("<II", 1, len(name)) + padded + struct.pack("<II", element, len(data)) + data
    return struct.pack("<II", 14, len(body)) + body


@pytest.mark.parametrize("content", [
    compressed(array_of("x", (2**24, 13), bytes(2**27 + 8))), compressed(*[array_of("z", (2**20, 13), ZEROS)] * 4),
    compressed(array_of("x", (2**30, 2**30), bytes(64))), compressed(array_of("x", (2**27, 13), bytes(64))),
    compressed(array_of("x", (2**28, 2), b"", kind=1)), compressed(array_of("x", (2**28, 2), b"", kind=2)),
    compressed(array_of("x", (-4, 13), bytes(64))), compressed(bytes(2**28 + 8)),
])  # fmt: skip
def test_labels_do_not_expand(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0001.mat"
    path.write_bytes(content)
    assert len(content) < 2**20
    assert peak_bytes(lambda: read_label(path)) < 2**29


def test_large_labels_of_real_clips_are_read(tmp_path: Path) -> None:
    """Two hours at 30 frames per second, compressed or not."""
    num_frames = 216_000
    fields = {
        "x": np.full((num_frames, 13), 20.5), "y": np.full((num_frames, 13), 20.5), "nframes": num_frames,
        "visibility": np.ones((num_frames, 13)), "dimensions": np.array([48, 64, num_frames]),
        "action": "walk", "train": 1,
    }  # fmt: skip
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, fields, do_compression=True)
    (tmp_path / "a.mat").write_bytes(buffer.getvalue())
    label = read_label(tmp_path / "a.mat")
    assert label.num_frames == num_frames and label.joints.is_visible.all() and label.action == "walk"


def test_tables_of_a_million_columns_end_at_once(tmp_path: Path) -> None:
    for header in ("frame," * 1_000_000 + "frame", ",".join(f"c{n}" for n in range(300_000)), "head_x," * 1_000_000):
        (tmp_path / "a.csv").write_text(f"{header}\n{header}\n")
        with pytest.raises(ClipError, match="a.csv: (column|unknown column)"):
            read_sidecar(tmp_path / "a.csv", 4, (48, 64))


@pytest.mark.parametrize("cell", ["1" * 100_000, "9" * 5_000, "1e999", "0x1p3", "\x1b[31m", "[/red]"])
def test_cells_without_end_do_not_expand(tmp_path: Path, cell: str) -> None:
    path = write_joints(tmp_path / "a.csv", 400)
    lines = path.read_text().splitlines()
    first, *rest = lines[5].split(",")
    lines[5] = ",".join([cell, *rest])
    path.write_text("\n".join(lines))
    tracemalloc.start()
    try:
        read_sidecar(path, 400, (480, 640))
    except ClipError as error:
        assert len(str(error)) < 300
    finally:
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


def test_a_label_of_an_action_is_short(tmp_path: Path) -> None:
    columns = ["action", *(f"{joint}_{axis}" for joint in JOINT_NAMES for axis in "xy")]
    row = ["w" * 201, *["9"] * 26]
    (tmp_path / "a.csv").write_text(f"{','.join(columns)}\n{','.join(row)}\n")
    with pytest.raises(ClipError, match="a.csv: action is .*, need one word"):
        read_sidecar(tmp_path / "a.csv", 1, (48, 64))
