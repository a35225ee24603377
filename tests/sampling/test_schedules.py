from __future__ import annotations

import math

import pytest
import torch

from m3.sampling.schedules import SCHEDULES, TEMPERATURE_SCHEDULES, temperature_factor, token_schedule


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_is_positive_and_sums_to_the_tokens(kind):
    for num_tokens in [*range(1, 121), 195, 256, 300]:
        for num_steps in range(1, num_tokens + 1):
            counts = token_schedule(kind, num_tokens, num_steps)
            assert len(counts) == num_steps and min(counts) >= 1 and sum(counts) == num_tokens, (num_tokens, num_steps)


def test_cosine_by_hand():
    # 64 · cos(π/2 · t/4) = 59.1, 45.3, 24.5, 0 undecided after steps 1 to 4.
    assert token_schedule("cosine", 64, 4) == (64 - 59, 59 - 45, 45 - 24, 24)


def test_linear_by_hand():
    assert token_schedule("linear", 256, 8) == (32,) * 8
    assert token_schedule("linear", 10, 4) == (2, 3, 3, 2)  # 7.5 and 2.5 round to even


@pytest.mark.parametrize("kind", SCHEDULES)
def test_ends_of_the_range(kind):
    assert token_schedule(kind, 256, 1) == (256,)
    assert token_schedule(kind, 39, 39) == (1,) * 39


def test_cosine_follows_the_curve_where_there_is_room():
    undecided = 256
    for step, count in enumerate(token_schedule("cosine", 256, 12), start=1):
        undecided -= count
        assert abs(undecided - 256 * math.cos(math.pi / 2 * step / 12)) <= 0.5


@pytest.mark.parametrize("num_steps", [0, -1, 40])
def test_impossible_numbers_of_steps_name_the_key(num_steps):
    with pytest.raises(ValueError, match=f"num_steps={num_steps}"):
        token_schedule("cosine", 39, num_steps)


def test_unknown_schedule_names_the_choices():
    with pytest.raises(ValueError, match="schedule='sine'.*cosine, linear"):
        token_schedule("sine", 39, 3)


def test_temperatures_by_hand():
    shares = torch.tensor([0.0, 0.25, 0.5, 0.99])
    assert temperature_factor("constant", shares).tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(temperature_factor("linear", shares), torch.tensor([1, 0.75, 0.5, 0.01]))
    # x = 1, 25.75, 50.5, 99.01: (1/√x − 0.1) / 0.9
    torch.testing.assert_close(
        temperature_factor("inverse_sqrt", shares), torch.tensor([1, 0.10785, 0.04524, 0.000555]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", TEMPERATURE_SCHEDULES)
def test_temperatures_never_rise_and_stay_positive(kind):
    factor = temperature_factor(kind, torch.arange(256, dtype=torch.float64) / 256)
    assert factor[0] == 1 and (factor > 0).all() and (factor.diff() <= 0).all()
