"""Damaged and hostile files of every kind that m3 reads: how each ends.

    python bench/fuzz.py                       # 24,500 inputs, a few minutes on one core
    python bench/fuzz.py --scale 0.01          # a hundredth of them
    python bench/fuzz.py --kinds manifest shard --seed 7

Each input is a whole file with bytes flipped, cut, repeated or overwritten, or with values replaced by others of other
types and sizes and by names that are paths and commands; digests are made to fit, so that the parsers themselves are
reached. It is read as m3 reads it, in a process of its own, which may not start another process, open a connection, or
write outside its folder. The outcomes:

    read        without complaint
    refused     a ValueError or OSError, in one line that names the file (commands escape control characters)
    unnamed     the same without the name of the file, or in several lines
    raw         any other exception
    hung        not done after 20 seconds
    killed      the process died
    escaped     it started a process, opened a connection or wrote outside its folder

Status 1 where there is any of the last five.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import scipy.io
import torch
from PIL import Image

from m3.annotation.formats.reader import read_poses, tracks_of
from m3.app.browse import runs
from m3.batches.table import TokenTable
from m3.checkpoint import load_model
from m3.checkpoint.files import AtomicCheckpointIO
from m3.checkpoint.loading import LoadedModel
from m3.clips.base import JointFile
from m3.clips.joint_options import USUAL_OPTIONS
from m3.clips.penn_action import read_label
from m3.clips.picture_files import PictureFiles, picture_size
from m3.clips.sidecar import read_sidecar
from m3.clips.video_frames import VideoFrames, scan
from m3.core.joints import JOINT_NAMES
from m3.core.modalities import ModalityTable
from m3.core.types import FramePair, TokenizedPair
from m3.model.encoder_decoder import EncoderDecoder
from m3.shards.manifest import Manifest, pair_modalities
from m3.shards.meta import pair_meta
from m3.shards.verify import verify_dataset
from m3.shards.writer import write_shards
from m3.tokens.text import TextTokenizer, train_text_tokenizer

LIMIT_S, LIMIT_BYTES = 20.0, 2**31
BAD = ("unnamed", "raw", "hung", "killed", "escaped")
OUTCOMES = ("read", "refused", *BAD)

VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 1e30, -0.5, 1.5, "", "x", "\ud800", "\x1b[2J", "[/red]",
    [], {}, [[]], [{}], [1], ["x"], {"x": 1}, [0] * 70, "x" * 5_000, "../../../x", "/dev/zero", "train/../../x.tar",
    "pipe:touch harmed {}", "$(touch harmed)", "train/000000.tar;touch harmed", "http://127.0.0.1:9/x",
    "file:///etc/passwd", "os.system", "${oc.env:HOME}", {"_target_": "os.system", "command": "touch harmed"},
)  # fmt: skip
"""What values of JSON are replaced by."""


# ── inputs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to three changes."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            return bytes(data)
        # Headers decide most, and they come first.
        end = len(data) if rng.random() < 0.5 else min(len(data), 600)
        start, length = int(rng.integers(end)), int(2 ** rng.integers(0, 8))
        change = int(rng.integers(8))
        if change == 0:
            data[start] ^= 1 << int(rng.integers(8))
        elif change == 1:
            data[start : start + length] = rng.bytes(len(data[start : start + length]))
        elif change == 2:
            del data[start:]
        elif change == 3:
            data[start : start + length] = bytes(len(data[start : start + length]))
        elif change == 4:
            data[start:start] = data[start : start + length]
        elif change == 5:
            del data[start : start + length]
        elif change == 6:
            data[start : start + 4] = (b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\x7f\xff\xff\xff")[int(rng.integers(3))]
        else:
            data += rng.bytes(length)
    return bytes(data)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a JSON text."""
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


def replaced(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copied = node.copy()
    copied[path[0]] = replaced(node[path[0]], path[1:], value)
    return copied


def with_odd_value(content: Any, rng: np.random.Generator) -> Any:
    """A value of JSON of which one part is replaced, or is missing."""
    found = list(places(content))
    path = found[int(rng.integers(len(found)))]
    if path and isinstance(path[-1], str) and rng.random() < 0.1:
        outer = content
        for key in path[:-1]:
            outer = outer[key]
        return replaced(content, path[:-1], {key: value for key, value in outer.items() if key != path[-1]})
    return replaced(content, path, VALUES[int(rng.integers(len(VALUES)))])


def odd_json(content: bytes, rng: np.random.Generator) -> bytes:
    """A JSON text with an odd value, or with damaged bytes."""
    if rng.random() < 0.15:
        return damaged(content, rng)
    return json.dumps(with_odd_value(json.loads(content), rng)).encode()


# ── kinds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    num_inputs: at scale 1. make: writes whole files into an empty folder.
    change: changes them, given the whole ones in another folder and a generator; returns the name that an error must
    contain. read: reads them.
    """

    name: str
    num_inputs: int
    make: Callable[[Path], object]
    change: Callable[[Path, np.random.Generator], str]
    read: Callable[[Path], object]


CANVAS = 32
NAMES = ("tok_rgb", "coords", "tok_rgb_next", "coords_next", "tok_rgb_prev", "coords_prev")


def pairs(clip: str) -> list[TokenizedPair]:
    rng, made = np.random.default_rng(0), []
    for number in range(3):
        previous = number - 1 if number else None
        names = NAMES if number else NAMES[:4]
        tokens = {
            name: rng.integers(0, 64_000, (2, 2)) if "rgb" in name else rng.integers(0, 2, (3, 13)) for name in names
        }
        meta = pair_meta(FramePair(number, number + 1, 0.5, previous), clip, "walk",
                         {"mode": "crop", "size": CANVAS, "window": [0.0] * 4}, 30.0, 25.0)  # fmt: skip
        tokens = {name: ids.astype(np.uint16) for name, ids in tokens.items()}
        made.append(TokenizedPair(f"{clip}-{number:06d}", tokens, ("a person walking",), meta))
    return made


def make_data(root: Path) -> Manifest:
    shards = {split: write_shards(root, split, pairs(split), 3) for split in ("train", "eval", "test")}
    text = train_text_tokenizer(["a person walking", "a person running"] * 3, 300)
    (root / "text_tokenizer.json").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    manifest = Manifest(
        settings={"canvas": {"size": CANVAS}, "pairs": {"_target_": "m3.pairs.Chain", "threshold": 0.89},
                  "source": {"fps": None}, "split": {"unit": "clip"}},
        source={"name": "world", "fingerprint": "ab"},
        canvas={"mode": "crop", "size": CANVAS},
        modalities=pair_modalities((2, 2), NAMES),
        has_joints=True,
        variants=(),
        tokenizer={"name": "mini", "fingerprint": "cd", "settings": {}},
        captioner={"name": "none", "fingerprint": None, "settings": {}},
        text_tokenizer={"file": "text_tokenizer.json", "sha256": sha256, "num_ids": 300},
        num_clips={"train": 1, "eval": 1, "test": 1},
        shards=shards,
        rejected=(),
        notes=({"clip": "train", "note": "odd"},),
        statistics={"visible_joints": 0.5, "ssim_histogram": {"0.80–0.85": 3}},
        actions=("walk",),
    )  # fmt: skip
    manifest.save(root)
    return manifest


def change_file(root: Path, name: str, change: Callable[[bytes, np.random.Generator], bytes], rng: Any) -> str:
    path = root / name
    path.write_bytes(change(path.read_bytes(), rng))
    return path.name


def change_manifest(root: Path, rng: np.random.Generator) -> str:
    return change_file(root, "dataset.json", odd_json, rng)


def read_manifest(root: Path) -> None:
    manifest = Manifest.load(root)
    manifest.to_json(), manifest.preparation, manifest.row_length
    with_shards = {split: manifest.num_pairs(split) for split in manifest.shards}
    if sum(with_shards.values()) < 100:
        verify_dataset(root)


def change_shard(root: Path, rng: np.random.Generator) -> str:
    """Bytes of a shard, or values of a sample's JSON, with the digest in the manifest made to fit."""
    path = root / "train/000000.tar"
    content = path.read_bytes()
    if rng.random() < 0.5:
        content = damaged(content, rng)
    else:
        member = ("meta", "captions")[int(rng.integers(2))]
        chosen, odd = int(rng.integers(3)), pairs("train")
        value = odd[chosen].meta if member == "meta" else list(odd[chosen].captions)
        value = with_odd_value(value, rng)
        field = {"meta": value} if member == "meta" else {"captions": value}
        odd[chosen] = dataclasses.replace(odd[chosen], **field)
        try:
            write_shards(root, "train", odd, 3)
            content = path.read_bytes()
        except (TypeError, UnicodeEncodeError, ValueError):
            content = damaged(content, rng)
    path.write_bytes(content)
    manifest = Manifest.load(root)
    shard = dataclasses.replace(
        manifest.shards["train"][0], sha256=hashlib.sha256(content).hexdigest(), num_bytes=max(len(content), 6144)
    )
    dataclasses.replace(manifest, shards={**manifest.shards, "train": (shard,)}).save(root)
    return path.name


def read_shards(root: Path) -> None:
    """As a token table, which reads all of a sample, and as preprocess.py verify=… does."""
    faults = verify_dataset(root)[1]
    assert all("\n" not in fault and fault.isprintable() for fault in faults), faults
    table = TokenTable.open(root, "train")
    assert all("/" not in pair.clip and "." not in pair.clip for pair in table.pairs), table.pairs


def make_table(root: Path) -> None:
    make_data(root)
    TokenTable.open(root, "train")


def change_table(root: Path, rng: np.random.Generator) -> str:
    """A file of a token table, with the digests beside it made to fit; in half of the inputs there are no shards, from
    which the table would be built again."""
    folder = root / ".tables"
    paths = sorted(path for path in folder.iterdir() if "sha256" not in path.name)
    path = paths[int(rng.integers(len(paths)))]
    change_file(folder, path.name, odd_json if path.suffix == ".json" else damaged, rng)
    for digests in folder.glob("*.sha256.json"):
        stored = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in paths}
        digests.write_text(json.dumps(stored))
    if rng.random() < 0.5:
        for shard in root.glob("*/*.tar"):
            shard.unlink()
    return ""


def read_table(root: Path) -> None:
    table = TokenTable.open(root, "train")
    assert all("/" not in pair.clip and "." not in pair.clip for pair in table.pairs), table.pairs
    assert (np.asarray(table.lengths) <= [each.length for each in table.manifest.modalities]).all()
    assert (np.asarray(table.tokens) < 64_000).all()


def make_text_tokenizer(root: Path) -> None:
    (root / "text_tokenizer.json").write_text(train_text_tokenizer(["a person walking", "a person running"] * 3, 300))


def read_text_tokenizer(root: Path) -> None:
    try:
        tokenizer = TextTokenizer((root / "text_tokenizer.json").read_text(errors="replace"))
    except ValueError as error:
        raise ValueError(f"text_tokenizer.json: {error}") from error
    tokenizer.decode(tokenizer.encode("a person walks \U0001f600", 12)[0])


def small_run() -> tuple[EncoderDecoder, dict[str, Any], dict[str, Any]]:
    """A model, the configuration of its run, and the identity of its data."""
    names, lengths = ["coords", "coords_next", "motion_next", "gap_next", "action"], [39, 39, 13, 1, 1]
    ones = [1] * len(names)
    table = {
        "modalities": names, "vocab_sizes": [65536, 65536, 65536, 65536, 8], "max_seq_lens": lengths,
        "input_alphas": ones, "target_alphas": ones, "input_tokens_range": [4, 20], "target_tokens_range": [4, 20],
        "clamped": "redistribute", "mixture": None, "extra_vocabularies": None,
    }  # fmt: skip
    options = {
        "width": 16, "encoder_depth": 1, "decoder_depth": 1, "head_width": 8, "mlp_ratio": 2.0, "logits": "legal",
        "head": "factorized", "joints": "digits", "positions": "joint", "init": "normal",
    }  # fmt: skip
    model = EncoderDecoder(ModalityTable(**table), **options)
    section = {"_target_": "m3.model.encoder_decoder.EncoderDecoder", "table": table, **options}
    config = {"model": section, "optim": {"lr": 0.001}, "loss": {"reduction": "present"}, "seed": 0, "name": "fuzz",
              "data": {"root": "nowhere"}}  # fmt: skip
    data = {"canvas_size": CANVAS, "tokenizer": "mini", "tokenizer_fingerprint": "cd", "actions": ["run", "walk"],
            "preparation": {"canvas": "crop", "pairs": {}, "fps": None}, "train_shards": ["00"]}  # fmt: skip
    return model, config, data


def checkpoint_of(model: EncoderDecoder, config: Any, data: Any, step: Any = 3) -> dict[str, Any]:
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {"m3": {"config": config, "data": data}, "state_dict": state, "global_step": step}


def make_checkpoint(root: Path) -> None:
    torch.manual_seed(0)
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(*small_run()), root / "step.ckpt")


def change_checkpoint(root: Path, rng: np.random.Generator) -> str:
    """Damaged bytes, or an odd value saved as m3 saves."""
    if rng.random() < 0.5:
        return change_file(root, "step.ckpt", damaged, rng)
    model, config, data = small_run()
    odd = with_odd_value({"config": config, "data": data, "step": 3}, rng)
    try:
        checkpoint = checkpoint_of(model, odd["config"], odd["data"], odd["step"])
    except (TypeError, KeyError):
        checkpoint = {"m3": odd, "state_dict": {}, "global_step": 3}
    AtomicCheckpointIO().save_checkpoint(checkpoint, root / "step.ckpt")
    return "step.ckpt"


def read_checkpoint(root: Path) -> None:
    use(load_model(root / "step.ckpt"))


def make_hub_folder(root: Path) -> None:
    torch.manual_seed(0)
    model, config, data = small_run()
    LoadedModel(model.eval(), model.table, config, data, 3).save_pretrained(root)


def change_hub_folder(root: Path, rng: np.random.Generator) -> str:
    if rng.random() < 0.4:
        change_file(root, "model.safetensors", damaged, rng)
        return ""
    content = json.loads((root / "config.json").read_text())
    content.pop("sha256", None)  # as an attacker would
    (root / "config.json").write_text(json.dumps(content))
    change_file(root, "config.json", odd_json, rng)
    return ""


def read_hub_folder(root: Path) -> None:
    use(load_model(root))


def use(loaded: LoadedModel) -> None:
    tokens = torch.zeros(2, loaded.table.num_tokens, dtype=torch.long)
    loaded.encode(tokens)
    assert isinstance(loaded.step, int) and set(loaded.config) <= {"model", "optim", "loss", "seed", "name"}


def joints(num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(4, 28, (num_frames, 13)), rng.uniform(4, 28, (num_frames, 13))


def make_sidecars(root: Path) -> None:
    x, y = joints(6)
    others = {"visibility": np.ones((6, 13), np.uint8), "frame": np.arange(6), "action": np.array("walk")}
    np.savez(root / "a.npz", x=x, y=y, **others)
    np.savez_compressed(root / "b.npz", x=x, y=y)
    header = ["frame", "action", *(f"{joint}_{axis}" for joint in JOINT_NAMES for axis in "xy")]
    rows = [[str(t), "walk", *(f"{v:.2f}" for pair in zip(x[t], y[t]) for v in pair)] for t in range(6)]
    (root / "a.csv").write_text("\n".join(map(",".join, [header, *rows])) + "\n")


def make_joint_files(root: Path) -> None:
    """A file of each kind of other programs; a video of 6 frames of 32 px is what they speak of."""
    x, y = (values[:, :1] + np.append(np.linspace(0, 0.5, 5), np.linspace(0.8, 3, 12)) for values in joints(6))
    points = np.stack([x, y, np.full_like(x, 0.9)], -1)
    flat = [frame.ravel().tolist() for frame in points]
    (root / "a.json").write_text(
        json.dumps([{"image_id": f"{t}.jpg", "keypoints": each} for t, each in enumerate(flat)])
    )
    images = [{"id": t, "file_name": f"{t}.jpg", "width": 32, "height": 32} for t in range(6)]
    annotations = [{"image_id": t, "keypoints": each} for t, each in enumerate(flat)]
    (root / "b.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    info = [{"frame_id": t, "instances": [{"keypoints": frame[:, :2].tolist(), "keypoint_scores": [0.9] * 17}]}
            for t, frame in enumerate(points)]  # fmt: skip
    (root / "c.json").write_text(json.dumps({"instance_info": info, "meta_info": {}}))
    landmarks = [[{"x": 0.1 + 0.02 * k, "y": 0.03 * k, "visibility": 1} for k in range(33)] for _ in range(6)]
    (root / "d.json").write_text(json.dumps(landmarks))
    np.save(root / "e.npy", points)
    np.savez(root / "f.npz", keypoints=points[..., :2], scores=points[..., 2])
    names = [
        f"{side}_{part}"
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ]
    rows = [["scorer"] + ["DLC"] * 36, ["bodyparts", *(n for n in names for _ in "xyl")],
            ["coords"] + ["x", "y", "likelihood"] * 12]  # fmt: skip
    rows += [[str(t), *(f"{v:.2f}" for v in frame[5:].ravel())] for t, frame in enumerate(points)]
    (root / "g.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    with h5py.File(root / "h.h5", "w") as file:
        file["tracks"], file["node_names"] = points[:, 5:, :2].transpose(2, 1, 0)[None], [n.encode() for n in names]


def read_joint_files(root: Path) -> None:
    for path in root.iterdir():
        _, poses = read_poses(JointFile(path), "a.mp4", USUAL_OPTIONS, 6, (32, 32), 25.0)
        assert np.isfinite(poses.xy[poses.confidence > 0]).all()
        tracks_of(poses, (), 25.0, 0.3)


def change_sidecar(root: Path, rng: np.random.Generator) -> str:
    return change_file(root, _keep_one(root, rng), damaged, rng)


def _keep_one(root: Path, rng: np.random.Generator) -> str:
    names = sorted(path.name for path in root.iterdir())
    chosen = names[int(rng.integers(len(names)))]
    for name in names:
        if name != chosen:
            (root / name).unlink()
    return chosen


def read_sidecars(root: Path) -> None:
    for path in root.iterdir():
        sidecar = read_sidecar(path, 6, (CANVAS, CANVAS))
        assert sidecar.joints is not None and np.isfinite(sidecar.joints.xy).all()


def make_labels(root: Path) -> None:
    x, y = joints(6)
    fields = {"x": x, "y": y, "visibility": np.ones((6, 13)), "nframes": 6.0, "dimensions": np.array([32.0, 32.0, 6.0]),
              "action": "walk", "train": 1.0, "bbox": np.zeros((6, 4)), "pose": "front"}  # fmt: skip
    for name, options in (("0001.mat", {}), ("0002.mat", {"do_compression": True}), ("0003.mat", {"format": "4"})):
        scipy.io.savemat(root / name, fields, **options)


def read_labels(root: Path) -> None:
    for path in root.iterdir():
        assert np.isfinite(read_label(path).joints.xy).all()


def make_media(root: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 48, 3)).astype(np.uint8) for _ in range(4)]
    for suffix in ("jpg", "png", "webp"):
        Image.fromarray(frames[0]).save(root / f"1.{suffix}")
    for name, codec in (("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"), ("a.mov", "mjpeg")):
        with av.open(str(root / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = 48, 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for picture in frames:
                for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)


def read_media(root: Path) -> None:
    for path in root.iterdir():
        if path.suffix in (".jpg", ".png", ".webp"):
            size = picture_size(path, is_upright=True)
            assert PictureFiles([path], size, "its header", is_upright=True)[0].shape == (*size, 3)
        else:
            index = scan(path, path.name)
            frames = VideoFrames(path, path.name, index, np.arange(len(index.ticks)))
            for number in (0, len(frames) - 1):
                assert frames[number].shape == (*index.size, 3)


def make_run(root: Path) -> None:
    horizons = [{"horizon": k, "num_samples": 8, "model": 0.5 / k, "model_ci95": [0.1, 0.9]} for k in (1, 2, 3)]
    entry = {"unit": "share", "is_better": "higher", "horizons": horizons}
    record = {"schema_version": 2, "checkpoint": "x", "absent": {}, "scores": {"pck@0.1": entry, "psnr": entry}}
    (root / "metrics.json").write_text(json.dumps(record))
    (root / "csv" / "version_0").mkdir(parents=True)
    rows = ["epoch,eval/loss,step,train/loss", *(f"0,{9 - t / 8},{t},{9 - t / 9}" for t in range(8)), "1,,9,8.5"]
    (root / "csv" / "version_0" / "metrics.csv").write_text("\n".join(rows) + "\n")


def change_run(root: Path, rng: np.random.Generator) -> str:
    if rng.uniform() < 0.6:
        return change_file(root, "metrics.json", odd_json if rng.uniform() < 0.8 else damaged, rng)
    return change_file(root, "csv/version_0/metrics.csv", damaged, rng)


def read_run(root: Path) -> None:
    found = runs(root.parent, [root.name])
    assert all(np.isfinite(row["value"]) for row in (*found["curves"], *found["horizons"]))
    json.dumps(found, allow_nan=False)


KINDS = (
    Kind("manifest", 7000, make_data, change_manifest, read_manifest),
    Kind("shard", 4000, make_data, change_shard, read_shards),
    Kind("token table", 2000, make_table, change_table, read_table),
    Kind("text tokenizer", 1000, make_text_tokenizer,
         lambda root, rng: change_file(root, "text_tokenizer.json", odd_json, rng), read_text_tokenizer),
    Kind("checkpoint", 1500, make_checkpoint, change_checkpoint, read_checkpoint),
    Kind("hub folder", 1500, make_hub_folder, change_hub_folder, read_hub_folder),
    Kind("sidecar", 2500, make_sidecars, change_sidecar, read_sidecars),
    Kind("joint file", 2500, make_joint_files, change_sidecar, read_joint_files),
    Kind("label", 1500, make_labels, change_sidecar, read_labels),
    Kind("media", 2000, make_media, change_sidecar, read_media),
    Kind("run", 1500, make_run, change_run, read_run),
)  # fmt: skip


READERS = "from m3.clips.mat_process import serve", "from m3.clips.hdf5_files import serve"
"""In the commands of m3's own processes for MATLAB and HDF5 files."""

# ── the process that reads ─────────────────────────────────────────────────────────────────────────────────────────

_escapes: list[str] = []


def watch(folder: Path) -> None:
    """Notes whatever this process does outside `folder`, from now on."""
    harmless = (str(folder), os.devnull, "/proc/", "/dev/shm/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
            if any(reader in repr(arguments) for reader in READERS):
                return
            _escapes.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, mode, flags = os.fsdecode(arguments[0]), arguments[1], arguments[2]
            is_written = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else "w" in (mode or "")
            if is_written and not os.path.abspath(path).startswith(harmless):
                _escapes.append(f"open {path!r}"[:200])
        elif event in ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.mkdir", "os.symlink"):
            if not os.path.abspath(os.fsdecode(arguments[0])).startswith(harmless):
                _escapes.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)


def outcome_of(read: Callable[[Path], object], root: Path, name: str) -> tuple[str, str]:
    """The outcome of reading, and what to show of it."""
    _escapes.clear()
    try:
        read(root)
        found = "read", ""
    except (ValueError, OSError) as error:
        text = str(error)
        is_named = (name or root.name) in text and "\n" not in text
        found = ("refused" if is_named else "unnamed"), f"{type(error).__name__}: {text}"
    except Exception as error:
        found = "raw", f"{type(error).__name__}: {error}"
    return ("escaped", "; ".join(_escapes)) if _escapes else found


def work(connection: Connection, kind: Kind, folder: Path, seed: int, first: int, last: int) -> None:
    """Sends (number, "begun") and (number, outcome, text) for each input."""
    torch.set_num_threads(1)
    av.logging.set_level(None)
    sys.stderr = open(os.devnull, "w")
    whole, root = folder / "whole", folder / "work" / "data"
    if (status := Path("/proc/self/statm")).exists():  # elsewhere memory has no limit
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    os.chdir(folder / "work")
    watch(folder / "work")
    for number in range(first, last):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole, root)
        rng = np.random.default_rng([seed, number])
        name = kind.change(root, rng)
        connection.send((number, "begun", ""))
        connection.send((number, *outcome_of(kind.read, root, name)))
    connection.close()


def run_kind(kind: Kind, num_inputs: int, seed: int, show: Callable[[str], object]) -> Counter[str]:
    """The outcomes of the inputs number 0 … num_inputs − 1 of a kind."""
    counts: Counter[str] = Counter()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="m3-fuzz-") as path:
        folder = Path(path)
        (folder / "whole").mkdir()
        (folder / "work").mkdir()
        kind.make(folder / "whole")
        kind.read(folder / "whole")
        first = 0
        while first < num_inputs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(theirs, kind, folder, seed, first, num_inputs))
            process.start()
            theirs.close()
            number, is_begun, end = first, False, ""
            try:
                while ours.poll(LIMIT_S):
                    number, outcome, text = ours.recv()
                    is_begun = outcome == "begun"
                    if not is_begun:
                        counts[outcome] += 1
                        if outcome in BAD:
                            show(f"{kind.name} {number}: {outcome}: {text[:300]!r}")
                end = "hung"
            except EOFError:
                end = "killed"
            process.kill()
            process.join()
            if not is_begun and number == num_inputs - 1:
                break
            counts[end] += 1
            show(f"{kind.name} {number}: {end}")
            first = number + 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[kind.name for kind in KINDS])
    parser.add_argument("--json", type=Path, help="file for the counts")
    options = parser.parse_args()
    totals: dict[str, dict[str, int]] = {}
    print(f"{'':15}{'inputs':>8}" + "".join(f"{name:>9}" for name in OUTCOMES))
    for kind in (each for each in KINDS if each.name in options.kinds):
        num_inputs = max(1, round(kind.num_inputs * options.scale))
        counts = run_kind(kind, num_inputs, options.seed, lambda line: print(line, file=sys.stderr))
        totals[kind.name] = {name: counts[name] for name in OUTCOMES}
        print(f"{kind.name:15}{num_inputs:8,}" + "".join(f"{counts[name]:9,}" for name in OUTCOMES), flush=True)
    sums = {name: sum(counts[name] for counts in totals.values()) for name in OUTCOMES}
    print(f"{'all':15}{sum(sums.values()):8,}" + "".join(f"{sums[name]:9,}" for name in OUTCOMES))
    if options.json:
        options.json.write_text(json.dumps(totals, indent=1) + "\n")
    return int(any(sums[name] for name in BAD))


if __name__ == "__main__":
    sys.exit(main())
