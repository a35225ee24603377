"""What Ray's actors do: one kind prepares clips, the other encodes them. Rows of Ray Data go in and come out."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from m3.captions import Captioner
from m3.core.types import Rejection
from m3.preprocessing.encode import ClipEncoder
from m3.preprocessing.executors import Encoded, encode_clip
from m3.preprocessing.prepare import ClipPreparer
from m3.preprocessing.workers import MAX_DEATHS_IN_A_ROW, ClipWork, ClipWorker, is_death, workers_die
from m3.tokens.base import PictureTokenizer
from m3.tokens.encoding import torch_threads

Row = dict[str, Any]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The result for one clip.

    result: the encoded clip or the survey, or the error that ends the run.
    host: name of the machine that computed it.
    """

    clip_id: str
    result: Result | Exception
    host: str


class PreparingActor:
    """{"clip"} → {"clip", "prepared", "host"}. The work is done by a child process, which a clip may crash.

    work: the preparer, or the surveyor: "prepared" is then the survey.
    """

    def __init__(self, work: ClipWork[Any], folder: str) -> None:
        _enter(folder)
        self._worker, self._deaths_in_a_row = ClipWorker(work), 0

    def __call__(self, row: Row) -> Row:
        item = self._worker(row["clip"])
        self._deaths_in_a_row = self._deaths_in_a_row + 1 if is_death(item) else 0
        if self._deaths_in_a_row == MAX_DEATHS_IN_A_ROW:
            item = workers_die(row["clip"])
        return {**row, "prepared": pickle.dumps(item), "host": socket.gethostname()}


@dataclass(frozen=True)
class EncoderMaker:
    """Makes the encoder on the machine of an actor, with its devices.

    make_tokenizer, make_captioner: the networks.
    fingerprints: of the driver's tokenizer and captioner; those made here must be the same.
    batch_size, num_threads: of the tokenizer.
    """

    preparer: ClipPreparer
    make_tokenizer: Callable[[], PictureTokenizer]
    make_captioner: Callable[[], Captioner]
    fingerprints: tuple[str | None, str | None]
    batch_size: int
    num_threads: int

    def __call__(self) -> ClipEncoder:
        """Raises OSError or ValueError, naming this machine, where a network is missing or has other weights."""
        host = socket.gethostname()
        try:
            tokenizer, captioner = self.make_tokenizer(), self.make_captioner()
        except Exception as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError | ValueError) else error  # Hydra wraps it
            raise ValueError(f"{host}: {cause}") from error
        if (tokenizer.fingerprint, captioner.fingerprint) != self.fingerprints:
            raise ValueError(
                f"{host}: the weights of tokenizer or captioner are other ones than here (fingerprints "
                f"{tokenizer.fingerprint}, {captioner.fingerprint}; here {', '.join(map(str, self.fingerprints))})"
            )
        return ClipEncoder(self.preparer, tokenizer, captioner, self.batch_size)


class EncodingActor:
    """{"clip", "prepared", "host"} → {"outcome"}. Errors are returned: Ray would treat raised ones as its own."""

    def __init__(self, make_encoder: EncoderMaker, folder: str) -> None:
        _enter(folder)
        self._make_encoder = make_encoder

    @cached_property
    def _encoder(self) -> ClipEncoder:
        return self._make_encoder()

    def __call__(self, row: Row) -> Row:
        host, item = row["host"], pickle.loads(row["prepared"])
        try:
            if not isinstance(item, Rejection | Exception):
                host = socket.gethostname()
                with torch_threads(self._make_encoder.num_threads):
                    item = encode_clip(self._encoder, item)
        except Exception as error:
            item = error
        result = Encoded(item, 0) if isinstance(item, Rejection) else item
        return {"outcome": pickle.dumps(Outcome(row["clip"], result, host))}


def _enter(folder: str) -> None:
    """Work in the driver's folder, where this machine has it, so that relative paths have the same meaning."""
    with suppress(OSError):
        os.chdir(folder)
