"""preprocess.py in-process on a tiny Penn Action folder: right tokens, the same bytes however it ran, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.utils import instantiate
from PIL import Image
from support.preprocess_runs import config, contents, samples
from support.tiny_world import frame, label_fields, write_world

import preprocess
from m3.batches.table import TokenTable
from m3.clips.base import ClipError
from m3.commands.preprocess import STAGES
from m3.preprocessing import encode
from m3.preprocessing import executors as executor
from m3.shards.manifest import Manifest
from m3.tokens.joints import JointCodec
from m3.tokens.mini import MiniTokenizer

ROOT = Path(preprocess.__file__).parent


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 7)
    (root / "labels/0004.mat").write_bytes(b"damaged")
    return root


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("made") / "data"
    return out, preprocess.run(config(world, out))


def test_the_manifest_says_what_there_is(world: Path, made: tuple[Path, Manifest]):
    out, manifest = made
    assert Manifest.load(out) == manifest
    assert manifest.num_clips == {"train": 4, "eval": 1, "test": 1}
    assert [(m.name, m.shape) for m in manifest.modalities] == [
        ("tok_rgb", (2, 2)), ("coords", (3, 13)), ("tok_rgb_next", (2, 2)), ("coords_next", (3, 13)),
        ("tok_rgb_prev", (2, 2)), ("coords_prev", (3, 13))]  # fmt: skip
    assert manifest.schema_version == 3 and manifest.actions == ("bowl", "golf_swing", "squat")
    assert manifest.canvas == {"mode": "crop", "size": 32}
    assert manifest.tokenizer["name"] == "mini" and manifest.tokenizer["fingerprint"] == MiniTokenizer().fingerprint
    assert [rejection.clip for rejection in manifest.rejected] == ["0004"]
    assert "0004.mat: not a readable" in manifest.rejected[0].reason
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert rejected == [{"clip": "0004", "reason": manifest.rejected[0].reason}]
    text = (out / "dataset.json").read_text()
    assert str(world) not in text and str(out) not in text and "workers" not in text and "device" not in text
    assert manifest.settings["pairs"]["threshold"] == 0.89 and manifest.settings["split"]["seed"] == 42
    assert not out.with_name(out.name + ".tmp").exists()


def test_tokens_are_those_of_frames_and_joints(made: tuple[Path, Manifest]):
    """Computed here from the world itself: crop 48 of 64 px, then 48 → 32."""
    out, _ = made
    tokenizer, found = MiniTokenizer(), samples(out, "train") + samples(out, "eval") + samples(out, "test")
    assert len(found) > 12 and len({sample["__key__"] for sample in found}) == len(found)
    for sample in found:
        meta = sample["meta.json"]
        assert sample["__key__"] == f"{meta['clip']}-{meta['reference']:06d}"
        assert meta["ssim"] < 0.89 and meta["canvas"]["window"] == [8.0, 0.0, 48.0, 48.0]
        for suffix, index in (("", meta["reference"]), ("_next", meta["successor"])):
            fields = label_fields(7)
            xy = np.stack([(fields["x"][index] - 0.5 - 8) * 32 / 48, (fields["y"][index] - 0.5) * 32 / 48], axis=-1)
            is_visible = ((xy >= 0) & (xy <= 32)).all(axis=-1)
            back, visible = JointCodec(32).decode(sample[f"coords{suffix}.npy"])
            assert (visible == is_visible).all() and np.abs(back - xy)[visible].max() < 0.002
            assert sample[f"tok_rgb{suffix}.npy"].shape == (2, 2)
        fields = label_fields(5 + int(meta["clip"]) % 3)
        extent = max(np.ptp(fields["x"]), np.ptp(fields["y"])) * 32 / 48
        assert abs(meta["pose_extent_px"] - extent) < 1e-5
        picture = tokenizer.decode(torch.from_numpy(sample["tok_rgb.npy"].astype(np.int64))[None])  # (1, 3, 32, 32)
        shown = frame(meta["reference"], seed=int(meta["clip"]))[:, 8:56].mean(axis=(0, 1)) / 127.5 - 1
        assert np.abs(picture.mean(dim=(0, 2, 3)).numpy() - shown).max() < 0.35


def test_a_pair_s_successor_is_the_next_pair_s_reference(made: tuple[Path, Manifest]):
    out, manifest = made
    for split in manifest.shards:
        by_reference = {(info.clip, info.reference): row for row, info in enumerate(TokenTable.open(out, split).pairs)}
        table = TokenTable.open(out, split)
        half = 4 + 39
        joined = [
            (row, by_reference[info.clip, info.successor])
            for row, info in enumerate(table.pairs)
            if (info.clip, info.successor) in by_reference
        ]
        assert joined and all(
            np.array_equal(table.tokens[a, half : 2 * half], table.tokens[b, :half]) for a, b in joined
        )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_no_byte(world: Path, made: tuple[Path, Manifest], tmp_path: Path, num_workers: int):
    preprocess.run(config(world, tmp_path / "data", f"workers={num_workers}"))
    expected = {name: data for name, data in contents(made[0]).items() if not name.startswith(".tables")}
    assert contents(tmp_path / "data") == expected


def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(
    world: Path, made: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encode_clip, encoded = encode.encode_pictures, []

    def interrupted(*arguments):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(encode_clip(*arguments))
        return encoded[-1]

    monkeypatch.setattr(encode, "encode_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preprocess.run(config(world, tmp_path / "data"))
    assert not (tmp_path / "data").exists()
    again = []
    monkeypatch.setattr(encode, "encode_pictures", lambda *arguments: again.append(0) or encode_clip(*arguments))
    preprocess.run(config(world, tmp_path / "data"))
    assert len(again) == 6 - 3
    expected = {name: data for name, data in contents(made[0]).items() if not name.startswith(".tables")}
    assert contents(tmp_path / "data") == expected


def test_a_second_run_does_nothing_and_other_settings_are_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    out = tmp_path / "data"
    first = preprocess.run(config(world, out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(executor, "prepare_clips", lambda *_: pytest.fail("worked again"))
        assert preprocess.run(config(world, out)) == first
        assert "nothing to do" in capsys.readouterr().out
        with pytest.raises(ValueError, match="pairs.threshold is 0.89, asked for 0.95.*overwrite=true"):
            preprocess.run(config(world, out, "pairs.threshold=0.95"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    other = preprocess.run(config(world, out, "split=pair", "overwrite=true", "pairs_per_shard=5"))
    assert other.settings["split"]["unit"] == "pair" and Manifest.load(out) == other
    assert sorted(path.name for path in (out / "train").iterdir())[1] == "000001.tar"
    (out / "train/000000.tar").unlink()
    with pytest.raises(ValueError, match="lacks train/000000.tar"):
        preprocess.run(config(world, out, "split=pair", "pairs_per_shard=5"))


def test_a_folder_of_something_else_is_left_alone(world: Path, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds 'thesis.tex'"):
        preprocess.run(config(world, tmp_path, "overwrite=true"))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_strict_stops_at_a_bad_clip(world: Path, tmp_path: Path):
    with pytest.raises(ClipError, match="clip 0004: 0004.mat"):
        preprocess.run(config(world, tmp_path / "data", "strict=true"))
    assert not (tmp_path / "data").exists()


def test_official_split_and_stretch_and_no_captions(world: Path, tmp_path: Path):
    manifest = preprocess.run(
        config(world, tmp_path / "data", "split=official", "split.eval_ratio=0.3", "canvas=stretch", "canvas.size=48",
               "captioner=none", "pairs.max_pairs_per_clip=2")
    )  # fmt: skip
    test = samples(tmp_path / "data", "test")
    assert {sample["meta.json"]["clip"] for sample in test} == {"0003", "0006"}
    assert manifest.num_clips == {"train": 3, "eval": 1, "test": 2}
    assert len(test) == 4 and all(sample["captions.json"] == [""] for sample in test)
    assert test[0]["tok_rgb.npy"].shape == (3, 3) and test[0]["meta.json"]["canvas"]["mode"] == "stretch"


@pytest.mark.parametrize(
    "override, key",
    [
        ("canvas.size=100", "canvas.size=100"),
        ("pairs.threshold=2", "pairs.threshold=2"),
        ("pairs.threshold=much", "full_key: pairs"),
        ("split.ratios=[0.5,0.1,0.1]", "split.ratios="),
        ("split.unit=frame", "split.unit='frame'"),
        ("source.max_clips=0", "source.max_clips=0"),
        ("source.max_clips=2", "only 2 clips"),
        ("source.root=/nowhere", "source.root=/nowhere"),
        ("tokenizer.path=/nowhere", "tokenizer.path=/nowhere"),
        ("pairs_per_shard=0", "pairs_per_shard=0"),
        ("encode_batch_size=0", "encode_batch_size=0"),
        ("encode_threads=0", "encode_threads=0"),
        ("workers=-1", "workers=-1"),
    ],
)
def test_impossible_values_stop_before_any_work(world: Path, tmp_path: Path, override: str, key: str):
    with pytest.raises((ValueError, OSError, HydraException), match=key.replace("[", r"\[")):
        preprocess.run(config(world, tmp_path / "data", override))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("override", ["canvas.sizes=32", "threshold=0.5", "split=clips", "+pairs.window=5"])
def test_unknown_keys_stop_before_any_work(world: Path, tmp_path: Path, override: str):
    key = override.split("=")[0].strip("+")
    with pytest.raises((ConfigCompositionException, InstantiationException), match=key[:5]):
        preprocess.run(config(world, tmp_path / "data", override))


def test_every_option_of_every_group_is_a_thing_that_can_be_made(world: Path, tmp_path: Path):
    for stage in STAGES:
        for path in sorted((ROOT / "conf" / stage).glob("*.yaml")):
            cfg = config(None, tmp_path, f"{stage}={path.stem}")
            if stage != "source" and path.stem not in ("cosmos", "blip"):  # these would be downloaded
                instantiate(cfg[stage])
            assert cfg[stage]._target_.startswith("m3.")


def test_the_demo_goes_all_the_way(tmp_path: Path):
    manifest = preprocess.run(
        config(None, tmp_path / "data", f"source.root={tmp_path / 'clips'}", "source.num_clips=4",
               "source.num_frames=6", "source.height=64", "source.width=64")
    )  # fmt: skip
    assert manifest.source["name"] == "demo" and sum(manifest.num_clips.values()) + len(manifest.rejected) == 4


def test_rendered_real_labels_go_all_the_way(penn_labels: Path, tmp_path: Path):
    manifest = preprocess.run(
        config(None, tmp_path / "data", "source=poses", f"source.labels={penn_labels}", "source.max_clips=6",
               "source.max_side=96", "pairs.threshold=0.97", "pairs.max_pairs_per_clip=2")
    )  # fmt: skip
    assert manifest.source["name"] == "poses" and manifest.num_pairs("train") >= 2


def test_the_command_line_names_what_is_wrong(tmp_path: Path):
    command = [sys.executable, "preprocess.py", "source=poses", f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "error: source.labels has no default" in done.stderr
    assert "Traceback" not in done.stderr


def test_summary_contact_sheet_and_verification(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "data"
    cfg = config(world, out, "contact_sheet.num_pairs=3", "contact_sheet.cell_px=64")
    manifest = preprocess.run(cfg)
    printed = capsys.readouterr().out
    assert "pairs of a clip" in printed and "SSIM of a pair" in printed and "visible joints: " in printed
    assert "1 clips were not used" in printed and "0004: " in printed
    num_pairs = sum(manifest.statistics["pairs_per_clip_histogram"].values())
    assert num_pairs == sum(manifest.num_clips.values())
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 8 * 64 and sheet.height > 2 * 64
    preprocess.run(cfg)  # complete: draws nothing again
    assert "nothing to do" in capsys.readouterr().out
    assert preprocess.verify(str(out)) == 0 and "all match the manifest" in capsys.readouterr().out
    shard = out / manifest.shards["train"][0].name
    shard.write_bytes(shard.read_bytes()[:-1024])
    assert preprocess.verify(str(out)) == 1 and "train/000000.tar: sha256" in capsys.readouterr().out


def test_verify_from_the_shell(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "preprocess.py"), f"verify={tmp_path}", f"hydra.run.dir={tmp_path}/hydra"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "dataset.json" in done.stderr and "Traceback" not in done.stderr
