"""Batches read from the shards themselves, for splits that do not fit the local disk.

In each epoch the split's shards get a new order, which puts all samples in a sequence. Each loader process of each
rank (a worker) reads a contiguous share of that sequence; shares are equal to within one sample, so two workers may
both read the shard on the border of their shares. Each worker passes its samples through a shuffle buffer. The order in
which they leave it is known without reading anything: it depends on the sizes of the shards, which the manifest lists,
and on random numbers from (seed, epoch, worker). A worker can therefore start anywhere: it skips every shard of which
all samples have been handed out.

    manifest ─▶ order of shards ─▶ share of the worker ─▶ shard ranges ─▶ output order     known in advance
                            fetch and verify a shard ─▶ rows wait until it is their turn     read
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from m3.batches.ahead import ahead
from m3.batches.samples import SampleAssembler, has_input_and_target, lengths_unless_whole
from m3.batches.shuffle import shuffled_order
from m3.batches.table import columns_of
from m3.core.modalities import ModalityTable
from m3.core.rng import SampleGenerator, numpy_generator
from m3.core.types import PairInfo, TokenBatch
from m3.core.validation import SettingError
from m3.shards.manifest import FLIP, Manifest, ShardError
from m3.shards.meta import CAPTIONS_NAME, META_NAME, captions_of, pair_info, read_meta
from m3.shards.reader import RowReader, open_shard, samples_of
from m3.shards.text import read_text_tokenizer
from m3.shards.transport import address
from m3.tokens.text import TextTokenizer

_NO_FACTS = PairInfo("", "", 0, 0, None, None), ""
"""Of samples whose modalities are all stored: neither meta.json nor captions.json is read."""


class StreamWorker(NamedTuple):
    """One of the loader processes that read a split together, counted over all ranks: 0 … num_workers − 1."""

    number: int
    num_workers: int


class StreamedSample(NamedTuple):
    """A sample as it was read.

    stored, lengths: tokens and lengths of the stored modalities that the run needs, uint16, one after the other.
    pair, caption: what meta.json and captions.json say of it.
    sample: index in the split, as in the token table.
    """

    stored: np.ndarray
    lengths: np.ndarray
    pair: PairInfo
    caption: str
    sample: int
    epoch: int


@dataclass(frozen=True)
class _ShardRange:
    """Consecutive samples of a shard that a worker reads in an epoch.

    shard: index of the shard in the split.
    position: place of the range's first sample in the order in which the worker reads the epoch.
    first: index of the range's first sample in the shard.
    is_wanted: for each sample of the range, whether it is still to be handed out.
    is_flipped: for each, whether its mirrored version is read.
    """

    epoch: int
    shard: int
    position: int
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
        shuffle_buffer: samples from which the next one is taken at random; None keeps the order of the split.
        flip: mirror each sample in half of its epochs, as a token table does.
    Raises:
        ValueError, from `SampleAssembler` and `columns_of`, where the data set lacks a modality of the table, or
            mirrored versions.
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
        text = read_text_tokenizer(root, manifest) if "captions" in table.modalities else None
        self.assembler = SampleAssembler(manifest, table, None if text is None else TextTokenizer(text))
        needed = self.assembler.needed
        self._readers = []
        for variant in (None, FLIP) if flip else (None,):
            columns_of(manifest, [modality.name for modality in needed], variant)  # raises where there is no variant
            self._readers.append(RowReader(needed, variant, manifest.schema_version))
        self._members = frozenset(name for reader in self._readers for name in reader.members)
        if self.assembler.needs_facts:
            self._members |= {META_NAME, CAPTIONS_NAME}

    def __len__(self) -> int:
        return int(self._counts.sum())

    def share(self, worker: StreamWorker) -> tuple[int, int]:
        """The worker's part [first, last) of the sequence of samples, the same in every epoch."""
        return len(self) * worker.number // worker.num_workers, len(self) * (worker.number + 1) // worker.num_workers

    def num_fetches(self, num_workers: int) -> int:
        """Fetches of shards by all workers in an epoch: one per shard, and one per border of two shares inside a shard.

        Computed for shards in the order of the split; where their sizes differ, another order may give a few more or
        less.
        """
        ends = {len(self) * (index + 1) // num_workers for index in range(num_workers)}
        return len((ends | {*np.cumsum(self._counts).tolist()}) - {0})

    def samples(self, worker: StreamWorker, first: int = 0) -> Iterator[StreamedSample]:
        """The samples of a worker from number `first` on: endless epochs, or one in the order of the split without
        a shuffle buffer.

        Raises what `open_shard` and `samples_of` raise, and ShardError naming a sample with an illegal id.
        """
        low, high = self.share(worker)
        rows = self._rows(worker, first)
        waiting: dict[tuple[int, int], StreamedSample] = {}
        start = first % max(high - low, 1)
        for epoch in self._epochs(worker, first):
            for block in self._output_order(epoch, worker, start):
                for position in block.tolist():
                    while (epoch, position) not in waiting:
                        place, sample = next(rows)
                        waiting[place] = sample
                    yield waiting.pop((epoch, position))
            start = 0

    def _epochs(self, worker: StreamWorker, first: int) -> range | count:
        low, high = self.share(worker)
        if low == high:
            return range(0)
        epoch = first // (high - low)
        return range(epoch, 1) if self.shuffle_buffer is None else count(epoch)

    def _output_order(
        self, epoch: int, worker: StreamWorker, first: int, last: int | None = None
    ) -> Iterator[np.ndarray]:
        """Positions in the worker's read order, in the order in which they are handed out: number first … last − 1.

        In blocks, computed one at a time, so that a long epoch is never in memory as a whole.
        """
        low, high = self.share(worker)
        if self.shuffle_buffer is None:
            return iter([np.arange(high - low)[first:last]])
        generator = numpy_generator(self.seed, "buffer", epoch, *worker)
        return shuffled_order(high - low, self.shuffle_buffer, generator, first, last)

    def _shard_ranges(self, worker: StreamWorker, first: int) -> Iterator[_ShardRange]:
        """What a worker reads, in order; shards without a sample left to hand out are skipped."""
        low, high = self.share(worker)
        start = first % max(high - low, 1)
        for epoch in self._epochs(worker, first):
            is_wanted = np.ones(high - low, dtype=bool)
            for handed_out in self._output_order(epoch, worker, 0, start) if start else ():
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
                    yield _ShardRange(epoch, shard, here - low, here - begin, wanted, flipped)
            start = 0

    def _is_flipped(self, shard: int, first: int, last: int, epoch: int) -> np.ndarray:
        """(last − first,) bool: which samples of a shard are mirrored in an epoch."""
        if not self.flip:
            return np.zeros(last - first, dtype=bool)
        sample = torch.arange(first, last) + int(self._first_samples[shard])
        return (SampleGenerator(self.seed, FLIP, sample, epoch).uniform(1)[:, 0] < 0.5).numpy()

    def _fetched(self, shard_ranges: Iterator[_ShardRange]) -> Iterator[tuple[_ShardRange, IO[bytes]]]:
        """Each range with its shard's bytes; the next shard is fetched while one is read."""
        pool, pending = ThreadPoolExecutor(1), deque()
        try:
            while True:
                for shard_range in islice(shard_ranges, 2 - len(pending)):
                    shard = self.shards[shard_range.shard]
                    pending.append((shard_range, pool.submit(open_shard, self.root, shard)))
                if not pending:
                    return
                shard_range, fetched = pending.popleft()
                yield shard_range, fetched.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _rows(self, worker: StreamWorker, first: int) -> Iterator[tuple[tuple[int, int], StreamedSample]]:
        """((epoch, position), sample) of all samples that are still to be handed out, in the order of reading."""
        for part, content in self._fetched(self._shard_ranges(worker, first)):
            shard = self.shards[part.shard]
            where = address(self.root, shard.name)
            for i, (key, members) in enumerate(samples_of(content, where, shard, self._members), -part.first):
                if not 0 <= i < len(part.is_wanted) or not part.is_wanted[i]:
                    continue
                reader = self._readers[int(part.is_flipped[i])]
                place = f"{where}: {key}"
                stored, lengths = reader.read(members, place)
                self._check(stored, place)
                pair, caption = _NO_FACTS
                if self.assembler.needs_facts:
                    pair = pair_info(key, read_meta(members, place), place)
                    caption = next(iter(captions_of(members, place)), "")
                sample = int(self._first_samples[part.shard]) + part.first + i
                found = StreamedSample(stored, lengths, pair, caption, sample, part.epoch)
                yield (part.epoch, part.position + i), found

    def _check(self, stored: np.ndarray, where: str) -> None:
        if (is_illegal := stored > self.assembler.last_ids).any():
            column = int(is_illegal.argmax())
            name, position = self.assembler.place_of(column)
            raise ShardError(
                f"{where}: {name} has id {stored[column]} at position {position}, legal are "
                f"0 … {self.assembler.last_ids[column]}; make the data again with "
                "`python preprocess.py … overwrite=true`"
            )


class StreamedBatches(IterableDataset):
    """The batches of a rank, number `first` … `num_batches` − 1; loader process w of W makes every W-th.

    Args:
        split: with a shuffle buffer for training: all batches are full, one that crosses the end of an epoch is filled
            up from the next. Without one for evaluation: each sample once over all ranks, and as many batches on each
            rank, the last of which may be smaller or empty.
        num_batches: None for evaluation, where it follows from the size of the split.
        num_workers: loader processes of this rank; 0 loads in its own process.
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
        total_workers = num_ranks * self._num_processes
        if num_batches is None:
            longest_share = -(-len(split) // total_workers)
            num_batches = -(-longest_share // batch_size) * self._num_processes
        elif total_workers > len(split):
            raise SettingError(
                f"data.num_workers={num_workers}: {total_workers} loader processes for {len(split)} samples; take fewer"
            )
        self.num_batches = num_batches

    @property
    def _num_processes(self) -> int:
        return max(self.num_workers, 1)

    def __iter__(self) -> Iterator[TokenBatch]:
        info = get_worker_info()
        # The loader asks its processes in turn and begins with batch `first`.
        turn = (self.first + (info.id if info else 0)) % self._num_processes
        batches = range(turn, self.num_batches, self._num_processes)
        num_done = len(range(turn, self.first, self._num_processes))
        worker = StreamWorker(self.rank * self._num_processes + turn, self.num_ranks * self._num_processes)
        samples = self.split.samples(worker, num_done * self.batch_size)
        for _ in batches[num_done:]:
            yield self._batch(list(islice(samples, self.batch_size)))

    def _batch(self, samples: list[StreamedSample]) -> TokenBatch:
        assembler, table = self.split.assembler, self.split.table
        sample, epoch = ([getattr(s, name) for s in samples] for name in ("sample", "epoch"))
        identity = torch.tensor(sample, dtype=torch.int64), torch.tensor(epoch, dtype=torch.int64)
        if not samples:
            return TokenBatch(torch.zeros(0, table.num_tokens, dtype=torch.int64), *identity)
        stored, stored_lengths = (np.stack([getattr(s, name) for s in samples]) for name in ("stored", "lengths"))
        facts = assembler.facts([s.pair for s in samples], [s.caption for s in samples])
        tokens, lengths = assembler.assemble(stored, stored_lengths, facts)
        if not (has_use := has_input_and_target(lengths, table)).all():
            number = sample[int(has_use.argmin())]
            raise ShardError(
                f"{self.split.root}: sample {number} has no token that {', '.join(table.modalities)} could give or "
                "predict; make data without such clips with `python preprocess.py … modalities=…` of this run"
            )
        return TokenBatch(torch.from_numpy(tokens), *identity, lengths_unless_whole(lengths, table))


class StreamLoader:
    """Yields the batches of a rank.

    Its state counts the batches handed out, without those that are prefetched, so that a resumed run continues with the
    batch that would have come next.

    prepare: applied to each batch ahead of the loop (`m3.batches.ahead`), or None.
    """

    def __init__(
        self,
        batches: StreamedBatches,
        pin_memory: bool,
        prepare: Callable[[TokenBatch], TokenBatch] | None = None,
    ) -> None:
        self._batches, self._pin_memory, self._prepare = batches, pin_memory and prepare is None, prepare
        self._num_yielded = 0

    def __len__(self) -> int:
        return self._batches.num_batches

    def __iter__(self) -> Iterator[TokenBatch]:
        self._num_yielded = self._batches.first
        loader = DataLoader(
            self._batches, batch_size=None, num_workers=self._batches.num_workers, pin_memory=self._pin_memory
        )
        for batch in loader if self._prepare is None else ahead(loader, self._prepare):
            self._num_yielded += 1
            yield batch
        self._batches.first = 0

    def state_dict(self) -> dict[str, Any]:
        return {"num_yielded": self._num_yielded, **self._division}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the number of ranks or of loader processes has changed."""
        for key, now in self._division.items():
            if state.get(key) != now:
                raise ValueError(
                    f"a stream can only be resumed with the same number of processes: {key} was {state.get(key)} and "
                    f"is {now}; choose {state.get(key)} again, or data.backend=table, which resumes with any number"
                )
        self._batches.first = state["num_yielded"]

    @property
    def _division(self) -> dict[str, int]:
        return {"num_ranks": self._batches.num_ranks, "num_workers": self._batches.num_workers}
