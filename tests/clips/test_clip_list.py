"""Tables of clips: parts of videos, with labels and splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_videos import number_in, write_joints, write_video

from m3.clips.video_files import VideoFiles


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.mp4", "sub/b.mp4", "dQw4w9WgXcQ_000010_000020.mp4"):
        write_video(tmp_path / "videos" / name, 25)  # 1 s at 25 frames/s
    return tmp_path


def source(root: Path, text: str, **options) -> VideoFiles:
    (root / "list.csv").write_text(text)
    return VideoFiles(root / "videos", clips=root / "list.csv", **options)


def test_parts_of_videos_with_labels_and_splits(root: Path):
    found = source(
        root, "path,start,end,label,split\na.mp4,0,0.4,wave,train\na.mp4,0.4,0.8,jump,val\nsub/b,,,wave,test\n"
    )
    assert found.clip_ids() == ["a-0-0_4", "a-0_4-0_8", "sub__b"]
    first, second, third = (found.read(clip_id) for clip_id in found.clip_ids())
    assert [number_in(frame) for frame in first.frames] == list(range(10))
    assert [number_in(frame) for frame in second.frames] == list(range(10, 20)) and len(third.frames) == 25
    assert [each.action for each in (first, second, third)] == ["wave", "jump", "wave"]
    assert [(each.is_train, each.is_eval) for each in (first, second, third)] == [
        (True, False),
        (True, True),
        (False, False),
    ]
    assert first.video == second.video == "a.mp4"  # all parts of a video stay in one split of split=clip
    assert found.whole("a-0_4-0_8").first == 10


def test_joints_of_the_video_are_those_of_its_part(root: Path):
    write_joints(root / "videos" / "a.csv", 25)
    found = source(root, "path;start;end\na.mp4;0,4;0,8\n".replace(",", "."))
    part, whole = found.read("a-0_4-0_8").joints, VideoFiles(root / "videos").read("a").joints
    assert part is not None and whole is not None and (part.xy == whole.xy[10:20]).all()


def test_kinetics_own_columns(root: Path):
    """Its downloaders cut the videos and call them after the seconds; a validation without a test is the test."""
    found = source(
        root, "label,youtube_id,time_start,time_end,split\nwave,dQw4w9WgXcQ,10,20,validate\nrun,gone,1,2,train\n"
    )
    (clip_id,) = found.clip_ids()
    clip = found.read(clip_id)
    assert len(clip.frames) == 25 and clip.action == "wave" and clip.is_train is False and not clip.is_eval
    assert found.missing == ("gone",)


@pytest.mark.parametrize(("row", "words"), [
    ("../x.mp4,0,1", "row 2: '../x.mp4' is not in source.root="),
    ("/etc/passwd,0,1", "is not in source.root="),
    ("a.mp4,one,2", "start is 'one', need seconds"),
    ("a.mp4,0.5,0.5", "start 0.5 and end 0.5, need 0 ≤ start < end"),
    ("a.mp4,-1,2", "need 0 ≤ start < end"),
    ("a.mp4,nan,2", "start is 'nan', need seconds"),
    ("a.mp4,0", "row 2 has 2 cells, the header 3"),
    (",0,1", "path is ''"),
    ("a.mp4,0,1\na.mp4,0,1", "row 3: the clip occurs twice"),
])  # fmt: skip
def test_rows_that_cannot_be_are_named(root: Path, row: str, words: str):
    with pytest.raises(ValueError, match=r"^source.clips=.*list.csv: ") as error:
        source(root, f"path,start,end\n{row}\n")
    assert words in str(error.value)


def test_tables_that_cannot_be_are_named(root: Path):
    with pytest.raises(ValueError, match="need path, and perhaps start"):
        source(root, "a,b\n1,2\n")
    with pytest.raises(ValueError, match="split is 'somewhere', need train, val or test"):
        source(root, "path,split\na.mp4,somewhere\n")
    with pytest.raises(FileNotFoundError, match="none of the videos of its 1 rows is in source.root=.*'gone.mp4'"):
        source(root, "path\ngone.mp4\n")
    with pytest.raises(ValueError, match="source.clips=.*nowhere.csv: not readable"):
        VideoFiles(root / "videos", clips=root / "nowhere.csv")
    write_video(root / "videos" / "sub" / "a.mp4", 4)
    with pytest.raises(ValueError, match="row 2: 'a' may be a.mp4 and sub/a.mp4; write the path"):
        source(root, "path\na\n")
