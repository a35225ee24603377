from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from oracle import NUM_PICTURE_TOKENS, Oracle, small_table

from m3.modalities import COORDS_LENGTH, NUM_JOINT_BINS
from m3.sampling.sampler import SchemeSettings, generate, pick_digits


def reference_only(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, S) whose reference frame is known."""
    table = small_table()
    tokens = torch.arange(batch_size)[:, None] * 3 + torch.arange(table.num_tokens) % 2
    is_known = torch.zeros(tokens.shape, dtype=torch.bool)
    is_known[:, table.columns("tok_rgb")] = True
    is_known[:, table.columns("coords")] = True
    return tokens, is_known


def schemes(**changes) -> list[SchemeSettings]:
    return [
        SchemeSettings("coords_next", **{"num_steps": 5, **changes}),
        SchemeSettings("tok_rgb_next", **{"num_steps": 4, **changes}),
    ]


def test_greedy_takes_the_likeliest_digits():
    model, (tokens, is_known) = Oracle(), reference_only(3)
    out = generate(model, tokens, is_known, schemes(temperature=0.0, noise=2.0), seed=0, sample=torch.arange(3))
    best = model.ids_of(tuple(logits.argmax(-1) for logits in model.logits[2]), 2)
    assert (out[:, model.table.columns("tok_rgb_next")] == best).all()
    xy = model.logits[3][0][:26].argmax(-1)
    visibility = model.logits[3][0][26:, :2].argmax(-1)
    assert (out[:, model.table.columns("coords_next")] == torch.cat([xy, visibility])).all()
    again = generate(model, tokens, is_known, schemes(temperature=0.0, noise=2.0), seed=7, sample=torch.arange(3) + 5)
    assert torch.equal(out, again)


def test_decided_tokens_are_inputs_and_undecided_ones_are_queried():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    generate(model, tokens, is_known, schemes(schedule="linear"), seed=0, sample=torch.arange(2))
    num_known = NUM_PICTURE_TOKENS + COORDS_LENGTH
    decided = [0, 8, 16, 23, 31]  # 39 tokens in 5 linear steps: 39, 31.2, 23.4, 15.6, 7.8 undecided
    decided += [39 + n for n in (0, 2, 3, 4)]  # 6 tokens in 4 steps: 6, 4.5 (→ 4), 3, 1.5 (→ 2) undecided
    assert len(model.queries) == len(decided)
    for (inputs, targets), count in zip(model.queries, decided):
        assert not inputs & targets
        assert len(inputs) == 2 * (num_known + count)
        k = 3 if count < 39 else 2
        assert {place[1] for place in targets} == {k}
        assert len(inputs | targets) == 2 * (num_known + (39 if k == 3 else 39 + NUM_PICTURE_TOKENS))


def test_the_surest_positions_are_decided_first():
    model, (tokens, is_known) = Oracle(), reference_only(1)
    generate(model, tokens, is_known, [SchemeSettings("tok_rgb_next", 6, pick="argmax")], 0, torch.tensor([0]))
    log_prob = sum(logits.log_softmax(-1).max(-1).values for logits in model.logits[2])
    order = [set(p for _, _, p in targets) for _, targets in model.queries]
    decided = [min(before - after) for before, after in zip(order, [*order[1:], set()])]
    assert decided == log_prob.argsort(descending=True).tolist()


def test_given_tokens_never_change_and_rows_may_know_differently_much():
    model, (tokens, is_known) = Oracle(), reference_only(4)
    start = model.table.columns("coords_next").start
    is_known[1, start : start + 20] = True
    is_known[2, start : start + 37] = True  # 2 undecided tokens, fewer than steps
    is_known[3, start : start + 39] = True
    out = generate(model, tokens, is_known, schemes(), seed=0, sample=torch.arange(4))
    assert (out[is_known] == tokens[is_known]).all()
    alone = generate(model, tokens[2:3], is_known[2:3], schemes(), seed=0, sample=torch.tensor([2]))
    assert torch.equal(out[2:3], alone)


def test_what_stands_at_unknown_positions_is_not_read():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    other = torch.where(is_known, tokens, torch.full_like(tokens, 77))
    args = dict(schemes=schemes(), seed=0, sample=torch.arange(2))
    assert torch.equal(generate(model, tokens, is_known, **args), generate(model, other, is_known, **args))


@pytest.mark.parametrize("changes", [{}, {"pick": "argmax"}, {"temperature": 0.0}, {"top_p": 0.5}])
@pytest.mark.parametrize("is_factorized, width", [(True, 0), (False, 65536)])
def test_only_legal_ids(changes, is_factorized, width):
    model, (tokens, is_known) = Oracle(is_factorized, width), reference_only(2)
    if not is_factorized:
        model.logits[2][0][:, 64000:] += 100
    model.logits[3][0][26:, 2:] += 100
    out = generate(model, tokens, is_known, schemes(**changes), seed=0, sample=torch.arange(2))
    assert out[:, model.table.columns("tok_rgb_next")].max() < 64000
    assert out[:, model.table.columns("coords_next")][:, 26:].max() < 2
    assert out[:, model.table.columns("coords_next")][:, :26].max() < 8192


def test_same_seed_same_tokens_whatever_the_batch():
    model, (tokens, is_known) = Oracle(scale=1.0), reference_only(6)
    sample = torch.tensor([11, 5, 900, 2, 3, 4])
    args = dict(schemes=schemes(noise=3.0), epoch=2)
    whole = generate(model, tokens, is_known, seed=3, sample=sample, **args)
    order = torch.tensor([4, 1, 0, 5, 2, 3])
    shuffled = generate(model, tokens[order], is_known[order], seed=3, sample=sample[order], **args)
    assert torch.equal(shuffled, whole[order])
    for b in range(6):
        rows = slice(b, b + 1)
        alone = generate(model, tokens[rows], is_known[rows], seed=3, sample=sample[rows], **args)
        assert torch.equal(alone, whole[rows])


def test_seed_sample_and_epoch_all_matter():
    model, (tokens, is_known) = Oracle(scale=1.0), reference_only(1)
    out = {}
    for seed in (0, 1):
        for sample in (0, 1):
            for epoch in (0, 1):
                row = generate(model, tokens, is_known, schemes(), seed, torch.tensor([sample]), epoch)
                out[tuple(row[0].tolist())] = seed, sample, epoch
    assert len(out) == 8


def test_no_global_random_state_is_touched():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    generate(model, tokens, is_known, schemes(noise=1.0), seed=0, sample=torch.arange(2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all() and before[2] == random.getstate()


def draws(logits: list[float], num_draws: int = 20_000, num_legal: int | None = None, **changes) -> torch.Tensor:
    """Frequencies (V,) of ids drawn from one distribution, at evenly spread uniform numbers."""
    uniform = ((torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws)[:, None]
    rows = torch.tensor(logits).expand(num_draws, -1)
    legal = torch.full((num_draws,), num_legal or len(logits))
    scheme = SchemeSettings("coords_next", **{"num_steps": 1, **changes})
    (digit,), _ = pick_digits([rows], legal, uniform, scheme)
    return torch.bincount(digit, minlength=len(logits)) / num_draws


def test_draws_follow_the_tempered_softmax_over_legal_ids():
    logits = [0.5, -1.0, 2.0, 0.0, 9.0]
    for temperature in (0.5, 1.0, 2.0):
        expected = (torch.tensor(logits[:4]) / temperature).softmax(0)
        got = draws(logits, num_legal=4, temperature=temperature)
        assert got[4] == 0 and (got[:4] - expected).abs().max() < 1e-4


def test_top_p_keeps_the_likeliest_ids():
    probs = torch.tensor([0.1, 0.4, 0.2, 0.3])
    logits = probs.log().tolist()
    assert torch.allclose(draws(logits, top_p=0.65), torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=1e-4)
    assert torch.allclose(draws(logits, top_p=0.75), torch.tensor([0, 4 / 9, 2 / 9, 3 / 9]), atol=1e-4)
    assert torch.allclose(draws(logits, top_p=0.01), torch.tensor([0, 1.0, 0, 0]))


@pytest.mark.parametrize("pick, expected", [("mean", 42), ("median", 20), ("argmax", 20)])
def test_picks_by_hand(pick, expected):
    logits = torch.full((1, NUM_JOINT_BINS), -torch.inf)
    logits[0, [10, 20, 100]] = torch.tensor([0.2, 0.5, 0.3]).log()  # mean 2 + 10 + 30
    scheme = SchemeSettings("coords_next", num_steps=1, pick=pick)
    (digit,), log_prob = pick_digits([logits], torch.tensor([NUM_JOINT_BINS]), torch.zeros(1, 1).double() + 0.9, scheme)
    assert digit.item() == expected
    if pick != "mean":
        assert log_prob.item() == pytest.approx(np.log(0.5))


def test_confidence_is_the_sum_of_the_digits_log_probabilities():
    logits = [torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.1, 0.6, 0.3]]).log()]
    uniform = torch.tensor([[0.8, 0.65]]).double()
    digits, log_prob = pick_digits(
        logits, torch.tensor([6]), uniform, SchemeSettings("tok_rgb_next", 1, temperature=2.0)
    )
    assert [digit.item() for digit in digits] == [1, 1]  # tempered: 0.60, 0.40 and 0.19, 0.47, 0.33
    assert log_prob.item() == pytest.approx(np.log(0.3) + np.log(0.6), abs=1e-6)


@pytest.mark.parametrize("uniform", [1e-17, 2.0**-53, 1 - 2.0**-53])
def test_draws_at_the_ends_have_positive_probability(uniform):
    logits = torch.full((1, 64000), -torch.inf)
    logits[0, 100:200] = torch.randn(100, generator=torch.Generator().manual_seed(0))
    scheme = SchemeSettings("tok_rgb_next", 1)
    (digit,), log_prob = pick_digits([logits], torch.tensor([64000]), torch.tensor([[uniform]]).double(), scheme)
    assert 100 <= digit.item() < 200 and torch.isfinite(log_prob).all()


def test_noise_changes_the_order_of_deciding_but_not_at_temperature_0():
    model, (tokens, is_known) = Oracle(), reference_only(1)
    orders = []
    for noise, temperature in ((0.0, 1.0), (1e6, 1.0), (1e6, 0.0)):
        model.queries.clear()
        scheme = SchemeSettings("coords_next", 39, pick="argmax", noise=noise, temperature=temperature)
        generate(model, tokens, is_known, [scheme], seed=0, sample=torch.tensor([0]))
        orders.append([sorted(targets) for _, targets in model.queries])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize(
    "key, value", [("num_steps", 0), ("schedule", "sine"), ("temperature", -1.0), ("temperature", float("nan")),
                   ("top_p", 0.0), ("top_p", 1.5), ("pick", "mode"), ("noise", -1.0)],
)  # fmt: skip
def test_impossible_settings_name_the_key(key, value):
    with pytest.raises(ValueError, match=f"sampling.coords_next.{key}="):
        SchemeSettings(**{"modality": "coords_next", "num_steps": 4, key: value})


def test_schemes_that_do_not_fit_the_model_name_the_key():
    table = small_table()
    with pytest.raises(ValueError, match="sampling.coords_next.num_steps=40.*39"):
        SchemeSettings("coords_next", 40).check(table)
    with pytest.raises(ValueError, match="sampling.tok_rgb_next.pick='mean'"):
        SchemeSettings("tok_rgb_next", 4, pick="mean").check(table)
    with pytest.raises(ValueError, match="captions"):
        SchemeSettings("captions", 4).check(table)


def test_a_row_that_knows_nothing_is_an_error():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    is_known[1] = False
    with pytest.raises(ValueError, match="row 1"):
        generate(model, tokens, is_known, schemes(), seed=0, sample=torch.arange(2))
