"""Damaged checkpoints and hub folders: no changed byte is read as if it were whole, and every way in says so alike."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.train_runs import assert_same_training_state, config, state_of, write_data

from m3.checkpoint import BEST, initialize, load_model, newest_checkpoint, read_checkpoint
from m3.checkpoint.files import FINGERPRINT
from m3.commands import train
from m3.core.weights import content_fingerprint

NEWEST, EARLIER = "step_00000010.ckpt", "step_00000005.ckpt"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root, {"train": 30, "eval": 13, "test": 2})
    return root


@pytest.fixture(scope="module")
def run_10(data: Path, tmp_path_factory) -> Path:
    """A run of 10 steps, with checkpoints of steps 5 and 10."""
    run_dir = tmp_path_factory.mktemp("run_10")
    train.run(config(data, run_dir, "trainer.max_steps=10"))
    return run_dir


@pytest.fixture
def run_dir(run_10: Path, tmp_path: Path) -> Path:
    shutil.copytree(run_10, tmp_path / "run")
    return tmp_path / "run"


def structure(content: bytes) -> list[int]:
    """The places in a zip archive that are not the bytes of tensors: headers, names, the directory and the pickle."""
    of_tensors = np.zeros(len(content), bool)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            if "/data/" in entry.filename:
                name_length, extra_length = (
                    int.from_bytes(content[entry.header_offset + at : entry.header_offset + at + 2], "little")
                    for at in (26, 28)
                )
                start = entry.header_offset + 30 + name_length + extra_length
                of_tensors[start : start + entry.file_size] = True
    return np.flatnonzero(~of_tensors).tolist()


def changed_bytes(content: bytes, number: int, seed: int = 0) -> list[tuple[int, int]]:
    """(place, other value), two thirds of them in the structure of the archive."""
    rng = np.random.default_rng(seed)
    places = [*rng.choice(structure(content), 2 * number // 3), *rng.integers(0, len(content), number // 3)]
    return [(int(place), int(content[place] ^ (1 + rng.integers(255)))) for place in places]


@pytest.mark.parametrize("number", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_changed_byte_of_a_checkpoint_is_read(run_dir: Path, number: int) -> None:
    """Either the file is refused in one line that names it, or it holds what was saved."""
    path = run_dir / "checkpoints" / NEWEST
    content, whole = path.read_bytes(), content_fingerprint(read_checkpoint(path))
    num_refused = 0
    for place, value in changed_bytes(content, number):
        changed = bytearray(content)
        changed[place] = value
        path.write_bytes(changed)
        try:
            assert content_fingerprint(read_checkpoint(path)) == whole, place
            assert newest_checkpoint(run_dir) == path
        except ValueError as error:
            num_refused += 1
            assert str(path) in str(error) and "\n" not in str(error), place
            assert newest_checkpoint(run_dir) == path.with_name(EARLIER), place
    assert num_refused > number // 2


def with_nan(checkpoint: dict) -> dict:
    checkpoint["state_dict"]["model.dec_context_proj.bias"].fill_(torch.nan)
    return checkpoint


FAULTS = {
    "other_weights": lambda content: content["state_dict"]["model.dec_context_proj.bias"].add_(1) is None or content,
    "without_weights": lambda content: {key: value for key, value in content.items() if key != "state_dict"},
    "odd_weights": lambda content: content | {"state_dict": {"model.a": "text"}},
    "odd_step": lambda content: content | {"global_step": "ten"},
    "odd_config": lambda content: content | {"m3": {"config": [], "data": None}},
    "odd_m3": lambda content: content | {"m3": 3},
    "a_list": lambda content: [content],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_way_in_refuses_the_same_files(data: Path, run_dir: Path, tmp_path: Path, caplog, fault: str) -> None:
    path = run_dir / "checkpoints" / NEWEST
    torch.save(FAULTS[fault](torch.load(path, weights_only=True)), path)
    for read in (read_checkpoint, load_model):
        with pytest.raises(ValueError, match=rf"{NEWEST}: "):
            read(path)
    assert newest_checkpoint(run_dir) == path.with_name(EARLIER) and f"{NEWEST}: " in caplog.text
    assert load_model(run_dir).step == 5
    if fault != "a_list":
        with pytest.raises(ValueError, match=rf"{NEWEST}"):
            train.assemble(config(data, tmp_path / "other", f'init_from="{path}"'))


def test_weights_that_are_not_finite_are_refused_with_their_name(run_dir: Path) -> None:
    path = run_dir / "checkpoints" / NEWEST
    torch.save(with_nan(torch.load(path, weights_only=True)), path)
    with pytest.raises(ValueError, match=rf"{NEWEST}: weights that are not finite, in 1 tensors, .*dec_context_proj"):
        load_model(path)
    assert newest_checkpoint(run_dir) == path.with_name(EARLIER)


def test_a_run_goes_on_from_an_earlier_checkpoint_and_keeps_what_it_saves(data: Path, run_dir: Path, tmp_path: Path):
    """The damaged ones no longer count as the newest, which would delete those that the run saves anew."""
    for name in (NEWEST, EARLIER):
        path = run_dir / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-1])
    (run_dir / "checkpoints" / BEST).unlink()
    train.run(config(data, run_dir, "resume=auto", "trainer.max_steps=7", "trainer.keep_checkpoints=1"))
    names = {path.name for path in (run_dir / "checkpoints").iterdir()} - {BEST}
    assert names == {"step_00000007.ckpt", f"{NEWEST}.damaged", f"{EARLIER}.damaged"}
    train.run(config(data, run_dir, "resume=auto", "trainer.max_steps=10"))
    train.run(config(data, tmp_path / "whole", "trainer.max_steps=10"))
    assert_same_training_state(state_of(run_dir), state_of(tmp_path / "whole"))


def test_a_checkpoint_of_an_earlier_version_is_read_and_said_to_be_one_once(run_dir: Path, caplog) -> None:
    path = run_dir / "checkpoints" / NEWEST
    content = torch.load(path, weights_only=True)
    del content[FINGERPRINT]
    torch.save(content, path)
    assert newest_checkpoint(run_dir) == path and load_model(run_dir).step == 10
    assert caplog.text.count("without a fingerprint") == 1
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="damaged"):
        load_model(path)


@pytest.fixture
def hub_folder(run_10: Path, tmp_path: Path) -> Path:
    return load_model(run_10).save_pretrained(tmp_path / "hub")


def test_no_changed_byte_of_weights_for_the_hub_is_read(hub_folder: Path) -> None:
    name = "model.safetensors"
    path, whole = hub_folder / name, load_model(hub_folder)
    content, rng, num_refused = path.read_bytes(), np.random.default_rng(0), 0
    for place in [*rng.integers(0, len(content), 60), *range(12)]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            again = load_model(hub_folder)
        except ValueError as error:
            num_refused += 1
            assert name in str(error) and "Traceback" not in str(error), place
        else:
            assert again.fingerprint == whole.fingerprint, place
    assert num_refused > 60
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=name):
        initialize(whole.model, str(hub_folder), whole.data)


def test_a_hub_folder_with_other_weights_and_one_without_fingerprints(hub_folder: Path, caplog) -> None:
    path, text = hub_folder / "model.safetensors", (hub_folder / "config.json").read_text()
    weights = safetensors.torch.load_file(path)
    weights["dec_context_proj.bias"] += 1
    safetensors.torch.save_file(weights, path)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or of another model: .*copy or download"):
        load_model(hub_folder)
    (hub_folder / "config.json").write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "weights"}))
    assert load_model(hub_folder).step == 10 and caplog.text.count("without a fingerprint") == 1
    weights["dec_context_proj.bias"][0] = torch.inf
    safetensors.torch.save_file(weights, path)
    with pytest.raises(ValueError, match=r"not finite, in 1 tensors, the first is dec_context_proj\.bias"):
        load_model(hub_folder)
