"""Budgets against the design's figures, positions against the properties that they promise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from support.masking import M3, generator, random_tokens
from torch.utils._python_dispatch import TorchDispatchMode

from m3.core.modalities import ModalityTable
from m3.core.rng import SampleGenerator
from m3.masking.budgets import draw_budgets
from m3.masking.dirichlet import argmax_probabilities, log_gamma_draws, num_uniforms
from m3.masking.select import can_be_target, choose, choose_and_pack, pack

M4 = dataclasses.replace(
    M3,
    input_alphas=[1.5, 1.5, 0.5, 0.5],
    target_alphas=[0.5, 0.5, 1.5, 1.5],
    input_tokens_range=[96, 256],
    target_tokens_range=[39, 256],
)


@pytest.mark.parametrize("alpha", [0.02, 0.3, 0.5, 1.0, 1.5, 4.0])
def test_gamma_draws_follow_the_gamma_distribution(alpha: float) -> None:
    # The second alpha keeps the first on the general path of the sampler even where it is 1.
    alphas = torch.tensor([[alpha, 2.5]], dtype=torch.float64)
    uniform = generator(20_000).uniform(num_uniforms(alphas.tolist()), 2)
    draws = log_gamma_draws(uniform, alphas).exp()[:, 0].numpy()
    assert stats.kstest(draws, "gamma", args=(alpha,)).pvalue > 1e-4


def test_one_uniform_number_suffices_for_an_exponential_draw() -> None:
    assert num_uniforms([[1, 0, 1.0]]) == 1
    draws = log_gamma_draws(generator(20_000).uniform(1, 2), torch.tensor([[1.0, 0.0]], dtype=torch.float64)).exp()
    assert (draws[:, 1] == 0).all() and stats.kstest(draws[:, 0].numpy(), "expon").pvalue > 1e-4


@pytest.mark.parametrize("alphas", [[1, 1, 1, 1], [1.5, 1.5, 0.5, 0.5], [0.01, 10, 0, 1], [0.001, 0.002, 0.001]])
def test_argmax_probabilities_are_those_of_dirichlet_draws(alphas: list[float]) -> None:
    table = argmax_probabilities(alphas)
    rng = np.random.default_rng(0)
    num_draws = 100_000
    for subset in range(1, 2 ** len(alphas)):
        members = [k for k in range(len(alphas)) if subset >> k & 1 and alphas[k] > 0]
        if not members:
            assert (table[subset] == 0).all()
            continue
        # For alphas that underflow as gammas: ln Gamma(a) = ln Gamma(a + 1) + ln(u) / a.
        shape = np.array([alphas[k] for k in members])
        log_gamma = np.log(rng.gamma(shape + 1, size=(num_draws, len(members))))
        log_gamma += np.log(rng.random((num_draws, len(members)))) / shape
        counts = np.bincount(log_gamma.argmax(1), minlength=len(members))
        assert table[subset].sum() == pytest.approx(1, abs=1e-12)
        error = np.abs(counts / num_draws - table[subset, members])
        assert (error < 4.5 * np.sqrt(table[subset, members] / num_draws) + 1e-12).all()


def test_argmax_probabilities_known_in_closed_form() -> None:
    assert argmax_probabilities([0.7] * 4)[0b1011] == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=1e-9)
    # Gamma(2) beats Gamma(1): P = 1 − P(Beta(1, 2) > 1/2) = 3/4.
    assert argmax_probabilities([1, 2])[0b11] == pytest.approx([1 / 4, 3 / 4], abs=1e-9)


def test_drop_budgets_meet_the_published_means() -> None:
    inputs, targets = (side.double() for side in draw_budgets(generator(100_000), M3, 100_000))
    for side, means in ((inputs, [20.01, 17.76, 20.01, 17.76]), (targets, [20.01, 11.80, 20.01, 11.80])):
        standard_error = side.std(0) / len(side) ** 0.5
        assert ((side.mean(0) - torch.tensor(means)).abs() < 3 * standard_error + 0.005).all()


def naive_budget(rng: np.random.Generator, alphas, bounds, room, clamped: str, most: int = 10**9) -> np.ndarray:
    """One side of one sample, as the paper says it; "redistribute" hands what the clamp cut off to those with room.

    most: tokens of the sample without the one that is left for a target."""
    alphas, room = np.asarray(alphas, float), np.asarray(room)
    is_open, excess = alphas > 0, min(rng.integers(bounds[0], bounds[1] + 1), most)
    p, budget = rng.dirichlet(alphas), np.zeros(len(alphas), int)
    while excess and is_open.any():
        drawn = np.floor(p * is_open / (p * is_open).sum() * excess).astype(int)
        while drawn.sum() < excess:
            drawn[np.where(is_open, rng.dirichlet(alphas), -1).argmax()] += 1
        total = budget.sum() + excess
        budget = np.minimum(budget + drawn, room)
        excess = total - budget.sum()
        is_open = (alphas > 0) & (budget < room)
        if clamped == "drop":
            break
    return budget


@pytest.mark.parametrize("clamped", ["drop", "redistribute"])
def test_unequal_alphas_agree_with_a_naive_loop(clamped: str) -> None:
    table = dataclasses.replace(M4, clamped=clamped)
    rng = np.random.default_rng(1)
    bounds = table.input_tokens_range, table.target_tokens_range
    lengths = np.array(table.max_seq_lens)
    inputs = [naive_budget(rng, table.input_alphas, bounds[0], lengths, clamped) for _ in range(6_000)]
    targets = [naive_budget(rng, table.target_alphas, bounds[1], lengths - used, clamped) for used in inputs]
    for ours, naive in zip(draw_budgets(generator(6_000), table, 6_000), (np.array(inputs), np.array(targets))):
        for k in range(4):
            assert stats.ks_2samp(ours[:, k].numpy(), naive[:, k]).pvalue > 1e-4


@pytest.mark.parametrize("clamped", ["drop", "redistribute"])
def test_budgets_of_samples_of_different_lengths_agree_with_a_naive_loop(clamped: str) -> None:
    """A sample's Dirichlet distribution is that over the modalities it has."""
    table = dataclasses.replace(M4, clamped=clamped)
    rng, num_samples = np.random.default_rng(2), 6_000
    kinds = np.array([[256, 39, 256, 39], [256, 0, 256, 0], [0, 39, 100, 39], [7, 20, 0, 30], [256, 39, 1, 0]])
    kind = rng.integers(len(kinds), size=num_samples)
    lengths = kinds[kind]
    naive = [[], []]
    for own in lengths:
        alphas = [np.where(own > 0, side, 0) for side in (table.input_alphas, table.target_alphas)]
        used = naive_budget(rng, alphas[0], table.input_tokens_range, own, clamped, own.sum() - 1)
        naive[0].append(used)
        naive[1].append(naive_budget(rng, alphas[1], table.target_tokens_range, own - used, clamped, own.sum() - 1))
    ours = draw_budgets(generator(num_samples), table, num_samples, torch.from_numpy(lengths))
    assert (ours[0] + ours[1] <= torch.from_numpy(lengths)).all()
    for side, naive_side in zip(ours, naive):
        for one in range(len(kinds)):
            for k in range(4):
                pair = side[:, k].numpy()[kind == one], np.array(naive_side)[kind == one, k]
                assert stats.ks_2samp(*pair).pvalue > 1e-5, (one, k)


def test_whole_lengths_change_nothing() -> None:
    tokens = random_tokens(256)
    whole = torch.tensor(M3.max_seq_lens).expand(256, -1)
    for with_lengths, without in zip(choose(tokens, M3, generator(256), whole), choose(tokens, M3, generator(256))):
        assert torch.equal(with_lengths, without)


def test_positions_beyond_the_length_of_a_sample_are_never_chosen() -> None:
    table = dataclasses.replace(M3, clamped="redistribute")
    rng, num_samples = np.random.default_rng(3), 4_000
    lengths = torch.from_numpy(np.stack([rng.integers(0, length + 1, num_samples) for length in table.max_seq_lens], 1))
    lengths[:, 0] = lengths[:, 0].clamp(min=2)  # something to give and something to ask for
    is_input, is_target = choose(random_tokens(num_samples), table, generator(num_samples), lengths)
    assert not (is_input & is_target).any()
    assert is_input.any(1).all() and is_target.any(1).all()
    for k, name in enumerate(table.modalities):
        position = torch.arange(table.max_seq_lens[k])
        for chosen in (is_input, is_target):
            assert not (chosen[:, table.columns(name)] & (position >= lengths[:, k, None])).any()
    # The positions that a sample has are chosen equally often.
    own = (lengths[:, 0] >= 100).nonzero()[:, 0]
    counts = is_input[own, :100].sum(0).double()
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_a_sample_without_any_allowed_input_is_drawn_again_from_another_set() -> None:
    table = dataclasses.replace(
        M3, input_tokens_range=[1, 39], target_tokens_range=[1, 39], clamped="redistribute",
        mixture=[{"weight": 1, "input_alphas": [0, 1, 0, 0], "target_alphas": [0, 0, 0, 1]},
                 {"weight": 1, "input_alphas": [1, 0, 0, 0], "target_alphas": [0, 0, 1, 0]}],
    )  # fmt: skip
    lengths = torch.tensor([256, 0, 256, 0]).expand(500, -1)
    is_input, is_target = choose(random_tokens(500), table, generator(500), lengths)
    assert is_input[:, table.columns("tok_rgb")].any(1).all()
    assert is_target[:, table.columns("tok_rgb_next")].any(1).all()


def test_text_is_masked_in_spans() -> None:
    length = 64
    table = ModalityTable(
        modalities=["captions", "coords"], vocab_sizes=[500, 8192], max_seq_lens=[length, 39], input_alphas=[1, 0],
        target_alphas=[1, 0], input_tokens_range=[20, 20], target_tokens_range=[20, 20],
    )  # fmt: skip
    num_samples = 2_000
    tokens = torch.ones(num_samples, length + 39, dtype=torch.int64)
    lengths = torch.tensor([50, 39]).expand(num_samples, -1)
    is_input, is_target = (side[:, :length] for side in choose(tokens, table, generator(num_samples), lengths))
    assert (is_input.sum(1) == 20).all() and (is_target.sum(1) == 20).all() and not (is_input & is_target).any()
    assert not is_input[:, 50:].any() and not is_target[:, 50:].any()
    # Neighbors are chosen together: of single positions (40 of 50 are chosen) a target would begin a run in 0.6 of
    # cases, of spans of three tokens in about a third of that.
    begins = is_target & ~torch.nn.functional.pad(is_target, (1, 0))[:, :-1]
    runs = is_target.sum().item() / begins.sum().item()
    assert 3.0 < runs < 5.5


@pytest.mark.parametrize("base", [M3, M4])
def test_redistributed_budgets_keep_their_total_and_their_bounds(base: ModalityTable) -> None:
    table = dataclasses.replace(base, clamped="redistribute")
    inputs, targets = draw_budgets(generator(20_000), table, 20_000)
    lengths = torch.tensor(table.max_seq_lens)
    assert (inputs + targets <= lengths).all() and (inputs >= 0).all() and (targets >= 0).all()
    for side, (low, high) in ((inputs, table.input_tokens_range), (targets, table.target_tokens_range)):
        totals = side.sum(1)
        assert totals.min() == low and totals.max() == high
        histogram = torch.bincount(totals - low)
        assert stats.chisquare(histogram.numpy()).pvalue > 1e-4  # uniform on the inclusive range


def test_a_modality_with_alpha_zero_gets_nothing() -> None:
    table = dataclasses.replace(
        M3, input_alphas=[1, 2, 0, 0], target_alphas=[0, 0, 1, 1], clamped="redistribute", input_tokens_range=[1, 290]
    )
    inputs, targets = draw_budgets(generator(5_000), table, 5_000)
    assert (inputs[:, 2:] == 0).all() and (targets[:, :2] == 0).all()
    assert inputs.sum(1).min() >= 1 and inputs.sum(1).max() > 280


def test_nothing_is_drawn_where_all_target_modalities_are_full() -> None:
    """Targets may fill their two modalities to the last position; a round with excess 0 and nothing open follows."""
    table = dataclasses.replace(
        M3, max_seq_lens=[64, 39, 64, 39], input_alphas=[10, 10, 1, 1], target_alphas=[0, 0, 1, 1],
        input_tokens_range=[90, 150], target_tokens_range=[20, 56], clamped="redistribute",
    )  # fmt: skip
    inputs, targets = draw_budgets(generator(20_000), table, 20_000)
    is_full = (inputs + targets)[:, 2:].sum(1) == 64 + 39
    assert is_full.any() and not targets[:, :2].any()
    assert (inputs + targets <= torch.tensor(table.max_seq_lens)).all()


def test_a_single_modality() -> None:
    table = ModalityTable(["coords"], [65536], [39], [1], [0.3], [5, 20], [3, 19])
    inputs, targets = choose_and_pack(torch.ones(2_000, 39, dtype=torch.int64), table, generator(2_000))
    for packed, (low, high) in ((inputs, (5, 20)), (targets, (3, 19))):
        assert (int(packed.lengths.min()), int(packed.lengths.max())) == (low, high)


def test_a_mixture_is_its_alpha_sets_by_weight() -> None:
    sets = [
        {"weight": 3},
        {"weight": 1, "input_alphas": [2, 2, 0, 0], "target_alphas": [0, 0, 0.5, 0.5]},
        {"weight": 2, "target_alphas": [0, 1, 0, 1]},
    ]
    bounds = {"input_tokens_range": [8, 30], "target_tokens_range": [8, 24]}
    table = dataclasses.replace(M3, clamped="redistribute", mixture=sets, **bounds)
    num_samples = 30_000
    mixed = torch.cat(draw_budgets(generator(num_samples), table, num_samples), 1)  # (B, 2K)
    alone = []
    for n, alphas in enumerate(sets):
        own = {key: value for key, value in alphas.items() if key != "weight"}
        part = dataclasses.replace(M3, clamped="redistribute", **bounds, **own)
        count = num_samples * alphas["weight"] // 6
        alone.append(torch.cat(draw_budgets(generator(count, seed=n + 1), part, count), 1))
    alone = torch.cat(alone)
    for column in range(8):
        assert stats.ks_2samp(mixed[:, column].numpy(), alone[:, column].numpy()).pvalue > 1e-4
    # A sample takes both alphas of one set: targets of the second go with its inputs.
    is_second = (mixed[:, 4:6] == 0).all(1) & (mixed[:, 2:4] == 0).all(1)
    expected = float(((alone[:, 4:6] == 0).all(1) & (alone[:, 2:4] == 0).all(1)).double().mean())
    assert float(is_second.double().mean()) == pytest.approx(expected, abs=4 * (expected / num_samples) ** 0.5)
    assert expected > 1 / 6


def test_a_mixture_of_one_set_is_that_set() -> None:
    inputs, targets = M4.input_alphas, M4.target_alphas
    mixture = [{"weight": 0.3, "input_alphas": inputs, "target_alphas": targets}]
    mixed = draw_budgets(generator(100), dataclasses.replace(M4, input_alphas=[1, 1, 1, 1], mixture=mixture), 100)
    for one, other in zip(mixed, draw_budgets(generator(100), M4, 100)):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([], r"modalities.mixture=\[\]"),
        ("half", "modalities.mixture='half': need a list"),
        ([{"input_alphas": [1, 1, 1, 1]}], r"modalities.mixture\[0\]=.*need weight"),
        ([{"weight": 1, "alphas": [1, 1, 1, 1]}], r"modalities.mixture\[0\]="),
        ([{"weight": 1}, {"weight": 0}], r"modalities.mixture\[1\].weight=0"),
        ([{"weight": -1}], r"modalities.mixture\[0\].weight=-1"),
        ([{"weight": 1, "input_alphas": [1, 1]}], r"modalities.mixture\[0\].input_alphas=\[1, 1\]"),
        ([{"weight": 1, "input_alphas": 1}], r"modalities.mixture\[0\].input_alphas=1: need a list"),
        ([{"weight": 1, "target_alphas": [0, 0, 0, 0]}], r"modalities.mixture\[0\].target_alphas"),
        ([{"weight": 1, "target_alphas": [0, 1, 0, 1]}], r"target_tokens_range=\[32, 128\]: need .* <= 78"),
        (
            [{"weight": 1}, {"weight": 1, "input_alphas": [0, 1, 0, 1], "target_alphas": [0, 1, 0, 1]}],
            r"up to 156 tokens together, .*mixture\[1\].input_alphas",
        ),
    ],
)
def test_an_impossible_mixture_is_refused_by_name(mixture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(M3, mixture=mixture)


@pytest.mark.parametrize(("name", "length"), [("tok_rgb", 16), ("coords", 39)])
def test_tables_of_one_kind(name: str, length: int) -> None:
    table = ModalityTable([name, f"{name}_next"], [65536] * 2, [length] * 2, [1] * 2, [1] * 2, [4, 16], [4, 16])
    tokens = torch.zeros(500, 2 * length, dtype=torch.int64)  # every joint invisible
    inputs, targets = choose_and_pack(tokens, table, generator(500))
    assert (inputs.lengths >= 4).all() and (targets.lengths >= 1).all()
    assert {tuple(pair) for pair in torch.stack([inputs.modality, inputs.position], 1).tolist()} == {
        (k, position) for k in range(2) for position in range(length)
    }
    assert name == "tok_rgb" or targets.position.min() == 26


def test_no_sample_is_left_without_targets() -> None:
    table = dataclasses.replace(
        M3, target_alphas=[0, 1, 0, 1], target_tokens_range=[1, 2], input_tokens_range=[300, 400], clamped="drop"
    )
    _, targets = draw_budgets(generator(5_000), table, 5_000)
    assert (targets.sum(1) == 0).any()
    is_input, is_target = choose(random_tokens(5_000), table, generator(5_000))
    assert is_target.any(1).all() and is_input.any(1).all()


def test_positions_are_disjoint_and_as_many_as_budgeted() -> None:
    everything_visible = torch.ones(500, M3.num_tokens, dtype=torch.long)
    inputs, targets = draw_budgets(generator(500), M3, 500)
    is_input, is_target = choose(everything_visible, M3, generator(500))
    assert not (is_input & is_target).any()
    for k, name in enumerate(M3.modalities):
        assert (is_input[:, M3.columns(name)].sum(1) == inputs[:, k]).all()
        assert (is_target[:, M3.columns(name)].sum(1) == targets[:, k]).all()


def test_every_sample_has_inputs_and_allowed_targets() -> None:
    tokens = random_tokens(5_000)
    for table in (M3, M4):
        is_input, is_target = choose(tokens, table, generator(5_000))
        assert is_input.any(1).all() and is_target.any(1).all()
        assert not (is_input & is_target).any() and not (is_target & ~can_be_target(tokens, table)).any()


def test_every_position_is_chosen_equally_often() -> None:
    is_input, _ = choose(random_tokens(200).repeat(50, 1), M3, generator(10_000))
    for name in M3.modalities:
        counts = is_input[:, M3.columns(name)].sum(0).numpy()
        assert stats.chisquare(counts).pvalue > 1e-4


def test_invisible_joints_are_inputs_but_never_targets() -> None:
    tokens = random_tokens(2)
    coords = M3.columns("coords_next")
    tokens[0, coords] = torch.tensor([7] * 26 + [1, 0] + [1] * 11)
    is_allowed = can_be_target(tokens, M3)[0, coords]
    assert is_allowed.tolist() == [True, False] + [True] * 11 + [True, False] + [True] * 11 + [True] * 13


def test_masks_depend_on_the_sample_alone() -> None:
    tokens = random_tokens(64)
    sample = torch.arange(64)
    together = choose(tokens, M3, SampleGenerator(3, "train", sample, 5))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for part in order.split(7):
        alone = choose(tokens[part], M3, SampleGenerator(3, "train", sample[part], torch.full((len(part),), 5)))
        assert all(torch.equal(a, t[part]) for a, t in zip(alone, together))
    for other in (SampleGenerator(4, "train", sample, 5), SampleGenerator(3, "train", sample, 6)):
        assert not torch.equal(choose(tokens, M3, other)[0], together[0])


def test_packing_lists_tokens_in_order() -> None:
    table = dataclasses.replace(M3, modalities=["coords", "tok_rgb"], vocab_sizes=[65536] * 2, max_seq_lens=[39, 2],
                                input_alphas=[1, 1], target_alphas=[1, 1], input_tokens_range=[1, 5],
                                target_tokens_range=[1, 5])  # fmt: skip
    tokens = torch.arange(82).view(2, 41)
    is_chosen = torch.zeros(2, 41, dtype=torch.bool)
    is_chosen[0, [3, 40]] = True
    is_chosen[1, [0, 38, 39]] = True
    packed = pack(tokens, is_chosen, table)
    assert packed.ids.tolist() == [3, 40, 41, 79, 80]
    assert packed.modality.tolist() == [0, 1, 0, 0, 1]
    assert packed.position.tolist() == [3, 1, 0, 38, 0]
    assert packed.sample.tolist() == [0, 0, 1, 1, 1]
    assert packed.lengths.tolist() == [2, 3]


def test_sizes_are_known_on_the_host() -> None:
    tokens = random_tokens(300)
    is_input, is_target = choose(tokens, M3, generator(300))
    for is_chosen, packed in zip((is_input, is_target), choose_and_pack(tokens, M3, generator(300))):
        again = pack(tokens, is_chosen, M3)
        assert all(
            torch.equal(getattr(packed, f), getattr(again, f)) for f in ("ids", "modality", "position", "sample")
        )
        assert len(packed.ids) == is_chosen.sum() and packed.max_seqlen == packed.lengths.max()
        assert torch.equal(packed.lengths, is_chosen.sum(1)) and isinstance(packed.max_seqlen, int)
        for k, rows in enumerate(packed.rows):
            assert rows.tolist() == (packed.modality == k).nonzero().squeeze(1).tolist()


class WaitsForTheDevice(TorchDispatchMode):
    """Refuses operators whose result the host must fetch, or whose shape depends on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket._qualified_op_name
        assert name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"), name
        assert function.overloadpacket is not torch.ops.aten.repeat_interleave, name
        indices = args[1] if name in ("aten::index", "aten::index_put_") else ()
        assert not any(index is not None and index.dtype == torch.bool for index in indices), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("clamped", ["drop", "redistribute"])
def test_masking_and_packing_fetch_from_the_device_once(clamped: str, monkeypatch) -> None:
    table = dataclasses.replace(M4, clamped=clamped)
    tokens = random_tokens(64)
    choose_and_pack(tokens, table, generator(64))  # constants of the table are made once
    fetched = []
    to_list = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: fetched.append(tensor) or to_list(tensor))
    monkeypatch.setattr(torch, "tensor", None)  # would copy from the host
    with WaitsForTheDevice():
        choose_and_pack(tokens, table, generator(64))
    assert len(fetched) == 1


@pytest.mark.gpu
def test_a_gpu_waits_once_and_chooses_the_same() -> None:
    tokens, sample = random_tokens(64).cuda(), torch.arange(64, device="cuda")
    choose_and_pack(tokens, M3, SampleGenerator(0, "test", sample))  # constants of the table are made once
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as warned:
            on_gpu = choose_and_pack(tokens, M3, SampleGenerator(0, "test", sample))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(warned) == 1
    for one, other in zip(choose_and_pack(tokens.cpu(), M3, generator(64)), on_gpu):
        assert torch.equal(one.ids, other.ids.cpu()) and torch.equal(one.sample, other.sample.cpu())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"input_tokens_range": [0, 5]}, "input_tokens_range"),
        ({"input_tokens_range": [True, 39]}, "input_tokens_range=.True, 39.: need two whole numbers"),
        ({"target_tokens_range": [400, 600]}, "target_tokens_range"),
        ({"input_tokens_range": [32, 500], "target_tokens_range": [32, 128]}, "input_tokens_range"),
        ({"input_alphas": [0, 0, 0, 0]}, "input_alphas"),
        ({"input_alphas": [-1, 1, 1, 1]}, "input_alphas"),
        ({"target_alphas": [1, 1]}, "target_alphas"),
        ({"max_seq_lens": [256, 38, 256, 39]}, "max_seq_lens"),
        ({"vocab_sizes": [60_000, 65536, 65536, 65536]}, "vocab_sizes"),
        ({"modalities": ["tok_rgb", "coords", "depth", "coords_next"]}, "depth"),
        ({"clamped": "keep"}, "clamped"),
    ],
)
def test_an_impossible_table_is_refused_by_name(change: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(M3, **change)


def test_offsets_of_unequal_lengths() -> None:
    table = dataclasses.replace(
        M3, max_seq_lens=[17, 39, 256, 39], input_tokens_range=[1, 20], target_tokens_range=[1, 20]
    )
    assert table.offsets == (0, 17, 56, 312) and table.num_tokens == 351
    assert table.columns("tok_rgb_next") == slice(56, 312)
