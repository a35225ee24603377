"""The Cosmos tokenizer on files of our own with the published interface, and preprocess.py and generate.py with it."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from support.cosmos_world import Encoder, networks, save, write_cosmos
from support.preprocess_runs import config as preprocess_config
from support.preprocess_runs import samples
from support.random_world import config as generate_config
from support.random_world import write_checkpoint
from support.tiny_world import frame, write_world
from torch import Tensor, nn

import generate
import preprocess
from m3.tokens.base import to_frames, to_pixels
from m3.tokens.cosmos import REPOSITORY, CosmosTokenizer
from m3.tokens.fsq import FSQ

KINDS = [(dtype, how) for dtype in (torch.bfloat16, torch.float32) for how in ("script", "trace", "frozen")]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """As the published files are: bf16 traces."""
    return write_cosmos(tmp_path_factory.mktemp("cosmos"))


def pictures(num_frames: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.stack([frame(index, size, seed=index) for index in range(num_frames)])


@pytest.mark.parametrize("dtype, how", KINDS)
def test_ids_are_those_of_the_network_in_its_own_dtype(tmp_path, dtype, how):
    tokenizer = CosmosTokenizer(str(write_cosmos(tmp_path, dtype, how)), device="cpu")
    pixels = to_pixels(pictures(3))
    encoder, decoder = networks(dtype)
    with torch.no_grad():
        indices, codes, _ = encoder(pixels.to(dtype))
        decoded = decoder(indices)
    ids = tokenizer.encode(pixels)
    assert torch.equal(ids, indices.long()) and ids.dtype == torch.int64 and ids.shape == (3, 3, 4)
    assert len(ids.unique()) > 10
    assert torch.equal(FSQ().ids_to_values(ids), codes.permute(0, 2, 3, 1).float())  # the digits are m3's
    shown = tokenizer.decode(ids)
    assert shown.dtype == torch.float32 and shown.shape == (3, 3, 48, 64)
    assert decoded.abs().max() > 1.2 and torch.equal(shown, decoded.float().clamp(-1, 1))
    for _ in range(3):  # the executor must not change its mind after some calls
        assert torch.equal(tokenizer.encode(pixels), ids) and torch.equal(tokenizer.decode(ids), shown)


@pytest.mark.parametrize(
    "token, values", [(12345, (-0.75, 0.75, -1, 1, 1, -1)), (63_999, (0.75, 0.75, 0.75, 1, 1, 1)), (0, (-1,) * 6)]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint16])
def test_published_digits(published, token, values, dtype):
    picture = CosmosTokenizer(str(published), "cpu").decode(torch.tensor([[[token]]]).to(dtype))[0]
    upper, lower = picture[:, 4, 7], picture[:, 12, 7]  # the network shows three codes in each half of a patch
    assert torch.cat([upper, lower]).tolist() == [max(-1, min(1, 1.5 * value)) for value in values]


def test_a_file_of_mixed_dtypes_gets_the_dtype_of_its_first_layer(tmp_path):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 16, stride=16).to(torch.bfloat16)
            self.second = nn.Conv2d(4, 6, 1)
            self.quantizer = Encoder().quantizer

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.quantizer(self.second(self.first(pixels).float()))

    class MixedLast(Mixed):
        """Declared the other way round: its first parameter is not that of its first layer."""

        def __init__(self) -> None:
            super().__init__()
            first = self.first
            del self.first
            self.first = first

    write_cosmos(tmp_path)
    pixels = to_pixels(pictures(2))
    for kind in (Mixed, MixedLast):
        torch.manual_seed(0)
        network = kind()
        save(network, tmp_path / "encoder.jit", "script", None)
        with torch.no_grad():
            expected = network(pixels.bfloat16())[0].long()
        assert torch.equal(CosmosTokenizer(str(tmp_path), "cpu").encode(pixels), expected)


@pytest.mark.parametrize("wrong", [-1, 64_000, 65_535])
def test_an_illegal_id_is_named_with_its_sample(published, wrong):
    ids = torch.zeros(3, 2, 2, dtype=torch.int64)
    ids[2, 0, 1] = wrong
    with pytest.raises(ValueError, match=rf"{wrong} \(sample 2, row 0, column 1\): legal ids are 0 … 63999"):
        CosmosTokenizer(str(published), "cpu").decode(ids)


@pytest.mark.parametrize("ids", [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(1, 2, 2)])
def test_ids_of_a_wrong_kind_raise(published, ids):
    with pytest.raises(ValueError, match="need integers"):
        CosmosTokenizer(str(published), "cpu").decode(ids)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 60, 64), (1, 1, 64, 64)])
def test_pixels_of_a_wrong_shape_raise(published, shape):
    with pytest.raises(ValueError, match="multiples of 16"):
        CosmosTokenizer(str(published), "cpu").encode(torch.zeros(shape))


def test_the_decoder_is_loaded_only_when_needed(published, monkeypatch):
    loaded, load = [], torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda path, **more: loaded.append(Path(path).name) or load(path, **more))
    tokenizer = CosmosTokenizer(str(published), "cpu")
    ids = tokenizer.encode(to_pixels(pictures(1)))
    assert loaded == ["encoder.jit"]
    tokenizer.decode(ids)
    tokenizer.decode(ids)
    assert loaded == ["encoder.jit", "decoder.jit"]


def test_no_warning_reaches_the_user(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = CosmosTokenizer(str(published), "cpu")
        tokenizer.decode(tokenizer.encode(to_pixels(pictures(1))))


def test_the_fingerprint_is_that_of_both_files(published, tmp_path):
    content = (published / "encoder.jit").read_bytes() + (published / "decoder.jit").read_bytes()
    assert CosmosTokenizer(str(published), "cpu").fingerprint == hashlib.sha256(content).hexdigest()
    other = shutil.copytree(published, tmp_path / "other")
    shutil.copy(write_cosmos(tmp_path / "new", seed=1) / "encoder.jit", other)
    assert CosmosTokenizer(str(other), "cpu").fingerprint != CosmosTokenizer(str(published), "cpu").fingerprint


@pytest.mark.parametrize("missing", ["encoder.jit", "decoder.jit"])
def test_a_missing_file_is_named_with_where_to_get_it(published, tmp_path, missing):
    folder = shutil.copytree(published, tmp_path / "weights")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        CosmosTokenizer(str(folder))
    for part in (str(folder), f"holds no {missing}", REPOSITORY, "NVIDIA Open Model License", "tokenizer.path=FOLDER"):
        assert part in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "nowhere"])
def test_a_missing_folder_is_named_with_where_to_get_its_files(path):
    with pytest.raises(FileNotFoundError, match=f"tokenizer.path={path}: no such folder.*encoder.jit and decoder.jit"):
        CosmosTokenizer(path)


def test_a_file_in_place_of_its_folder_is_refused(published):
    with pytest.raises(FileNotFoundError, match="is a file; give the folder"):
        CosmosTokenizer(str(published / "encoder.jit"))


def test_a_device_that_is_not_here_is_named(published):
    with pytest.raises(ValueError, match="tokenizer.device=abacus"):
        CosmosTokenizer(str(published), "abacus")


class Continuous(nn.Module):
    """What the encoder of a continuous tokenizer returns."""

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (pixels[:, :, ::16, ::16],)


class Finer(nn.Module):
    """What the encoder of a discrete 8 × 8 tokenizer returns."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels[:, 0, ::8, ::8].to(torch.int32), pixels


class MoreIds(nn.Module):
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(pixels[:, 0, ::16, ::16], 64_000).to(torch.int32), pixels


class Video(nn.Module):
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if pixels.dim() != 5:
            raise RuntimeError("expected 5-D input")
        return pixels, pixels


@pytest.mark.parametrize(
    "wrong, message",
    [
        (Continuous(), r"returned \(float32 \(1, 3, 3, 4\)\).*need integer ids \(1, 3, 4\) first"),
        (Finer(), r"returned \(int32 \(1, 6, 8\), float32 .*not the encoder of a discrete 16"),
        (MoreIds(), r"returned token id 64000 \(sample 0, row 0, column 0\)"),
        (Video(), r"does not run on cpu: .*5-D.*tokenizer.device=cuda.*nvidia/Cosmos"),
    ],
)
def test_a_wrong_encoder_is_named(tmp_path, wrong, message):
    save(wrong, write_cosmos(tmp_path) / "encoder.jit", "script", None)
    with pytest.raises(ValueError, match=rf"{tmp_path}/encoder.jit {message}"):
        CosmosTokenizer(str(tmp_path), "cpu").encode(to_pixels(pictures(1)))


def test_a_wrong_decoder_is_named(tmp_path):
    folder = write_cosmos(tmp_path)
    shutil.copy(folder / "encoder.jit", folder / "decoder.jit")
    with pytest.raises(ValueError, match=r"decoder.jit does not run on cpu"):
        CosmosTokenizer(str(folder), "cpu").decode(torch.zeros(1, 2, 2, dtype=torch.int64))
    save(Finer(), folder / "decoder.jit", "script", None)
    with pytest.raises(ValueError, match=r"decoder.jit "):
        CosmosTokenizer(str(folder), "cpu").decode(torch.zeros(1, 2, 2, dtype=torch.int64))


def test_a_damaged_file_is_named(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "weights")
    (folder / "encoder.jit").write_bytes((published / "encoder.jit").read_bytes()[:1000])
    with pytest.raises(ValueError, match="encoder.jit: not a TorchScript file"):
        CosmosTokenizer(str(folder), "cpu").encode(to_pixels(pictures(1)))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_without_network_the_cached_files_are_used(published, hub_cache):
    with pytest.raises(FileNotFoundError) as caught:
        CosmosTokenizer()
    for part in (f"tokenizer.path={REPOSITORY}", "hub", "encoder.jit and decoder.jit", "NVIDIA Open Model License"):
        assert part in str(caught.value)
    cached = hub_cache / f"models--{REPOSITORY.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("a" * 40)
    shutil.copytree(published, cached / "snapshots" / ("a" * 40))
    assert CosmosTokenizer(device="cpu").fingerprint == CosmosTokenizer(str(published), "cpu").fingerprint


def test_only_the_two_files_are_downloaded_from_the_hub(published, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "m3.core.weights.snapshot_download",
        lambda *names, **options: asked.append((names, options)) or str(published),
    )
    CosmosTokenizer(device="cpu")
    assert asked == [((REPOSITORY,), {"revision": None, "allow_patterns": ["encoder.jit", "decoder.jit"]})]


def test_from_frames_to_shards_to_pictures(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "world", 6)
    chosen = ["tokenizer=cosmos", f"tokenizer.path={published}"]
    data = tmp_path / "data"
    manifest = preprocess.run(preprocess_config(tmp_path / "world", data, *chosen, "tokenizer.device=cpu"))
    tokenizer = CosmosTokenizer(str(published), "cpu")
    assert (manifest.tokenizer["name"], manifest.tokenizer["fingerprint"]) == ("cosmos", tokenizer.fingerprint)
    assert str(published) not in (data / "dataset.json").read_text()

    found = [sample for split in ("train", "eval", "test") for sample in samples(data, split)]
    for sample in found:  # from the frames themselves, one by one
        clip, reference = sample["__key__"].split("-")
        with Image.open(tmp_path / f"world/frames/{clip}/{int(reference) + 1:06d}.jpg") as file:  # 64 × 48 px
            picture = np.array(file.resize((32, 32), Image.Resampling.BICUBIC, box=(8, 0, 56, 48)))
        assert (tokenizer.encode(to_pixels(picture[None]))[0].numpy() == sample["tok_rgb.npy"]).all()
    assert len(found) > 6

    identity = {"canvas_size": 32, "tokenizer": "cosmos", "tokenizer_fingerprint": tokenizer.fingerprint}
    write_checkpoint(tmp_path / "run", identity)
    result = generate.run(generate_config(tmp_path, *chosen))
    reference = found[[s["__key__"] for s in found].index(result.made.prompts.chains[0].pairs[0].key)]
    truth = to_frames(tokenizer.decode(torch.tensor(reference["tok_rgb.npy"].astype(np.int64))[None]))
    assert (result.made.truth.values["tok_rgb"][0, 0] == truth[0]).all()
    assert json.loads(result.metrics.read_text())["data"]["tokenizer"] == "cosmos"

    other = write_cosmos(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="tokenizer: cosmos .* is not the one that made"):
        generate.run(generate_config(tmp_path, "tokenizer=cosmos", f"tokenizer.path={other}"))
