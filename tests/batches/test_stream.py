"""Streams: the table's samples from disk, HTTP, S3 and a command, once an epoch, resumed exactly, damage noticed."""

from __future__ import annotations

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from support.streams import NUM_PAIRS, STREAM, split_at
from support.tiny_shards import modality_table, row_of
from support.train_runs import assert_same_training_state, config, state_of, write_data

import m3.batches.shuffle
import m3.batches.stream
import m3.shards.transport
import train
from m3.batches.datamodule import EvalBatches, SampleRows, TokenDataModule, TrainBatches
from m3.batches.shuffle import shuffled_order
from m3.batches.stream import StreamedBatches, StreamedSplit, StreamLoader, StreamWorker
from m3.batches.table import TokenTable
from m3.core.types import TokenBatch
from m3.shards.manifest import Manifest
from m3.shards.reader import ShardError, read_shard

TRANSPORTS = ("disk", "http", "s3", "pipe")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files; of those named in `stumbles` it sends only the beginning, as often as it says there."""

    stumbles: Counter[str] = Counter()

    def copyfile(self, source, outputfile) -> None:
        name = Path(self.path).name
        if self.stumbles[name] > 0:
            self.stumbles[name] -= 1
            outputfile.write(source.read(700))  # less than the Content-Length that was announced
        else:
            super().copyfile(source, outputfile)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def http(world: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(world.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def root_of(transport: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """The data set in `folder`, a child of the served one, as this transport reaches it."""
    if transport == "disk":
        return str(folder)
    if transport == "pipe":
        return f"pipe:cat '{folder}'/{{}}"
    if transport == "http":
        return f"{request.getfixturevalue('http')}/{folder.name}/"
    root = f"{request.getfixturevalue('s3')}/{folder.name}"
    import s3fs

    for path in folder.rglob("*.*"):
        if path.is_file():
            s3fs.S3FileSystem().put_file(str(path), f"{root}/{path.relative_to(folder)}")
    return root


def batches_at(root: str | Path, batch_size: int = 4, rank: int = 0, num_ranks: int = 1, num_workers: int = 0,
               num_batches: int = 30, **options) -> StreamLoader:  # fmt: skip
    split = split_at(root, **options)
    return StreamLoader(StreamedBatches(split, batch_size, rank, num_ranks, num_workers, num_batches), False)


def assert_same_batches(one: list[TokenBatch], other: list[TokenBatch]) -> None:
    assert len(one) == len(other)
    for ours, theirs in zip(one, other):
        assert ours.lengths is None and theirs.lengths is None  # all samples of this data set are whole
        assert all(torch.equal(a, b) for a, b in zip(ours[:3], theirs[:3]))


# ── what is read ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport_gives_the_samples_of_the_table(world, request, transport: str, num_workers: int) -> None:
    root = root_of(transport, world, request)
    rows = SampleRows(TokenTable.open(world, "eval"), modality_table())
    expected = EvalBatches(rows, 64, 0, 1)[0]
    split = split_at(root, "eval", None)
    found = list(StreamLoader(StreamedBatches(split, 6, 0, 1, num_workers), False))
    assert [len(batch.sample) for batch in found] == ([6, 6, 6, 3] if not num_workers else [6, 6, 4, 5])
    order = torch.cat([batch.sample for batch in found]).argsort()
    assert expected.lengths is None and all(batch.lengths is None for batch in found)
    for name in ("tokens", "sample", "epoch"):
        assert torch.equal(torch.cat([getattr(batch, name) for batch in found])[order], getattr(expected, name))
    trained = list(batches_at(root, num_workers=num_workers))
    assert_same_batches(trained, list(batches_at(world, num_workers=num_workers)))
    assert all(
        np.array_equal(tokens, row_of(int(sample))) for b in trained for tokens, sample in zip(b.tokens, b.sample)
    )


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_every_sample_once_an_epoch_over_ranks_and_workers(world, num_ranks: int, num_workers: int) -> None:
    loaders = [batches_at(world, 4, rank, num_ranks, num_workers, 40 // num_ranks) for rank in range(num_ranks)]
    seen: dict[int, list[int]] = {}
    for batch in (batch for loader in loaders for batch in loader):
        assert batch.tokens.dtype == batch.sample.dtype == batch.epoch.dtype == torch.int64
        assert batch.tokens.shape == (4, 90) and batch.sample.shape == batch.epoch.shape == (4,)
        for sample, epoch in zip(batch.sample.tolist(), batch.epoch.tolist()):
            seen.setdefault(epoch, []).append(sample)
    assert sum(map(len, seen.values())) == 160
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(NUM_PAIRS))  # 160 = 3 · 50 + 10
    assert seen[0] != seen[1] and max(Counter(seen[2]).values()) == 1
    samples = [[set(b.sample[b.epoch == 0].tolist()) for b in loader] for loader in loaders]
    assert sum(len(set().union(*of_rank)) for of_rank in samples) == NUM_PAIRS  # no rank has another's


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize(("num_ranks", "batch_size"), [(1, 1), (1, 7), (2, 7), (2, 64), (3, 4)])
def test_evaluation_sees_each_sample_once_and_all_ranks_as_many_batches(
    world, num_ranks: int, num_workers: int, batch_size: int
) -> None:
    split = split_at(world, "eval", None)
    streams = [StreamedBatches(split, batch_size, rank, num_ranks, num_workers) for rank in range(num_ranks)]
    total = num_ranks * max(num_workers, 1)
    workers = [StreamWorker(index, total) for index in range(total)]
    assert sorted(s.sample for worker in workers for s in split.samples(worker)) == list(range(21))
    found = [list(StreamLoader(stream, False)) for stream in streams] if num_workers < 2 or batch_size == 7 else []
    assert len({len(of_rank) for of_rank in found}) <= 1
    for of_rank, stream in zip(found, streams):
        assert len(of_rank) == stream.num_batches == len(StreamLoader(stream, False))
        assert all(batch.tokens.shape == (len(batch.sample), 90) for batch in of_rank)
    if found:
        assert sorted(s for of_rank in found for b in of_rank for s in b.sample.tolist()) == list(range(21))


@pytest.mark.parametrize("block_length", [1, 4, 1 << 16])
@pytest.mark.parametrize(
    ("num", "size"), [(50, 7), (5, 5), (5, 9), (1, 4), (6, 1), (0, 3), (3000, 255), (3000, 256), (3000, 257)]
)
def test_the_order_is_that_of_a_shuffle_buffer(num: int, size: int, block_length: int, monkeypatch) -> None:
    """Against the usual generator over a buffer, with the same draws, all of them at once."""
    monkeypatch.setattr(m3.batches.shuffle, "_BLOCK_LENGTH", block_length)
    draws, buffer, left = np.random.default_rng(0), [], []
    places = iter(draws.integers(min(size, num) or 1, size=max(num - size, 0)))
    for arriving in range(num):
        if len(buffer) < size:
            buffer.append(arriving)
        else:
            place = next(places)
            left.append(buffer[place])
            buffer[place] = arriving
    left += draws.permutation(np.array(buffer, dtype=np.int64)).tolist()
    found = [n for block in shuffled_order(num, size, np.random.default_rng(0)) for n in block.tolist()]
    for first, last in ((0, 0), (0, num // 2), (num // 3, num // 2), (num // 2, None), (num, num)):
        part = [*shuffled_order(num, size, np.random.default_rng(0), first, last)]
        assert [arrival for block in part for arrival in block.tolist()] == left[first:last]
    assert found == left and sorted(found) == list(range(num))
    assert all(turn >= arrival - size + 1 for turn, arrival in enumerate(found))


def test_the_order_depends_on_seed_and_epoch_alone_and_the_buffer_mixes(world) -> None:
    def order(seed: int, buffer: int, epoch: int) -> list[int]:
        split = StreamedSplit(str(world), Manifest.load(world), "train", modality_table(), seed, buffer)
        return [s.sample for s in islice(split.samples(StreamWorker(0, 1), NUM_PAIRS * epoch), NUM_PAIRS)]

    assert order(3, 7, 1) == order(3, 7, 1) != order(3, 7, 0) and order(4, 7, 0) != order(3, 7, 0) != order(3, 8, 0)
    unmixed, mixed = order(3, 1, 0), order(3, NUM_PAIRS, 0)
    neighbors = [sum(abs(a - b) == 1 for a, b in zip(o, o[1:])) for o in (unmixed, mixed)]
    assert neighbors[0] >= NUM_PAIRS - 4 and neighbors[1] < 12  # 4 shards, each in one piece; by chance 2 of 49
    plain = StreamedSplit(str(world), Manifest.load(world), "train", modality_table(), 3, 1)
    first = Counter(next(plain.samples(StreamWorker(0, 1), NUM_PAIRS * epoch)).sample // 16 for epoch in range(60))
    assert set(first) == {0, 1, 2, 3} and min(first.values()) > 6  # 15 expected of each shard


def test_mirroring_is_that_of_the_table(world) -> None:
    rows = SampleRows(TokenTable.open(world, "train"), modality_table(), with_flips=True)
    table = TrainBatches(rows, NUM_PAIRS, 3, 3, 0, 1, flip=True)
    streamed = list(batches_at(world, NUM_PAIRS, num_batches=3, flip=True))
    for epoch, batch in enumerate(streamed):
        assert batch.epoch.tolist() == [epoch] * NUM_PAIRS
        assert torch.equal(batch.tokens[batch.sample.argsort()], table[epoch].tokens[table[epoch].sample.argsort()])


def test_a_stream_follows_the_runs_modalities(world) -> None:
    names = ("coords_next", "coords")
    table = modality_table(names, (39, 39))
    split = StreamedSplit(str(world), Manifest.load(world), "eval", table)
    assert all(np.array_equal(s.stored, row_of(s.sample, names)) for s in split.samples(StreamWorker(0, 1)))
    with pytest.raises(ValueError, match="wants 256 tokens of tok_rgb, the data set has 6"):
        StreamedSplit(str(world), Manifest.load(world), "eval", modality_table(lengths=(256, 39, 256, 39)))


# ── damage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def truncated_in_a_member(content: bytes) -> bytes:
    return content[: member_offset(content, 40) + 600]


def truncated_at_a_sample_and_padded(content: bytes) -> bytes:
    return content[: member_offset(content, 5 * 10)] + bytes(10240)


def one_byte_changed(content: bytes) -> bytes:
    place = member_offset(content, 20) + 512 + 140  # a token
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def member_offset(content: bytes, number: int) -> int:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return tar.getmembers()[number].offset


DAMAGES = {truncated_in_a_member: 4, truncated_at_a_sample_and_padded: 5, one_byte_changed: 16}
"""With the whole samples left of 16."""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_damaged_shard_is_noticed_before_a_sample_of_it_is_used(world, request, transport: str, damage) -> None:
    folder = world.parent / f"{damage.__name__}-{transport}"
    for path in world.rglob("*.*"):
        if path.is_file() and ".tables" not in path.parts:
            target = folder / path.relative_to(world)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes()
            target.write_bytes(damage(content) if path.name == "000001.tar" else content)
    root = root_of(transport, folder, request)
    seen: list[int] = []
    with pytest.raises(ShardError) as raised:
        seen.extend(s.sample for s in islice(split_at(root, buffer=1).samples(StreamWorker(0, 1)), NUM_PAIRS))
    assert not set(seen) & set(range(16, 32))
    listed = Manifest.load(world).shards["train"][1].sha256
    for said in ("train/000001.tar", f"but {listed[:12]}… in the manifest", "expected 16 samples",
                 f"found {DAMAGES[damage]} whole", "copy it again", "preprocess.py"):  # fmt: skip
        assert said in str(raised.value)
    if transport == "s3" and damage is one_byte_changed:  # from a process of its own, too
        with pytest.raises(ShardError, match=r"train/000001\.tar: sha256"):
            list(batches_at(root, num_workers=1))


def test_webdataset_says_nothing_of_the_shard_cut_off_between_samples(world, tmp_path) -> None:
    path = tmp_path / "cut.tar"
    path.write_bytes(truncated_at_a_sample_and_padded((world / "train/000001.tar").read_bytes()))
    assert len(list(webdataset.WebDataset(str(path), shardshuffle=False))) == 5


@pytest.mark.parametrize("listed", [15, 17])
def test_a_count_that_is_not_the_manifests_is_noticed(world, listed: int) -> None:
    manifest = Manifest.load(world)
    shards = list(manifest.shards["train"])
    shards[0] = replace(shards[0], num_pairs=listed)
    wrong = replace(manifest, shards={**manifest.shards, "train": tuple(shards)})
    split = StreamedSplit(str(world), wrong, "train", modality_table())
    with pytest.raises(ShardError, match=rf"000000.tar: 16 samples, but {listed} in the manifest"):
        list(split.samples(StreamWorker(0, 1)))


def test_a_missing_shard_is_named(world, request) -> None:
    manifest = Manifest.load(world)
    shard = replace(manifest.shards["train"][0], name="train/000009.tar")
    for transport in ("disk", "http", "s3"):
        with pytest.raises(FileNotFoundError, match=r"000009\.tar: no such shard, though the manifest lists it"):
            next(read_shard(root_of(transport, world, request), shard))
    with pytest.raises(OSError, match=r"000009\.tar: cannot be read.*exit 1"):
        next(read_shard(root_of("pipe", world, request), shard))


def test_a_transfer_that_breaks_off_is_tried_again(world, request, monkeypatch) -> None:
    monkeypatch.setattr(m3.shards.transport, "_WAITS_S", (0.01, 0.01))
    root = root_of("http", world, request)
    split = split_at(root)
    QuietHandler.stumbles["000002.tar"] = 2
    found = [s.sample for s in islice(split.samples(StreamWorker(0, 1)), NUM_PAIRS)]
    assert sorted(found) == list(range(NUM_PAIRS)) and QuietHandler.stumbles["000002.tar"] == 0
    QuietHandler.stumbles["000002.tar"] = 30
    with pytest.raises(OSError, match=r"000002\.tar: cannot be read, tried 3 times .*resume=auto"):
        list(islice(split.samples(StreamWorker(0, 1)), NUM_PAIRS))
    QuietHandler.stumbles.clear()


def test_roots_that_cannot_be_are_refused(world, request) -> None:
    def module(root: str, **options) -> None:
        TokenDataModule(root, modality_table(), 4, **{"backend": "stream", **options})

    with pytest.raises(FileNotFoundError, match=r"nowhere/dataset\.json: no such file.*preprocess\.py.*copy"):
        module(f"{request.getfixturevalue('http')}/nowhere")
    with pytest.raises(ValueError, match="pipe:cat x: a command needs {}"):
        module("pipe:cat x")
    with pytest.raises(OSError, match="pipe:sh .*cannot be read.*exit 3"):
        module("pipe:sh -c 'exit 3' {}")
    with pytest.raises(ValueError, match=r"gopher://x/dataset\.json: .*m3-motion\[stream\]"):
        module("gopher://x")
    with pytest.raises(ValueError, match="token tables are made in a local folder.*data.backend=stream"):
        module(f"{request.getfixturevalue('http')}/whole", backend="table")
    with pytest.raises(ValueError, match="data.backend='tape': choose table or stream"):
        module(str(world), backend="tape")
    with pytest.raises(ValueError, match="data.repeat_batches=1: .*data.backend=table"):
        module(str(world), repeat_batches=1)
    with pytest.raises(ValueError, match="data.shuffle_buffer=0"):
        module(str(world), shuffle_buffer=0)
    with pytest.raises(ValueError, match="data.num_workers=60: 60 loader processes for 50 samples"):
        batches_at(world, num_workers=60)


# ── resume ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 0), (1, 2), (2, 0), (2, 1), (2, 2)])
def test_a_resumed_stream_continues_exactly(world, num_ranks: int, num_workers: int) -> None:
    """In the middle of the first epoch, at odd and even turns of the loader processes, and in the second epoch."""
    rank, division = num_ranks - 1, {"num_ranks": num_ranks, "num_workers": num_workers}
    make = partial(batches_at, world, 4, rank, num_batches=20, flip=True, **division)
    whole = list(make())
    for num_yielded in (1, 4, 9):
        loader = make()
        interrupted = iter(loader)
        assert_same_batches(list(islice(interrupted, num_yielded)), whole[:num_yielded])
        state = loader.state_dict()
        interrupted.close()
        assert state == {"num_yielded": num_yielded, **division}
        resumed = make()
        resumed.load_state_dict(state)
        assert_same_batches(list(resumed), whole[num_yielded:])


@pytest.mark.parametrize("transport", ["http", "s3", "pipe"])
def test_a_resumed_stream_continues_exactly_from_afar(world, request, transport: str) -> None:
    root = root_of(transport, world, request)
    whole = list(batches_at(world, num_batches=20))
    resumed = batches_at(root, num_batches=20)
    resumed.load_state_dict({"num_yielded": 7, "num_ranks": 1, "num_workers": 0})
    assert_same_batches(list(resumed), whole[7:])


def test_resuming_reads_only_shards_that_have_something_left(world, monkeypatch) -> None:
    opened: list[str] = []
    original = m3.batches.stream.open_shard
    monkeypatch.setattr(
        m3.batches.stream, "open_shard", lambda root, shard: opened.append(shard.name) or original(root, shard)
    )
    split = split_at(world, buffer=2)
    order = [s.sample for s in islice(split.samples(StreamWorker(0, 1)), NUM_PAIRS)]
    opened.clear()
    rest = [s.sample for s in islice(split.samples(StreamWorker(0, 1), 40), 10)]
    assert rest == order[40:]
    needed = {f"train/{sample // 16:06d}.tar" for sample in rest}
    assert len(needed) < 3 and set(opened[: len(needed)]) == needed
    assert len(opened) <= len(needed) + 1  # the next one is fetched ahead


@pytest.mark.parametrize(("key", "now"), [("num_ranks", {"num_ranks": 2}), ("num_workers", {"num_workers": 1})])
def test_another_division_is_refused(world, key: str, now: dict) -> None:
    state = batches_at(world).state_dict()
    with pytest.raises(ValueError, match=rf"{key} was \d and is \d.*data.backend=table"):
        batches_at(world, **now).load_state_dict(state)


# ── training ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


def test_training_from_a_stream_resumes_to_the_bit_and_evaluates_as_from_the_table(data, tmp_path) -> None:
    whole = train.run(config(data, tmp_path / "whole", *STREAM, "data.num_workers=1"))
    train.run(config(data, tmp_path / "parts", *STREAM, "data.num_workers=1", "trainer.max_steps=9"))
    resumed = train.run(config(data, tmp_path / "parts", *STREAM, "data.num_workers=1", "resume=auto"))
    assert resumed.trainer.global_step == 20
    assert_same_training_state(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))

    table = TokenDataModule(str(data), whole.module.table, 4)
    assert whole.trainer.validate(whole.module, datamodule=table, verbose=False)[0]["eval/loss"] == pytest.approx(
        whole.last_eval_loss, rel=1e-6
    )
    for changed, name in (("data.num_workers=2", "num_workers"), ("data.shuffle_buffer=8", "shuffle_buffer"),
                          ("data.backend=table", "backend")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"data\.{name} was"):
            train.run(config(data, tmp_path / "parts", *STREAM, "data.num_workers=1", "resume=auto", changed))
