"""Models for sharing: the folder, its card, its loading, and the upload to a hub on loopback."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard, constants
from support.fake_hub import TOKEN, fake_hub
from support.masking import generator
from support.random_world import config

import generate
from m3.checkpoint import LoadedModel, initialize, load_model, upload
from m3.hub import __main__ as hub
from m3.masking.select import choose, pack
from m3.model.encoder_decoder import EncoderDecoder

ROOT = Path(generate.__file__).parent
RUN = {
    "run_dir": "/home/somebody/run", "data": {"root": "/home/somebody/data"}, "loss": {"reduction": "present"},
    "optim": {"_target_": "m3.training.optim.OptimConfig", "lr": 0.001}, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(random_world: Path) -> LoadedModel:
    model = load_model(random_world / "run")
    return LoadedModel(model.model, model.table, {**model.config, **RUN}, model.data, model.step)


def logits(model: LoadedModel) -> list[torch.Tensor]:
    last_ids = np.array(model.table.last_ids)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, last_ids + 1, (3, len(last_ids))))
    inputs, targets = (pack(tokens, chosen, model.table) for chosen in choose(tokens, model.table, generator(3)))
    with torch.no_grad():
        hidden = model.model(inputs, targets)
        return [part for k in range(4) for part in model.model.digit_logits(hidden[targets.modality == k], k)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_gives_the_same_model_back(loaded: LoadedModel, tmp_path) -> None:
    folder = loaded.save_pretrained(tmp_path / "one", license="apache-2.0")
    assert sorted(files(folder)) == ["README.md", "config.json", "model.safetensors"]
    again = LoadedModel.from_pretrained(folder)
    assert again.fingerprint == loaded.fingerprint
    assert not again.model.training and (again.step, again.data) == (loaded.step, loaded.data)
    assert all(torch.equal(one, other) for one, other in zip(logits(again), logits(loaded), strict=True))
    assert files(again.save_pretrained(tmp_path / "two", license="apache-2.0")) == files(folder)
    # Readable without m3, and free of what only the run's machine has.
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert weights.keys() == loaded.model.state_dict().keys()
    content = json.loads((folder / "config.json").read_text())
    assert content["modalities"]["max_seq_lens"] == [4, 39, 4, 39] and content["model"]["width"] == 32
    assert content["data"]["tokenizer_fingerprint"] == loaded.data["tokenizer_fingerprint"]
    assert content["training"] == {"step": 3, "optim": {"lr": 0.001}, "loss": {"reduction": "present"}, "seed": 3}
    assert not any(b"somebody" in text or b"_target_" in text for text in files(folder).values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_weights_keep_their_dtype(loaded: LoadedModel, tmp_path, dtype: torch.dtype) -> None:
    model = copy.deepcopy(loaded.model).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter) * 1e-9)
    precise = LoadedModel(model, loaded.table, loaded.config, loaded.data, loaded.step)
    again = LoadedModel.from_pretrained(precise.save_pretrained(tmp_path))
    assert {parameter.dtype for parameter in again.model.parameters()} == {dtype}
    assert again.fingerprint == precise.fingerprint != loaded.fingerprint
    assert all(torch.equal(one, other) for one, other in zip(logits(again), logits(precise), strict=True))


def test_what_a_forecaster_needs_goes_along(loaded: LoadedModel, tmp_path) -> None:
    whole_frames = LoadedModel(loaded.model, loaded.table, loaded.config, {**loaded.data, "canvas": "pad"}, 3)
    assert LoadedModel.from_pretrained(whole_frames.save_pretrained(tmp_path)).data == whole_frames.data


def test_generation_and_training_take_the_folder(loaded: LoadedModel, random_world: Path, tmp_path) -> None:
    folder = loaded.save_pretrained(tmp_path / "model")
    one, other = (generate.run(config(random_world, f"checkpoint={path}", f"out={tmp_path}", "rollout.frames=1"))
                  for path in (folder, random_world / "run"))  # fmt: skip
    one, other = one.made.predicted.values, other.made.predicted.values
    assert (one["tok_rgb"] == other["tok_rgb"]).all() and (one["coords"].xy == other["coords"].xy).all()
    model = EncoderDecoder(loaded.table, **{k: v for k, v in loaded.config["model"].items() if k not in
                                            ("_target_", "table")})  # fmt: skip
    initialize(model, folder, loaded.data)
    assert all(torch.equal(w, loaded.model.state_dict()[name]) for name, w in model.state_dict().items())
    with pytest.raises(ValueError, match="data.canvas_size was 32 and is 64"):
        initialize(model, folder, {**loaded.data, "canvas_size": 64})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda text: text.replace(b'"format": 1', b'"format": 2'), "this m3 reads 'm3', 1"),
        ("config.json", lambda text: b"{}", "not a model of m3"),
        ("config.json", lambda text: b"[1]", "not a model of m3"),
        ("config.json", lambda text: text[:50], "config.json: not JSON"),
        ("config.json", lambda text: text.replace(b'"tokenizer"', b'"tokenizers"'), "config.json: .*data.tokenizer$"),
        ("config.json", lambda text: text.replace(b'"canvas_size"', b'"canvas"'), "config.json: .*data.canvas_size$"),
        ("config.json", lambda text: text.replace(b'"step"', b'"steps"'), "config.json: .*training.step$"),
        ("config.json", lambda text: text.replace(b'"width": 32', b'"width": 48'), "cannot be built"),
        ("config.json", lambda text: text.replace(b'"head_width"', b'"hat_width"'), "hat_width"),
        ("model.safetensors", lambda text: text[:-8], "model.safetensors: holds no weights, or is damaged"),
    ],
)
def test_a_damaged_folder_is_named(loaded: LoadedModel, tmp_path, name: str, change, message: str) -> None:
    folder = loaded.save_pretrained(tmp_path)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=message):
        LoadedModel.from_pretrained(folder)


@pytest.mark.parametrize("key", ["canvas_size", "tokenizer", "tokenizer_fingerprint"])
def test_a_checkpoint_without_a_key_that_binds_it_is_named(random_world: Path, loaded, tmp_path, key: str) -> None:
    content = torch.load(random_world / "run/checkpoints/step=00000003.ckpt", weights_only=True)
    del content["m3"]["data"][key]
    torch.save(content, tmp_path / "cut.ckpt")
    with pytest.raises(ValueError, match=rf"cut\.ckpt: .*lacks data\.{key}$"):
        load_model(tmp_path / "cut.ckpt")
    with pytest.raises(ValueError, match=rf"init_from=.*cut\.ckpt: .*lacks data\.{key}$"):
        initialize(loaded.model, tmp_path / "cut.ckpt", loaded.data)
    content["m3"]["data"] |= {key: loaded.data[key]}
    torch.save({**content, "state_dict": {}}, tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match=r"empty\.ckpt: holds no weights"):
        load_model(tmp_path / "empty.ckpt")


COMMANDS = """
import os, sys, torch
from m3.checkpoint import LoadedModel
from m3.hub.__main__ import main

main([sys.argv[1], "model", "--push", "acme/walker", "--private", "--license", "mit"])
main(["acme/walker", "back"])
loaded = LoadedModel.from_pretrained("acme/walker")
first = loaded.fingerprint
with torch.no_grad():
    loaded.model.enc_norm.weight += 1
second = loaded.fingerprint
print(loaded.push_to_hub("acme/walker", license="mit"))
assert LoadedModel.from_pretrained("acme/walker").fingerprint == second
assert LoadedModel.from_pretrained("acme/walker", revision=sys.argv[2]).fingerprint == first
main(["acme/walker", "older", "--revision", sys.argv[2]])
loaded.save_pretrained("acme/walker")  # now there is a folder of this name
with torch.no_grad():
    loaded.model.enc_norm.weight += 1
loaded.save_pretrained("acme/walker")
assert LoadedModel.from_pretrained("acme/walker").fingerprint == loaded.fingerprint
try:
    LoadedModel.from_pretrained("acme/dancer")
except FileNotFoundError as error:
    print(error)
try:
    LoadedModel.from_pretrained("acme/walker", revision="main")
except ValueError as error:
    print(error)
os.environ["HF_TOKEN"] = "hf_wrong"
main(["model", "again", "--push", "acme/runner"])
"""


def test_a_model_goes_to_the_hub_and_comes_back(random_world: Path, tmp_path) -> None:
    """In a process of its own, which has never heard of another hub.

    Weights go by the LFS protocol: the hub's newer one, Xet, is more than a small server can speak.
    """
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
    with fake_hub() as server:
        env = {**known, "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HOME": "home", "HF_HUB_DISABLE_XET": "1",
               "PYTHONPATH": str(ROOT)}  # fmt: skip
        first = server.sha(shared(random_world / "run", tmp_path, "acme/walker"))
        command = [sys.executable, "-c", COMMANDS, str(random_world / "run"), first]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout.count(f"{server.url}/acme/walker\n") == 2, done.stderr
    assert server.repositories.keys() == {"acme/walker"} == server.private
    assert [line["key"] for line in server.commits[0]].count("lfsFile") == 1
    assert len(server.commits) == 2 and all(len(commit) == 4 for commit in server.commits)  # a header and three files
    pushed = server.revisions["acme/walker"][first]
    assert pushed == files(tmp_path / "model")
    for folder in ("back", "older", "again"):  # the card alone says where it lies
        assert {**files(tmp_path / folder), "README.md": b""} == {**pushed, "README.md": b""}
    card = ModelCard(pushed["README.md"].decode())
    assert (card.data.library_name, card.data.license) == ("m3", "mit") and "human-motion" in card.data.tags
    assert "checkpoint=acme/walker " in card.text and 'from_pretrained("acme/walker")' in card.text
    assert "OWNER/NAME" not in card.content and "FOLDER" not in card.content
    assert "checkpoint=acme/dancer: no such folder here" in done.stdout and "python train.py" in done.stdout
    assert "revision=main: acme/walker is not a repository" in done.stdout
    assert done.returncode == 1 and "error: acme/runner cannot be written" in done.stderr
    assert "hf auth login" in done.stderr and "Traceback" not in done.stderr


def shared(run: Path, folder: Path, repository: str) -> dict[str, bytes]:
    """What a push of a run uploads."""
    return files(load_model(run).save_pretrained(folder / "expected", license="mit", repository=repository))


def test_what_cannot_be_is_named(loaded: LoadedModel, tmp_path, monkeypatch) -> None:
    for name in ("acme/a/b", "walker", "acme/wal ker"):
        with pytest.raises(ValueError, match=f"{name}: need OWNER/NAME"):
            loaded.push_to_hub(name)
    with pytest.raises(ValueError, match="acme/-walker.git: need OWNER/NAME"):
        upload(loaded.save_pretrained(tmp_path / "model"), "acme/-walker.git")
    with pytest.raises(SystemExit, match="error: nowhere: no checkpoint there"):
        hub.main(["nowhere", str(tmp_path)])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="checkpoint=acme/walker: no such folder here, .*downloaded .*train.py"):
        load_model("acme/walker")
    with pytest.raises(FileNotFoundError, match="init_from=acme/walker: no such folder"):
        initialize(loaded.model, "acme/walker", loaded.data)
    (tmp_path / "acme/walker").mkdir(parents=True)  # what is on the disk goes before the hub
    with pytest.raises(FileNotFoundError, match="acme/walker: no checkpoint there"):
        load_model("acme/walker")
