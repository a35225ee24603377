"""Atomic writes: complete files under final names, nothing else left behind, errors that name the file."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import resource
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from m3.core import files
from m3.core.files import (
    WriteError,
    atomic_file,
    atomic_folder,
    atomic_path,
    final_name,
    write_atomic,
    write_text_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old" and len(names(tmp_path)) == 2
        assert all(name == "a.bin" or name.startswith("a.bin.") and name.endswith(".tmp") for name in names(tmp_path))
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.bin"]


def test_text_is_written_as_utf8_with_its_line_ends(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "ü\n\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "ü\n\r\n".encode()


def test_the_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_libraries_write_into_the_file_or_to_the_path(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    with atomic_file(tmp_path / "a.npy") as file:
        np.save(file, picture)
    with atomic_file(tmp_path / "a.png") as file:
        Image.fromarray(picture).save(file, format="PNG")
    with atomic_file(tmp_path / "a.pt") as file:
        torch.save({"a": torch.ones(1)}, file)
    with atomic_file(tmp_path / "a.mp4") as file:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 16
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(stream.encode())
    with atomic_path(tmp_path / "a.link") as temporary:
        os.link(tmp_path / "a.npy", temporary)
    assert names(tmp_path) == ["a.link", "a.mp4", "a.npy", "a.png", "a.pt"]
    assert np.array_equal(np.load(tmp_path / "a.npy"), picture) and Image.open(tmp_path / "a.png").size == (16, 16)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["a"] == 1
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 1


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1), RuntimeError("torch")])
def test_any_failure_keeps_the_old_file_and_passes_unchanged(tmp_path: Path, error: BaseException) -> None:
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(type(error)) as raised, atomic_file(tmp_path / "a") as file:
        file.write(b"ne")
        raise error
    assert raised.value is error and names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_an_error_about_another_file_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), atomic_file(tmp_path / "a"):
        open(tmp_path / "missing")
    with pytest.raises(WriteError, match="cannot write .*/inner ") as raised, atomic_file(tmp_path / "outer"):
        write_atomic(tmp_path / "nowhere" / "inner", b"")
    assert raised.value.filename == str(tmp_path / "nowhere" / "inner") and names(tmp_path) == []


def test_a_failed_rename_names_the_file_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", source, None, target)

    monkeypatch.setattr(files.os, "replace", replace)
    message = f"cannot write {tmp_path}/a \\(Read-only file system\\): make room there, or choose another place"
    with pytest.raises(WriteError, match=message) as raised:
        write_atomic(tmp_path / "a", b"new")
    assert raised.value.errno == errno.EROFS and names(tmp_path) == []


def test_a_folder_in_its_place_or_no_folder_around_it(tmp_path: Path) -> None:
    (tmp_path / "folder" / "full").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "missing" / "a", tmp_path / "file" / "a"):
        with pytest.raises(WriteError, match=f"cannot write {path} "):
            write_atomic(path, b"new")
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == ["full"]


def test_a_remedy_of_the_caller_and_the_way_between_processes(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as raised:
        write_atomic(tmp_path / "missing" / "a", b"")
    raised.value.remedy = "wait"
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert str(error) == f"cannot write {tmp_path}/missing/a (No such file or directory): wait"


@pytest.mark.parametrize("fsync", [False, True])
def test_a_full_disk(tmp_path: Path, fsync: bool) -> None:
    write_atomic(tmp_path / "a", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(WriteError, match="cannot write .*/a .File too large.: make room there"):
            with atomic_file(tmp_path / "a", fsync=fsync) as file:
                file.write(bytes(40_000))
                file.write(bytes(40_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, rename = [], os.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: events.append(os.fstat(descriptor).st_size))
    monkeypatch.setattr(files.os, "replace", lambda *paths: events.append("renamed") or rename(*paths))
    with atomic_file(tmp_path / "a", fsync=True) as file:
        file.write(b"new")
    write_atomic(tmp_path / "b", b"new")
    assert events == [3, "renamed", "renamed"]


def test_a_folder_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "1.txt").write_text("new")
        assert folder.name.startswith(".a.") and names(tmp_path) == [folder.name]
    assert (tmp_path / "a/1.txt").read_text() == "new" and names(tmp_path) == ["a"]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a") as folder:
        (folder / "1.txt").write_text("new")
        raise KeyboardInterrupt
    with pytest.raises(WriteError, match=f"cannot write {tmp_path}/a .Is a directory.: make room"):
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "1.txt").mkdir()
            (folder / "1.txt").write_text("new")
    with pytest.raises(WriteError, match=f"cannot write {tmp_path}/b/c .No such file"), atomic_folder(tmp_path / "b/c"):
        pass
    assert names(tmp_path) == []


def test_only_this_module_moves_files_into_place() -> None:
    """Beside it, a finished data set moves from the folder where it was staged."""
    root = Path(files.__file__).parents[2]
    renames = re.compile(r"\bos\.(replace|renames?)\b|\.(replace|rename)\(\w*(path|target|folder)\)|shutil\.move")
    modules = [*root.glob("m3/**/*.py"), *root.glob("hydra_plugins/**/*.py"), *root.glob("*.py")]
    found = {str(module.relative_to(root)) for module in modules if renames.search(module.read_text(encoding="utf-8"))}
    assert found == {"m3/core/files.py", "m3/preprocessing/folder.py"}


def write_many(path: Path, letter: bytes, until: float) -> None:
    while time.monotonic() < until:
        with atomic_file(path) as file:
            for _ in range(8):
                file.write(letter * 500)
                file.flush()


def test_two_processes_may_write_the_same_file_at_once(tmp_path: Path) -> None:
    context, path, until = multiprocessing.get_context("fork"), tmp_path / "a", time.monotonic() + 1
    writers = [context.Process(target=write_many, args=(path, letter, until)) for letter in (b"x", b"y")]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            seen.add(path.read_bytes())
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == {b"x" * 4000, b"y" * 4000} and names(tmp_path) == ["a"]


def test_the_name_that_a_temporary_file_was_to_get(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "dataset.json") as temporary:
        assert final_name(temporary.name) == "dataset.json"
        temporary.touch()
    assert final_name("dataset.json.tmp") == final_name("dataset.json") == "dataset.json"
    assert final_name("a.tmp.b") == "a.tmp.b"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=f"cannot write {tmp_path}/file/out .*choose another place"):
        files.make_folder(tmp_path / "file" / "out")


def test_a_place_for_results_is_checked_by_its_key_and_nothing_is_left(tmp_path: Path) -> None:
    files.check_writable("out", tmp_path / "a/b")
    assert not names(tmp_path)
    (tmp_path / "there").mkdir()
    files.check_writable("out", tmp_path / "there")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ValueError, match=rf"^out={path}: no folder to write to \(.*\); choose another out=…$"):
            files.check_writable("out", path)
    assert names(tmp_path) == ["file", "there"]
