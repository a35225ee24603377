"""The sampler's claims, with an oracle whose logits are known beforehand and with small real models in float64."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle import LENGTHS, NAMES, NUM_PICTURE_TOKENS, Oracle, real_model, reference_only, small_table

from m3.core.modalities import COORDS_LENGTH
from m3.sampling.orders import ORDERS
from m3.sampling.sampler import generate
from m3.sampling.schedules import temperature_factor, token_schedule
from m3.sampling.settings import DecodingConfig
from m3.tokens.fsq import ids_to_digits


def schemes(**changes) -> list[DecodingConfig]:
    return [
        DecodingConfig("coords_next", **{"num_steps": 5, **changes}),
        DecodingConfig("tok_rgb_next", **{"num_steps": 4, **changes}),
    ]


MODELS = {
    "oracle": lambda: Oracle(scale=1.0),
    "flat": real_model,
    "factorized": lambda: real_model(head="factorized", joints="ordinal"),
}


# What is decided when


@pytest.mark.parametrize("order", ORDERS)
def test_greedy_takes_the_likeliest_digits(order):
    model, (tokens, is_known) = Oracle(), reference_only(3)
    greedy = schemes(order=order, temperature=0.0)
    out = generate(model, tokens, is_known, greedy, seed=0, sample=torch.arange(3))
    best = model.ids_of(tuple(logits.argmax(-1) for logits in model.logits[2]), 2)
    assert (out[:, model.table.columns("tok_rgb_next")] == best).all()
    xy = model.logits[3][0][:26].argmax(-1)
    visibility = model.logits[3][0][26:, :2].argmax(-1)
    assert (out[:, model.table.columns("coords_next")] == torch.cat([xy, visibility])).all()
    again = generate(model, tokens, is_known, greedy, seed=7, sample=torch.arange(3) + 5)
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


def decided_at_each_step(model: Oracle) -> list[set[int]]:
    """Positions of the first sample that became inputs after each query but the last."""
    inputs = [{(k, p) for b, k, p in seen if b == 0} for seen, _ in model.queries]
    return [{p for _, p in after - before} for before, after in zip(inputs, inputs[1:])]


def test_the_surest_positions_are_decided_first():
    model, (tokens, is_known) = Oracle(), reference_only(1)
    generate(model, tokens, is_known, [DecodingConfig("tok_rgb_next", 6, pick="argmax")], 0, torch.tensor([0]))
    log_prob = sum(logits.log_softmax(-1).max(-1).values for logits in model.logits[2])
    decided = [min(positions) for positions in decided_at_each_step(model)]
    assert decided == log_prob.argsort(descending=True).tolist()[:-1]


def test_several_surest_positions_of_a_step():
    model, (tokens, is_known) = Oracle(), reference_only(1)
    generate(model, tokens, is_known, [DecodingConfig("coords_next", 5, temperature=0.0)], 0, torch.tensor([0]))
    legal = [model.logits[3][0][p, : 8192 if p < 26 else 2] for p in range(39)]
    log_prob = torch.stack([logits.log_softmax(-1).max() for logits in legal])
    counts = token_schedule("cosine", 39, 5)
    order = log_prob.argsort(descending=True).split(counts)
    assert decided_at_each_step(model) == [set(positions.tolist()) for positions in order[:-1]]


def test_ar_goes_from_the_first_position_to_the_last_and_queries_nothing_else():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    is_known[1, model.table.columns("coords_next").start + 1] = True
    scheme = DecodingConfig("coords_next", None, order="ar")
    generate(model, tokens, is_known, [scheme], 0, torch.arange(2))
    queried = [[[p for b, _, p in sorted(targets) if b == sample] for _, targets in model.queries] for sample in (0, 1)]
    assert queried[0] == [[p] for p in range(39)]
    # Once a sample is done, the rest goes on without it: the last query is of one sample, which is then the first.
    assert queried[1] == [[p] for p in range(39) if p != 1] + [[]]


def test_roar_goes_in_an_order_of_its_own_for_each_sample_and_queries_nothing_else():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    scheme = DecodingConfig("coords_next", 7, order="roar", schedule="linear")
    generate(model, tokens, is_known, [scheme], 0, torch.arange(2))
    orders = [[{p for b, _, p in targets if b == sample} for _, targets in model.queries] for sample in (0, 1)]
    for order in orders:
        assert [len(positions) for positions in order] == list(token_schedule("linear", 39, 7))
        assert set.union(*order) == set(range(39))
    assert orders[0] != orders[1]
    decided = decided_at_each_step(model)
    assert decided == orders[0][:-1]


def test_the_random_order_is_uniform():
    model, num = Oracle(), 600
    tokens, is_known = (x.expand(num, -1) for x in reference_only(1))
    generate(model, tokens, is_known, [DecodingConfig("tok_rgb_next", 6, order="roar")], 0, torch.arange(num))
    for _, targets in model.queries:
        count = torch.bincount(torch.tensor([p for _, _, p in targets]), minlength=NUM_PICTURE_TOKENS)
        assert count.sum() == num and (abs(count - 100) < 4.5 * (num * 1 / 6 * 5 / 6) ** 0.5).all()


@pytest.mark.parametrize("order", ORDERS)
@given(num_steps=st.integers(1, 39), num_known=st.integers(0, 39), schedule=st.sampled_from(["cosine", "linear"]))
@settings(max_examples=25, deadline=None)
def test_each_undecided_token_is_decided_once_for_any_number_of_steps(order, num_steps, num_known, schedule):
    model, (tokens, is_known) = Oracle(), reference_only(1)
    start, ticks = model.table.columns("coords_next").start, []
    is_known[0, start : start + num_known] = True
    scheme = DecodingConfig("coords_next", num_steps, order=order, schedule=schedule)
    out = generate(model, tokens, is_known, [scheme], 0, torch.tensor([3]), on_step=lambda: ticks.append(1))
    assert torch.equal(out[is_known], tokens[is_known]) and len(ticks) == num_steps
    if num_known == 39:
        assert not model.queries
        return
    expected = token_schedule(schedule, 39 - num_known, min(num_steps, 39 - num_known))
    assert len(model.queries) == len(expected)
    assert [len(positions) for positions in decided_at_each_step(model)] == list(expected[:-1])
    queried = [{p for _, _, p in targets} for _, targets in model.queries]
    assert set.union(*queried) == set(range(num_known, 39))


# What is given


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


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", MODELS)
def test_parts_of_any_modality_are_given_and_the_rest_is_painted_in(name, order):
    """Random tokens of every modality known; all four generated, whatever their order."""
    model, table = MODELS[name](), small_table()
    generator = torch.Generator().manual_seed(5)
    last = torch.tensor(table.last_ids)
    tokens = (torch.rand(6, table.num_tokens, generator=generator) * (last + 1)).long()
    is_known = torch.rand(tokens.shape, generator=generator) < torch.tensor([0, 0.1, 0.3, 0.5, 0.9, 1])[:, None]
    chosen = [DecodingConfig(name, 3, order=order) for name in ("tok_rgb_next", "coords", "coords_next", "tok_rgb")]
    out = generate(model, tokens, is_known, chosen, 0, torch.arange(6))
    assert torch.equal(out[is_known], tokens[is_known])
    assert (out >= 0).all() and (out <= last).all()
    other = torch.where(is_known, tokens, 10**6)
    assert torch.equal(generate(model, other, is_known, chosen, 0, torch.arange(6)), out)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_given_is_unconditional_generation(name, order):
    """Rows without any input, among others and alone; the model's own guess at a position is what it is asked for."""
    model, table = MODELS[name](), small_table()
    tokens, is_known = reference_only(3)
    is_known[1] = False
    chosen = [DecodingConfig(n, 2, order=order) for n in NAMES]
    out = generate(model, tokens, is_known, chosen, 0, torch.arange(3))
    alone = generate(model, tokens[1:2], is_known[1:2], chosen, 0, torch.tensor([1]))
    assert torch.equal(out[1:2], alone)
    assert (alone >= 0).all() and (alone <= torch.tensor(table.last_ids)).all()
    nothing = generate(model, tokens * 0, is_known & False, chosen, 0, torch.arange(3))
    assert torch.equal(nothing[1:2], alone) and not torch.equal(nothing[0], nothing[1])


def test_what_stands_at_unknown_positions_is_not_read():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    other = torch.where(is_known, tokens, torch.full_like(tokens, 77))
    args = dict(schemes=schemes(), seed=0, sample=torch.arange(2))
    assert torch.equal(generate(model, tokens, is_known, **args), generate(model, other, is_known, **args))


def test_neither_tokens_nor_mask_of_the_caller_change():
    model, (tokens, is_known) = Oracle(), reference_only(2)
    before = tokens.clone(), is_known.clone()
    generate(model, tokens, is_known, schemes(), seed=0, sample=torch.arange(2))
    assert torch.equal(tokens, before[0]) and torch.equal(is_known, before[1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "changes", [{}, {"pick": "argmax"}, {"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}, {"temperature": 50.0}]
)
@pytest.mark.parametrize("is_factorized, width", [(True, 0), (False, 65536)])
def test_only_legal_ids(changes, is_factorized, width, order):
    model, (tokens, is_known) = Oracle(is_factorized, width), reference_only(2)
    if not is_factorized:
        model.logits[2][0][:, 64000:] += 100
    model.logits[3][0][26:, 2:] += 100
    out = generate(model, tokens, is_known, schemes(order=order, **changes), seed=0, sample=torch.arange(2))
    assert out[:, model.table.columns("tok_rgb_next")].max() < 64000
    assert out[:, model.table.columns("coords_next")][:, 26:].max() < 2
    assert out[:, model.table.columns("coords_next")][:, :26].max() < 8192


def test_logits_exist_only_for_legal_ids_of_queried_positions():
    widths = []

    class Watched(Oracle):
        def digit_logits(self, hidden, modality, num_ids=None):
            logits = super().digit_logits(hidden, modality, num_ids)
            widths.append((len(hidden), num_ids, logits[0].shape[1]))
            return logits

    tokens, is_known = reference_only(2)
    generate(Watched(), tokens, is_known, [DecodingConfig("coords_next", 1)], 0, torch.arange(2))
    assert sorted(widths) == [(26, 2, 2), (52, 8192, 8192)]


# Randomness


VARIANTS = [
    {"noise": 3.0}, {"order": "roar"}, {"order": "ar"}, {"encoder_interval": 2},
    {"order": "roar", "encoder_interval": 3},
    {"top_k": 5, "top_p": 0.8, "temperature_schedule": "inverse_sqrt"},
    {"guidance": {"scale": 2.0, "conditions": ["tok_rgb", "coords"], "weights": [1.0, 0.5]}},
]  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_same_seed_same_tokens_whatever_the_batch(name, changes):
    model, (tokens, is_known) = MODELS[name](), reference_only(6)
    is_known[2, :50] = False
    is_known[3, 51:80] = True
    sample = torch.tensor([11, 5, 900, 2, 3, 4])
    args = dict(schemes=schemes(**changes), epoch=2)
    whole = generate(model, tokens, is_known, seed=3, sample=sample, **args)
    order = torch.tensor([4, 1, 0, 5, 2, 3])
    shuffled = generate(model, tokens[order], is_known[order], seed=3, sample=sample[order], **args)
    assert torch.equal(shuffled, whole[order])
    for b in range(6):
        rows = slice(b, b + 1)
        alone = generate(model, tokens[rows], is_known[rows], seed=3, sample=sample[rows], **args)
        assert torch.equal(alone, whole[rows])


@pytest.mark.parametrize("order", ORDERS)
def test_seed_sample_and_epoch_all_matter(order):
    model, (tokens, is_known) = Oracle(scale=1.0), reference_only(1)
    out = {}
    for seed in (0, 1):
        for sample in (0, 1):
            for epoch in (0, 1):
                row = generate(model, tokens, is_known, schemes(order=order), seed, torch.tensor([sample]), epoch)
                out[tuple(row[0].tolist())] = seed, sample, epoch
    assert len(out) == 8


@pytest.mark.parametrize("order", ORDERS)
def test_no_global_random_state_is_touched(order):
    model, (tokens, is_known) = Oracle(), reference_only(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    generate(model, tokens, is_known, schemes(order=order), seed=0, sample=torch.arange(2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all() and before[2] == random.getstate()


@pytest.mark.parametrize("order", ORDERS)
def test_samples_follow_the_models_distribution(order):
    """Visibility tokens of 2,000 samples against the oracle's own probabilities."""
    model, num = Oracle(scale=1.0), 2000
    tokens, is_known = reference_only(1)
    start = model.table.columns("coords_next").start
    is_known[:, start : start + 26] = True
    tokens, is_known = tokens.expand(num, -1), is_known.expand(num, -1)
    out = generate(model, tokens, is_known, [DecodingConfig("coords_next", 1, order=order)], 0, torch.arange(num))
    share = out[:, start + 26 :].double().mean(0)
    expected = model.logits[3][0][26:, :2].softmax(-1)[:, 1]
    assert (abs(share - expected) < 4 * (expected * (1 - expected) / num) ** 0.5).all()


def test_noise_changes_the_order_of_deciding_but_not_at_temperature_0():
    model, (tokens, is_known) = Oracle(), reference_only(1)
    orders = []
    for noise, temperature in ((0.0, 1.0), (1e6, 1.0), (1e6, 0.0)):
        model.queries.clear()
        scheme = DecodingConfig("coords_next", 39, pick="argmax", noise=noise, temperature=temperature)
        generate(model, tokens, is_known, [scheme], seed=0, sample=torch.tensor([0]))
        orders.append([sorted(targets) for _, targets in model.queries])
    assert orders[0] == orders[2] != orders[1]


def first_decided(noise: float, temperature: float, num_steps: int, num: int) -> torch.Tensor:
    """(positions, steps): how often, of `num` samples, a visibility token was decided by the end of a step."""
    model = Oracle(scale=1.0)
    columns = model.table.columns("coords_next")
    tokens, is_known = (x.expand(num, -1).clone() for x in reference_only(1))
    is_known[:, columns.start : columns.start + 36] = True  # three are left
    scheme = DecodingConfig("coords_next", num_steps, schedule="linear", pick="argmax", noise=noise,
                            temperature=temperature)  # fmt: skip
    generate(model, tokens, is_known, [scheme], 0, torch.arange(num))
    queried = [torch.tensor([p - 36 for _, _, p in targets]) for _, targets in model.queries]
    counts = [torch.bincount(positions, minlength=3) for positions in queried]
    return num - torch.stack(counts[1:], 1)


def test_noise_perturbs_the_confidence_by_annealed_gumbel_noise():
    """Three tokens in three steps. The noise's scale is noise · temperature · (1 − t / 3) at step t = 1, 2, 3: the
    token that is first is drawn with probabilities softmax(confidence / scale), the one of two that is second too."""
    num, noise, temperature = 4000, 1.5, 0.8
    found = first_decided(noise, temperature, 3, num).double() / num
    confidence = Oracle(scale=1.0).logits[3][0][36:, :2].log_softmax(-1).amax(-1).double()
    first = (confidence / (noise * temperature * 2 / 3)).softmax(0)
    second = first.clone()
    for j in range(3):
        rest = [i for i in range(3) if i != j]
        second[rest] += first[j] * (confidence[rest] / (noise * temperature * 1 / 3)).softmax(0)
    for step, expected in enumerate((first, second)):
        error = (expected * (1 - expected) / num).sqrt()
        assert (abs(found[:, step] - expected) < 4 * error).all()


def test_a_falling_temperature_ends_colder_than_it_began():
    """One token a step from equal logits everywhere: how often the likeliest digit is drawn, position by position."""
    model, num = Oracle(), 2000
    logits = torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0])
    model.logits[2] = [logits.expand(NUM_PICTURE_TOKENS, -1) for _ in range(6)]
    tokens, is_known = (x.expand(num, -1) for x in reference_only(1))
    shares = torch.arange(NUM_PICTURE_TOKENS) / NUM_PICTURE_TOKENS
    for schedule in ("constant", "linear", "inverse_sqrt"):
        scheme = DecodingConfig("tok_rgb_next", None, order="ar", temperature=2.0, temperature_schedule=schedule)
        out = generate(model, tokens, is_known, [scheme], 0, torch.arange(num))
        is_likeliest = (out[:, model.table.columns("tok_rgb_next")] % 8 == 0).double()
        temperature = 2.0 * temperature_factor(schedule, shares)
        expected = (logits / temperature[:, None]).softmax(-1)[:, 0]
        error = (expected * (1 - expected) / num) ** 0.5
        assert (abs(is_likeliest.mean(0) - expected) < 4 * error + 1e-6).all()


# The encoder's context


@pytest.mark.parametrize("order", ["maskgit", "roar"])
def test_the_encoder_is_run_again_every_encoder_interval_steps(order):
    """In the steps between, the decoder works with what was decided before the last refreshed one."""

    class Counting(Oracle):
        encoded = 0

        def encode(self, inputs):
            self.encoded += 1
            return super().encode(inputs)

    tokens, is_known = reference_only(2)
    every_place = {(b, 3, p) for b in range(2) for p in range(39)}
    for every, times in ((1, 10), (2, 5), (3, 4), (10, 1), (99, 1)):
        model = Counting()
        scheme = DecodingConfig("coords_next", 10, order=order, encoder_interval=every, schedule="linear")
        out = generate(model, tokens, is_known, [scheme], 0, torch.arange(2))
        assert model.encoded == times and len(model.queries) == 10
        queried = [targets for _, targets in model.queries]
        for step, (inputs, targets) in enumerate(model.queries):
            seen = step - step % every
            asked_since = set().union(*queried[seen:])
            assert {place for place in inputs if place[1] == 3} == every_place - asked_since
            undecided = 39 - sum(token_schedule("linear", 39, 10)[:step])
            assert len(targets) == 2 * (undecided if order == "maskgit" else token_schedule("linear", 39, 10)[step])
        assert set().union(*queried) == every_place
        assert torch.equal(out[is_known], tokens[is_known])


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_precision_is_that_of_the_key(precision):
    model, (tokens, is_known) = real_model().float(), reference_only(2)
    seen = set()
    model.dec_context_proj.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    generate(model, tokens, is_known, schemes(precision=precision), 0, torch.arange(2))
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}


@pytest.mark.gpu
def test_a_gpu_computes_in_bf16_and_gives_nearly_the_same():
    model, (tokens, is_known) = real_model().float().cuda(), (x.cuda() for x in reference_only(64))
    is_known[:3] = False  # no inputs at all
    out = {}
    for precision in ("auto", "fp32"):
        greedy = schemes(precision=precision, temperature=0.0, order="ar", num_steps=None)
        out[precision] = generate(model, tokens, is_known, greedy, 0, torch.arange(64, device="cuda"))
    assert (out["auto"] == out["fp32"]).float().mean() > 0.8


def test_lengths_of_the_oracle_are_those_of_its_table():
    assert small_table().max_seq_lens == LENGTHS


# Logits of other models


def test_every_token_is_decided_where_proposals_are_impossible() -> None:
    """The mean of two likely ids is an id that has no probability at all."""
    oracle = Oracle()
    for logits in oracle.logits[oracle.table.index("coords_next")]:
        logits[:26] = -torch.inf
        logits[:26, [0, 1000]] = 0.0
    tokens, is_known = reference_only(2)
    made = generate(oracle, tokens, is_known, schemes(pick="mean", order="maskgit")[:1], 0, torch.arange(2))
    assert (made[:, oracle.table.columns("coords_next")][:, :26] == 500).all()


@pytest.mark.parametrize("pick", ["mean", "median"])
def test_pictures_are_read_out_digit_by_digit(pick: str) -> None:
    """Against sums over all 64,000 ids; digits of an id and the id as a whole give the same picture."""
    oracle = Oracle(scale=1.0)
    k, columns = oracle.table.index("tok_rgb_next"), oracle.table.columns("tok_rgb_next")
    config = DecodingConfig("tok_rgb_next", 1, pick=pick)
    made = generate(oracle, *reference_only(2), [config], 0, torch.arange(2))[:, columns]
    expected = []
    for logits in oracle.logits[k]:
        shares = logits.double().softmax(1).numpy()
        mean = shares @ np.arange(shares.shape[1])
        expected.append(np.round(mean) if pick == "mean" else (shares.cumsum(1) <= 0.5).sum(1))
    digits = ids_to_digits(made[0]).numpy()
    assert (digits == np.stack(expected, 1)).all() and (made[0] == made[1]).all()
    flat = Oracle(is_factorized=False, width=64_000)
    joint = oracle.logits[k][0].double().log_softmax(1)
    for logits in oracle.logits[k][1:]:  # a later digit counts for more
        joint = (logits.double().log_softmax(1)[:, :, None] + joint[:, None]).flatten(1)
    flat.logits[k] = [joint.float()]
    assert torch.equal(generate(flat, *reference_only(2), [config], 0, torch.arange(2))[:, columns], made)


def test_outputs_that_are_not_finite_stop_with_the_modality() -> None:
    model = real_model()
    torch.nn.init.constant_(model.dec_norm.weight, torch.nan)
    with pytest.raises(ValueError, match="coords_next are not finite"):
        generate(model, *reference_only(2), schemes(), 0, torch.arange(2))


@pytest.mark.parametrize("pick", ["mean", "median"])
def test_a_best_guess_needs_whole_places(pick: str) -> None:
    with pytest.raises(ValueError, match=rf"coords_next\.pick={pick}"):
        generate(real_model(joints="digits"), *reference_only(2), schemes(pick=pick)[:1], 0, torch.arange(2))
