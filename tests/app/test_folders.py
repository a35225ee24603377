"""The page's own folder, and the names of uploaded files."""

from __future__ import annotations

import os

import pytest

from m3.app import folders
from m3.app.folders import OwnFolder


@pytest.fixture
def own():
    own = OwnFolder()
    yield own
    own.remove()


def test_only_the_newest_are_kept(own, monkeypatch):
    monkeypatch.setattr(folders, "MAX_UPLOADS", 3)
    monkeypatch.setattr(folders, "MAX_WORK_FOLDERS", 2)
    for number in range(5):
        (own.path / f"upload{number}").mkdir()
        (own.path / f"upload{number}" / "clip.mp4").write_bytes(b"x")
        os.utime(own.path / f"upload{number}", (number, number))
    own.make_room()
    assert sorted(path.name for path in own.path.iterdir()) == ["results", "upload3", "upload4"]
    made = [own.new_result() for _ in range(4)]
    for number, path in enumerate(made):
        if path.exists():
            os.utime(path, (number, number))
    assert len(list(own.results.iterdir())) == 2 and made[-1].is_dir()


def test_a_link_is_removed_and_not_what_it_leads_to(own, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MAX_UPLOADS", 1)
    (tmp_path / "kept").write_bytes(b"x")
    (own.path / "link").symlink_to(tmp_path)
    own.make_room()
    assert not (own.path / "link").is_symlink() and (tmp_path / "kept").exists()


def test_the_folder_is_removed_at_the_end(own):
    assert own.path.is_dir()
    own.remove()
    assert not own.path.exists()
