"""Video files as clips: the right frame in every order of access, and damaged or misleading files."""

from __future__ import annotations

import os
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.tiny_videos import number_in, number_picture, write_joints, write_video
from support.tiny_world import write_label

from m3.clips.base import ClipError, DamagedFrame
from m3.clips.canvas import CropCanvas
from m3.clips.video_files import VideoFiles
from m3.clips.video_frames import FrameIndex, Orientation, orientation_of
from m3.core.types import Clip, Rejection
from m3.pairs import Chain
from m3.preprocessing.prepare import ClipPreparer


def only_clip(path: Path, **options: float) -> Clip:
    source = VideoFiles(path, **options)
    (clip_id,) = source.clip_ids()
    return source.read(clip_id)


def numbers(clip: Clip) -> list[int]:
    return [number_in(clip.frames[index]) for index in range(len(clip.frames))]


def test_the_rate_is_that_of_the_time_stamps_or_of_the_resampling(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 12, fps=30)
    assert only_clip(tmp_path).fps == 30.0 and only_clip(tmp_path, fps=7.5).fps == 7.5
    assert type(only_clip(tmp_path, fps=10).fps) is float
    write_video(tmp_path / "a.mp4", 6, times_ms=[0, 10, 30, 130, 135, 480])
    assert only_clip(tmp_path).fps == pytest.approx(5 / 0.48, rel=1e-3)


@pytest.mark.parametrize(("ticks", "seconds_per_tick", "fps"), [
    ([0], 0.1, None), ([7, 7, 7], 0.1, None), ([0, 1, 2], 0.0, None), ([0, 1, 2], 1e-4, None), ([0, 1, 2], 1e9, None),
    ([5, 6, 7, 9], 0.5, 1.5),
])  # fmt: skip
def test_an_impossible_rate_is_unknown(ticks: list[int], seconds_per_tick: float, fps: float | None):
    index = FrameIndex(np.array(ticks), np.ones(len(ticks), bool), seconds_per_tick, False, (48, 64), Orientation())
    assert index.fps == fps


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.mp4", {"options": {"g": "7", "bf": "3"}}),
        ("a.mp4", {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3"}}),
        ("a.mov", {}),
        ("a.mkv", {"options": {"g": "5"}}),
        ("a.avi", {}),
        ("a.avi", {"codec": "libx264", "options": {"bf": "3"}}),
        ("a.avi", {"codec": "mjpeg"}),
        ("a.webm", {}),
        ("a.webm", {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "100k"}}),
        ("a.mkv", {"codec": "ffv1", "size": (47, 63)}),
        ("a.webm", {"size": (47, 63)}),
    ],
)
def test_all_frames_in_any_order(tmp_path: Path, name: str, options: dict):
    if options.get("codec") == "mjpeg":
        options = {**options, "options": {"strict": "unofficial"}}
    write_video(tmp_path / name, 24, **options)
    clip = only_clip(tmp_path)
    assert (clip.id, clip.size, len(clip.frames)) == ("a", options.get("size", (48, 64)), 24)
    assert clip.joints is None and clip.action is None and clip.is_train is None and clip.notes == ()
    assert clip.fps == pytest.approx(25, rel=1e-3)
    in_order = [clip.frames[index] for index in range(24)]
    assert [number_in(picture) for picture in in_order] == list(range(24))
    assert all(picture.shape == (*clip.size, 3) and picture.dtype == np.uint8 for picture in in_order)
    for index in (23, 0, 9, 10, 10, 3, 20, 1, 2, 15, -1):
        assert np.array_equal(clip.frames[index], in_order[index])


def test_a_clip_read_in_order_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "a.mp4", 40, options={"g": "5"})
    opened, real_open = [], av.open
    monkeypatch.setattr(av, "open", lambda *arguments: opened.append(arguments) or real_open(*arguments))
    clip = only_clip(tmp_path)
    num_for_the_scan = len(opened)
    assert numbers(clip) == list(range(40))
    assert len(opened) == num_for_the_scan + 1
    for index in (3, 3, 4, 5, 30, 31, 33):  # a jump back, and one ahead over keyframes
        assert number_in(clip.frames[index]) == index
    assert len(opened) == num_for_the_scan + 3


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rotation, turns", [(90, 1), (180, 2), (-90, 3), (0, 0)])
def test_rotation_is_applied(tmp_path: Path, suffix: str, rotation: int, turns: int):
    """Written: left half red, upper right quarter green. Counterclockwise by 90°: red below, green up left."""
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:, :32] = (200, 0, 0)
    stored[:24, 32:] = (0, 200, 0)
    write_video(tmp_path / f"a{suffix}", 3, rotation=rotation, pictures=[stored] * 3)
    clip = only_clip(tmp_path)
    expected = np.rot90(stored, turns).astype(int)
    assert clip.size == expected.shape[:2] and clip.frames[1].flags.c_contiguous
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(clip.frames[1].astype(int) - expected)[inner].mean() < 12
    if turns == 1:
        assert clip.frames[0][56, 24].argmax() == 0 and clip.frames[0][8, 8].argmax() == 1


def test_the_orientation_of_a_phone_held_upright():
    """ISO 14496-12: (p, q) is shown at (a p + c q, b p + d q): with b 1, c −1 the top row is the right column."""
    one = 65536
    picture = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    assert np.array_equal(orientation_of((0, one, 0, -one, 0, 0, 0, 0, 2**30))(picture)[:, -1], picture[0])
    assert orientation_of((one, 0, 0, 0, one, 0, 0, 0, 2**30)) == Orientation()
    assert np.array_equal(orientation_of((-one, 0, 0, 0, one, 0, 0, 0, 2**30))(picture), picture[:, ::-1])  # mirrored
    assert orientation_of((46341, 46341, 0, -46341, 46341, 0, 0, 0, 2**30)) is None  # 45°


def test_a_rotation_by_45_degrees_is_noted(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 3, rotation=45)
    clip = only_clip(tmp_path)
    assert clip.size == (48, 64) and clip.notes == ("a.mp4: turned by 45°, no multiple of 90: used as stored",)


def test_fps_takes_frames_by_their_time(tmp_path: Path):
    write_video(tmp_path / "a.mkv", 30, fps=30)  # time stamps are rounded to milliseconds there
    for fps, expected in ((15, range(0, 30, 2)), (10, range(0, 30, 3)), (30, range(30)), (3.75, range(0, 30, 8))):
        clip = only_clip(tmp_path, fps=fps)
        assert numbers(clip) == list(expected) and clip.notes == ()
    twice = only_clip(tmp_path, fps=60)
    assert numbers(twice) == [index // 2 for index in range(60)]
    assert twice.notes == ("a.mkv: at source.fps=60 30 of 60 frames repeat the one before",)


def test_fps_of_uneven_time_stamps(tmp_path: Path):
    """Frames at 0, 40, 80, 500, 540 and 1000 ms, the last of the usual duration, 40 ms; resampled to every 100 ms."""
    write_video(tmp_path / "a.mkv", 6, times_ms=[0, 40, 80, 500, 540, 1000])
    assert numbers(only_clip(tmp_path, fps=10)) == [0, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5]
    assert numbers(only_clip(tmp_path)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("fps", [0, -5, "fast", float("nan"), 10**9])
def test_impossible_rates_are_refused(tmp_path: Path, fps: float):
    write_video(tmp_path / "a.mp4", 2)
    with pytest.raises(ValueError, match="source.fps="):
        VideoFiles(tmp_path, fps=fps)


def test_joints_follow_their_frames(tmp_path: Path):
    write_label(write_video(tmp_path / "a.mp4", 12).with_suffix(".mat"), num_frames=12)
    every, third = only_clip(tmp_path), only_clip(tmp_path, fps=25 / 3)
    assert every.joints.xy.shape == (12, 13, 2) and (every.action, every.is_train) == ("golf_swing", True)
    assert numbers(third) == [0, 3, 6, 9] and np.array_equal(third.joints.xy, every.joints.xy[::3])
    write_label(tmp_path / "a.mat", num_frames=8)
    fewer = only_clip(tmp_path)
    assert len(fewer.frames) == len(fewer.joints.xy) == 8
    assert fewer.notes == ("a.mat: joints of 8 frames for 12: used the first 8",)


def test_ids_are_unique_and_valid(tmp_path: Path):
    names = ["walk.mp4", "walk.avi", "b/walk.mp4", "b__walk.mp4", "dr. no.v2.mp4", "b/déjà vu.mp4", f"{'x' * 200}.mp4"]
    for name in [*names, "._walk.mp4", "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    os.close(os.open(os.fsencode(tmp_path) + b"/b/\xff.mp4", os.O_CREAT))
    source = VideoFiles(tmp_path)
    ids = source.clip_ids()
    assert len(source) == len(set(ids)) == len(names) + 1 and ids == sorted(ids)
    assert "dr__no_v2" in ids and "b__déjà_vu" in ids
    assert sum(clip_id.startswith("walk-") for clip_id in ids) == 2 and "walk" not in ids
    assert all("." not in clip_id and "/" not in clip_id and len(clip_id.encode()) < 120 for clip_id in ids)
    assert VideoFiles(tmp_path, max_clips=3).clip_ids() == [ids[i * len(ids) // 3] for i in range(3)]
    for clip_id in ids:
        with pytest.raises(ClipError, match="the file is empty") as error:
            source.read(clip_id)
        str(error.value).encode()  # a manifest can be written


def test_patterns_and_single_files(tmp_path: Path):
    for name in ("a/run_1.mp4", "a/walk.mp4", "b/c/run_2.mkv"):
        write_video(tmp_path / name, 2)
    assert VideoFiles(tmp_path / "**" / "run_*").clip_ids() == ["a__run_1", "b__c__run_2"]
    assert VideoFiles(tmp_path / "a" / "*.mp4").clip_ids() == ["run_1", "walk"]
    assert VideoFiles(tmp_path / "a" / "walk.mp4").clip_ids() == ["walk"]
    with pytest.raises(FileNotFoundError, match=r"source.root=.*\.mp4, "):
        VideoFiles(tmp_path / "*.avi")


def test_the_fingerprint_covers_both_ends_and_the_sidecar(tmp_path: Path):
    video = tmp_path / "a.mp4"
    video.write_bytes(bytes(300_000))
    found = [VideoFiles(tmp_path).fingerprint()]
    assert VideoFiles(tmp_path).fingerprint() == found[0]
    for position in (10, 299_999):
        data = bytearray(300_000)
        data[position] = 1
        video.write_bytes(data)
        found.append(VideoFiles(tmp_path).fingerprint())
    video.write_bytes(bytes(300_001))
    found.append(VideoFiles(tmp_path).fingerprint())
    write_label(tmp_path / "a.mat")
    found.append(VideoFiles(tmp_path).fingerprint())
    video.rename(tmp_path / "b.mp4")
    found.append(VideoFiles(tmp_path).fingerprint())
    assert len(set(found)) == len(found)


def test_a_file_with_sound_only(tmp_path: Path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    (tmp_path / "a.wav").rename(tmp_path / "a.mp4")
    with pytest.raises(ClipError, match=r"^a.mp4: no video stream in it \(audio\)$"):
        only_clip(tmp_path)


@pytest.mark.parametrize("content, reason", [(b"", "the file is empty"), (b"no video" * 999, "Invalid data found")])
def test_files_that_are_no_videos(tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ClipError, match=rf"^a.mp4: not a readable video \({reason}"):
        only_clip(tmp_path)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "a.mp4", 2)

    def refuse(path: str, *arguments: object) -> None:
        raise av.error.PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(ClipError, match=r"^a.mp4: not a readable video \(Permission denied\)$"):
        only_clip(tmp_path)


def test_one_frame_is_no_clip(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 1)
    with pytest.raises(ClipError, match="^a.mp4: 1 frame, a pair needs 2$"):
        only_clip(tmp_path)


def test_frames_of_10_000_px(tmp_path: Path):
    """Refused from the header, before a frame is decoded; long but thin ones are used."""
    for name, size in (("wide.mkv", (16, 10_000)), ("huge.mkv", (10_000, 10_000))):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mjpeg", rate=25, options={"strict": "unofficial"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuvj420p"
            for _ in range(2):
                container.mux(stream.encode(av.VideoFrame(size[1], size[0], "yuvj420p")))
            container.mux(stream.encode())
    clip = only_clip(tmp_path / "wide.mkv")
    assert clip.frames[1].shape == (16, 10_000, 3)
    with pytest.raises(ClipError, match="^huge.mkv: frames of 10000 x 10000 px, need 1 … 16,777,216 pixels"):
        only_clip(tmp_path / "huge.mkv")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.webm"])
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_truncated_video_is_used_up_to_the_damage(tmp_path: Path, name: str, share: float):
    path = write_video(tmp_path / name, 60, options={"g": "12"})
    os.truncate(path, int(path.stat().st_size * share))
    clip = only_clip(tmp_path)
    assert 2 <= len(clip.frames) < 60
    found = numbers(clip)  # near the cut a frame may lack that is stored after its successors
    assert found[:-4] == list(range(len(found) - 4)) and found == sorted(set(found))
    assert clip.notes and all(name in note for note in clip.notes)
    assert any("says 60 frames" in note or "says 2.4 s" in note for note in clip.notes)


def test_a_video_without_its_index_is_refused(tmp_path: Path):
    """An .mp4 whose index comes last and was cut away contains no frame that can be found."""
    path = write_video(tmp_path / "a.mp4", 30, movflags="")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ClipError, match=r"^a.mp4: not a readable video \(Invalid data"):
        only_clip(tmp_path)


def test_the_frames_before_damage_in_the_middle_are_used(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", 60, options={"g": "60", "bf": "0"})
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.size][30]
    data = bytearray(path.read_bytes())
    data[start : start + 400] = bytes(range(200)) * 2
    path.write_bytes(data)
    clip = only_clip(tmp_path)
    assert len(clip.frames) == 60
    with pytest.raises(DamagedFrame, match="^a.mp4: frame 30 (does not decode|is damaged)") as error:
        numbers(clip)
    assert error.value.index == 30 and number_in(clip.frames[29]) == 29
    prepared = ClipPreparer(VideoFiles(tmp_path), CropCanvas(32), Chain(0.89))("a")
    assert prepared.num_frames == 30 and prepared.staged.pairs[-1].successor == 29
    assert prepared.staged.notes == (f"{error.value}: used the 30 frames before it",)


def test_a_change_of_size_ends_the_clip(tmp_path: Path):
    """Two sizes in one stream: Motion JPEG carries a size per frame."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, options={"strict": "unofficial"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        other = av.CodecContext.create("mjpeg", "w")
        other.height, other.width, other.pix_fmt, other.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
        other.options = {"strict": "unofficial"}
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(number_picture(number))))
        for number in range(5, 8):
            shown = av.VideoFrame.from_ndarray(number_picture(number, (32, 32)))
            shown.pts = number
            for packet in other.encode(shown):
                packet.stream = stream
                container.mux(packet)
    prepared = ClipPreparer(VideoFiles(tmp_path), CropCanvas(32), Chain(0.89))("a")
    assert prepared.num_frames == 5
    assert prepared.staged.notes == (
        "a.mkv: frame 5 is 32 x 32 px, those before it 64 x 48: used the 5 frames before it",
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.webm"])
def test_any_damage_raises_clip_errors_only(tmp_path: Path, name: str):
    path = write_video(tmp_path / name, 10)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    num_used = 0
    for _ in range(25):
        damaged = bytearray(data)
        start = int(rng.integers(len(data)))
        damaged[start : start + 40] = rng.bytes(40)
        path.write_bytes(damaged[: int(rng.integers(len(data) // 2, len(data) + 1))])
        result = ClipPreparer(VideoFiles(tmp_path), CropCanvas(32), Chain(0.89))("a")
        if isinstance(result, Rejection):
            assert name in result.reason or result.reason.startswith("no pair"), result.reason
            assert str(tmp_path) not in result.reason
        else:
            num_used += 1
    assert num_used


def test_a_real_video(real_video: Path):
    """568 × 320 px, 299 frames at 30 per second."""
    clip = only_clip(real_video)
    assert (clip.id, clip.size, len(clip.frames), clip.notes) == ("axe", (320, 568), 299, ())
    with av.open(str(real_video)) as container:
        for index, expected in enumerate(container.decode(video=0)):
            if index % 50 == 0:
                assert np.array_equal(clip.frames[index], expected.to_ndarray(format="rgb24"))
    assert len(only_clip(real_video, fps=10).frames) == 100


def test_frames_are_indexed_like_a_sequence(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 6)
    frames = only_clip(tmp_path / "a.mp4").frames
    assert [number_in(frame) for frame in frames[1:5:2]] == [1, 3] and number_in(frames[-1]) == 5
    for beyond in (6, -7):
        with pytest.raises(IndexError):
            frames[beyond]


OTHER_CONTAINERS = [
    ("a.gif", "gif", "rgb8"), ("a.ts", "libx264", "yuv420p"), ("a.flv", "flv", "yuv420p"), ("a.wmv", "wmv2", "yuv420p"),
    ("a.mpg", "mpeg1video", "yuv420p"), ("a.nut", "mpeg4", "yuv420p"), ("a.ivf", "libvpx", "yuv420p"),
    ("a.y4m", "rawvideo", "yuv420p"), ("a.3gp", "mpeg4", "yuv420p"), ("a.mxf", "mpeg2video", "yuv420p"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "pixels"), OTHER_CONTAINERS)
def test_frames_of_lesser_known_containers(tmp_path: Path, name: str, codec: str, pixels: str):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, pixels
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(number_picture(number, (96, 128))).reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = only_clip(tmp_path)
    assert numbers(clip) == list(range(12)) and clip.size == (96, 128)
    assert number_in(clip.frames[7]) == 7 and number_in(clip.frames[2]) == 2


def test_other_files_are_counted(tmp_path: Path):
    write_video(tmp_path / "a.mp4")
    for name in ("a.csv", "notes.txt", "more.TXT", "b.csv", "LICENSE", ".hidden.txt"):
        (tmp_path / name).write_text("")
    assert VideoFiles(tmp_path).left_out == "2 .txt, 1 without suffix"
    assert VideoFiles(tmp_path).ownerless == ["b.csv"]
    assert VideoFiles(tmp_path / "a.mp4").left_out == ""
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="no video there .*, only 2 .csv, 2 .txt, 1 without suffix; give"):
        VideoFiles(tmp_path)


def test_linked_folders_are_followed_once(tmp_path: Path):
    write_video(tmp_path / "elsewhere" / "a.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "videos")
    assert VideoFiles(tmp_path / "videos").clip_ids() == ["link__a"]


def test_joints_beside_two_videos_of_one_stem_are_nobodys(tmp_path: Path):
    for name in ("walk.mp4", "walk.mov"):
        write_video(tmp_path / name)
    source = VideoFiles(tmp_path)
    assert all(source.read(clip_id).joints is None for clip_id in source.clip_ids())
    write_joints(tmp_path / "walk.csv", 12)
    source = VideoFiles(tmp_path)
    for clip_id in source.clip_ids():
        with pytest.raises(ClipError, match=r"walk.csv: whose joints are they, of walk.mov and walk.mp4\?"):
            source.read(clip_id)


def test_frame_rates_that_vary_are_noted(tmp_path: Path):
    write_video(tmp_path / "phone.mp4", 12, times_ms=[0, 33, 66, 100, 150, 183, 250, 283, 316, 350, 450, 483])
    write_video(tmp_path / "even.mp4", 12, times_ms=[0, 33, 67, 100, 133, 167, 200, 233, 267, 300, 333, 367])
    source = VideoFiles(tmp_path)
    assert source.read("even").notes == ()
    (note,) = source.read("phone").notes
    assert note.startswith("phone.mp4: its frame rate varies, 10 … ")


def test_hdr_and_interlaced_videos_are_noted(tmp_path: Path):
    for name, options in {"hdr": {"color_trc": 16}, "tv": {}}.items():
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"x264-params": "tff=1"} if name == "tv" else {})
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for key, value in options.items():
                setattr(stream.codec_context, key, value)
            for number in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(number_picture(number))))
            container.mux(stream.encode())
    source = VideoFiles(tmp_path)
    assert source.read("hdr").notes == ("hdr.mp4: HDR (PQ): its colors are used as stored, paler than meant",)
    assert [note.split(":")[1] for note in source.read("tv").notes] == [" interlaced"]
