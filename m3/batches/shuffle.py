"""The order in which samples leave a shuffle buffer, known before any of them arrives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK_LENGTH = 1 << 16


def departures(
    num_arrivals: int, buffer_size: int, generator: np.random.Generator, first: int = 0, last: int | None = None
) -> Iterator[np.ndarray]:
    """The numbers 0 … num_arrivals − 1 in the order in which they leave a shuffle buffer, in blocks.

    The buffer is filled; each further arrival takes the place of one that is drawn from it; then the rest leaves. A
    number n leaves as the (n − buffer_size + 1)th at the earliest, so at most buffer_size rows wait.

    first, last: only the departures number first … last − 1 are given; None for all after the first.
    """
    last = num_arrivals if last is None else last
    begin = 0
    for block in _blocks(num_arrivals, buffer_size, generator):
        if begin >= last:
            return
        if begin + len(block) > first:
            yield block[max(first - begin, 0) : last - begin]
        begin += len(block)


def _blocks(num_arrivals: int, buffer_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    buffer = np.arange(min(buffer_size, num_arrivals))
    smallest = np.min_scalar_type(max(len(buffer) - 1, 0))  # two bytes are sorted in linear time
    for arrived in range(len(buffer), num_arrivals, _BLOCK_LENGTH):
        places = generator.integers(len(buffer), size=min(_BLOCK_LENGTH, num_arrivals - arrived))
        arrivals = np.arange(arrived, arrived + len(places))
        # Who leaves a place is who came to it last: before this block, or earlier in it.
        leaving = buffer[places]
        turns = np.argsort(places.astype(smallest), kind="stable")
        is_again = places[turns[1:]] == places[turns[:-1]]
        leaving[turns[1:][is_again]] = arrivals[turns[:-1][is_again]]
        buffer[places] = arrivals  # of several to one place the last stays
        yield leaving
    yield generator.permutation(buffer)
