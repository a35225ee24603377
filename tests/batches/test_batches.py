"""Batches: a pure function of (seed, step, rank), mirrored half of the time where asked to, free of illegal ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_shards import flippable_pair, modality_table, row_of, small_manifest, tokenized_pair

from m3.batches.datamodule import EvalBatches, SampleRows, TokenDataModule, TrainBatches
from m3.batches.table import TokenTable
from m3.core.rng import numpy_generator
from m3.core.types import TokenBatch
from m3.shards.writer import write_shards

NUM_PAIRS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("flippable")
    pairs = [flippable_pair(number) for number in range(NUM_PAIRS)]
    shards = {split: write_shards(root, split, pairs, 16) for split in ("train", "eval")}
    replace(small_manifest(), variants=("flip",), shards={**shards, "test": ()}).save(root)
    return root


@pytest.fixture
def split(data: Path) -> TokenTable:
    return TokenTable.open(data, "train")


def batches_of(split: TokenTable, batch_size: int = 8, rank: int = 0, num_ranks: int = 1, **options) -> TrainBatches:
    rows = SampleRows(split, modality_table(), with_flips=options.get("flip", False))
    return TrainBatches(rows, batch_size, 50, 3, rank, num_ranks, **options)


def is_flipped(batch: TokenBatch) -> np.ndarray:
    """(B,) by comparison with both versions of each sample, one of which it must be."""
    found = []
    for tokens, sample in zip(batch.tokens.numpy(), batch.sample.tolist()):
        plain, flipped = np.array_equal(tokens, row_of(sample)), np.array_equal(tokens, row_of(1000 + sample))
        assert plain != flipped
        found.append(flipped)
    return np.array(found)


@pytest.mark.parametrize("batch_size", [8, 17, 130])
def test_samples_follow_each_other_through_shuffled_epochs(split: TokenTable, batch_size: int) -> None:
    batches = batches_of(split, batch_size)
    orders = [numpy_generator(3, "epoch", epoch).permutation(NUM_PAIRS) for epoch in range(60)]
    for step in (0, 3, 1, 11):  # in any order
        batch = batches[step]
        for place, sample, epoch in zip(range(step * batch_size, (step + 1) * batch_size), batch.sample, batch.epoch):
            assert (int(sample), int(epoch)) == (orders[place // NUM_PAIRS][place % NUM_PAIRS], place // NUM_PAIRS)
        assert batch.tokens.dtype == batch.sample.dtype == batch.epoch.dtype == torch.int64
        assert np.array_equal(batch.tokens.numpy(), split.tokens[batch.sample.numpy(), :90])


def test_half_of_the_samples_are_mirrored_anew_in_each_epoch(split: TokenTable) -> None:
    epochs = batches_of(split, NUM_PAIRS, flip=True)
    flips = np.array([is_flipped(batch)[batch.sample.argsort().numpy()] for batch in (epochs[e] for e in range(50))])
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / flips.size**0.5
    assert 0.2 < flips.mean(0).min() and flips.mean(0).max() < 0.8  # of a sample over epochs
    assert 0.1 < flips.mean(1).min() and flips.mean(1).max() < 0.9  # of an epoch over samples
    plain = batches_of(split, NUM_PAIRS)
    assert not any(is_flipped(plain[epoch]).any() for epoch in range(3))
    other_seed = TrainBatches(epochs.rows, NUM_PAIRS, 50, 4, 0, 1, flip=True)
    assert not np.array_equal(is_flipped(other_seed[0])[other_seed[0].sample.argsort().numpy()], flips[0])


def test_mirroring_does_not_depend_on_ranks_batches_or_what_came_before(split: TokenTable) -> None:
    whole = batches_of(split, 24, flip=True)[2]
    ranks = [batches_of(split, 8, rank, 3, flip=True)[2].tokens for rank in range(3)]
    assert torch.equal(torch.cat(ranks), whole.tokens)
    small = batches_of(split, 12, flip=True)
    assert torch.equal(torch.cat([small[4].tokens, small[5].tokens]), whole.tokens)


def test_evaluation_is_never_mirrored(data: Path) -> None:
    module = TokenDataModule(str(data), modality_table(), 8, flip=True)
    batch = EvalBatches(module.eval_rows, 64, 0, 1)[0]
    assert not is_flipped(batch).any() and batch.sample.tolist() == list(range(NUM_PAIRS))
    assert module.identity["flip"] is True


def test_a_mirrored_sample_follows_the_runs_modalities(split: TokenTable) -> None:
    names = ("coords_next", "coords")
    rows = SampleRows(split, modality_table(names, (39, 39)), with_flips=True)
    read = rows.read(np.array([5, 6]), np.array([False, True]))[0].numpy()
    assert np.array_equal(read, [row_of(5, names), row_of(1006, names)])


def test_mirroring_without_mirrored_data_is_refused(tmp_path: Path) -> None:
    pairs = [tokenized_pair(number) for number in range(3)]
    shards = {split: write_shards(tmp_path, split, pairs, 16) for split in ("train", "eval")}
    replace(small_manifest(), shards={**shards, "test": ()}).save(tmp_path)
    with pytest.raises(ValueError, match="data.flip=true: .*augment.flip=true"):
        TokenDataModule(str(tmp_path), modality_table(), 8, flip=True)
    with pytest.raises(ValueError, match="data.flip='yes': choose true or false"):
        TokenDataModule(str(tmp_path), modality_table(), 8, flip="yes")


@pytest.mark.parametrize(
    ("name", "position", "illegal"),
    [("tok_rgb", 0, 64_000), ("coords", 25, 8_192), ("coords", 26, 2), ("tok_rgb_next", 5, 65_535),
     ("coords_next", 38, 300)],
)  # fmt: skip
def test_an_illegal_id_in_a_damaged_table_is_named(data: Path, tmp_path, name: str, position: int, illegal: int):
    tokens = np.array(TokenTable.open(data, "train", folder=tmp_path).tokens)
    table = modality_table()
    tokens[7, table.columns(name).start + position] = (
        illegal  # in memory: damage on the disk is found when it is opened
    )
    rows = SampleRows(replace(TokenTable.open(data, "train", folder=tmp_path), tokens=tokens), table)
    legal = table.num_legal_ids(name, position) - 1
    message = f"sample 0001-000007: {name} has id {illegal} at position {position}, legal are 0 … {legal}"
    with pytest.raises(ValueError, match=message):
        TrainBatches(rows, NUM_PAIRS, 1, 0, 0, 1)[0]
    with pytest.raises(ValueError, match=message):
        EvalBatches(rows, 8, 0, 1)[0]
    assert len(EvalBatches(rows, 7, 0, 1)[0].tokens) == 7  # the samples before it are whole
