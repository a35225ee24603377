"""Batches read from the shards themselves, for splits that do not fit the local disk.

An epoch is the split's shards in a new order. Each loader process of each rank, a slot, takes a contiguous share of
that sequence of samples, equal to within one sample, so a shard on the border of two shares is read by both. What a
slot reads passes through a shuffle buffer. Which sample leaves the buffer when is known without reading anything: the
manifest has the shards' counts, the rest is drawn from seed, epoch and slot. So a slot can start anywhere: it skips
every shard of which no sample is left to hand out.

    manifest ─▶ order of shards ─▶ share of the slot ─▶ arrivals ─▶ departures     known in advance
                        fetched, proven whole ─▶ rows wait for their departure     read
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from m3.batches.shuffle import departures
from m3.batches.table import columns_of
from m3.core.modalities import ModalityTable
from m3.core.rng import SampleGenerator, numpy_generator
from m3.core.types import TokenBatch
from m3.core.validation import SettingError
from m3.shards.manifest import Manifest
from m3.shards.reader import RowReader, ShardError, open_shard, samples_of
from m3.shards.transport import address

_FLIP = "flip"


class Slot(NamedTuple):
    """One of the processes that read a split together, in all ranks: number 0 … of − 1."""

    number: int
    of: int


class StreamedSample(NamedTuple):
    """tokens: (S,) uint16; sample: index in the split, as in the token table."""

    tokens: np.ndarray
    sample: int
    epoch: int


@dataclass(frozen=True)
class _Stretch:
    """Neighbouring samples of a shard that a slot reads in an epoch.

    shard: number of the shard in the split.
    arrival: which of the slot's arrivals in the epoch is the shard's sample `first`.
    first: of the stretch, counted in the shard.
    is_wanted: for each sample of the stretch, whether it is still to be handed out.
    is_flipped: for each, whether its mirrored version is.
    """

    epoch: int
    shard: int
    arrival: int
    first: int
    is_wanted: np.ndarray
    is_flipped: np.ndarray


class StreamedSplit:
    """The samples of a split, read from its shards.

    Args:
        root: of the data set, see `m3.shards.transport`.
        manifest: of the data set.
        split: name of the split.
        table: the run's modalities; a sample has their tokens, in this order.
        seed: of the order.
        shuffle_buffer: samples among which the next one is drawn; None keeps the order of the split.
        flip: whether each sample is mirrored in half of its epochs, the same ones as with a token table.
    Raises:
        ValueError, from `columns_of`, where the data set lacks what is wanted.
    """

    def __init__(
        self,
        root: str,
        manifest: Manifest,
        split: str,
        table: ModalityTable,
        seed: int = 0,
        shuffle_buffer: int | None = None,
        flip: bool = False,
    ) -> None:
        self.root, self.shards, self.table = root, manifest.shards[split], table
        self.seed, self.shuffle_buffer, self.flip = seed, shuffle_buffer, flip
        self._counts = np.array([shard.num_pairs for shard in self.shards], dtype=np.int64)
        self._first_samples = np.cumsum(self._counts) - self._counts
        self._last_ids = np.array(table.last_ids, dtype=np.uint16)  # (S,)
        stored = {modality.name: modality for modality in manifest.modalities}
        self._readers = []
        for variant in (None, _FLIP) if flip else (None,):
            columns_of(manifest, table, variant)  # refuses what does not match
            self._readers.append(RowReader([stored[name] for name in table.modalities], variant))
        self._members = frozenset(name for reader in self._readers for name in reader.members)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def share(self, slot: Slot) -> tuple[int, int]:
        """First and last + 1 of the places that a slot has in the sequence of samples of every epoch."""
        return len(self) * slot.number // slot.of, len(self) * (slot.number + 1) // slot.of

    def num_fetches(self, num_slots: int) -> int:
        """How often all slots together fetch a shard in an epoch: each of them once, and again for each border of two
        shares within one. With shards in the order of the split: where their sizes differ another order may give
        a few more or less."""
        ends = {len(self) * (number + 1) // num_slots for number in range(num_slots)}
        return len((ends | {*np.cumsum(self._counts).tolist()}) - {0})

    def samples(self, slot: Slot, first: int = 0) -> Iterator[StreamedSample]:
        """What a slot hands out, from its sample `first` on: endless epochs, or just one in the order of the split.

        Raises what `open_shard` and `samples_of` raise, and ShardError naming a sample with an illegal id.
        """
        low, high = self.share(slot)
        rows = self._rows(slot, first)
        waiting: dict[tuple[int, int], StreamedSample] = {}
        start = first % max(high - low, 1)
        for epoch in self._epochs(slot, first):
            for arrival in (arrival for block in self._departures(epoch, slot, start) for arrival in block.tolist()):
                while (epoch, arrival) not in waiting:
                    where, sample = next(rows)
                    waiting[where] = sample
                yield waiting.pop((epoch, arrival))
            start = 0

    def _epochs(self, slot: Slot, first: int) -> range | count:
        low, high = self.share(slot)
        if low == high:
            return range(0)
        epoch = first // (high - low)
        return range(epoch, 1) if self.shuffle_buffer is None else count(epoch)

    def _departures(self, epoch: int, slot: Slot, first: int, last: int | None = None) -> Iterator[np.ndarray]:
        """Arrivals of a slot in the order in which they leave the shuffle buffer, number first … last − 1, in blocks.

        Nothing is computed before it is asked for, and of an epoch of many samples never all at once.
        """
        low, high = self.share(slot)
        if self.shuffle_buffer is None:
            return iter([np.arange(high - low)[first:last]])
        generator = numpy_generator(self.seed, "buffer", epoch, *slot)
        return departures(high - low, self.shuffle_buffer, generator, first, last)

    def _stretches(self, slot: Slot, first: int) -> Iterator[_Stretch]:
        """What a slot reads, in order; nothing of a shard that has no sample left to hand out."""
        low, high = self.share(slot)
        start = first % max(high - low, 1)
        for epoch in self._epochs(slot, first):
            is_wanted = np.ones(high - low, dtype=bool)
            for handed_out in self._departures(epoch, slot, 0, start) if start else ():
                is_wanted[handed_out] = False
            order = np.arange(len(self.shards))
            if self.shuffle_buffer is not None:
                order = numpy_generator(self.seed, "shards", epoch).permutation(order)
            ends = np.cumsum(self._counts[order])
            for shard, end in zip(order.tolist(), ends.tolist()):
                begin = end - int(self._counts[shard])
                here, past = max(low, begin), min(high, end)
                if here < past and (wanted := is_wanted[here - low : past - low]).any():
                    flipped = self._is_flipped(shard, here - begin, past - begin, epoch)
                    yield _Stretch(epoch, shard, here - low, here - begin, wanted, flipped)
            start = 0

    def _is_flipped(self, shard: int, first: int, last: int, epoch: int) -> np.ndarray:
        """(last − first,) bool."""
        if not self.flip:
            return np.zeros(last - first, dtype=bool)
        sample = torch.arange(first, last) + int(self._first_samples[shard])
        return (SampleGenerator(self.seed, _FLIP, sample, epoch).uniform(1)[:, 0] < 0.5).numpy()

    def _fetched(self, stretches: Iterator[_Stretch]) -> Iterator[tuple[_Stretch, BinaryIO]]:
        """Each stretch with its shard's bytes; the next shard is fetched while one is used."""
        pool, under_way = ThreadPoolExecutor(1), deque()
        try:
            while True:
                for stretch in islice(stretches, 2 - len(under_way)):
                    under_way.append((stretch, pool.submit(open_shard, self.root, self.shards[stretch.shard])))
                if not under_way:
                    return
                stretch, fetching = under_way.popleft()
                yield stretch, fetching.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _rows(self, slot: Slot, first: int) -> Iterator[tuple[tuple[int, int], StreamedSample]]:
        """((epoch, arrival), sample) of all that is still to be handed out, in the order of arrival."""
        for stretch, content in self._fetched(self._stretches(slot, first)):
            shard = self.shards[stretch.shard]
            where = address(self.root, shard.name)
            for place, (key, members) in enumerate(samples_of(content, where, shard, self._members), -stretch.first):
                if not 0 <= place < len(stretch.is_wanted) or not stretch.is_wanted[place]:
                    continue
                reader = self._readers[int(stretch.is_flipped[place])]
                tokens = self._checked(reader.read(members, f"{where}: {key}"), f"{where}: {key}")
                sample = int(self._first_samples[stretch.shard]) + stretch.first + place
                yield (stretch.epoch, stretch.arrival + place), StreamedSample(tokens, sample, stretch.epoch)

    def _checked(self, tokens: np.ndarray, where: str) -> np.ndarray:
        if (is_illegal := tokens > self._last_ids).any():
            column = int(is_illegal.argmax())
            raise ShardError(
                f"{where}: id {tokens[column]} in column {column} of {'+'.join(self.table.modalities)}, legal are "
                f"0 … {self._last_ids[column]}; make the data again with `python preprocess.py … overwrite=true`"
            )
        return tokens


class StreamedBatches(IterableDataset):
    """The batches of a rank, number `first` … `num_batches` − 1; loader process w of W makes every W-th.

    Args:
        split: read for training where it has a shuffle buffer: all batches are full, one that crosses the end of an
            epoch takes its rest from the next. Without one it is read for evaluation: each sample once over all ranks,
            all ranks having the same number of batches, the last of which may be smaller or empty.
        num_batches: None for evaluation, where the split's size tells it.
        num_workers: loader processes, 0 for none.
    Raises:
        SettingError where there are more processes than samples to train on.
    """

    def __init__(
        self,
        split: StreamedSplit,
        batch_size: int,
        rank: int,
        num_ranks: int,
        num_workers: int,
        num_batches: int | None = None,
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.rank, self.num_ranks, self.num_workers = rank, num_ranks, num_workers
        self.first = 0
        num_slots = num_ranks * self._num_processes
        if num_batches is None:
            longest_share = -(-len(split) // num_slots)
            num_batches = -(-longest_share // batch_size) * self._num_processes
        elif num_slots > len(split):
            raise SettingError(
                f"data.num_workers={num_workers}: {num_slots} loader processes for {len(split)} samples; take fewer"
            )
        self.num_batches = num_batches

    @property
    def _num_processes(self) -> int:
        return max(self.num_workers, 1)

    def __iter__(self) -> Iterator[TokenBatch]:
        worker = get_worker_info()
        # The loader asks its processes in turn, the first of them for batch `first`.
        turn = (self.first + (worker.id if worker else 0)) % self._num_processes
        batches = range(turn, self.num_batches, self._num_processes)
        num_done = len(range(turn, self.first, self._num_processes))
        slot = Slot(self.rank * self._num_processes + turn, self.num_ranks * self._num_processes)
        samples = self.split.samples(slot, num_done * self.batch_size)
        for _ in batches[num_done:]:
            yield self._batch(list(islice(samples, self.batch_size)))

    def _batch(self, samples: list[StreamedSample]) -> TokenBatch:
        rows = np.stack([s.tokens for s in samples]) if samples else np.zeros((0, self.split.table.num_tokens))
        sample, epoch = ([getattr(s, name) for s in samples] for name in ("sample", "epoch"))
        identity = torch.tensor(sample, dtype=torch.int64), torch.tensor(epoch, dtype=torch.int64)
        return TokenBatch(torch.from_numpy(rows.astype(np.int64)), *identity)


class StreamLoader:
    """Yields the batches of a rank. Its state is the number of batches handed out, not of those that its processes have
    prefetched, so that a run resumed in the middle sees the batches it would have seen."""

    def __init__(self, batches: StreamedBatches, pin_memory: bool) -> None:
        self._batches, self._pin_memory = batches, pin_memory
        self._num_yielded = 0

    def __len__(self) -> int:
        return self._batches.num_batches

    def __iter__(self) -> Iterator[TokenBatch]:
        self._num_yielded = self._batches.first
        loader = DataLoader(
            self._batches, batch_size=None, num_workers=self._batches.num_workers, pin_memory=self._pin_memory
        )
        for batch in loader:
            self._num_yielded += 1
            yield batch
        self._batches.first = 0

    def state_dict(self) -> dict[str, Any]:
        return {"num_yielded": self._num_yielded, **self._division}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where ranks or loader processes are not as many as they were."""
        for key, now in self._division.items():
            if state.get(key) != now:
                raise ValueError(
                    f"a stream continues only as it was divided: {key} was {state.get(key)} and is {now}; take as many "
                    "again, or data.backend=table, which continues with any number"
                )
        self._batches.first = state["num_yielded"]

    @property
    def _division(self) -> dict[str, int]:
        return {"num_ranks": self._batches.num_ranks, "num_workers": self._batches.num_workers}
