"""`out=s3://…`: the files of a folder, the manifest last, uploads that stop and go on."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.object_store import stored
from support.poses_only_builds import config
from support.preprocess_runs import contents

from m3.batches.table import TokenTable
from m3.commands import preprocess
from m3.preprocessing import publish
from m3.shards.manifest import Manifest
from m3.shards.reader import read_shard, token_row


@pytest.fixture(scope="module")
def expected(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("expected") / "data"
    preprocess.run(config(world, out, "contact_sheet.num_pairs=2"))
    return out


def make(world: Path, out: str, tmp_path: Path, *more: str) -> Manifest:
    return preprocess.run(config(world, out, "contact_sheet.num_pairs=2", f"scratch={tmp_path / 'scratch'}", *more))


def test_s3_holds_what_a_folder_holds_and_a_stream_reads_it(
    world, expected: Path, s3: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:  # fmt: skip
    out = f"{s3}/made"
    manifest = make(world, out, tmp_path)
    assert stored(out) == {name: data for name, data in contents(expected).items() if not name.startswith(".tables")}
    assert "contact_sheet.png" in stored(out) and not list((tmp_path / "scratch").iterdir())
    assert f"reasons in {out}/rejected.jsonl" in capsys.readouterr().out.replace("\n", "")
    assert Manifest.load(out) == manifest
    rows = [token_row(s, manifest, k)[0] for shard in manifest.shards["train"] for k, s in read_shard(out, shard)]
    assert np.array_equal(np.stack(rows), TokenTable.open(expected, "train").tokens)


def test_a_second_run_does_nothing_and_another_data_set_is_refused(world, s3: str, tmp_path: Path, monkeypatch) -> None:
    out = f"{s3}/twice"
    first = make(world, out, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "build_dataset", lambda *_: pytest.fail("worked again"))
        assert make(world, out, tmp_path) == first
        with pytest.raises(ValueError, match=r"pairs.threshold is 0.89, asked for 0.5.*overwrite=true"):
            make(world, out, tmp_path, "pairs.threshold=0.5")
    assert sum(name.startswith("train/") for name in stored(out)) > 1
    second = make(world, out, tmp_path, "pairs_per_shard=1000", "overwrite=true")
    assert [shard.name for shard in second.shards["train"]] == ["train/000000.tar"]
    assert [name for name in stored(out) if name.startswith("train/")] == ["train/000000.tar"]
    fsspec.core.url_to_fs(out)[0].rm_file(f"{out}/train/000000.tar")
    with pytest.raises(ValueError, match=r"lacks train/000000.tar, which its manifest lists"):
        make(world, out, tmp_path, "pairs_per_shard=1000")


def test_an_upload_that_stops_leaves_no_manifest_and_goes_on(
    world, expected: Path, tmp_path: Path, monkeypatch
) -> None:
    """`file://` is an address like others."""
    out, put, done = f"file://{tmp_path}/remote/data", publish._put, []

    def failing(filesystem, source: Path, path: str) -> None:
        if len(done) == 3:
            raise RuntimeError("slow down, please")
        done.append(put(filesystem, source, path))

    monkeypatch.setattr(publish, "_WAITS_S", (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(publish, "_put", failing)
        with pytest.raises(OSError, match=r"remote/data/.*: cannot be written \(RuntimeError: slow down.*same command"):
            make(world, out, tmp_path)
    assert len(stored(out)) == 3 and "dataset.json" not in stored(out)
    with monkeypatch.context() as patch:
        patch.setattr(preprocess.ClipPreparer, "__call__", lambda *_: pytest.fail("worked again"))
        make(world, out, tmp_path)
    expected_files = {name: data for name, data in contents(expected).items() if not name.startswith(".tables")}
    assert stored(out) == expected_files and not list((tmp_path / "scratch").iterdir())


def test_a_file_that_arrives_cut_off_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset.json").write_text("all of it")
    filesystem, sent = fsspec.filesystem("memory"), []
    put_file = type(filesystem).put_file

    def cut_off(self, source: str, path: str, **options) -> None:
        put_file(self, source, path, **options)
        sent.append(path)
        if len(sent) == 1:
            self.pipe_file(path, b"all")

    monkeypatch.setattr(publish, "_WAITS_S", (0, 0))
    monkeypatch.setattr(type(filesystem), "put_file", cut_off)
    publish.publish(tmp_path / "data", "memory://there/data")
    assert len(sent) == 2 and stored("memory://there/data") == {"dataset.json": b"all of it"}


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("http://127.0.0.1:9/data", "out=http://127.0.0.1:9/data: cannot be written; choose a folder"),
        ("nothing://there/data", "out=nothing://there/data: Protocol not known"),
        ("s3://m3-no-such-bucket/data", "s3://m3-no-such-bucket/data/.m3-write-test: cannot be written"),
    ],
)
def test_an_address_that_takes_nothing_is_named_before_any_work(
    world, s3: str, tmp_path: Path, monkeypatch, out: str, message: str
) -> None:  # fmt: skip
    monkeypatch.setattr(preprocess, "build_dataset", lambda *_: pytest.fail("worked"))
    monkeypatch.setattr(publish, "_WAITS_S", (0, 0))
    with pytest.raises((OSError, ValueError), match=message):
        make(world, out, tmp_path)
