from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support.blip_world import write_blip
from support.preprocess_runs import config, samples
from support.tiny_world import frame, write_world
from transformers import BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor

import preprocess
from m3.captions.blip import REPOSITORY, BlipCaptioner


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_blip(tmp_path_factory.mktemp("blip"))


def pictures(num_frames: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (num_frames, 48, 48, 3))
    return np.stack([0.5 * frame(k, (48, 48), seed=k) + 0.5 * noise[k] for k in range(num_frames)]).astype(np.uint8)


def naive_captions(weights: Path, pictures: np.ndarray, max_new_tokens: int) -> list[str]:
    """One call of transformers for each picture."""
    model, processor = BlipForConditionalGeneration.from_pretrained(weights), BlipProcessor.from_pretrained(weights)
    texts = []
    for picture in pictures:
        inputs = processor(images=Image.fromarray(picture), return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens)
        texts.append(processor.decode(ids[0], skip_special_tokens=True).removeprefix("[DEC]").strip())
    return texts


@pytest.mark.parametrize("batch_size, max_new_tokens", [(4, 30), (1, 30), (8, 30), (4, 5)])
def test_captions_are_those_of_one_picture_at_a_time(weights, batch_size, max_new_tokens):
    shown = pictures(6)
    expected = naive_captions(weights, shown, max_new_tokens)
    captioner = BlipCaptioner(str(weights), max_new_tokens, batch_size, "cpu")
    assert captioner.captions("golf_swing", 6, shown) == expected
    assert captioner.captions(None, 6, shown) == expected
    lengths = {len(caption.split()) for caption in expected}
    assert len(set(expected)) > 2 and max(lengths) <= max_new_tokens
    if max_new_tokens == 30:
        assert min(lengths) < 30  # one that ends by itself among others that do not
    assert not any("[" in caption for caption in expected)


def test_a_sentence_without_words_is_no_caption(weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "silent")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["text_decoder.cls.predictions.bias"][3] = 1e4  # [SEP] at once
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert BlipCaptioner(str(folder), device="cpu").captions("squat", 2, pictures(2)) == [None, None]


def test_name_fingerprint_and_needs_pictures(weights, tmp_path):
    captioner = BlipCaptioner(str(weights), device="cpu")
    names = ("config.json", "generation_config.json", "model.safetensors", "processor_config.json", "tokenizer.json",
             "tokenizer_config.json")  # fmt: skip
    assert captioner.name == "blip" and captioner.needs_pictures
    assert captioner.fingerprint == hashlib.sha256(b"".join((weights / n).read_bytes() for n in names)).hexdigest()
    same, other = (shutil.copytree(weights, tmp_path / name) for name in ("same", "other"))
    (same / "README.md").write_text("words")
    assert BlipCaptioner(str(same), device="cpu").fingerprint == captioner.fingerprint
    (other / "tokenizer.json").write_text((weights / "tokenizer.json").read_text().replace("golf", "polo"))
    assert BlipCaptioner(str(other), device="cpu").fingerprint != captioner.fingerprint


def test_a_folder_of_older_transformers_is_read(weights, tmp_path):
    """As published: preprocessor_config.json and vocab.txt, without generation_config.json."""
    expected = BlipCaptioner(str(weights), device="cpu").captions(None, 3, pictures(3))
    folder = shutil.copytree(weights, tmp_path / "older")
    processor = BlipProcessor.from_pretrained(weights)
    vocabulary = processor.tokenizer.get_vocab()
    for name in ("generation_config.json", "processor_config.json", "tokenizer.json"):
        (folder / name).unlink()
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    assert (folder / "preprocessor_config.json").is_file()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(vocabulary, key=vocabulary.get)))
    assert BlipCaptioner(str(folder), device="cpu").captions(None, 3, pictures(3)) == expected


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"])
def test_a_missing_file_is_named_with_where_to_get_it(weights, tmp_path, missing):
    folder = shutil.copytree(weights, tmp_path / "weights")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        BlipCaptioner(str(folder))
    for part in (str(folder), f"no {missing}", REPOSITORY, "BSD-3-Clause", "captioner.path=FOLDER"):
        assert part in str(caught.value)


def test_pickled_weights_are_refused(weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "pickled")
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model.safetensors.*Pickled weights .* are not read"):
        BlipCaptioner(str(folder))


def test_weights_of_something_else_are_refused(weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "weights")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    safetensors.torch.save_file({n: t for n, t in tensors.items() if n != name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"lacks {name}"):
        BlipCaptioner(str(folder))
    (folder / "model.safetensors").write_bytes((weights / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"captioner.path={folder}: not a BLIP captioner"):
        BlipCaptioner(str(folder))
    (folder / "model.safetensors").write_bytes((weights / "model.safetensors").read_bytes())
    (folder / "processor_config.json").write_text("{")
    with pytest.raises(ValueError, match=rf"captioner.path={folder}: not a BLIP captioner"):
        BlipCaptioner(str(folder))


@pytest.mark.parametrize(
    "key, value", [("max_new_tokens", 0), ("max_new_tokens", "many"), ("batch_size", 0), ("device", "abacus")]
)
def test_a_wrong_setting_is_named(weights, key, value):
    with pytest.raises(ValueError, match=f"captioner.{key}="):
        BlipCaptioner(str(weights), **{key: value})


@pytest.mark.parametrize(("file", "place", "value"), [
    ("config.json", ("text_config", "num_hidden_layers"), 10**9),
    ("config.json", ("vision_config", "image_size"), 1e30), ("config.json", ("text_config", "vocab_size"), 10**30),
    ("processor_config.json", ("image_processor", "size"), {"height": 10**6, "width": 10**6}),
])  # fmt: skip
def test_sizes_are_bounded_before_anything_is_built(weights, tmp_path, file, place, value):
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / file).read_text())
    node = content
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"captioner.path={tmp_path}: .*{file}: .* need at most"):
        BlipCaptioner(str(tmp_path), device="cpu")


def test_without_network_the_cached_files_are_used(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=f"captioner.path={REPOSITORY}: no such folder.*hub.*model.safetensors"):
        BlipCaptioner()
    cached = tmp_path / f"models--{REPOSITORY.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("a" * 40)
    shutil.copytree(weights, cached / "snapshots" / ("a" * 40))
    assert BlipCaptioner(device="cpu").fingerprint == BlipCaptioner(str(weights), device="cpu").fingerprint


def test_from_frames_to_shards(weights, tmp_path):
    write_world(tmp_path / "world", 4)
    out = tmp_path / "data"
    chosen = ["captioner=blip", f"captioner.path={weights}", "captioner.device=cpu", "captioner.batch_size=3"]
    manifest = preprocess.run(config(tmp_path / "world", out, *chosen))
    captioner = BlipCaptioner(str(weights), batch_size=3, device="cpu")
    assert (manifest.captioner["name"], manifest.captioner["fingerprint"]) == ("blip", captioner.fingerprint)
    assert manifest.captioner["settings"]["max_new_tokens"] == 30
    assert str(weights) not in (out / "dataset.json").read_text()
    found = [sample for split in ("train", "eval", "test") for sample in samples(out, split)]
    shown = []
    for sample in found:
        clip, reference = sample["__key__"].split("-")
        with Image.open(tmp_path / f"world/frames/{clip}/{int(reference) + 1:06d}.jpg") as file:  # 64 × 48 px
            shown.append(np.array(file.resize((32, 32), Image.Resampling.BICUBIC, box=(8, 0, 56, 48))))
    expected = naive_captions(weights, np.stack(shown), 30)
    assert [sample["captions.json"] for sample in found] == [[caption] for caption in expected]
    assert len(found) > 8
