"""What a training says of a stream that fails: one line with the shard's name; slow servers; too many processes."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.streams import STREAM, split_at
from support.tiny_shards import modality_table
from support.train_runs import ROOT, TINY, config, write_data

import m3.shards.transport
from m3.batches.datamodule import TokenDataModule
from m3.batches.stream import StreamWorker
from m3.commands import train
from m3.core.errors import message_of
from m3.shards.manifest import Manifest
from m3.shards.transport import is_stored, read_stored


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


def broken(data: Path, folder: Path, fault: str, shard: str = "train/000000.tar") -> Path:
    shutil.copytree(data, folder)
    path = folder / shard
    if fault == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    return folder


FAULTS = {"damaged": "sha256 .*: the file is damaged or was replaced", "missing": "no such shard, though"}


@pytest.mark.parametrize(
    ("shard", "num_workers"), [("train/000000.tar", 0), ("train/000000.tar", 1), ("eval/000000.tar", 0)]
)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_ends_with_a_line_that_names_the_shard(
    data: Path, tmp_path, fault: str, num_workers: int, shard: str
) -> None:
    root = broken(data, tmp_path / "data", fault, shard)
    cfg = config(root, tmp_path / "run", *STREAM, f"data.num_workers={num_workers}")
    with pytest.raises(SystemExit, match=rf"^error: {root}/{shard}: {FAULTS[fault]}.*`$") as raised:
        train._assemble_and_fit(cfg)
    assert "\n" not in str(raised.value) and "ShardError" not in str(raised.value)


def test_the_command_prints_that_line_and_no_traceback(data: Path, tmp_path) -> None:
    root = broken(data, tmp_path / "data", "damaged")
    overrides = [f"data.root={root}", f"run_dir={tmp_path / 'run'}", *TINY, *STREAM, "data.num_workers=1"]
    done = subprocess.run([sys.executable, "train.py", *overrides], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    assert line.startswith(f"error: {root}/train/000000.tar: sha256")


def test_messages_of_loader_processes_are_told_whole() -> None:
    class Odd(ValueError):
        pass

    def as_the_loader_says(name: str, said: str) -> str:
        return f"Caught {name} in DataLoader worker process 0.\nOriginal Traceback (most …):\n  …\n{name}: {said}"

    name = f"{Odd.__module__}.{Odd.__qualname__}"
    assert message_of(Odd(as_the_loader_says(name, "a: b\nc: d"))) == "a: b\nc: d"
    assert message_of(FileNotFoundError(as_the_loader_says("FileNotFoundError", "x: no"))) == "x: no"
    assert message_of(Odd("ValueError: no prefix of ours\n")) == "ValueError: no prefix of ours"


def test_more_processes_than_samples_and_illegal_ids_are_lines_too(data: Path, tmp_path) -> None:
    write_data(tmp_path / "few", {"train": 2, "eval": 2, "test": 1})
    with pytest.raises(SystemExit, match="^error: data.num_workers=3: 3 loader processes for 2 samples; take fewer$"):
        train._assemble_and_fit(config(tmp_path / "few", tmp_path / "run", *STREAM, "data.num_workers=3"))
    root = tmp_path / "data"
    shutil.copytree(data, root)
    shard = root / "train/000000.tar"
    content = shard.read_bytes()
    with tarfile.open(shard) as tar:
        place = next(member for member in tar if member.name.endswith(".tok_rgb.npy")).offset_data + 128
    shard.write_bytes(content[:place] + b"\xff\xff" + content[place + 2 :])
    listed, now = (hashlib.sha256(each).hexdigest() for each in (content, shard.read_bytes()))
    (root / "dataset.json").write_text((root / "dataset.json").read_text().replace(listed, now))
    with pytest.raises(
        SystemExit, match=r"^error: .*000000\.tar: train0-000000: tok_rgb has id 65535 at position 0, legal are"
    ):
        train._assemble_and_fit(config(root, tmp_path / "other", *STREAM))


# ── more processes than shards ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 5, 17, 50])
def test_fetches_are_counted(world: Path, num_workers: int) -> None:
    """Against the shard ranges that the workers really read; the split keeps its order."""
    split = split_at(world, "train", None)
    workers = [StreamWorker(index, num_workers) for index in range(num_workers)]
    fetched = [shard_range.shard for worker in workers for shard_range in split._shard_ranges(worker, 0)]
    assert split.num_fetches(num_workers) == len(fetched) and set(fetched) == {0, 1, 2, 3}


@pytest.mark.parametrize(("num_ranks", "num_workers", "is_warned"), [(1, 4, False), (1, 5, True), (3, 2, True)])
def test_more_processes_than_shards_are_told_once(world: Path, caplog, num_ranks, num_workers, is_warned) -> None:
    for rank in range(num_ranks):
        module = TokenDataModule(str(world), modality_table(), 4, backend="stream", num_workers=num_workers)
        device = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
        module.trainer = SimpleNamespace(global_rank=rank, world_size=num_ranks, max_steps=3, strategy=device)
        with caplog.at_level(logging.WARNING):
            module.val_dataloader(), module.train_dataloader(), module.val_dataloader()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == is_warned
    if is_warned:
        num = num_ranks * num_workers
        assert f"data.num_workers={num_workers}: {num} loader processes in all fetch 4 train shards 8 times" in said[0]
        assert "3 eval shards" in said[0]
        assert "pairs_per_shard" in said[0]


# ── slow servers ───────────────────────────────────────────────────────────────────────────────────────────────────


class SlowHandler(BaseHTTPRequestHandler):
    """Sends 8 bytes, each after a pause: 0.2 s for /slow, for /silent much longer."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        try:
            for byte in range(8):
                time.sleep(0.2 if self.path == "/slow" else 3)
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        except OSError:
            pass  # nobody listens any more

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def slow(monkeypatch) -> Iterator[str]:
    """A server; of those that read from it one may not be silent for more than a second."""
    monkeypatch.setattr(m3.shards.transport, "_SILENCE_S", 1.0)
    monkeypatch.setattr(m3.shards.transport, "_WAITS_S", (0.01,))
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowHandler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_may_take_long_but_a_server_may_not_be_silent(slow: str) -> None:
    start = time.monotonic()
    assert read_stored(slow, "slow", lambda file: file.read()) == bytes(range(8))
    assert time.monotonic() - start > 1.5  # longer than the silence that is allowed
    with pytest.raises(OSError, match="silent: cannot be read, tried 2 times"):
        read_stored(slow, "silent", lambda file: file.read())
    timeout = m3.shards.transport._filesystem(f"{slow}/slow")[0].client_kwargs["timeout"]
    assert timeout.total is None and timeout.sock_read == 1.0


def test_without_a_client_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ValueError, match=r"http://host/x/y: .*m3-motion\[stream\]"):
        read_stored("http://host/x", "y", lambda file: file.read())
    with pytest.raises(OSError, match="http://host/x/y: cannot be looked for"):
        is_stored("http://host/x", "y")


def test_a_refused_connection_is_not_a_missing_file(monkeypatch) -> None:
    monkeypatch.setattr(m3.shards.transport, "_WAITS_S", (0.0, 0.0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # of which nothing listens
    with pytest.raises(OSError, match=rf"{port}/data/dataset\.json: cannot be read, tried 3 times \(") as caught:
        Manifest.load(f"http://127.0.0.1:{port}/data")
    assert not isinstance(caught.value, FileNotFoundError)
