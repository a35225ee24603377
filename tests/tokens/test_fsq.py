from __future__ import annotations

import itertools

import pytest
import torch

from m3.core.modalities import FSQ_LEVELS
from m3.tokens.fsq import FSQ, basis, digits_of_legal, digits_to_ids, ids_to_digits


def test_basis_is_that_of_cosmos():
    assert basis(FSQ_LEVELS) == (1, 8, 64, 512, 2560, 12800)


@pytest.mark.parametrize(
    "token, values",
    [
        (0, (-1, -1, -1, -1, -1, -1)),
        (12345, (-0.75, 0.75, -1, 1, 1, -1)),
        (63_999, (0.75, 0.75, 0.75, 1, 1, 1)),
    ],
)
def test_published_values(token, values):
    fsq = FSQ()
    assert fsq.ids_to_values(torch.tensor(token)).tolist() == list(values)
    assert fsq.values_to_ids(torch.tensor(values, dtype=torch.float32)).item() == token


def test_ids_count_the_digits_in_mixed_radix_order():
    """Independent truth: itertools counts with the last place fastest, so the levels and digits are reversed."""
    odometer = [digits[::-1] for digits in itertools.product(*(range(level) for level in reversed(FSQ_LEVELS)))]
    ids = torch.arange(64_000)
    assert torch.equal(ids_to_digits(ids), torch.tensor(odometer))
    assert torch.equal(digits_to_ids(ids_to_digits(ids)), ids)
    fsq = FSQ()
    assert torch.equal(fsq.values_to_ids(fsq.ids_to_values(ids)), ids)


@pytest.mark.parametrize("ids", [[0, 64_000], [-1, 5]])
def test_illegal_ids_raise(ids):
    with pytest.raises(ValueError, match="0 … 63999"):
        ids_to_digits(torch.tensor(ids))


@pytest.mark.parametrize("digits", [[8, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 5], [-1, 0, 0, 0, 0, 0]])
def test_illegal_digits_raise(digits):
    with pytest.raises(ValueError, match="levels"):
        digits_to_ids(torch.tensor(digits))


def test_every_level_is_reached_and_none_beyond():
    z = torch.linspace(-20, 20, 4001).unsqueeze(-1).expand(-1, 6)
    values = FSQ()(z)
    for place, level in enumerate(FSQ_LEVELS):
        expected = [(digit - level // 2) / (level // 2) for digit in range(level)]
        assert values[:, place].unique().tolist() == pytest.approx(expected)


def test_zero_is_on_the_grid_and_rounding_passes_gradients():
    fsq = FSQ()
    assert fsq(torch.zeros(6)).abs().max() < 1e-6
    z = torch.randn(100, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    fsq(z).sum().backward()
    expected = z.detach().clone().requires_grad_(True)
    (fsq.bound(expected) / fsq.middle).sum().backward()
    assert torch.allclose(z.grad, expected.grad)
    assert (z.grad > 0).all()


def test_unchecked_digits_equal_checked_ones_and_reveal_an_illegal_id():
    ids = torch.arange(0, 64_000, 77)
    assert torch.equal(torch.stack(digits_of_legal(ids), -1), ids_to_digits(ids))
    for illegal in (-1, 64_000, 65_535):
        assert not 0 <= digits_of_legal(torch.tensor(illegal))[-1] < 5
