"""The published run's state dict in m3's model, against the independent implementation of the step benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.masking import M3, generator, random_tokens

from bench.nano4m import Nano4M, padded_like
from m3.checkpoint import initialize
from m3.masking.select import choose, pack
from m3.model.encoder_decoder import EncoderDecoder

SIZE = {"width": 64, "encoder_depth": 2, "decoder_depth": 2, "head_width": 32, "mlp_ratio": 4}
DATA = {"canvas_size": 256, "tokenizer": "cosmos", "tokenizer_fingerprint": "f" * 64}


@pytest.fixture(scope="module")
def published() -> Nano4M:
    """Every weight is random, so that none can be forgotten or exchanged unnoticed."""
    model, draw = Nano4M(M3, **SIZE), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


@pytest.fixture(scope="module")
def weights(published: Nano4M) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in published.state_dict().items()}


def own_model(**options: object) -> EncoderDecoder:
    return EncoderDecoder(M3, **{**SIZE, "logits": "table", **options})


def write(weights: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights if path.suffix == ".pth" else {"model": weights, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("name", ["run.safetensors", "run.pth", "run.pt"])
def test_logits_agree(published: Nano4M, weights, tmp_path, name: str) -> None:
    assert {"encoder.blocks.1.attn.qkv_proj.weight", "decoder.blocks.0.cross_attn.kv_proj.weight", "pos_emb",
            "decoder.blocks.1.context_norm.bias", "to_logits.weight"} <= weights.keys()  # fmt: skip
    model = own_model()
    initialize(model, write(weights, tmp_path / name), DATA)
    tokens = random_tokens(5)
    inputs, targets = (pack(tokens, chosen, M3) for chosen in choose(tokens, M3, generator(5)))
    batch = padded_like(tokens, inputs, targets, M3)
    with torch.no_grad():
        logits = model.digit_logits(model(inputs, targets), 0)[0]  # (M, 65536), one table for all modalities
        expected = published(batch)[batch.is_target]
    width = logits.shape[1]  # a picture's legal ids come first in the table
    assert len(logits) > 100 and width >= 64_000 and float(expected.std()) > 0.1
    torch.testing.assert_close(logits, expected[:, :width], rtol=0, atol=1e-5)


def test_everything_that_does_not_fit_is_listed(weights, tmp_path) -> None:
    wrong = {name: tensor.clone() for name, tensor in weights.items()}
    del wrong["encoder.blocks.1.mlp.fc1.weight"]
    wrong["decoder.blocks.0.mlp.fc3.weight"] = torch.zeros(3)
    wrong["to_logits.weight"] = wrong["to_logits.weight"][:100]
    wrong["encoder.blocks.0.norm2.bias"][7] = 0.5
    wrong["pos_emb"] = wrong["pos_emb"].flip(0)
    with pytest.raises(ValueError) as caught:
        initialize(own_model(), write(wrong, tmp_path / "run.safetensors"), DATA)
    message = str(caught.value)
    for part in ("encoder.blocks.1.mlp.fc1.weight is missing", "decoder.blocks.0.mlp.fc3.weight is unexpected",
                 "to_logits.weight is (100, 64), the model has (65536, 64)",
                 "encoder.blocks.0.norm2.bias is not zero (up to 0.5)", "pos_emb differs"):  # fmt: skip
        assert part in message, message


def test_other_names_and_numbers_that_are_none_are_listed(weights, tmp_path) -> None:
    wrong = {name: tensor.clone() for name, tensor in weights.items()}
    wrong["encoder.0.mlp.fc1.weight"] = wrong["encoder.blocks.0.mlp.fc1.weight"] + 1  # m3's own name, beside the other
    wrong["enc_norm.weight"][3] = torch.nan
    wrong["pos_emb"][2, 2] = torch.nan
    with pytest.raises(ValueError) as caught:
        initialize(own_model(), write(wrong, tmp_path / "run.safetensors"), DATA)
    for part in ("encoder.0.mlp.fc1.weight is unexpected", "enc_norm.weight is not finite", "pos_emb differs"):
        assert part in str(caught.value)
    wrong = weights | {"pos_emb": weights["pos_emb"][0]}
    with pytest.raises(ValueError, match=r"pos_emb is \(64,\)"):
        initialize(own_model(), write(wrong, tmp_path / "run.safetensors"), DATA)
    torch.save({"model": weights, "epoch": 3, "model_state_dict": {"loss": 1.0}}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt: .*loss"):
        initialize(own_model(), tmp_path / "run.pt", DATA)


@pytest.mark.parametrize("how", ["legacy", "ddp", "bfloat16"])
def test_weights_saved_in_other_ways(weights, tmp_path, how: str) -> None:
    file = tmp_path / "run.pt"
    given = {f"module.{name}": w for name, w in weights.items()} if how == "ddp" else weights
    given = {name: w.bfloat16() for name, w in given.items()} if how == "bfloat16" else given
    torch.save(given, file, _use_new_zipfile_serialization=how != "legacy")
    model = own_model()
    initialize(model, file, DATA)
    tolerance = 1e-2 if how == "bfloat16" else 0
    torch.testing.assert_close(
        model.decoder[0].mlp.fc1.weight, weights["decoder.blocks.0.mlp.fc1.weight"], rtol=tolerance, atol=0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"logits": "legal"}, r"model\.logits=table"), ({"positions": "2d"}, r"model\.positions=1d"),
     ({"encoder_depth": 3}, r"encoder\.blocks\.2\.\S+ is missing")],
)  # fmt: skip
def test_another_model_is_refused(weights, tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        initialize(own_model(**options), write(weights, tmp_path / "run.safetensors"), DATA)


def test_the_size_that_would_fit_comes_first(weights, tmp_path) -> None:
    file = write(weights, tmp_path / "run.safetensors")
    with pytest.raises(ValueError) as caught:
        initialize(own_model(encoder_depth=3, width=32), file, DATA)
    keys = "model.width=64 model.encoder_depth=2 model.decoder_depth=2"
    start = f"{file} is not the published model in the size of this one: width 64, 2 + 2 blocks (here 32, 3 + 2): "
    assert str(caught.value).startswith(f"{start}set {keys}; ")
    table = {f"{side}.blocks.7.norm1.weight": torch.ones(640) for side in ("encoder", "decoder")}
    table["enc_tok_emb.weight"] = torch.zeros(2, 640)
    with pytest.raises(ValueError, match=r"width 640, 8 \+ 8 blocks \(here 64, 2 \+ 2\): set model=m4; "):
        initialize(own_model(), write(table, tmp_path / "m4.safetensors"), DATA)


class Foreign:
    """A class that no weights need."""


def test_a_checkpoint_of_the_published_run_gives_its_weights_alone(weights, tmp_path) -> None:
    options = argparse.Namespace(lr=6e-4, output_dir="out", betas=[0.9, 0.95])
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    whole = {"model": weights, "optimizer": optimizer, "epoch": 4, "scaler": {"scale": 65536.0}, "args": options}
    torch.save(whole, tmp_path / "checkpoint-4.pth")
    model = own_model()
    initialize(model, tmp_path / "checkpoint-4.pth", DATA)
    assert torch.equal(model.decoder[0].mlp.fc1.weight, weights["decoder.blocks.0.mlp.fc1.weight"])


def test_other_classes_in_a_checkpoint_are_refused_in_m3_s_own_words(weights, tmp_path) -> None:
    torch.save({"model": weights, "args": Foreign()}, tmp_path / "checkpoint-5.pth")
    write(weights, tmp_path / "checkpoint-5.safetensors")
    with pytest.raises(ValueError) as caught:
        initialize(own_model(), tmp_path / "checkpoint-5.pth", DATA)
    message = str(caught.value)
    assert "checkpoint-5.pth: not a checkpoint" in message and "checkpoint-5.safetensors beside it" in message
    assert "weights_only" not in message and "torch" not in message and "\n" not in message


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a file"])
@pytest.mark.parametrize("name", ["run.safetensors", "run.pth"])
def test_a_damaged_file_is_named(tmp_path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        initialize(own_model(), tmp_path / name, DATA)
