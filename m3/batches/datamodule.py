"""Batches of whole samples for training and evaluation, as a pure function of (seed, step, rank)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from m3.batches.ahead import ahead
from m3.batches.samples import SampleAssembler, has_input_and_target, lengths_unless_whole
from m3.batches.stream import StreamedBatches, StreamedSplit, StreamLoader
from m3.batches.table import TokenTable
from m3.core.modalities import PICTURE, PICTURE_STRIDE, ModalityTable
from m3.core.rng import SampleGenerator, numpy_generator
from m3.core.types import TokenBatch
from m3.core.validation import check
from m3.shards.manifest import FLIP, TABLES_FOLDER, Manifest
from m3.shards.text import read_text_tokenizer

_log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 8192


class Rows(Protocol):
    """Samples that are read by their index."""

    def __len__(self) -> int: ...

    def read(self, sample: np.ndarray, is_flipped: np.ndarray | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, …) int64 tokens of some samples (B,), mirrored where `is_flipped` (B,); and their lengths (B, K), or None
        where they are whole."""
        ...


@runtime_checkable
class MasksBatches(Protocol):
    """A module that chooses inputs and targets of a batch."""

    def masked(self, batch: TokenBatch, purpose: Literal["train", "eval"]) -> TokenBatch:
        """The batch with `packed`, on the same device."""
        ...


class SampleRows:
    """The tokens of a run's modalities, checked whenever they are read.

    Args:
        token_table: of a split.
        table: the run's modalities.
        with_flips: whether mirrored samples are read too.
        needs_words: see `SampleAssembler`.
    Raises:
        ValueError, from `SampleAssembler` and `TokenTable.columns`, where the data set lacks one of these.
    """

    def __init__(
        self, token_table: TokenTable, table: ModalityTable, with_flips: bool = False, needs_words: bool = True
    ) -> None:
        self.table, self._pairs = table, token_table.pairs
        self._assembler = SampleAssembler(token_table.manifest, table, token_table.text_tokenizer, needs_words)
        needed = [modality.name for modality in self._assembler.needed]
        # Plain arrays on the same memory map: indexing a np.memmap is slow.
        self._tokens = np.asarray(token_table.columns(needed))
        self._flipped = np.asarray(token_table.columns(needed, FLIP)) if with_flips else None
        self._lengths = token_table.lengths_of(needed)
        self._facts = self._assembler.facts(token_table.pairs, token_table.captions)

    def __len__(self) -> int:
        return len(self._tokens)

    def read(self, sample: np.ndarray, is_flipped: np.ndarray | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, S) int64 tokens of some samples (B,), mirrored where `is_flipped` (B,), and their lengths (B, K), or None
        where all of them are whole.

        Raises ValueError for an illegal id: a file was damaged since the token table was built and checked.
        """
        stored = np.take(self._tokens, sample, axis=0)
        if is_flipped is not None:
            assert self._flipped is not None, "with_flips=False"
            stored[is_flipped] = self._flipped[sample[is_flipped]]
        if (is_illegal := stored > self._assembler.last_ids).any():
            self._refuse(stored, is_illegal, sample)
        tokens, lengths = self._assembler.assemble(stored, self._lengths[sample], self._facts.rows(sample))
        return torch.from_numpy(tokens), lengths_unless_whole(lengths, self.table)

    def without_use(self) -> np.ndarray:
        """Samples that lack all that the table's alphas could give or ask for, (n,) int64 indices."""
        short = np.flatnonzero((self._lengths == 0).any(1))
        found = []
        for rows in np.array_split(short, len(short) // _ROWS_AT_ONCE + 1):
            lengths = self.read(rows)[1]
            if lengths is not None:
                found.append(rows[~has_input_and_target(lengths.numpy(), self.table)])
        return np.concatenate(found) if found else short[:0]

    def check_use(self, split: str) -> None:
        """Raises ValueError where a sample lacks all that the table's alphas could give or ask for."""
        if len(rows := self.without_use()):
            first = self._pairs[rows[0]].key
            raise ValueError(
                f"{len(rows)} of {len(self)} samples of {split}, such as {first}, have no token that "
                f"{', '.join(self.table.modalities)} could give or predict; make data without such clips with "
                "`python preprocess.py … modalities=…` of this run"
            )

    def _refuse(self, stored: np.ndarray, is_illegal: np.ndarray, sample: np.ndarray) -> None:
        row, column = np.argwhere(is_illegal)[0].tolist()
        name, position = self._assembler.place_of(column)
        raise ValueError(
            f"sample {self._pairs[sample[row]].key}: {name} has id {stored[row, column]} at position {position}, legal "
            f"are 0 … {self._assembler.last_ids[column]}; its token table is damaged: delete the folder "
            f"{TABLES_FOLDER} of the data set, it is built again from the shards"
        )


class TrainBatches(Dataset):
    """Item i is this rank's batch of step i, from an endless sequence of epochs, each shuffled anew.

    All batches are full; one that crosses the end of an epoch is filled up from the next. For a given global batch the
    samples of a step do not depend on the number of ranks. With `flip` each sample is mirrored in half of its epochs,
    chosen by a hash of (seed, epoch, sample).
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        num_steps: int,
        seed: int,
        rank: int,
        num_ranks: int,
        repeat_batches: int | None = None,
        flip: bool = False,
    ) -> None:
        self.rows, self.batch_size, self.num_steps = rows, batch_size, num_steps
        self.seed, self.rank, self.num_ranks = seed, rank, num_ranks
        self.repeat_batches, self.flip = repeat_batches, flip
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> TokenBatch:
        if self.repeat_batches is not None:
            step %= self.repeat_batches
        first = (step * self.num_ranks + self.rank) * self.batch_size
        place = np.arange(first, first + self.batch_size)  # (B,) in the endless sequence of samples
        epoch, place = place // len(self.rows), place % len(self.rows)
        epochs = range(epoch[0], epoch[-1] + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in epochs}
        sample = np.concatenate([self._orders[e][place[epoch == e]] for e in epochs])
        identity = torch.from_numpy(sample), torch.from_numpy(epoch)
        is_flipped = None
        if self.flip:
            is_flipped = (SampleGenerator(self.seed, "flip", *identity).uniform(1)[:, 0] < 0.5).numpy()  # (B,)
        tokens, lengths = self.rows.read(sample, is_flipped)
        return TokenBatch(tokens, *identity, lengths)

    def _order(self, epoch: int) -> np.ndarray:
        return numpy_generator(self.seed, "epoch", epoch).permutation(len(self.rows))


class EvalBatches(Dataset):
    """The samples of a split in order, each exactly once over all ranks, not mirrored.

    All ranks have the same number of batches, so that collective operations match; the last may be smaller or empty.
    """

    def __init__(self, rows: Rows, batch_size: int, rank: int, num_ranks: int) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.samples = np.arange(rank, len(rows), num_ranks)
        self.num_batches = math.ceil(len(rows) / (batch_size * num_ranks))

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> TokenBatch:
        sample = self.samples[index * self.batch_size : (index + 1) * self.batch_size]
        tokens, lengths = self.rows.read(sample)
        return TokenBatch(tokens, torch.from_numpy(sample), torch.zeros(len(sample), dtype=torch.int64), lengths)


def _canvas_hint(table: ModalityTable) -> str:
    """How to make data of the size that the run wants."""
    lengths = [n for n, vocabulary in zip(table.max_seq_lens, table.vocabularies) if vocabulary == PICTURE]
    size = math.isqrt(max(lengths, default=0)) * PICTURE_STRIDE
    return f"; this run wants {max(lengths)} tokens a picture: add canvas.size={size}" if lengths else ""


class _FromStep(Sampler):
    """Indices from `first` on."""

    def __init__(self, length: int) -> None:
        self.first, self.length = 0, length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.length))

    def __len__(self) -> int:
        return self.length


Preparation = Callable[[TokenBatch], TokenBatch]
"""What is done with a batch before a step asks for it, on another thread (`m3.batches.ahead`)."""


class PreparedLoader(DataLoader):
    """Yields the items of `dataset` in order, each prepared ahead where there is a preparation."""

    def __init__(
        self,
        dataset: Dataset,
        num_workers: int,
        pin_memory: bool,
        prepare: Preparation | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.prepare = prepare
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory and prepare is None,
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # Lightning needs no more than an iterator
        items = super().__iter__()
        return items if self.prepare is None else ahead(items, self.prepare)


class ResumableLoader(PreparedLoader):
    """Yields the items of `dataset` in order, each prepared ahead where there is a preparation.

    Its state counts the batches handed out, without those that are prefetched, so that a resumed run continues with the
    batch that would have come next.
    """

    def __init__(
        self, dataset: Dataset, num_workers: int, pin_memory: bool, prepare: Preparation | None = None
    ) -> None:
        assert isinstance(dataset, Sized)
        self._order = _FromStep(len(dataset))
        super().__init__(dataset, num_workers, pin_memory, prepare, self._order)
        self._num_yielded = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # Lightning needs no more than an iterator
        self._num_yielded = self._order.first
        for item in super().__iter__():
            self._num_yielded += 1
            yield item
        self._order.first = 0

    def state_dict(self) -> dict[str, int]:
        return {"num_yielded": self._num_yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._order.first = state["num_yielded"]


class TokenDataModule(pl.LightningDataModule):
    """Train and eval batches of a dataset, from its token tables or from its shards.

    Args:
        root: folder that `preprocess.py` wrote; for a stream any address of `m3.shards.transport`.
        table: the modalities of the run; a batch has their tokens in the table's order.
        batch_size: samples per device and micro-batch.
        eval_batch_size: samples per device and evaluation batch; results do not depend on it.
        seed: of the shuffling.
        accumulation: micro-batches per step; an item of the train loader holds all of them.
        num_workers: loader processes per rank; a memory-mapped table needs none.
        repeat_batches: train on the first `repeat_batches` batches only, over and over; None for all the data.
        flip: train on the mirrored version of a sample in half of its epochs; evaluation uses the original.
        backend: "table" or "stream".
        shuffle_buffer: samples among which a loader process of a stream draws the next one.
    Raises:
        FileNotFoundError, from `Manifest.load`, which names the command that makes the data.
        ValueError if the dataset lacks a modality, has it in another length, or lacks the mirrored versions.
    """

    trainer: pl.Trainer  # type: ignore[assignment]  # Lightning sets it before it asks for a loader

    def __init__(
        self,
        root: str,
        table: ModalityTable,
        batch_size: int,
        eval_batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        repeat_batches: int | None = None,
        flip: bool = False,
        accumulation: int = 1,
        backend: Literal["table", "stream"] = "table",
        shuffle_buffer: int = 4096,
    ) -> None:
        super().__init__()
        check("data.batch_size", batch_size, int, low=1)
        check("data.eval_batch_size", eval_batch_size, int, low=1)
        check("data.num_workers", num_workers, int, low=0)
        check("data.repeat_batches", repeat_batches, int | None, low=1)
        check("data.seed", seed, int, low=0)
        check("data.shuffle_buffer", shuffle_buffer, int, low=1)
        if backend not in ("table", "stream"):
            raise ValueError(f"data.backend={backend!r}: choose table or stream")
        if backend == "stream" and repeat_batches is not None:
            raise ValueError(f"data.repeat_batches={repeat_batches}: a stream only goes on; add data.backend=table")
        if not isinstance(flip, bool):
            raise ValueError(f"data.flip={flip!r}: choose true or false")
        self.repeat_batches, self.flip = repeat_batches, flip
        self.seed, self.num_workers = seed, num_workers
        self.batch_size, self.eval_batch_size = batch_size * accumulation, eval_batch_size
        self.backend, self.shuffle_buffer, self.table = backend, shuffle_buffer, table
        try:
            self.manifest = Manifest.load(root)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data.root={root}: {error}{_canvas_hint(table)}") from None
        try:
            self.text_tokenizer_json = read_text_tokenizer(root, self.manifest)
            if backend == "stream":
                self.train_stream = StreamedSplit(root, self.manifest, "train", table, seed, shuffle_buffer, flip)
                self.eval_stream = StreamedSplit(root, self.manifest, "eval", table)
            else:
                self.train_table = TokenTable.open(root, "train")
                self.train_rows = SampleRows(self.train_table, table, with_flips=flip)
                self.eval_rows = SampleRows(TokenTable.open(root, "eval"), table)
                self.train_rows.check_use("train")
                self.eval_rows.check_use("eval")
        except ValueError as error:
            raise ValueError(f"data.root={root}: {error}") from None
        for split in ("train", "eval"):
            if not self.manifest.num_pairs(split):
                raise ValueError(f"data.root={root}: its {split} split is empty; make data of more clips")

    @property
    def identity(self) -> dict[str, Any]:
        """Canvas, tokenizers and labels, to which a model is bound, and data and order, to which a resumed run is.

        With the modality gap_next also "median_gap", the usual gap of the data in frames, and with seconds_next
        "median_gap_s", the usual gap in seconds, where the manifest has them.
        """
        manifest, order, words = self.manifest, {}, dict[str, Any]()
        if "action" in self.table.modalities:
            words["actions"] = list(manifest.actions)
        if "captions" in self.table.modalities:
            words["text_tokenizer"] = self.text_tokenizer_json
        if "gap_next" in self.table.modalities and manifest.median_gap is not None:
            words["median_gap"] = manifest.median_gap
        if "seconds_next" in self.table.modalities and manifest.median_gap_s is not None:
            words["median_gap_s"] = manifest.median_gap_s
        if self.backend == "stream":
            order = {name: getattr(self, name) for name in ("backend", "num_workers", "shuffle_buffer")}
        return {
            "canvas_size": manifest.canvas_size,
            "tokenizer": manifest.tokenizer["name"],
            "tokenizer_fingerprint": manifest.tokenizer["fingerprint"],
            **{f"{split}_shards": [shard.sha256 for shard in manifest.shards[split]] for split in ("train", "eval")},
            "flip": self.flip,
            "preparation": manifest.preparation,
            **words,
            **order,
        }

    def train_dataloader(self) -> ResumableLoader | StreamLoader:
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        num_steps = self.trainer.max_steps
        if self.backend == "stream":
            if rank == 0:
                self._warn_of_many_processes(num_ranks * max(self.num_workers, 1))
            streamed = StreamedBatches(
                self.train_stream, self.batch_size, rank, num_ranks, self.num_workers, num_batches=num_steps
            )
            return StreamLoader(streamed, self._is_on_gpu, self._preparation("train"))
        batches = TrainBatches(
            self.train_rows, self.batch_size, num_steps, self.seed, rank, num_ranks, self.repeat_batches, self.flip
        )
        return ResumableLoader(batches, self.num_workers, self._is_on_gpu, self._preparation("train"))

    def val_dataloader(self) -> PreparedLoader | StreamLoader:
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        if self.backend == "stream":
            streamed = StreamedBatches(self.eval_stream, self.eval_batch_size, rank, num_ranks, self.num_workers)
            return StreamLoader(streamed, self._is_on_gpu, self._preparation("eval"))
        batches = EvalBatches(self.eval_rows, self.eval_batch_size, rank, num_ranks)
        return PreparedLoader(batches, self.num_workers, self._is_on_gpu, self._preparation("eval"))

    def _warn_of_many_processes(self, num_processes: int) -> None:
        """Logs how often shards are fetched where several loader processes share one."""
        train, evaluation = self.train_stream, self.eval_stream
        if num_processes > len(train.shards):
            _log.warning(
                "data.num_workers=%d: %d loader processes in all fetch %d train shards %d times in each epoch and %d "
                "eval shards %d times in each evaluation: a shard that several share goes to each of them; take fewer "
                "processes, or make smaller shards with `python preprocess.py pairs_per_shard=…`",
                self.num_workers, num_processes, len(train.shards), train.num_fetches(num_processes),
                len(evaluation.shards), evaluation.num_fetches(num_processes),
            )  # fmt: skip

    def _preparation(self, purpose: Literal["train", "eval"]) -> Preparation | None:
        """On a GPU, where the module masks batches: their masks, so that no step waits for the sizes of its own."""
        if not self._is_on_gpu or not isinstance(module := self.trainer.lightning_module, MasksBatches):
            return None
        return lambda batch: module.masked(batch, purpose).pin_memory()

    @property
    def _is_on_gpu(self) -> bool:
        return self.trainer.strategy.root_device.type == "cuda"
