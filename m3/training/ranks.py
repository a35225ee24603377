"""The processes of a training: which is the first one, and sums over them."""

from __future__ import annotations

import math
import os
import time

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor


def is_first_process() -> bool:
    """Whether this process is the first of its training, known before the processes have found each other."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return rank_zero_only.rank == 0 and node == "0"  # pyright: ignore[reportFunctionMemberAccess]


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, as a new tensor. Not `strategy.reduce`, which also adds a barrier and works in place."""
    total = tensor.clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total


_SECONDS_BETWEEN_VOTES = 1.0


class StopVote:
    """At which steps the ranks of a training ask each other whether one of them was asked to stop.

    Asking makes the host wait for the device, so it is done about once a second: after every slow step, and after many
    short ones. All ranks ask at the same steps, as the number of steps in between follows from the slowest rank's time.
    """

    def __init__(self) -> None:
        self._next_step = 0
        self._last_step, self._last_time = 0, -math.inf  # the first vote is followed by one after the next step

    def is_due(self, step: int) -> bool:
        """Whether the ranks ask each other after this step."""
        return step >= self._next_step

    def any_rank(self, was_asked: bool, step: int, trainer: pl.Trainer) -> bool:
        """Whether any rank was asked to stop. Called by all ranks, after the same step."""
        now = time.monotonic()
        seconds = (now - self._last_time) / max(step - self._last_step, 1)
        facts = torch.tensor([float(was_asked), seconds], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(facts, op=torch.distributed.ReduceOp.MAX)
        any_asked, slowest = facts.tolist()
        self._next_step = step + max(1, min(1000, int(_SECONDS_BETWEEN_VOTES / max(slowest, 1e-6))))
        self._last_step, self._last_time = step, now
        return any_asked > 0
