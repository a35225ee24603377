"""How fast one loader process streams shards, from disk, HTTP and S3, and what it does about interruptions and damage.

    python bench/stream.py [--json FILE]        needs m3[test], for the S3 server

8,000 random samples of the m3 recipe in 8 shards. HTTP is Python's own `http.server`, S3 is moto's server, both on
loopback in processes of their own, which share the machine's cores with the reader. The reader is a loader without
workers, batch 125, shuffle buffer 4,096: what each worker of a run does. The target is 1,000 samples/s. Beside it
WebDataset reads and decodes the same files from disk (no checksums, no shuffling).

Speed: whole epochs after a first one, the ways in turn, their median. Resume: seconds to the first batch when half of
the epoch was read, and whether all batches after it equal those of an uninterrupted run. Damage: whether a shard cut
off in the middle of a member, one cut off between two samples and padded, and one with a single changed byte stop it.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from m3.batches.stream import StreamedBatches, StreamedSplit, StreamLoader  # noqa: E402
from m3.core.types import TokenBatch, TokenizedPair  # noqa: E402
from m3.shards.manifest import PAIR_MODALITIES, Manifest, pair_modalities  # noqa: E402
from m3.shards.reader import ShardError  # noqa: E402
from m3.shards.writer import write_shards  # noqa: E402

GRID = (16, 16)
NUM_SAMPLES, SAMPLES_PER_SHARD, BATCH_SIZE, BUFFER_SIZE = 8_000, 1_000, 125, 4_096
BATCHES_PER_EPOCH = NUM_SAMPLES // BATCH_SIZE
NUM_ROUNDS = 5
BUCKET = "bench"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}


# ── data and servers ───────────────────────────────────────────────────────────────────────────────────────────────


def write_data(root: Path) -> None:
    rng = np.random.default_rng(0)

    def pair(number: int) -> TokenizedPair:
        pictures = rng.integers(0, 64_000, (2, *GRID)).astype(np.uint16)
        joints = np.concatenate([rng.integers(0, 8_192, (2, 2, 13)), np.ones((2, 1, 13), int)], 1).astype(np.uint16)
        tokens = dict(zip(PAIR_MODALITIES, (pictures[0], joints[0], pictures[1], joints[1])))
        meta = {"clip": f"{number // 50:04d}", "reference": number % 50, "successor": number % 50 + 1, "ssim": 0.87,
                "canvas": {"mode": "crop", "size": 256}, "action": "golf_swing", "pose_extent_px": 150.0}  # fmt: skip
        return TokenizedPair(f"{meta['clip']}-{meta['reference']:06d}", tokens, ("a person swings",), meta)

    shards = write_shards(root, "train", map(pair, range(NUM_SAMPLES)), SAMPLES_PER_SHARD)
    Manifest(
        settings={}, source={"name": "random", "fingerprint": "0"}, canvas={"mode": "crop", "size": 256},
        modalities=pair_modalities(GRID), has_joints=True, variants=(),
        tokenizer={"name": "random", "fingerprint": "0", "settings": {}},
        captioner={"name": "label", "fingerprint": None, "settings": {}}, text_tokenizer=None,
        num_clips={"train": NUM_SAMPLES // 50, "eval": 0, "test": 0},
        shards={"train": shards, "eval": (), "test": ()}, rejected=(), notes=(), statistics={},
    ).save(root)  # fmt: skip


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def serve_http(folder: str, started: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    started.send(server.server_port)
    server.serve_forever()


def serve_s3(_: str, started: Connection) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    started.send(server.get_host_and_port()[1])
    started.poll(None)


@contextmanager
def served(serve: Callable[[str, Connection], None], folder: Path) -> Iterator[int]:
    """The port of a server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(str(folder), theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise SystemExit(f"error: {serve.__name__} did not start within a minute")
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


# ── what is measured ───────────────────────────────────────────────────────────────────────────────────────────────


def loader_of(root: str, num_batches: int) -> StreamLoader:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        table = instantiate(compose("train", ["modalities=m3"]).modalities)
    split = StreamedSplit(root, Manifest.load(root), "train", table, 0, BUFFER_SIZE)
    return StreamLoader(StreamedBatches(split, BATCH_SIZE, 0, 1, 0, num_batches), pin_memory=False)


def epochs_of(root: str) -> Iterator[None]:
    """Each item is an epoch of the stream."""
    batches = iter(loader_of(root, 10**9))
    while True:
        for _ in islice(batches, BATCHES_PER_EPOCH):
            pass
        yield


def webdataset_epochs(folder: Path) -> Iterator[None]:
    names = [str(path) for path in sorted(folder.glob("train/*.tar"))]
    while True:
        for _ in webdataset.WebDataset(names, shardshuffle=False).decode():
            pass
        yield


def speeds(ways: dict[str, Iterator[None]]) -> dict[str, float]:
    """Samples per second of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for epochs in ways.values():
        next(epochs)
    for _ in range(NUM_ROUNDS):
        for name, epochs in ways.items():
            begin = time.perf_counter()
            next(epochs)
            seconds[name].append(time.perf_counter() - begin)
    return {name: NUM_SAMPLES / statistics.median(each) for name, each in seconds.items()}


def resumed(root: str, whole: list[TokenBatch]) -> tuple[float, bool]:
    """Seconds to the first batch of a stream continued inside an epoch, and whether all its batches are right."""
    half = BATCHES_PER_EPOCH // 2
    begin = time.perf_counter()
    loader = loader_of(root, len(whole))
    loader.load_state_dict({"num_yielded": half, "num_ranks": 1, "num_workers": 0})
    batches = iter(loader)
    found = [next(batches)]
    seconds = time.perf_counter() - begin
    found += batches
    return seconds, all(map(are_same, found, whole[half:])) and len(found) == len(whole) - half


def are_same(one: TokenBatch, other: TokenBatch) -> bool:
    """Whole samples have no lengths."""
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(one, other))


def damages(content: bytes) -> dict[str, bytes]:
    """A shard damaged in three ways."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
    member, sample = members[len(members) // 2], members[6 * (SAMPLES_PER_SHARD // 2)]
    place = member.offset_data + member.size - 1
    return {
        "cut off in a member": content[:place],
        "cut off between samples, padded": content[: sample.offset] + bytes(10_240),
        "one byte changed": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
    }


def is_noticed(root: str) -> bool:
    try:
        for _ in loader_of(root, BATCHES_PER_EPOCH):
            pass
    except ShardError as error:
        return "train/000003.tar: sha256" in str(error)
    return False


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured of each transport."""
    import s3fs

    write_data(folder / "whole")
    whole = list(loader_of(str(folder / "whole"), BATCHES_PER_EPOCH + 5))
    contents = damages((folder / "whole/train/000003.tar").read_bytes())
    for number, content in enumerate(contents.values()):
        shutil.copytree(folder / "whole", folder / f"damaged{number}")
        (folder / f"damaged{number}/train/000003.tar").write_bytes(content)
    with served(serve_http, folder) as http_port, served(serve_s3, folder) as s3_port:
        os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}"}
        s3fs.S3FileSystem.clear_instance_cache()  # a client in this process may have another server's address
        store = s3fs.S3FileSystem()
        store.mkdir(BUCKET)
        store.put(f"{folder}/", f"{BUCKET}/", recursive=True)
        roots = {"disk": str(folder), "HTTP": f"http://127.0.0.1:{http_port}", "S3": f"s3://{BUCKET}"}
        ways = {name: epochs_of(f"{root}/whole") for name, root in roots.items()}
        found = speeds({**ways, "WebDataset, disk": webdataset_epochs(folder / "whole")})
        table: dict[str, dict[str, Any]] = {name: {"samples_per_s": speed} for name, speed in found.items()}
        for name, root in roots.items():
            seconds, is_exact = resumed(f"{root}/whole", whole)
            noticed = {kind: is_noticed(f"{root}/damaged{number}") for number, kind in enumerate(contents)}
            table[name] |= {"resume_s": seconds, "resume_is_exact": is_exact, "damage_is_noticed": noticed}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    for name, facts in found.items():
        line = f"{name:18} {facts['samples_per_s']:>7,.0f} samples/s"
        if "resume_s" in facts:
            exact = "exact" if facts["resume_is_exact"] else "NOT EXACT"
            noticed = [kind for kind, is_seen in facts["damage_is_noticed"].items() if is_seen]
            line += f"   resumed after {facts['resume_s']:.2f} s, {exact}   noticed: {', '.join(noticed)}"
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "transports": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
