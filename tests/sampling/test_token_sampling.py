"""Draws against the distributions that they should follow, by hand and by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3.core.modalities import NUM_JOINT_BINS
from m3.sampling.settings import DecodingConfig
from m3.sampling.token_sampling import log_probability, sample_digits


def pick(logits: torch.Tensor, uniform: torch.Tensor, modality: str = "coords_next", **changes) -> torch.Tensor:
    scheme = DecodingConfig(modality, 1, **changes)
    temperature = torch.full((len(logits),), scheme.temperature, dtype=torch.float64)
    (digit,) = sample_digits([logits], uniform.double()[:, None], temperature, scheme)
    return digit


def draws(logits: list[float], num_draws: int = 20_000, **changes) -> torch.Tensor:
    """Frequencies (V,) of ids drawn from one distribution, at evenly spread uniform numbers."""
    uniform = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    digit = pick(torch.tensor(logits).expand(num_draws, -1), uniform, **changes)
    return torch.bincount(digit, minlength=len(logits)) / num_draws


def test_draws_follow_the_tempered_softmax():
    logits = [0.5, -1.0, 2.0, 0.0]
    for temperature in (0.5, 1.0, 2.0):
        expected = (torch.tensor(logits) / temperature).softmax(0)
        assert (draws(logits, temperature=temperature) - expected).abs().max() < 1e-4


def test_each_row_has_a_temperature_of_its_own():
    logits = torch.tensor([[0.0, 1.0]]).expand(2, -1)
    scheme = DecodingConfig("coords_next", 1)
    level = torch.full((2, 1), 0.3).double()  # P(0) is 0.269 at temperature 1 and 0.378 at 2
    (digit,) = sample_digits([logits], level, torch.tensor([1.0, 2.0]).double(), scheme)
    assert digit.tolist() == [1, 0]
    (digit,) = sample_digits([logits], level * 1e-3, torch.tensor([1e-300, 1.0]).double(), scheme)
    assert digit.tolist() == [1, 0]


def test_top_p_keeps_the_likeliest_ids():
    probs = torch.tensor([0.1, 0.4, 0.2, 0.3])
    logits = probs.log().tolist()
    assert torch.allclose(draws(logits, top_p=0.65), torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=1e-4)
    assert torch.allclose(draws(logits, top_p=0.75), torch.tensor([0, 4 / 9, 2 / 9, 3 / 9]), atol=1e-4)
    assert torch.allclose(draws(logits, top_p=0.01), torch.tensor([0, 1.0, 0, 0]))


def test_top_p_counts_probabilities_before_or_after_the_temperature():
    """Of 0.5, 0.3, 0.2 two have 0.75; at temperature 2 they are 0.416, 0.322, 0.263: 0.75 takes all three."""
    probs = torch.tensor([0.5, 0.3, 0.2])
    cooled = probs.sqrt() / probs.sqrt().sum()
    after = draws(probs.log().tolist(), top_p=0.75, temperature=2.0)
    assert torch.allclose(after, cooled, atol=1e-4)
    before = draws(probs.log().tolist(), top_p=0.75, temperature=2.0, top_p_order="before_temperature")
    assert torch.allclose(before, torch.tensor([cooled[0], cooled[1], 0]) / cooled[:2].sum(), atol=1e-4)


def test_top_k_keeps_the_likeliest_ids_and_top_p_is_of_those():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().tolist()
    assert torch.allclose(draws(logits, top_k=1), torch.tensor([0, 1.0, 0, 0]))
    assert torch.allclose(draws(logits, top_k=3), torch.tensor([0, 4 / 9, 2 / 9, 3 / 9]), atol=1e-4)
    assert torch.allclose(draws(logits, top_k=9), draws(logits))
    # Of 4/9, 3/9, 2/9 the first two have 0.78.
    assert torch.allclose(draws(logits, top_k=3, top_p=0.75), torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=1e-4)
    assert torch.allclose(draws([0.0, 0.0, 0.0, -9.0], top_k=1), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]), atol=1e-4)


@pytest.mark.parametrize("top_k, top_p", [(None, 0.3), (None, 0.9), (None, 0.9999), (50, 1.0), (2000, 0.5)])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_many_ids_are_cut_as_by_sorting(top_k, top_p, spread):
    """64,000 ids, against NumPy: sort, cumulate, cut, draw."""
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=(7, 64000)) * spread)
    uniform = torch.tensor(rng.random(7))
    got = pick(logits, uniform, "tok_rgb_next", top_k=top_k, top_p=top_p)
    for row, level, id in zip(logits.numpy(), uniform.numpy(), got.tolist()):
        probs = np.exp(row) / np.exp(row).sum()
        order = np.argsort(-probs)
        order = order[:top_k]
        ordered = probs[order] / probs[order].sum()
        order = order[np.cumsum(ordered) - ordered < top_p]
        kept = np.zeros_like(probs)
        kept[order] = probs[order]
        expected = np.searchsorted(np.cumsum(kept), level * kept.sum(), side="right")
        assert id == expected


@pytest.mark.parametrize("how, expected", [("mean", 42), ("median", 20), ("argmax", 20)])
def test_picks_by_hand(how, expected):
    logits = torch.full((1, NUM_JOINT_BINS), -torch.inf)
    logits[0, [10, 20, 100]] = torch.tensor([0.2, 0.5, 0.3]).log()  # mean 2 + 10 + 30
    assert pick(logits, torch.tensor([0.9]), pick=how).item() == expected


def test_log_probability_is_the_sum_of_the_digits_at_temperature_1():
    logits = [torch.tensor([[0.7, 0.3]]).log() + 5, torch.tensor([[0.1, 0.6, 0.3]]).log() - 2]
    uniform = torch.tensor([[0.8, 0.65]]).double()
    scheme = DecodingConfig("tok_rgb_next", 1, temperature=2.0)
    digits = sample_digits(logits, uniform, torch.tensor([2.0]).double(), scheme)
    assert [digit.item() for digit in digits] == [1, 1]  # tempered: 0.60, 0.40 and 0.19, 0.47, 0.33
    assert log_probability(logits, digits).item() == pytest.approx(np.log(0.3) + np.log(0.6), abs=1e-6)


@pytest.mark.parametrize("uniform", [1e-17, 2.0**-53, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("first, last", [(100, 200), (250, 260), (0, 1), (63999, 64000), (255, 257)])
def test_draws_at_the_ends_have_positive_probability(uniform, first, last):
    logits = torch.full((1, 64000), -torch.inf)
    logits[0, first:last] = torch.randn(last - first, generator=torch.Generator().manual_seed(0))
    digit = pick(logits, torch.tensor([uniform], dtype=torch.float64), "tok_rgb_next")
    assert first <= digit.item() < last


@pytest.mark.parametrize("width", [2, 255, 256, 257, 1000, 8192, 65536])
def test_an_id_is_where_the_cumulative_probability_passes_the_level(width):
    rng = np.random.default_rng(width)
    logits, uniform = torch.tensor(rng.normal(size=(20, width)) * 2), torch.tensor(rng.random(20))
    probs = logits.softmax(-1).numpy()
    expected = [np.searchsorted(np.cumsum(row), level, side="right") for row, level in zip(probs, uniform.numpy())]
    assert pick(logits, uniform).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_drawn_from_in_float32(dtype):
    logits = torch.randn(50, 64000, generator=torch.Generator().manual_seed(0)).to(dtype)
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pick(logits, uniform, "tok_rgb_next"), pick(logits.float(), uniform, "tok_rgb_next"))
    digits = (torch.arange(50),)
    assert torch.equal(log_probability([logits], digits), log_probability([logits.float()], digits))
