"""The older layout of tokenized data: packed as it is, in its own splits, bad samples listed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

import preprocess
from m3.batches.table import TokenTable
from m3.clips.base import ClipError
from m3.preprocessing.tokenized_folders import TokenizedFolders
from m3.shards.verify import verify_dataset

NAMES = ("tok_rgb", "coords", "tok_rgb_next", "coords_next")


def tokens(split: str, number: int, name: str) -> np.ndarray:
    rng = np.random.default_rng([len(split), number, NAMES.index(name)])
    if name.startswith("tok_rgb"):
        return rng.integers(0, 64_000, (16, 16))
    return np.concatenate([rng.integers(0, 8_192, (2, 13)), rng.integers(0, 2, (1, 13))])


def write(root: Path, split: str, name: str, sample: str, content: object) -> Path:
    """An array as .npy, anything else as .json."""
    folder = root / split / name / sample
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{'npy' if isinstance(content, np.ndarray) else 'json'}"
    np.save(path, content) if isinstance(content, np.ndarray) else path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Each form that the layout allows, in turn: flat or shaped, array or JSON, int64 or uint16."""
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        for number in range(count):
            for name in NAMES:
                ids = tokens(split, number, name).astype([np.int64, np.uint16, np.int32, np.uint32][number])
                ids = ids.ravel() if number % 2 else ids
                write(tmp_path, split, name, f"{number:05d}", ids.tolist() if number == 2 else ids)
            words = f"a person doing {number}"
            captions = {"caption": words} if number % 2 else [words, "another"]
            write(tmp_path, split, "captions", f"{number:05d}", captions)
    return tmp_path


def config(root: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(Path(preprocess.__file__).parent / "conf"), version_base="1.3"):
        defaults = ["source=tokenized_folders", f"source.root={root}", "source.tokenizer=mini", f"out={root}/out"]
        return compose("preprocess", [*defaults, "contact_sheet.num_pairs=2", "contact_sheet.cell_px=32", *overrides])


def test_all_of_it_is_packed(root: Path, capsys: pytest.CaptureFixture):
    manifest = preprocess.run(config(root))
    assert manifest.num_clips == {"train": 4, "eval": 2, "test": 1} and manifest.has_joints
    assert manifest.tokenizer["name"] == "mini" and len(manifest.tokenizer["fingerprint"]) == 64
    assert (manifest.canvas_size, manifest.num_tokens) == (256, 590)
    for split, folder in (("train", "train"), ("eval", "val"), ("test", "test")):
        rows = TokenTable.open(root / "out", split).tokens
        for number, row in enumerate(rows):
            assert np.array_equal(row, np.concatenate([tokens(folder, number, name).ravel() for name in NAMES]))
    samples = list(wds.WebDataset(str(root / "out/train/000000.tar"), shardshuffle=False).decode())
    assert [sample["captions.json"] for sample in samples][:2] == [
        ["a person doing 0", "another"],
        ["a person doing 1"],
    ]
    assert verify_dataset(root / "out")[1] == []
    assert (root / "out/contact_sheet.png").exists()
    before = (root / "out/dataset.json").stat().st_mtime_ns
    preprocess.run(config(root))
    assert (root / "out/dataset.json").stat().st_mtime_ns == before and "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("tok_rgb", np.zeros(255, int), r"tok_rgb/00000/tok_rgb.npy: shape \(255,\), need \(16, 16\) or \(256,\)"),
    ("tok_rgb", np.full(256, 64_000), "ids 64000 … 64000, legal are 0 … 63999"),
    ("tok_rgb_next", np.full(256, -1), "ids -1 … -1"),
    ("tok_rgb", np.zeros(256), r"float64 \(256,\), need whole numbers"),
    ("coords", np.full((3, 13), 2), "visibility 2, legal are 0 and 1"),
    ("coords", np.full(39, 8_192), "ids 8192 … 8192"),
    ("coords", np.array([{}], object), "no array of tokens"),
    ("captions", {"text": "…"}, 'need {"caption"'),
])  # fmt: skip
def test_a_bad_sample_is_rejected_with_its_reason(root: Path, name: str, content: object, reason: str):
    write(root, "train", name, "00000", content)
    manifest = preprocess.run(config(root))
    assert manifest.num_clips["train"] == 3 and [r.clip for r in manifest.rejected] == ["train/00000"]
    assert re.search(reason, manifest.rejected[0].reason), manifest.rejected[0].reason
    with pytest.raises(ClipError, match="train/00000: .*strict=true"):
        preprocess.run(config(root, "strict=true", f"out={root}/strict"))
    assert not (root / "strict").exists()


def test_a_missing_part_and_a_bad_name(root: Path):
    (root / "test/coords_next/00000/coords_next.npy").unlink()
    write(root, "val", "tok_rgb", "a.b", tokens("val", 0, "tok_rgb"))
    manifest = preprocess.run(config(root))
    reasons = {r.clip: r.reason for r in manifest.rejected}
    assert reasons == {
        "eval/a.b": 'a.b: a sample\'s name must be free of "."',
        "test/00000": "test/coords_next/00000: neither coords_next.npy nor coords_next.json",
    }
    assert manifest.num_pairs("test") == 0


def test_what_cannot_be_is_said_before_any_work(root: Path, tmp_path_factory: pytest.TempPathFactory):
    for overrides, message in (
        (["source.tokenizer=cosmos"], "source.tokenizer=cosmos made the tokens, but tokenizer=mini"),
        (["augment.flip=true"], "augment.flip=true: tokens cannot be mirrored"),
    ):
        with pytest.raises(ValueError, match=message):
            preprocess.run(config(root, *overrides))
    with pytest.raises(FileNotFoundError, match="the layout is train/tok_rgb/ID/tok_rgb.npy"):
        TokenizedFolders(tmp_path_factory.mktemp("empty"), "mini")
    (root / "eval").mkdir()
    with pytest.raises(ValueError, match="eval and val are the same split"):
        TokenizedFolders(root, "mini")


def test_joints_alone(root: Path):
    for split in ("train", "val", "test"):
        for name in ("tok_rgb", "tok_rgb_next"):
            (root / split / name).rename(root / f"{split}-{name}")
    manifest = preprocess.run(config(root, "source.tokenizer=none", "tokenizer=none"))
    assert [modality.name for modality in manifest.modalities] == ["coords", "coords_next"]


# ── new modalities ─────────────────────────────────────────────────────────────────────────────────────────────────

WITH_DEPTH = [
    "modalities=m3",
    "modalities.modalities=[coords,tok_depth,tok_depth_next,heat]",
    "modalities.vocab_sizes=[65536,512,512,64]",
    "modalities.max_seq_lens=[39,16,16,9]",
    "modalities.input_tokens_range=[8,16]",
    "modalities.target_tokens_range=[8,16]",
    "++modalities.extra_vocabularies={tok_depth:{name:depth,num_ids:512},heat:{name:heat,num_ids:64}}",
]


def write_depth(root: Path) -> None:
    """Depth as a grid in the first sample and flat in the others, heat flat."""
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        for number in range(count):
            for name in ("tok_depth", "tok_depth_next"):
                ids = np.arange(16) + 10 * number
                write(root, split, name, f"{number:05d}", ids if number else ids.reshape(4, 4))
            write(root, split, "heat", f"{number:05d}", np.full(9, number))


def test_modalities_of_the_table_are_packed_in_its_order(root: Path, capsys: pytest.CaptureFixture):
    write_depth(root)
    manifest = preprocess.run(config(root, *WITH_DEPTH))
    stored = [(m.name, m.shape, m.vocabulary, m.num_ids) for m in manifest.modalities]
    assert stored == [
        ("coords", (3, 13), "joints", 8192),
        ("tok_depth", (4, 4), "depth", 512),
        ("tok_depth_next", (4, 4), "depth", 512),
        ("heat", (9,), "heat", 64),
    ]
    assert manifest.num_clips == {"train": 4, "eval": 2, "test": 1} and not manifest.rejected
    assert verify_dataset(root / "out")[1] == []
    cfg = config(root, *WITH_DEPTH)
    rows = TokenTable.open(root / "out", "train").columns(instantiate(cfg.modalities).modalities)
    for number, row in enumerate(rows):
        depth = np.arange(16) + 10 * number
        assert np.array_equal(row[:39], tokens("train", number, "coords").ravel())
        assert np.array_equal(row[39:], [*depth, *depth, *[number] * 9])
    assert [caption for sample in wds.WebDataset(str(root / "out/test/000000.tar"), shardshuffle=False).decode()
            for caption in sample["captions.json"]] == ["a person doing 0", "another"]  # fmt: skip
    assert "tok_depth, tok_depth_next, heat: not in the contact sheet" in capsys.readouterr().out
    preprocess.run(cfg)
    assert "nothing to do" in capsys.readouterr().out
    reordered = ["modalities.modalities=[heat,coords,tok_depth,tok_depth_next]",
                 "modalities.vocab_sizes=[64,65536,512,512]"]  # fmt: skip
    with pytest.raises(ValueError, match="other settings or data .settings.modalities is "):
        preprocess.run(config(root, *WITH_DEPTH, *reordered, "modalities.max_seq_lens=[9,39,16,16]"))


def test_folders_that_nobody_named_are_refused_by_name(root: Path):
    write_depth(root)
    (root / "val/.cache").mkdir()
    with pytest.raises(ValueError, match=r"unknown modalities: heat, tok_depth, tok_depth_next. .*modalities=…"):
        preprocess.run(config(root))
    with pytest.raises(ValueError, match="unknown modalities: heat, tok_depth, tok_depth_next"):
        preprocess.run(config(root, "modalities=coords"))
    assert not (root / "out").exists()


def test_a_table_of_known_modalities_stores_these_alone(root: Path):
    manifest = preprocess.run(config(root, "modalities=coords"))
    assert [modality.name for modality in manifest.modalities] == ["coords", "coords_next"]
    with pytest.raises(ValueError, match="other settings or data"):
        preprocess.run(config(root))


def test_a_table_of_all_that_is_there_changes_nothing(root: Path):
    preprocess.run(config(root))
    without = {path.name: path.read_bytes() for path in (root / "out").rglob("*") if path.is_file()}
    preprocess.run(config(root, "modalities=m3", "overwrite=true"))
    assert {path.name: path.read_bytes() for path in (root / "out").rglob("*") if path.is_file()} == without


def test_data_without_anything_to_draw_have_no_contact_sheet(root: Path, capsys: pytest.CaptureFixture):
    for split in ("train", "val", "test"):
        for name in NAMES:
            (root / split / name).rename(root / f"{split}-{name}")
    write_depth(root)
    preprocess.run(config(
        root, *WITH_DEPTH, "modalities.modalities=[tok_depth,tok_depth_next,heat]",
        "modalities.vocab_sizes=[512,512,64]", "modalities.max_seq_lens=[16,16,9]",
        "modalities.input_alphas=[1,1,1]", "modalities.target_alphas=[1,1,1]",
    ))  # fmt: skip
    assert "tok_depth, tok_depth_next, heat: not in the contact sheet" in capsys.readouterr().out
    assert not (root / "out/contact_sheet.png").exists()


@pytest.mark.parametrize(("content", "reason"), [
    (np.arange(15), r"tok_depth/00001/tok_depth.npy: shape \(15,\), need \(4, 4\) or \(16,\)"),
    (np.zeros((2, 8), int), r"shape \(2, 8\), need \(4, 4\) or \(16,\)"),
    (np.full(16, 512), "ids 512 … 512, legal are 0 … 511"),
])  # fmt: skip
def test_a_bad_sample_of_a_new_modality_is_rejected(root: Path, content: np.ndarray, reason: str):
    write_depth(root)
    write(root, "train", "tok_depth", "00001", content)
    manifest = preprocess.run(config(root, *WITH_DEPTH, "contact_sheet.num_pairs=0"))
    assert [r.clip for r in manifest.rejected] == ["train/00001"]
    assert re.search(reason, manifest.rejected[0].reason), manifest.rejected[0].reason


def test_a_table_that_does_not_fit_is_refused_before_any_work(root: Path):
    write_depth(root)
    for override, message in (
        ("modalities.max_seq_lens=[39,17,17,9]", r"17 tokens of tok_depth, but no file of it .* shape \(17,\)$"),
        ("modalities.max_seq_lens=[39,16,16,25]", r"25 tokens of heat, but no file of it .* \(25,\) or \(5, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            preprocess.run(config(root, *WITH_DEPTH, override))
    for split in ("train", "val", "test"):
        shutil.rmtree(root / split / "heat")
    with pytest.raises(FileNotFoundError, match=r"no folder heat in its splits, which modalities=\["):
        preprocess.run(config(root, *WITH_DEPTH))
    for name in ("tok_depth", "tok_depth_next"):
        for split in ("train", "val", "test"):
            shutil.rmtree(root / split / name)
    with pytest.raises(ValueError, match=r"max_seq_lens: 64 tokens of tok_rgb, but source.root=.* has 256"):
        ranges = ["modalities.input_tokens_range=[32,90]", "modalities.target_tokens_range=[32,90]"]
        preprocess.run(config(root, "modalities=m3", "modalities.max_seq_lens=[64,39,64,39]", *ranges))


def test_previous_frames_are_refused(root: Path):
    for split in ("train", "val"):
        write(root, split, "tok_depth_prev", "00000", np.arange(16))
    table = ["modalities=m3", "modalities.modalities=[coords,coords_next,tok_depth_prev]",
             "modalities.vocab_sizes=[8192,8192,512]", "modalities.max_seq_lens=[39,39,16]",
             "modalities.input_alphas=[1,1,1]", "modalities.target_alphas=[1,1,1]",
             "modalities.input_tokens_range=[8,16]", "modalities.target_tokens_range=[8,16]",
             "++modalities.extra_vocabularies={tok_depth:{name:depth,num_ids:512}}"]  # fmt: skip
    with pytest.raises(ValueError, match="needs tok_depth_prev, but this layout has no previous frames"):
        preprocess.run(config(root, *table))


def test_data_sets_keep_their_identity_when_classes_move(root: Path, capsys: pytest.CaptureFixture):
    preprocess.run(config(root))
    path = root / "out/dataset.json"
    now = '"_target_": "m3.preprocessing.tokenized_folders.TokenizedFolders"'
    assert now in path.read_text()
    path.write_text(path.read_text().replace(now, '"_target_": "m3.shards.tokenized_folders.TokenizedFolders"'))
    before = path.read_bytes()
    preprocess.run(config(root))
    assert "nothing to do" in capsys.readouterr().out and path.read_bytes() == before
    path.write_text(path.read_text().replace("m3.shards.tokenized_folders", "m3.shards.others"))
    with pytest.raises(ValueError, match="source._target_ is m3.shards.others.TokenizedFolders, asked for m3.preproc"):
        preprocess.run(config(root))
