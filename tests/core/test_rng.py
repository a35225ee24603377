"""Streams against a plain SplitMix64 in Python integers, and their independence."""

from __future__ import annotations

import torch
from scipy import stats

from m3.core.rng import SampleGenerator, numpy_generator

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """The finalizer as published, on unsigned Python integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_bits_are_splitmix64() -> None:
    generator = SampleGenerator(7, "test", torch.arange(3))
    states = [int(state) & MASK for state in generator._state]
    drawn = generator.bits(5)
    for state, row in zip(states, drawn):
        expected = [splitmix64((state + k * 0x9E3779B97F4A7C15) & MASK) for k in range(1, 6)]
        assert [int(value) & MASK for value in row] == expected


def test_uniforms_are_uniform_within_and_across_samples() -> None:
    numbers = SampleGenerator(0, "test", torch.arange(2_000)).uniform(50)
    assert 0 < numbers.min() and numbers.max() < 1
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-4
    assert stats.kstest(numbers[:, 0].numpy(), "uniform").pvalue > 1e-4
    assert abs(torch.corrcoef(torch.stack([numbers[:-1, 0], numbers[1:, 0]]))[0, 1]) < 0.1


def test_each_identity_has_its_own_stream() -> None:
    sample = torch.arange(4)

    def first(seed: int = 0, purpose: str = "a", sample: torch.Tensor = sample, epoch: int = 0) -> set[int]:
        return set(SampleGenerator(seed, purpose, sample, epoch).bits(1).flatten().tolist())

    streams = [first(), first(seed=1), first(seed=-1), first(purpose="b"), first(epoch=1), first(sample=sample + 4)]
    assert len(set.union(*streams)) == 24


def test_draws_do_not_depend_on_their_grouping_into_calls() -> None:
    at_once = SampleGenerator(0, "test", torch.arange(5)).bits(6)
    generator = SampleGenerator(0, "test", torch.arange(5))
    assert torch.equal(torch.cat([generator.bits(2), generator.bits(4)], 1), at_once)
    index = torch.tensor([3, 1])
    assert torch.equal(SampleGenerator(0, "test", torch.arange(5)).rows(index).bits(6), at_once[index])


def test_a_fork_does_not_advance_the_stream() -> None:
    generator = SampleGenerator(0, "test", torch.arange(5))
    forked = generator.fork("redraw").bits(3)
    assert torch.equal(generator.bits(3), SampleGenerator(0, "test", torch.arange(5)).bits(3))
    assert not set(forked.flatten().tolist()) & set(
        SampleGenerator(0, "test", torch.arange(5)).bits(3).flatten().tolist()
    )


def test_numpy_generators_depend_on_their_labels() -> None:
    draws = {
        numpy_generator(*labels).integers(2**62) for labels in [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1)]
    }
    assert len(draws) == 4
    assert numpy_generator(0, "a", 1).integers(2**62) in draws
