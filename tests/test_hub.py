"""Models for sharing: the folder, its card, its loading, and the upload to a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from fake_hub import TOKEN, fake_hub
from test_generate import MODALITIES, config, world  # noqa: F401  (a fixture)
from test_masking import generator

import generate
from m3 import hub
from m3.checkpoint import LoadedModel, initialise, load_model
from m3.masking.select import choose, pack
from m3.model.encoder_decoder import EncoderDecoder

ROOT = Path(generate.__file__).parent
RUN = {
    "run_dir": "/home/somebody/run", "data": {"root": "/home/somebody/data"}, "loss": {"average": "present"},
    "optim": {"_target_": "m3.training.optim.Recipe", "lr": 0.001}, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(world: Path) -> LoadedModel:  # noqa: F811
    model = load_model(world / "run")
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
    folder = hub.save_pretrained(loaded, tmp_path / "one", license="apache-2.0")
    assert sorted(files(folder)) == ["README.md", "config.json", "model.safetensors"]
    again = hub.from_pretrained(folder)
    assert not again.model.training and (again.step, again.data) == (loaded.step, loaded.data)
    assert all(torch.equal(one, other) for one, other in zip(logits(again), logits(loaded), strict=True))
    assert files(hub.save_pretrained(again, tmp_path / "two", license="apache-2.0")) == files(folder)
    # Readable without m3, and free of what only the run's machine has.
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert weights.keys() == loaded.model.state_dict().keys()
    content = json.loads((folder / "config.json").read_text())
    assert content["modalities"]["max_seq_lens"] == [4, 39, 4, 39] and content["model"]["width"] == 32
    assert content["data"]["tokenizer_fingerprint"] == loaded.data["tokenizer_fingerprint"]
    assert content["training"] == {"step": 3, "optim": {"lr": 0.001}, "loss": {"average": "present"}, "seed": 3}
    assert not any(b"somebody" in text or b"_target_" in text for text in files(folder).values())


def test_generation_and_training_take_the_folder(loaded: LoadedModel, world: Path, tmp_path) -> None:  # noqa: F811
    folder = hub.save_pretrained(loaded, tmp_path / "model")
    one, other = (generate.run(config(world, f"checkpoint={path}", f"out={tmp_path}", "rollout.frames=1"))
                  for path in (folder, world / "run"))  # fmt: skip
    assert (one.predicted.pictures == other.predicted.pictures).all() and (one.predicted.xy == other.predicted.xy).all()
    scores = json.loads(one.metrics.read_text())
    card = hub.model_card(loaded, scores, "cc-by-4.0")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "m3")
    value = scores["scores"]["psnr"]["horizons"][0]
    assert f"| PSNR, dB | {value['model']:.1f} / {value['nothing_moves']:.1f} |" in card and "9 roll-outs" in card
    assert "tokenizer=mini" in card and loaded.data["tokenizer_fingerprint"] in card
    with pytest.raises(ValueError, match="not those of this model: step is 9 there and 3 here"):
        hub.save_pretrained(loaded, tmp_path / "nothing", {**scores, "step": 9})
    assert not (tmp_path / "nothing").exists()

    model = EncoderDecoder(loaded.table, **{k: v for k, v in loaded.config["model"].items() if k not in
                                            ("_target_", "table")})  # fmt: skip
    initialise(model, folder, loaded.data)
    assert all(torch.equal(w, loaded.model.state_dict()[name]) for name, w in model.state_dict().items())
    with pytest.raises(ValueError, match="data.canvas_size was 32 and is 64"):
        initialise(model, folder, {**loaded.data, "canvas_size": 64})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda text: text.replace(b'"format": 1', b'"format": 2'), "this m3 reads 'm3', 1"),
        ("config.json", lambda text: b"{}", "not a model of m3"),
        ("config.json", lambda text: b"[1]", "not a model of m3"),
        ("config.json", lambda text: text[:50], "config.json"),
        ("config.json", lambda text: text.replace(b'"width": 32', b'"width": 48'), "cannot be built"),
        ("config.json", lambda text: text.replace(b'"head_width"', b'"hat_width"'), "hat_width"),
        ("model.safetensors", lambda text: text[:-8], "model.safetensors: holds no weights, or is damaged"),
    ],
)
def test_a_damaged_folder_is_named(loaded: LoadedModel, tmp_path, name: str, change, message: str) -> None:
    folder = hub.save_pretrained(loaded, tmp_path)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=message):
        hub.from_pretrained(folder)


COMMANDS = """
import os, sys
from m3.hub import main
main([sys.argv[1], "model", "--push", "acme/walker", "--private"])
main(["hub:acme/walker", "back"])
os.environ["HF_TOKEN"] = "hf_wrong"
main(["model", "again", "--push", "acme/runner"])
"""


def test_a_model_goes_to_the_hub_and_comes_back(world: Path, tmp_path) -> None:  # noqa: F811
    """In a process of its own, which has never heard of another hub.

    Weights go by the LFS protocol: the hub's newer one, Xet, is more than a small server can speak.
    """
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
    with fake_hub() as server:
        env = {**known, "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HOME": "home", "HF_HUB_DISABLE_XET": "1",
               "PYTHONPATH": str(ROOT)}  # fmt: skip
        command = [sys.executable, "-c", COMMANDS, str(world / "run")]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert f"\n{server.url}/acme/walker\n" in done.stdout, done.stderr
    assert server.repositories == {"acme/walker": files(tmp_path / "model")} and server.private == {"acme/walker"}
    assert [line["key"] for line in server.commits[0]].count("lfsFile") == 1
    assert len(server.commits) == 1 and len(server.commits[0]) == 4  # a header and three files
    assert files(tmp_path / "back") == files(tmp_path / "model") == files(tmp_path / "again")
    assert done.returncode == 1 and "error: acme/runner cannot be written" in done.stderr
    assert "hf auth login" in done.stderr and "Traceback" not in done.stderr


def test_what_cannot_be_is_named(loaded: LoadedModel, tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="model.safetensors, .*missing: make the folder"):
        hub.push_to_hub(tmp_path, "acme/walker")
    folder = hub.save_pretrained(loaded, tmp_path / "model")
    with pytest.raises(ValueError, match="--push acme/a/b: need OWNER/NAME"):
        hub.push_to_hub(folder, "acme/a/b")
    with pytest.raises(SystemExit, match="error: nowhere: no checkpoint there"):
        hub.main(["nowhere", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="checkpoint=walker: no such folder"):
        load_model("hub:walker")
