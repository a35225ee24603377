"""The order in which samples leave a shuffle buffer, computed without reading any of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK_LENGTH = 1 << 16


def shuffled_order(
    num_samples: int, buffer_size: int, generator: np.random.Generator, first: int = 0, last: int | None = None
) -> Iterator[np.ndarray]:
    """0 … num_samples − 1 in the order in which they leave a shuffle buffer, in blocks.

    The first numbers fill the buffer. Each further one replaces a number drawn from the buffer, which leaves; at the
    end the rest leaves in random order. Number n is at the earliest the (n − buffer_size + 1)th to leave, so at most
    buffer_size rows wait.

    first, last: give only those that leave as number first … last − 1; None for all from `first` on.
    """
    last = num_samples if last is None else last
    begin = 0
    for block in _blocks(num_samples, buffer_size, generator):
        if begin >= last:
            return
        if begin + len(block) > first:
            yield block[max(first - begin, 0) : last - begin]
        begin += len(block)


def _blocks(num_samples: int, buffer_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    buffer = np.arange(min(buffer_size, num_samples))
    smallest = np.min_scalar_type(max(len(buffer) - 1, 0))  # two bytes are sorted in linear time
    for start in range(len(buffer), num_samples, _BLOCK_LENGTH):
        places = generator.integers(len(buffer), size=min(_BLOCK_LENGTH, num_samples - start))
        entering = np.arange(start, start + len(places))
        # The number that leaves a place is the one that entered it last: before this block, or earlier in it.
        leaving = buffer[places]
        turns = np.argsort(places.astype(smallest), kind="stable")
        is_again = places[turns[1:]] == places[turns[:-1]]
        leaving[turns[1:][is_again]] = entering[turns[:-1][is_again]]
        buffer[places] = entering  # where several enter one place, the last stays
        yield leaving
    yield generator.permutation(buffer)
