"""Features of the encoder, against calls of the model on one sample alone, packed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support.oracle import LENGTHS, real_model

from m3.checkpoint import LoadedModel
from m3.core.types import PackedTokens
from m3.sampling.given import given_mask

NUM_SAMPLES, NUM_TOKENS = 5, sum(LENGTHS)  # 6 picture tokens, 39 of joints, twice


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    model = real_model()
    return LoadedModel(model, model.table, {}, {}, 0)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(2, (NUM_SAMPLES, NUM_TOKENS), generator=torch.Generator().manual_seed(0))


def by_hand(loaded: LoadedModel, row: torch.Tensor, columns: Sequence[int]) -> torch.Tensor:
    """(N, D) context of some tokens of a sample, the only one of its batch."""
    places = [(k, position) for k, length in enumerate(LENGTHS) for position in range(length)]
    modality = [places[column][0] for column in columns]
    packed = PackedTokens(
        ids=row[list(columns)],
        modality=torch.tensor(modality),
        position=torch.tensor([places[column][1] for column in columns]),
        sample=torch.zeros(len(columns), dtype=torch.int64),
        lengths=torch.tensor([len(columns)]),
        max_seqlen=len(columns),
        rows=tuple(
            torch.tensor([n for n, m in enumerate(modality) if m == k], dtype=torch.int64) for k in range(len(LENGTHS))
        ),
    )
    with torch.no_grad():
        return loaded.model.encode(packed).rows.float()


def test_features_are_means_of_the_context_of_each_sample_alone(loaded, tokens) -> None:
    found = loaded.encode(tokens)
    assert found.shape == (NUM_SAMPLES, 32) and found.dtype == torch.float32 and not found.requires_grad
    for row, features in zip(tokens, found):
        torch.testing.assert_close(features, by_hand(loaded, row, range(NUM_TOKENS)).mean(0))


def test_unknown_tokens_and_absent_modalities_do_not_count(loaded, tokens) -> None:
    """One sample is whole, one lacks modalities by its lengths, one ends early, one has single tokens."""
    is_known = torch.ones(tokens.shape, dtype=torch.bool)
    is_known[3] = False
    is_known[3, [2, 7, 44, 89]] = True
    lengths = torch.tensor(LENGTHS).repeat(NUM_SAMPLES, 1)
    lengths[1] = torch.tensor([0, 39, 0, 0])
    lengths[2] = torch.tensor([4, 0, 6, 1])
    columns = [range(90), range(6, 45), [0, 1, 2, 3, *range(45, 52)], [2, 7, 44, 89], range(90)]
    filled = tokens.clone()
    filled[1, :6] = -7  # what is unknown may be anything
    pooled = loaded.encode(filled, is_known, lengths)
    per_token = loaded.encode(filled, is_known, lengths, pool=None)
    alone = [by_hand(loaded, row, chosen) for row, chosen in zip(tokens, columns)]
    torch.testing.assert_close(per_token, torch.cat(alone))
    torch.testing.assert_close(pooled, torch.stack([rows.mean(0) for rows in alone]))


def test_modalities_by_name_for_all_samples(loaded, tokens) -> None:
    found = loaded.encode(tokens, given_mask(loaded.table, ["coords"]))
    for row, features in zip(tokens, found):
        torch.testing.assert_close(features, by_hand(loaded, row, range(6, 45)).mean(0))
    lengths = torch.tensor([0, 39, 0, 0]).repeat(NUM_SAMPLES, 1)
    torch.testing.assert_close(found, loaded.encode(tokens, lengths=lengths))


@pytest.mark.parametrize("pool", ["mean", None])
def test_batches_change_nothing(loaded, tokens, pool) -> None:
    """Samples of different lengths, so that batches are padded differently."""
    lengths = torch.tensor(LENGTHS).repeat(NUM_SAMPLES, 1)
    lengths[2] = torch.tensor([0, 39, 0, 0])
    whole = loaded.encode(tokens, lengths=lengths, pool=pool)
    for batch_size in (1, 2, 3):
        torch.testing.assert_close(loaded.encode(tokens, None, lengths, pool, batch_size), whole)


def test_other_integers_serve_and_features_carry_gradients_of_a_probe(loaded, tokens) -> None:
    found = loaded.encode(tokens.to(torch.int32), lengths=torch.tensor([LENGTHS] * NUM_SAMPLES, dtype=torch.uint8))
    assert torch.equal(found, loaded.encode(tokens))
    assert torch.equal(loaded.encode(torch.from_numpy(tokens.numpy().astype("uint16"))), found)
    head = torch.nn.Linear(32, 2)
    head(found).sum().backward()
    assert head.weight.grad is not None


def test_what_cannot_be_encoded_is_refused(loaded, tokens) -> None:
    def fails(match: str, *arguments, **keywords) -> None:
        with pytest.raises(ValueError, match=match):
            loaded.encode(*arguments, **keywords)

    fails(r"tokens: .*\(5, 89\), need integers \(B, 90\).*6 of tok_rgb, 39 of coords", tokens[:, :89])
    fails(r"tokens: .*\(90,\)", tokens[0])
    fails(r"tokens: .*\(0, 90\)", tokens[:0])
    fails(r"tokens: torch.float32", tokens.float())
    fails(r"is_known: torch.int64", tokens, tokens)
    fails(r"is_known: .*\(5, 4\)", tokens, torch.ones(5, 4, dtype=torch.bool))
    fails(r"lengths: .*\(5,\), need integers \(5, 4\)", tokens, lengths=torch.ones(5, dtype=torch.int64))
    fails("pool='max'", tokens, pool="max")
    fails("batch_size=0", tokens, batch_size=0)
    lengths = torch.tensor(LENGTHS).repeat(NUM_SAMPLES, 1)
    lengths[3] = 0
    fails("sample 3 has no known token", tokens, lengths=lengths)
    assert len(loaded.encode(tokens, lengths=lengths, pool=None)) == 4 * NUM_TOKENS
    for value, last in ((8192, 8191), (-1, 8191)):
        illegal = tokens.clone()
        illegal[2, 6 + 12] = value
        fails(rf"sample 2 has id {value} at position 12 of coords, legal are 0 … {last}", illegal)
    illegal = tokens.clone()
    illegal[4, 45 + 6 + 38] = 2  # a visibility
    fails("sample 4 has id 2 at position 38 of coords_next, legal are 0 … 1", illegal)
