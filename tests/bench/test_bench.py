"""The benchmark's baseline is the same model and the same distribution of masks; the benchmarks themselves run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from support.masking import M3, generator, random_tokens
from support.small_models import SMALL, small_model, summed

from bench import generate, masking, motion, open_table, sizing, step, stream
from bench.nano4m import NOT_A_TARGET, MaskedSamples, Nano4M, draw_columns, padded_like, published_weights
from m3.loss import reduce_losses
from m3.masking.select import choose, pack

ROOT = Path(step.__file__).parent.parent


def test_loss_and_gradients_equal_those_of_the_packed_model() -> None:
    tokens = random_tokens(3)
    inputs, targets = (pack(tokens, chosen, M3) for chosen in choose(tokens, M3, generator(3)))
    model = small_model(logits="table")
    hidden = model(inputs, targets)
    rows = [targets.modality == k for k in range(4)]
    sums = [summed(hidden[r], targets.ids[r], model.head_of(k)) for k, r in enumerate(rows)]
    loss = reduce_losses(torch.stack(sums), torch.stack([r.sum() for r in rows]), "all")
    loss.backward()

    other = Nano4M(M3, **{"mlp_ratio": 4, **SMALL}).double()
    other.load_state_dict(published_weights(model.state_dict()) | dict(other.named_buffers()))
    other_loss = other.loss(padded_like(tokens, inputs, targets, M3))
    other_loss.backward()
    assert other_loss.item() == pytest.approx(loss.item(), rel=1e-6)  # m3's sums are float32
    gradients = published_weights({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: n + m)


def test_the_baseline_has_the_published_parameters() -> None:
    with torch.device("meta"):
        model = Nano4M(M3, width=512, encoder_depth=6, decoder_depth=6, head_width=64, mlp_ratio=4)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    outside = ("enc_tok_emb", "enc_mod_emb", "dec_mod_emb", "to_logits")
    assert sum(size for name, size in sizes.items() if not name.startswith(outside)) == 44_322_304
    assert sizes["to_logits.weight"] == sizes["enc_tok_emb.weight"] == 65_536 * 512


def test_budgets_have_the_reference_means() -> None:
    counts = np.zeros((4_000, 2, 4))
    for i in range(len(counts)):
        for side, columns in enumerate(draw_columns(np.random.default_rng(i), M3)):
            counts[i, side] = np.histogram(columns, bins=[*M3.offsets, M3.num_tokens])[0]
    means = [[20.01, 17.76, 20.01, 17.76], [20.01, 11.80, 20.01, 11.80]]
    standard_error = counts.std(0) / len(counts) ** 0.5
    assert (abs(counts.mean(0) - means) < 4 * standard_error).all()


def test_a_masked_sample_is_padded_and_its_parts_are_disjoint() -> None:
    rows = random_tokens(4).numpy().astype(np.uint16)
    sample = MaskedSamples(rows, M3, seed=0)[2]
    assert all(field.shape == (128,) for field in sample)
    offsets = torch.tensor(M3.offsets)
    inputs = (offsets[sample.input_modalities] + sample.input_positions)[sample.is_input]
    targets = (offsets[sample.target_modalities] + sample.target_positions)[sample.is_target]
    assert len(inputs) and len(targets) and not set(inputs.tolist()) & set(targets.tolist())
    assert (inputs.diff() > 0).all() and (targets.diff() > 0).all()
    assert sample.input_ids[sample.is_input].tolist() == rows[2, inputs].tolist()
    assert sample.target_ids[sample.is_target].tolist() == rows[2, targets].tolist()
    assert (sample.target_ids[~sample.is_target] == NOT_A_TARGET).all()


def test_a_worker_finds_both_equal(tmp_path: Path) -> None:
    """Through train.py's own trainer, with data as the benchmark makes them."""
    step.write_random_data(tmp_path / "data", 8)
    arguments = argparse.Namespace(
        data=tmp_path / "data", model="demo", modalities="m3", clamped="redistribute", batch_size=2, steps=1,
        warmup_steps=1, threads=1, device="cpu", dtype="fp32", hardware="cpu",
    )  # fmt: skip
    found = step.measure(arguments, "check", tmp_path)
    assert found["loss"] > 11.5  # ln 65,536 is 11.1: not the loss of equal odds
    assert found["loss_difference"] < step.LARGEST_DIFFERENCE and found["gradient_difference"] < 1e-4


@pytest.mark.slow
def test_the_benchmark_runs_and_says_when_it_is_void(tmp_path: Path) -> None:
    command = [
        sys.executable, "bench/step.py", "--model", "demo", "--batch-size", "2", "--steps", "2", "--warmup-steps", "1",
        "--rounds", "1", "--threads", "1", "--json", str(tmp_path / "step.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    result = json.loads((tmp_path / "step.json").read_text())
    assert done.returncode == (0 if result["baseline_is_fair"] else 1)
    assert "m3, factorized head" in done.stdout
    for kind in ("flat", "factorized"):
        expected = result["nano4m"]["step_s"] / result[kind]["step_s"]
        assert result[f"ratio_{kind}"] == pytest.approx(expected)
        assert result[f"memory_ratio_{kind}"] == result[kind]["peak_bytes"] / result["nano4m"]["peak_bytes"]
        assert 0 < result[kind]["real_tokens_per_s"] < result[kind]["nominal_tokens_per_s"]
    assert result["flat"]["nominal_tokens_per_s"] == pytest.approx(2 * 256 / result["flat"]["step_s"])
    assert result["loss_difference"] < step.LARGEST_DIFFERENCE


def roll_out_bench(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    common = ["--model", "demo", "--batch-size", "2", "--rounds", "1", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", ["generate.py", *common, *options])
    return generate.main()


def test_roll_outs_are_compared_with_those_of_the_same_model(tmp_path: Path, monkeypatch) -> None:
    assert roll_out_bench(monkeypatch, "--steps", "2", "--json", str(tmp_path / "result.json")) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ratio"] == pytest.approx(result["seconds"]["nano4m"][0] / result["seconds"]["m3"][0])
    assert result["frames_per_s"]["m3"] == pytest.approx(2 / result["seconds"]["m3"][0])
    assert 0 < result["logits_difference"] < generate.LARGEST_DIFFERENCE


def test_a_comparison_with_another_model_is_void(monkeypatch, capsys) -> None:
    def changed(weights: dict) -> dict:
        weights = published_weights(weights)
        return weights | {"dec_norm.weight": weights["dec_norm.weight"] * 1.001}

    monkeypatch.setattr(generate, "published_weights", changed)
    assert roll_out_bench(monkeypatch, "--steps", "1") == 1
    assert "not the same model" in capsys.readouterr().err


def test_variants_are_settings_of_the_sampler(tmp_path: Path, monkeypatch) -> None:
    made = {name: generate.schemes_of(overrides, M3) for name, overrides in generate.VARIANTS.items()}
    assert [scheme.num_steps for scheme in made["maskgit 8 + 16"]] == [8, 16]
    assert all(scheme.is_greedy or scheme.pick == "median" for scheme in made["roar 4 + 4"])
    assert not any(scheme.is_greedy for scheme in made["sampled, roar 8 + 8"])
    default = made.pop("default")
    assert [*made.values()].count(default) == 1  # it is in the table
    assert all([*made.values()].count(schemes) == 1 for schemes in made.values())
    options = ["--variants", "--only", "maskgit 1 + 1", "default", "--json", str(tmp_path / "variants.json")]
    assert roll_out_bench(monkeypatch, *options) == 0
    variants = json.loads((tmp_path / "variants.json").read_text())["variants"]
    assert set(variants) == {"maskgit 1 + 1", "default"} and all(one["frames_per_s"] > 0 for one in variants.values())


@pytest.mark.parametrize("names", [*motion.ABLATIONS.values(), motion.ABLATIONS_OF_GAPS["without gap"]])
def test_a_variant_predicts_one_modality_from_all_others(names: tuple[str, ...]) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        table = instantiate(compose("train", ["experiment=motion", *motion.modalities(names)]).modalities)
    lengths = torch.tensor(table.max_seq_lens).expand(16, -1).clone()
    if "motion_prev" in names:
        lengths[::2, table.index("motion_prev")] = 0  # half of the samples begin a clip
    tokens = torch.ones(16, table.num_tokens, dtype=torch.int64)
    is_input, is_target = choose(tokens, table, generator(16), lengths)
    for each, length in zip(names, lengths.T):
        is_last = each == names[-1]
        assert torch.equal(is_target[:, table.columns(each)].sum(1), length * is_last)
        assert torch.equal(is_input[:, table.columns(each)].sum(1), length * (not is_last))


def test_the_benchmark_of_motion_prints_means_over_seeds() -> None:
    runs = [{score: {"model": [value, 0.5, 0.25]} for score in motion.SCORES} for value in (0.9, 0.8)]
    line = "| all | 85.0 50.0 25.0 | 85.0 50.0 25.0 | 85.0 50.0 25.0 | 0.85 0.50 0.25 | 85.0 50.0 25.0 |"
    assert motion.row("all", runs) == line
    assert motion.row("still", runs, "nothing_moves") == "| still | – | – | – | – | – |"


def test_the_benchmark_of_masks_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On few rows, after all implementations were found to draw the same budgets."""
    for name, value in {"NUM_ROWS": 64, "NUM_ROUNDS": 1, "ROUND_S": 0.01, "BATCH_SIZES": (16,)}.items():
        monkeypatch.setattr(masking, name, value)
    found = masking.measure()
    assert len(found) == 5 and all(speed > 0 for speed in found.values())
    assert {"masks, m3, drop, batch 16", "token table, batch 16"} < found.keys()


@pytest.mark.slow
def test_sizes_follow_from_what_was_measured(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sizing, "FEW_CLIPS", 1)
    monkeypatch.setattr(sizing, "MORE_CLIPS", 3)
    options = ["--models", "demo", "--steps", "1", "--batch-size", "2", "--json", str(tmp_path / "sizes.json")]
    monkeypatch.setattr(sys, "argv", ["sizing.py", *options])
    sizing.main()
    found = json.loads((tmp_path / "sizes.json").read_text())
    data, (row,) = found["data"], [line for line in capsys.readouterr().out.splitlines() if "`demo`" in line]
    assert data["table_bytes_per_pair"] == 3 * (256 + 39) * 2  # uint16, of the frame before, reference and successor
    assert data["shard_bytes_per_pair"] > data["table_bytes_per_pair"]
    hours = 5e9 / found["models"]["demo"]["nominal_tokens_per_s"] / 3600
    assert f"| {hours:,.0f} h |" in row
    assert [sizing.duration(seconds) for seconds in (1.5, 150, 4_795_000)] == ["1.5 s", "2.5 min", "1,332 h"]


def test_the_benchmark_of_streams_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its servers, its damages and its resume, on few samples; damage 000003.tar needs four shards."""
    sizes = {"NUM_SAMPLES": 40, "SAMPLES_PER_SHARD": 10, "BATCH_SIZE": 5, "BUFFER_SIZE": 16, "BATCHES_PER_EPOCH": 8,
             "NUM_ROUNDS": 2}  # fmt: skip
    for name, size in sizes.items():
        monkeypatch.setattr(stream, name, size)
    for name in (*stream.CREDENTIALS, "AWS_ENDPOINT_URL"):  # `measure` sets them; put back afterwards
        monkeypatch.setenv(name, "")
    found = stream.measure(tmp_path)
    assert found.keys() == {"disk", "HTTP", "S3", "WebDataset, disk"}
    assert all(facts["samples_per_s"] > 0 for facts in found.values())
    for transport in ("disk", "HTTP", "S3"):
        assert found[transport]["resume_is_exact"] and found[transport]["resume_s"] > 0
        assert found[transport]["damage_is_noticed"] == dict.fromkeys(
            ("cut off in a member", "cut off between samples, padded", "one byte changed"), True
        )


def test_the_benchmark_of_opening_a_table_runs() -> None:
    found = open_table.measure(20)
    assert found.keys() == {"build", "open", "digests alone", "MB"} and found["MB"] > 20 * 590 * 2 / 1e6
