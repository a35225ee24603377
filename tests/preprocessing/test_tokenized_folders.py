"""The older layout of tokenized data: packed as it is, in its own splits, bad samples listed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hydra import compose, initialize_config_dir
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
