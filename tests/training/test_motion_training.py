"""Exactness of trainings whose samples differ in length: some have no history, label or caption."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from support.global_batches import EVERY_STEP, assert_same_gradients, logged, run_on_two_processes
from support.train_runs import config, state_of

import train
from m3.batches.datamodule import TokenDataModule
from m3.core.types import FramePair, TokenizedPair
from m3.shards.manifest import TEXT_TOKENIZER_NAME, Manifest, StoredModality
from m3.shards.meta import pair_meta
from m3.shards.writer import write_shards
from m3.tokens.text import TextTokenizer, train_text_tokenizer

CAPTIONS = ("a person bowls", "", "a person jumps very high")
NAMES = ("coords", "coords_next", "coords_prev")
SETTINGS = [
    "modalities=motion", "model=motion",
    "modalities.modalities=[coords,motion_prev,gap_prev,gap_next,action,motion_next,captions]",
    "modalities.vocab_sizes=[8192,4226,64,64,8,4226,512]", "modalities.max_seq_lens=[39,13,1,1,1,13,10]",
    "modalities.input_alphas=[1,1,1,1,1,1,1]", "modalities.target_alphas=[0,1,0,0,1,1,1]", "modalities.mixture=null",
    "modalities.input_tokens_range=[10,40]", "modalities.target_tokens_range=[2,20]", "optim.muon=true",
]  # fmt: skip


AS_SHIPPED = [
    "modalities=motion", "model=motion", "modalities.max_seq_lens=[39,13,1,1,1,13]",
    "modalities.input_tokens_range=[55,55]", "modalities.target_tokens_range=[13,13]",
]  # fmt: skip


def write_motion_data(root: Path, num_pairs: dict[str, int], without_joints: int | None = None) -> None:
    """Every third pair starts its clip, every fourth has no label, every third no caption.

    without_joints: number of the pair of train that has no joints.
    """
    rng = np.random.default_rng(0)

    def pose() -> np.ndarray:
        return np.concatenate([rng.integers(500, 7500, (2, 13)), rng.integers(0, 2, (1, 13))]).astype(np.uint16)

    def pair(split: str, n: int) -> TokenizedPair:
        previous = None if n % 3 == 0 else 10 * n - 1 - n % 5
        frames = FramePair(10 * n, 10 * n + 1 + n % 7, None, previous)
        names = NAMES if previous is not None else NAMES[:2]
        names = () if split == "train" and n == without_joints else names
        meta = pair_meta(
            frames, f"{split}{n}", ("bowl", "jump", "run", None)[n % 4], {"mode": "crop", "size": 32}, 20.0, 0.0
        )
        caption = CAPTIONS[n % 3]
        return TokenizedPair(
            f"{split}{n}-{10 * n:06d}", {name: pose() for name in names}, (caption,) * bool(caption), meta
        )

    shards = {s: write_shards(root, s, [pair(s, n) for n in range(count)], 50) for s, count in num_pairs.items()}
    text = train_text_tokenizer(CAPTIONS, 400)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    (root / TEXT_TOKENIZER_NAME).write_text(text, encoding="utf-8")
    Manifest(
        settings={}, source={"name": "random", "fingerprint": "0"}, canvas={"mode": "crop", "size": 32},
        modalities=tuple(StoredModality(name, (3, 13), "joints", 8192) for name in NAMES), has_joints=True, variants=(),
        captioner={"name": "none", "fingerprint": None, "settings": {}},
        text_tokenizer={"file": TEXT_TOKENIZER_NAME, "sha256": sha256, "num_ids": TextTokenizer(text).num_ids},
        tokenizer={"name": "none", "fingerprint": None, "settings": {}}, num_clips=num_pairs, shards=shards,
        statistics={"frame_distance": {"median": 4}}, rejected=(), notes=(), actions=("bowl", "jump", "run"),
    ).save(root)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_motion_data(root, {"train": 40, "eval": 13, "test": 3})
    return root


def test_the_samples_differ_in_length(data: Path) -> None:
    module = TokenDataModule(str(data), train.assemble(config(data, data / "x", *SETTINGS)).module.table, 8)
    lengths = module.train_rows.read(np.arange(40))[1]
    assert lengths is not None and len(lengths.unique(dim=0)) > 5
    assert module.identity["actions"] == ["bowl", "jump", "run"] and "[EOS]" in module.identity["text_tokenizer"]
    assert module.identity["median_gap"] == 4


def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(data: Path, tmp_path: Path) -> None:
    train.run(config(data, tmp_path / "whole", *SETTINGS))
    train.run(config(data, tmp_path / "parts", *SETTINGS, "trainer.max_steps=10"))
    train.run(config(data, tmp_path / "parts", *SETTINGS, "resume=auto"))
    whole, parts = (state_of(tmp_path / name) for name in ("whole", "parts"))
    for name, weights in whole["state_dict"].items():
        assert torch.equal(weights, parts["state_dict"][name]), name
    moments = [state["optimizer_states"][0]["state"] for state in (whole, parts)]
    assert all(
        torch.equal(value, moments[1][k][name]) for k, each in moments[0].items() for name, value in each.items()
    )


def test_the_eval_loss_does_not_depend_on_the_batch_size(data: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 4, 13):
        train.run(config(data, tmp_path / str(size), *SETTINGS, "trainer.max_steps=2", f"data.eval_batch_size={size}"))
        found.append(logged(tmp_path / str(size), "eval/")[-1])
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)
    assert {"eval/loss_motion_next", "eval/loss_action", "eval/loss_captions"} <= found[0].keys()


def test_two_processes_make_the_steps_of_one(data: Path, tmp_path: Path) -> None:
    options = [*SETTINGS, *EVERY_STEP, "trainer.max_steps=3", "optim.clip_grad=1e9", "optim.muon=false"]
    run_on_two_processes(data, tmp_path / "two", *options, "optim.batch_size=2", "data.eval_batch_size=1")
    train.run(config(data, tmp_path / "one", *options, "optim.batch_size=4", "data.eval_batch_size=64"))
    assert_same_gradients(tmp_path / "two", tmp_path / "one")
    for ours, theirs in zip(logged(tmp_path / "two", "eval/"), logged(tmp_path / "one", "eval/"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_stream_gives_the_samples_of_the_table(data: Path, tmp_path: Path) -> None:
    losses = []
    for backend in ("table", "stream"):
        options = [*SETTINGS, "trainer.max_steps=0", f"data.backend={backend}", "data.eval_batch_size=5"]
        train.run(config(data, tmp_path / backend, *options))
        losses.append(logged(tmp_path / backend, "eval/")[-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_sample_with_nothing_to_predict_is_named_before_any_work(tmp_path: Path) -> None:
    """Pair 5 has no joints, but a label; pair 7 has neither."""
    for number in (5, 7):
        write_motion_data(tmp_path / str(number), {"train": 8, "eval": 4, "test": 1}, without_joints=number)
    train.assemble(config(tmp_path / "5", tmp_path / "run", *AS_SHIPPED))
    with pytest.raises(Exception, match="1 of 8 samples of train, such as train7-000070, have no token.*modalities=…"):
        train.assemble(config(tmp_path / "7", tmp_path / "run", *AS_SHIPPED))
