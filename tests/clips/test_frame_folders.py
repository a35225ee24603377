"""Folders of numbered pictures as clips."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny_videos import number_in, number_picture
from support.tiny_world import write_label

from m3.clips.base import ClipError
from m3.clips.canvas import CropCanvas
from m3.clips.frame_folders import FrameFolders
from m3.pairs import Chain
from m3.preprocessing.prepare import ClipPreparer


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (48, 64)) -> Path:
    """Each picture encodes the index of its name in `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(number_picture(number, size)).save(folder / name)
    return folder


def numbers(source: FrameFolders, clip_id: str) -> list[int]:
    clip = source.read(clip_id)
    return [number_in(clip.frames[index]) for index in range(len(clip.frames))]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp", ".JPG", ".PNG"])
def test_pictures_follow_by_number(tmp_path: Path, suffix: str):
    write_pictures(tmp_path / "walk", [f"frame_{number}{suffix}" for number in range(8, 12)])
    source = FrameFolders(tmp_path)
    clip = source.read("walk")
    assert source.clip_ids() == ["walk"] and len(source) == 1 and numbers(source, "walk") == [0, 1, 2, 3]
    assert (clip.size, clip.joints, clip.action, clip.is_train, clip.notes) == ((48, 64), None, None, None, ())
    assert clip.frames[2].dtype == np.uint8 and clip.frames[2].shape == (48, 64, 3)


def test_folders_at_any_depth(tmp_path: Path):
    names = ["1.png", "2.png"]
    for folder in ("a/b/walk", "a/walk", "a", "jump.v2", ".hidden"):
        write_pictures(tmp_path / folder, names)
    (tmp_path / "nothing here").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "a" / "walk")
    source = FrameFolders(tmp_path)
    assert source.clip_ids() == ["a", "a__b__walk", "a__walk", "jump_v2", "linked", "nothing_here"]
    assert numbers(source, "linked") == numbers(source, "jump_v2") == [0, 1]
    with pytest.raises(ClipError, match="^nothing here: no pictures$"):
        source.read("nothing_here")
    alone = FrameFolders(tmp_path / "a" / "walk")
    assert alone.clip_ids() == ["walk"] and numbers(alone, "walk") == [0, 1]
    assert FrameFolders(tmp_path, max_clips=2).clip_ids() == ["a", "jump_v2"]


def test_a_root_without_pictures(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"source.root=.*: no \.jpg, "):
        FrameFolders(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        FrameFolders(tmp_path / "x")


@pytest.mark.parametrize(
    "names, notes",
    [
        (["1.png", "2.png", "5.png", "6.png"], ["1 holes in the numbering, 2.png is followed by 5.png"]),
        (["0.png", "5.png", "10.png", "15.png"], []),
        (["1.png", "2.png", "3.png", "cover.png"], [r"cover.png has no number (1 such pictures): left out"]),
        (["a1.png", "a2.png", "b1.png", "b2.png"], ["1 holes in the numbering, a2.png is followed by b1.png"]),
    ],
)
def test_gaps_in_the_numbering_are_noted(tmp_path: Path, names: list[str], notes: list[str]):
    write_pictures(tmp_path / "walk", names)
    source = FrameFolders(tmp_path)
    assert source.read("walk").notes == tuple(f"walk: {note}" for note in notes)
    assert numbers(source, "walk") == [0, 1, 2, 3][: 3 if "cover.png" in names else 4]


def test_bad_folders_are_rejected(tmp_path: Path):
    write_pictures(tmp_path / "twice", ["1.png", "01.jpg", "2.png"])
    write_pictures(tmp_path / "mixed", ["1.png", "2.png", "3.png"])
    Image.fromarray(number_picture(0, (48, 60))).save(tmp_path / "mixed/3.png")
    write_pictures(tmp_path / "single", ["1.png"])
    write_pictures(tmp_path / "words", ["front.png", "side.png"])
    write_pictures(tmp_path / "huge", ["1.png", "2.png"])
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge/1.png")
    write_pictures(tmp_path / "damaged", ["1.png", "2.png", "3.png"])
    (tmp_path / "damaged/2.png").write_bytes(b"no picture")
    source = FrameFolders(tmp_path)
    for clip_id, reason in {
        "twice": "^twice: 01.jpg and 1.png have the same number$",
        "mixed": r"^mixed/3.png: 48 x 60 px \(height x width\), 1.png has 48 x 64; a clip's pictures need one size$",
        "single": "^single: 1 frame, a pair needs 2$",
        "words": "^words: no pictures with a number, only front.png$",
        "huge": "^huge/1.png: frames of 10000 x 10000 px",
        "damaged": r"^damaged/2.png: not a readable picture \(.*\); a pair needs 2 frames, 1 came before it$",
    }.items():
        with pytest.raises(ClipError, match=reason):
            source.read(clip_id)


def test_frames_before_a_damaged_one_are_used(tmp_path: Path):
    """Found at the header by the reader, and in the middle of the file when the frame is decoded."""
    names = [f"{number}.png" for number in range(6)]
    write_pictures(tmp_path / "header", names)
    (tmp_path / "header/4.png").write_bytes(b"")
    path = write_pictures(tmp_path / "middle", names) / "4.png"
    os.truncate(path, path.stat().st_size // 2)
    source = FrameFolders(tmp_path)
    assert numbers(source, "header") == [0, 1, 2, 3]
    note = "header/4.png: not a readable picture (the file is empty): used the 4 frames before it"
    assert source.read("header").notes == (note,)
    prepared = ClipPreparer(source, CropCanvas(32), Chain(0.89))("middle")
    assert prepared.num_frames == 4 and len(prepared.staged.notes) == 1
    assert prepared.staged.notes[0].startswith("middle/4.png: not a readable picture (")


def test_exif_orientation_is_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # seen turned clockwise
    for number in (1, 2):
        (tmp_path / "walk").mkdir(exist_ok=True)
        Image.fromarray(number_picture(number)).save(tmp_path / "walk" / f"{number}.jpg", exif=exif, quality=95)
    clip = FrameFolders(tmp_path).read("walk")
    assert clip.size == (64, 48) and number_in(np.rot90(clip.frames[0])) == 1


def test_joints_from_beside_the_folder(tmp_path: Path):
    write_pictures(tmp_path / "a" / "walk.1", [f"{number}.png" for number in range(6)])
    write_label(tmp_path / "a" / "walk.1.mat", num_frames=6)
    clip = FrameFolders(tmp_path).read("a__walk_1")
    assert clip.joints.xy.shape == (6, 13, 2) and clip.action == "golf_swing" and clip.notes == ()
    write_label(tmp_path / "a" / "walk.1.mat", num_frames=4)
    fewer = FrameFolders(tmp_path).read("a__walk_1")
    assert len(fewer.frames) == 4 and fewer.notes == ("walk.1.mat: joints of 4 frames for 6: used the first 4",)


def test_an_unreadable_folder_is_a_rejected_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pictures(tmp_path / "a", ["1.png", "2.png"])
    write_pictures(tmp_path / "b", ["1.png", "2.png"])
    scandir, listdir = os.scandir, os.listdir

    def refuse(path: str | Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) if str(path).endswith("b") else scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path: refuse(path) if str(path).endswith("b") else listdir(path))
    source = FrameFolders(tmp_path)
    assert source.clip_ids() == ["a", "b"] and len(source.fingerprint()) == 64
    with pytest.raises(ClipError, match=r"^b: not readable \(Permission denied\)$"):
        source.read("b")


def test_the_fingerprint_covers_names_sizes_and_joints(tmp_path: Path):
    folder = write_pictures(tmp_path / "walk", ["1.png", "2.png", "3.png"])
    found = [FrameFolders(tmp_path).fingerprint()]
    assert FrameFolders(tmp_path).fingerprint() == found[0]
    (folder / "3.png").rename(folder / "4.png")
    found.append(FrameFolders(tmp_path).fingerprint())
    with (folder / "2.png").open("ab") as file:
        file.write(b"more")
    found.append(FrameFolders(tmp_path).fingerprint())
    write_label(tmp_path / "walk.mat", num_frames=3)
    found.append(FrameFolders(tmp_path).fingerprint())
    assert len(set(found)) == 4
