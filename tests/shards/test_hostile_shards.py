"""Data sets made to do harm: names that are paths or commands, files that never end, archives that lie."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.tiny_shards import small_manifest, tokenized_pair

import m3.shards.transport
from m3.core.types import FramePair
from m3.preprocessing.publish import publish
from m3.shards.manifest import Manifest, Shard, ShardError
from m3.shards.meta import pair_info, pair_meta, stored_pair
from m3.shards.reader import open_shard, read_shard, token_row
from m3.shards.transport import read_stored
from m3.shards.verify import verify_dataset
from m3.shards.writer import write_shards


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    shards = {
        split: write_shards(root, split, [tokenized_pair(n, clip) for n in range(3)], 3)
        for split, clip in (("train", "0001"), ("eval", "0002"))
    }
    num_clips = {"train": 1, "eval": 1, "test": 0}
    replace(small_manifest(), shards={**shards, "test": ()}, num_clips=num_clips).save(root)
    return root


def change(root: Path, **fields: Any) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def shard_named(name: Any) -> dict[str, Any]:
    return {"train": [{"name": name, "num_pairs": 3, "sha256": "00"}], "eval": [], "test": []}


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = (
    "../outside.tar", "/dev/zero", "train/../../x.tar", "train/000000.tar\n", "train/000000.tar;touch harmed",
    "$(touch harmed)", "train/`touch harmed`.tar", "train/000000.tar|touch harmed", "-oProxyCommand=touch harmed",
    "eval/000000.tar", "train/0.tar", "train//000000.tar", "train/000000.TAR", "train/٠٠٠٠٠٠.tar", "file:///etc/passwd",
    "http://127.0.0.1/x", "", "train", ".", "train\\000000.tar", None, 3, ["train/000000.tar"],
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_shards_are_those_that_m3_gives(data: Path, name: Any) -> None:
    change(data, shards=shard_named(name))
    with pytest.raises(ValueError, match=r"dataset\.json: shards: train\[0\]: name is .*overwrite=true"):
        Manifest.load(data)
    if name != "eval/000000.tar":
        with pytest.raises((ValueError, TypeError)):
            Shard(name, 3, "00")


@pytest.mark.parametrize("name", NAMES)
def test_a_text_tokenizer_has_one_name(data: Path, name: Any) -> None:
    change(data, text_tokenizer={"file": name, "sha256": "00", "num_ids": 300})
    with pytest.raises(ValueError, match=r"dataset\.json: text_tokenizer: file is "):
        Manifest.load(data)


def test_no_shell_reads_a_name_neither_here_nor_behind_ssh(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin/ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')  # as ssh does: the remote shell reads the words again
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    root = f"pipe:ssh host cat {data}/{{}}"
    manifest = Manifest.load(root)
    assert len(list(read_shard(root, manifest.shards["train"][0]))) == 3
    for name in NAMES:
        if isinstance(name, str) and "touch" in name:
            with pytest.raises(ValueError, match="no name of a file of a data set"):
                read_stored(root, name, lambda file: file.read())
    with pytest.raises(OSError, match="exit 1; it runs without a shell"):
        read_stored(f"pipe:cat {data}/{{}} ; touch harmed", "dataset.json", lambda file: file.read())
    assert read_stored(f"pipe:sh -c 'cat {data}/{{}} | cat'", "dataset.json", lambda file: file.read())
    with pytest.raises(OSError, match="no command no-such-command"):
        read_stored("pipe:no-such-command {}", "dataset.json", lambda file: file.read())
    with pytest.raises(ValueError, match="No closing quotation"):
        read_stored("pipe:cat '{}", "dataset.json", lambda file: file.read())
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "clip", ["../../../x", "a/b", "a\\b", "..", "", "a.b", "a\n", "\x1b[31m", "[/red]", "~", "a b", "x" * 200, None, 7]
)
def test_clips_are_ids(clip: Any) -> None:
    meta = pair_meta(FramePair(3, 4, 0.5), clip, "walk", {"mode": "crop", "size": 48}, 30.0, 25.0)
    with pytest.raises(ShardError, match="meta.json has clip"):
        pair_info(f"{clip}-000003", meta)
    fields = {"key": f"{clip}-000003", "clip": clip, "reference": 3, "successor": 4, "action": None}
    with pytest.raises(ShardError, match="need letters, digits"):
        stored_pair(fields, "train.json")


def test_clips_of_all_scripts_are_ids_and_come_back_from_a_table() -> None:
    for clip in ("0934", "walks__tom", "日本_é", "a+b=c,d@e-f"):
        meta = pair_meta(FramePair(3, 4, 0.5, 1), clip, "walk", {}, 30.0, 25.0)
        found = pair_info(f"{clip}-000003", meta)
        assert found.clip == clip and stored_pair(vars(found), "x") == found
    with pytest.raises(ShardError, match="is of clip 0934, reference frame 3"):
        pair_info("0935-000003", meta | {"clip": "0934"})


def test_publishing_deletes_nothing_that_an_older_manifest_names(data: Path, tmp_path: Path) -> None:
    there, precious = tmp_path / "there", tmp_path / "precious.tar"
    precious.write_text("mine")
    there.mkdir()
    old = json.loads((data / "dataset.json").read_text()) | {"shards": shard_named("../precious.tar")}
    (there / "dataset.json").write_text(json.dumps(old))
    publish(data, f"file://{there}")
    assert precious.read_text() == "mine" and Manifest.load(there) == Manifest.load(data)


@pytest.mark.parametrize("link", ["train", "train/000000.tar", "train/000007.tar"])
def test_publishing_follows_no_link_out_of_its_folder(data: Path, tmp_path: Path, link: str) -> None:
    there, outside = tmp_path / "there", tmp_path / "outside"
    (there / link).parent.mkdir(parents=True)
    outside.mkdir()
    precious = outside / "000007.tar"
    precious.write_text("mine")
    if link == "train/000000.tar":
        precious.rename(outside / "000000.tar")
        precious = outside / "000000.tar"
    (there / link).symlink_to(outside if link == "train" else precious)
    old = json.loads((data / "dataset.json").read_text()) | {"shards": shard_named("train/000007.tar")}
    (there / "dataset.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match="out=file:.*: train/.* is a link that leads out of it; remove the link"):
        publish(data, f"file://{there}")
    assert precious.read_text() == "mine" and list(outside.iterdir()) == [precious]


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["dataset.json", "train/000000.tar"])
@pytest.mark.parametrize("kind", ["fifo", "device", "outside", "folder"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_are_regular_and_inside(data: Path, tmp_path: Path, name: str, kind: str, scheme: str) -> None:
    manifest, path = Manifest.load(data), data / name
    content = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "outside").write_bytes(content)
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "outside")
    root = f"{scheme}{data}"
    with pytest.raises(
        (ValueError, OSError), match=f"{name}: (not a regular file|a link that leads out|cannot be read.*directory)"
    ):
        Manifest.load(root) if name == "dataset.json" else open_shard(root, manifest.shards["train"][0])


def test_links_inside_and_those_of_the_cache_of_the_hub_are_read(data: Path, tmp_path: Path) -> None:
    os.rename(data / "train/000000.tar", data / "elsewhere")
    (data / "train/000000.tar").symlink_to("../elsewhere")
    assert verify_dataset(data)[1] == []
    cache = tmp_path / "datasets--me--walks"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "blobs").mkdir()
    snapshot = cache / "snapshots/0a1b"
    os.rename(data, snapshot)
    os.rename(snapshot / "elsewhere", cache / "blobs/77")
    (snapshot / "train/000000.tar").unlink()
    (snapshot / "train/000000.tar").symlink_to("../../../blobs/77")
    assert verify_dataset(snapshot)[1] == []


# ── servers ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Hostile(BaseHTTPRequestHandler):
    """/endless never ends; /elsewhere redirects to another port, /file to a file; /here to /dataset.json."""

    protocol_version = "HTTP/1.0"  # without a length, so that nothing announces the end
    elsewhere = ""
    num_sent = 0

    def do_GET(self) -> None:
        path = "/" + self.path.split("/")[1]
        if target := {"/elsewhere": f"{self.elsewhere}/dataset.json", "/file": "file:///etc/passwd",
                      "/here": "/plain/dataset.json"}.get(path):  # fmt: skip
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(b"{}")
            while path == "/endless":
                Hostile.num_sent += self.wfile.write(bytes(2**20))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(m3.shards.transport, "_WAITS_S", (0.01,))
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Hostile) for _ in range(2)]
    for each in servers:
        each.daemon_threads = True
        threading.Thread(target=each.serve_forever, daemon=True).start()
    Hostile.elsewhere, Hostile.num_sent = f"http://127.0.0.1:{servers[1].server_port}", 0
    yield f"http://127.0.0.1:{servers[0].server_port}"
    for each in servers:
        each.shutdown()
        each.server_close()


def test_a_server_cannot_send_more_than_the_manifest_says(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard("train/000000.tar", 3, "00", 163_840)
    with pytest.raises(ShardError, match="train/000000.tar: more than 163,840 bytes"):
        open_shard(f"{server}/endless", shard)
    assert Hostile.num_sent < 2**25  # of these most are still in the sockets
    with pytest.raises(ShardError, match="more than 3,155,968 bytes"):
        open_shard(f"{server}/endless", replace(shard, num_bytes=None))  # of an earlier version
    monkeypatch.setattr(m3.shards.transport, "MAX_BYTES", 2**21)
    with pytest.raises(ValueError, match="dataset.json: more than "):
        read_stored(f"{server}/endless", "dataset.json", lambda file: file.read(), 2**21)


def test_a_command_cannot_print_more_either(data: Path) -> None:
    with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
        read_stored("pipe:yes {}", "dataset.json", lambda file: file.read(), 1_000_000)


def test_a_server_that_drips_is_given_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m3.shards.transport, "_GRACE_S", -1.0)
    with pytest.raises(OSError, match="plain/dataset.json: cannot be read, tried 2 times .*TimeoutError: 2 bytes"):
        read_stored(f"{server}/plain", "dataset.json", lambda file: file.read())


@pytest.mark.parametrize(("folder", "reason"), [
    ("elsewhere", "redirected to http://127.0.0.1:.* give it as data.root"), ("file", "redirected to file"),
])  # fmt: skip
def test_a_server_hands_nothing_on(server: str, folder: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{folder}/dataset.json: {reason}"):
        read_stored(f"{server}/{folder}", "dataset.json", lambda file: file.read())
    assert read_stored(f"{server}/here", "dataset.json", lambda file: file.read()) == b"{}"


# ── archives ───────────────────────────────────────────────────────────────────────────────────────────────────────


def listed(root: Path, content: bytes, num_pairs: int = 1) -> Shard:
    (root / "train/000000.tar").write_bytes(content)
    return Shard("train/000000.tar", num_pairs, hashlib.sha256(content).hexdigest(), len(content))


def tar_of(*members: tuple[str, bytes], **fields: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def with_size(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar whose second header has this size, in GNU's binary form."""
    content = bytearray(tar_of(("a-000000.x", b"1"), ("a-000000.y", b"2")))
    start = 1024
    content[start + 124 : start + 136] = (
        b"\xff" * 4 + size.to_bytes(8, "big", signed=True) if size < 0 else (b"\x80" + size.to_bytes(11, "big"))
    )
    content[start + 156 : start + 157] = kind
    header = bytearray(content[start : start + 512])
    header[148:156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(content)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME,
                                  tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE])  # fmt: skip
@pytest.mark.parametrize("size", [-512, -1024, -1536, -2, 2**40, 2**62])
def test_sizes_in_headers_are_not_believed(data: Path, size: int, kind: bytes) -> None:
    shard = listed(data, with_size(size, kind))
    with pytest.raises(ShardError, match="train/000000.tar: "):
        list(read_shard(data, shard))


@pytest.mark.parametrize(("fields", "names"), [
    ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, ("a-000000.x",)),
    ({"type": tarfile.LNKTYPE, "linkname": "a-000000.y"}, ("a-000000.x",)),
    ({"type": tarfile.FIFOTYPE}, ("a-000000.x",)),
    ({"type": tarfile.CHRTYPE}, ("a-000000.x",)),
    ({}, ("a-000000.x", "a-000000.x")), ({}, ("../a-000000.x",)), ({}, ("/a-000000.x",)), ({}, ("a/b-000000.x",)),
    ({}, ("a\x1b[31m-000000.x",)), ({}, ("a.x",)), ({}, (".x",)), ({}, ("a-0.x",)), ({}, ("a-٠٠٠٠٠٠.x",)),
])  # fmt: skip
def test_members_are_regular_files_with_keys(data: Path, fields: dict[str, Any], names: tuple[str, ...]) -> None:
    shard = listed(data, tar_of(*((name, b"1") for name in names), **fields))
    with pytest.raises(ShardError, match=r"train/000000\.tar: '.*: (a link, a folder|no key of a sample)") as raised:
        list(read_shard(data, shard))
    assert str(raised.value).isprintable()


def npy(shape: str, dtype: str = "'<u2'", body: bytes = bytes(12), version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little") + header + body


@pytest.mark.parametrize("content", [
    npy("(1000000000000, 1000000000000)"), npy("(2, 3000000000)"), npy("(-2, -3)"), npy("(2.0, 3)"), npy("(2, True)"),
    npy("(2, 3)", "'|O'"), npy("(2, 3)", "'<U1000000000'"), npy("(2, 3)", "[('a', '<u2', (1000000, 1000000))]"),
    npy("(2, 3)", "'<f8'"), npy("(6,)"), npy("()"), npy("(0,)"), npy(f"({'1,' * 3000})"), npy("(" * 500 + ")" * 500),
    npy("__import__('os').system('touch harmed')"), npy("(2, 3)", body=bytes(11)), npy("(2, 3)", version=b"\x09\x00"),
    npy("(2, 3)", version=b"\x03\x00"), b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", bytes(200),
])  # fmt: skip
def test_headers_of_arrays_are_not_believed(data: Path, content: bytes) -> None:
    manifest, members = Manifest.load(data), {"meta.json": b'{"reference": 0, "previous": -1}'}
    members |= {f"{name}.npy": content for name in ("tok_rgb", "coords", "tok_rgb_next", "coords_next")}
    with pytest.raises(ShardError, match="sample: tok_rgb.npy is "):
        token_row(members, manifest, "sample")


# ── manifests ──────────────────────────────────────────────────────────────────────────────────────────────────────

VALUES = (None, True, -1, 2**63, 10**400, 1.5, "", "x", "\ud800", [], {}, [[]], [{}], [1], ["x"], {"x": 1}, {"": None})


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


def put(node: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    copied = node.copy()
    copied[path[0]] = put(node[path[0]], path[1:], value)
    return copied


def test_every_value_of_a_manifest_is_checked(data: Path) -> None:
    """A manifest with one odd value opens, or an error names it; and what opens can be used."""
    path = data / "dataset.json"
    fields = json.loads(path.read_text()) | {
        "text_tokenizer": {"file": "text_tokenizer.json", "sha256": "00", "num_ids": 300}
    }
    num_refused = num_tried = 0
    for place in list(places(fields)):
        for value in VALUES:
            path.write_text(json.dumps(put(fields, place, value)))
            num_tried += 1
            try:
                manifest = Manifest.load(data)
            except ValueError as error:
                assert str(error).startswith(str(path)) and str(error).isprintable()
                num_refused += 1
            else:
                manifest.to_json(), manifest.row_length, manifest.canvas_size, manifest.num_pairs("train")
    assert num_tried > 1000 and num_refused > 0.8 * num_tried


@pytest.mark.parametrize("content", [
    b"", b"[" * 100_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"\xff\xfe", b"NaN", b"null", b"1" * 10_000, b"3",
    b'{"schema_version": NaN}', b'{"schema_version": 3}', b'{"schema_version": true}', b'{"schema_version": "3"}',
])  # fmt: skip
def test_other_texts_are_no_manifests(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"dataset\.json"):
        Manifest.load(tmp_path)


def test_numbers_of_pairs_fit_the_sizes(data: Path) -> None:
    shards = json.loads((data / "dataset.json").read_text())["shards"]
    shards["train"][0]["num_pairs"] = 10**9
    change(data, shards=shards)
    with pytest.raises(ValueError, match="num_pairs is 1000000000, need a whole number of 0 … "):
        Manifest.load(data)


def test_a_manifest_has_the_sizes_of_the_shards(data: Path) -> None:
    for shard in Manifest.load(data).shards["train"]:
        assert shard.num_bytes == (data / shard.name).stat().st_size == shard.max_bytes
