"""Whatever ends a build (a kill, a signal, a full disk, a worker's death), a second run ends with the same bytes."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig
from support.clip_sources import Deadly, EveryFrame
from support.poses_only_builds import config, overrides
from support.preprocess_runs import contents
from support.tiny_world import write_world

import preprocess
from m3.clips.canvas import CropCanvas
from m3.core import files
from m3.core.types import Rejection
from m3.preprocessing import build, workers
from m3.preprocessing.prepare import ClipPreparer, PreparedClip
from m3.preprocessing.workers import prepare_clips

ROOT = Path(preprocess.__file__).parent


@pytest.fixture(scope="module")
def expected(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "data"
    preprocess.run(config(world, out))
    return contents(out)


# ── kills ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Killer:
    """Kills the process at its `step`-th moment: a file has one when half is written and one before it is renamed."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.rename = os.replace

    def is_now(self) -> bool:
        self.step -= 1
        return self.step == 0

    def open(self, path: Path, mode: str) -> AbstractContextManager:
        file = open(path, mode)

        def write_half(data: bytes) -> None:
            file.write(data[: len(data) // 2])
            file.flush()
            self.kill()

        return nullcontext(SimpleNamespace(write=write_half)) if self.is_now() else file

    def replace(self, *arguments: Path) -> None:
        if self.is_now():
            self.kill()
        self.rename(*arguments)

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def killed_at(step: int, cfg: DictConfig) -> bool:
    """Build in a forked process that is killed at a moment; False where it got through."""
    child = os.fork()
    if child == 0:
        killer = Killer(step)
        os.replace, files.open = killer.replace, killer.open
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        preprocess.run(cfg)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("first", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_build_killed_at_any_of_its_files_ends_with_the_same_bytes(
    world: Path, expected: dict[str, bytes], tmp_path: Path, first: int
) -> None:
    step = first  # every third moment from it
    while killed_at(step, config(world, tmp_path / str(step))):
        assert "dataset.json" not in contents(tmp_path / str(step))
        preprocess.run(config(world, tmp_path / str(step)))
        assert contents(tmp_path / str(step)) == expected, step
        assert not (tmp_path / f"{step}.tmp").exists()
        step += 3
    # identity, 5 clips, shards, text tokenizer, rejected.jsonl and manifest; then 3 splits and the last 3 into place
    num_shards = sum(name.endswith(".tar") for name in expected)
    num_moments = 2 * (1 + 5 + num_shards + 3) + 6
    assert num_moments < step <= num_moments + 3


def test_what_a_build_left_at_its_very_end_is_cleared_away(
    world: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(build.Staging, "remove", lambda self: None)
        preprocess.run(config(world, tmp_path / "data"))
    assert (tmp_path / "data.tmp").exists()
    preprocess.run(config(world, tmp_path / "data"))
    assert not (tmp_path / "data.tmp").exists() and contents(tmp_path / "data") == expected


def test_two_runs_at_once_do_not_mix(
    world: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, write = config(world, tmp_path / "data"), build._write

    def meanwhile(*arguments):
        with pytest.raises(ValueError, match=r"data.tmp: another preprocess.py makes this data set"):
            preprocess.run(config(world, tmp_path / "data", "pairs.threshold=0.5"))
        return write(*arguments)

    monkeypatch.setattr(build, "_write", meanwhile)
    preprocess.run(cfg)
    assert contents(tmp_path / "data") == expected


def test_a_folder_of_something_else_beside_the_data_set_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "data.tmp").mkdir()
    (tmp_path / "data.tmp/thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="data.tmp holds 'thesis.tex'"):
        preprocess.run(config(world, tmp_path / "data"))
    assert (tmp_path / "data.tmp/thesis.tex").read_text() == "years of work"


def command(*arguments: str, **options) -> subprocess.Popen:
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "start_new_session": True,
    } | options
    return subprocess.Popen([sys.executable, "preprocess.py", *arguments], cwd=ROOT, **options)


@pytest.mark.slow
def test_ten_random_kills_each_continued_with_any_number_of_workers(tmp_path: Path) -> None:
    write_world(tmp_path / "world", 12)

    def arguments(out: str, num_workers: int) -> list[str]:
        return overrides(tmp_path / "world", tmp_path / out, f"workers={num_workers}", "tokenizer=mini",
                         "canvas.size=64", f"hydra.run.dir={tmp_path}/hydra")  # fmt: skip

    start = time.monotonic()
    assert command(*arguments("whole", 0)).wait(timeout=100) == 0
    duration, whole, rng, num_killed = time.monotonic() - start, contents(tmp_path / "whole"), random.Random(0), 0
    for number in range(10):
        out, num_workers = f"killed{number}", (1, 2, 4, 0)[number % 4]
        process = command(*arguments(out, num_workers))
        try:
            process.wait(timeout=rng.uniform(0.3, 1) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            num_killed += 1
        assert command(*arguments(out, (2, 0, 1, 4)[number % 4])).wait(timeout=100) == 0
        assert contents(tmp_path / out) == whole
    assert num_killed >= 7


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_all_processes_soon_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    write_world(tmp_path / "world", 12)
    arguments = overrides(tmp_path / "world", tmp_path / "data", "workers=2", "tokenizer=mini", "encode_batch_size=64",
                          "canvas.size=256", f"hydra.run.dir={tmp_path}/hydra")  # fmt: skip
    process = command(*arguments)
    deadline, clips = time.monotonic() + 60, tmp_path / "data.tmp/clips"
    while not (clips.is_dir() and any(clips.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    start = time.monotonic()
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    said = process.communicate(timeout=30)[0]  # until all have closed their output: workers too
    assert time.monotonic() - start < 15
    assert process.returncode != 0 and "run the same command again to continue" in said
    assert "Traceback" not in said and not (tmp_path / "data").exists() and any(clips.glob("*.npz"))


# ── clips that were rejected ───────────────────────────────────────────────────────────────────────────────────────


def stop_at_the_end(*_) -> None:
    raise KeyboardInterrupt


def test_unreadable_clips_are_tried_again_and_finished_ones_are_not(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world, tmp_path / "world")
    (tmp_path / "world/labels/0004.mat").write_bytes((world / "labels/0001.mat").read_bytes())
    picture = tmp_path / "world/frames/0002/000001.jpg"
    content = picture.read_bytes()
    picture.write_bytes(bytes(len(content)))  # of the same size: the source's fingerprint does not tell
    still = (tmp_path / "world/frames/0003/000001.jpg").read_bytes()
    for path in (tmp_path / "world/frames/0003").iterdir():  # nothing moves: no pair, however often it is tried
        path.write_bytes(still)
    cfg = config(tmp_path / "world", tmp_path / "data")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "_write", stop_at_the_end)
        preprocess.run(cfg)
    picture.write_bytes(content)
    prepared, prepare = [], ClipPreparer.__call__
    monkeypatch.setattr(ClipPreparer, "__call__", lambda self, clip: prepared.append(clip) or prepare(self, clip))
    manifest = preprocess.run(cfg)
    assert prepared == ["0002"]
    assert [rejection.clip for rejection in manifest.rejected] == ["0003"]


# ── full disks ─────────────────────────────────────────────────────────────────────────────────────────────────────


class FullAfter:
    """`open` of a disk with room for a number of bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, path: Path, mode: str):
        file = open(path, mode)
        write = file.write

        class Limited:
            def __enter__(limited):
                return limited

            def __exit__(limited, *_):
                file.close()

            def write(limited, data: bytes) -> int:
                self.room -= len(data)
                if self.room < 0:
                    write(data[: len(data) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

        return Limited()


@pytest.mark.parametrize("room", [0, 3000, 12_000, 30_000, 70_000, 90_000])
def test_a_full_disk_names_file_and_remedy_and_leaves_nothing_half_written(
    world: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    cfg = config(world, tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", FullAfter(room), raising=False)  # shadows the built-in one
        with pytest.raises(OSError, match=r"cannot write .*data.*No space left.*make room.*same command again"):
            preprocess.run(cfg)
    left = contents(tmp_path)
    assert not [name for name in left if Path(name).suffix == ".tmp" or name == "data/dataset.json"]
    for name, content in left.items():
        if name.endswith(".tar"):
            assert content == expected[name.removeprefix("data.tmp/")]
    preprocess.run(cfg)
    assert contents(tmp_path / "data") == expected


def test_a_limit_of_the_system_on_files_is_such_an_error_too(
    world: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = [*overrides(world, tmp_path / "data"), f"hydra.run.dir={tmp_path}/hydra"]
    process = command(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "Traceback" not in said
    assert "error: cannot write" in said and "000000.tar (File too large): make room" in said
    assert not (tmp_path / "data").exists() and not list(tmp_path.rglob("*.tar*"))
    preprocess.run(config(world, tmp_path / "data"))
    assert contents(tmp_path / "data") == expected


# ── workers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def prepared_by_two(source: Deadly, clip_ids: list[str]) -> Iterator[PreparedClip | Rejection]:
    return prepare_clips(ClipPreparer(source, CropCanvas(32), EveryFrame()), clip_ids, 2)


def test_a_dying_worker_costs_no_other_clip(tmp_path: Path) -> None:
    ids = [f"{number:02d}" for number in range(8)]
    results = list(prepared_by_two(Deadly(tmp_path, always=("03",), once=("05",)), ids))
    used = sorted(result.staged.clip for result in results if isinstance(result, PreparedClip))
    rejected = [result for result in results if isinstance(result, Rejection)]
    assert used == [clip for clip in ids if clip != "03"]
    assert [rejection.clip for rejection in rejected] == ["03"] and "worker process died" in rejected[0].reason


def test_workers_that_always_die_end_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_DEATHS_IN_A_ROW", 2)
    with pytest.raises(ChildProcessError, match=r"the last one on clip 0\d.*executor=local; finished clips are kept"):
        list(prepared_by_two(Deadly(tmp_path, always=("00", "01", "02", "03")), ["00", "01", "02", "03"]))


def test_leaving_early_does_not_wait_for_the_workers(tmp_path: Path) -> None:
    results = prepared_by_two(Deadly(tmp_path), ["slow", "01", "02"])
    assert isinstance(next(results), PreparedClip)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5
