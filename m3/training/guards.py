"""A loss or a gradient that is not finite: found without waiting for the device, stopped with what replays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from m3.core.files import write_atomic
from m3.training.ranks import sum_over_ranks

MAX_SKIPPED_STEPS = 30
"""With a scaled loss (fp16) fewer steps in a row may have an infinite gradient. Each halves the scale, which is 2¹⁶ at
first: what is still infinite after 30 of them is not the scale's fault."""


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is not finite: the message names step, modality or parameter, and the saved batch."""


@dataclass(frozen=True)
class Fault:
    """What was not finite, on any rank.

    step: optimizer steps until then, that one included.
    what: in words.
    """

    step: int
    what: str


@dataclass(frozen=True)
class _Watched:
    """A step's flags on their way to the host: (K + 1,) int32, ranks with such a loss, then with such a gradient."""

    step: int
    flags: Tensor
    arrival: torch.cuda.Event | None


class Guard:
    """Watches the steps of a training, all ranks alike.

    A step's flags are copied while the device works on and are read in the next step, after the masks, for which the
    host has waited anyway. Until then nothing is lost: `watch` says on the device whether to skip the update.

    Args:
        modalities: names of the K losses.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self._watched: _Watched | None = None
        self._num_skipped: Tensor | int = 0

    def watch(self, step: int, sums: Tensor, grad_norm: Tensor, is_scaled: bool) -> Tensor:
        """Notes a step between its backward pass and its update.

        Args:
            sums: (K,) float losses of this rank.
            grad_norm: () float, of the gradient of all ranks.
            is_scaled: the loss is scaled up and down by a GradScaler, which skips steps of infinite gradients itself.
        Returns:
            () bool on the device: True where the weights must stay as they are.
        """
        is_bad_gradient = ~grad_norm.isfinite()
        if is_scaled:
            self._num_skipped = (self._num_skipped + 1) * is_bad_gradient
            is_bad_gradient = self._num_skipped >= MAX_SKIPPED_STEPS
        flags = sum_over_ranks(torch.cat([~sums.isfinite(), is_bad_gradient[None]]).int())
        arrival, on_host = None, torch.empty_like(flags, device="cpu", pin_memory=flags.is_cuda)
        on_host.copy_(flags, non_blocking=True)
        if flags.is_cuda:
            arrival = torch.cuda.Event()
            arrival.record()
        self._watched = _Watched(step, on_host, arrival)
        return flags.any()

    def fault(self, model: nn.Module, sums: Tensor) -> Fault | None:
        """What was wrong with the step noted last; None where nothing was, and where that was told before.

        Args:
            model: with the gradients of that step.
            sums: (K,) of that step and this rank.
        """
        watched, self._watched = self._watched, None
        if watched is None:
            return None
        if watched.arrival is not None:
            watched.arrival.synchronize()
        *is_bad_loss, is_bad_gradient = watched.flags.tolist()
        bad = [k for k, is_bad in enumerate(is_bad_loss) if is_bad]
        if bad:
            return Fault(watched.step, " and ".join(self._loss(k, float(sums[k])) for k in bad))
        return Fault(watched.step, _gradient(model)) if is_bad_gradient else None

    def _loss(self, k: int, value: float) -> str:
        is_here = not torch.tensor(value).isfinite()
        return f"the loss of {self.modalities[k]} is {value if is_here else 'not finite on another rank'}"


def _gradient(model: nn.Module) -> str:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    if not bad:
        largest = max(gradients, key=lambda name: float(gradients[name].double().norm()))
        return f"the norm of the gradient is not finite, that of {largest} is the largest"
    # Gradients come from the loss: what lies nearest to it was the first.
    return f"the gradient of {bad[-1]} is not finite ({len(bad)} of {len(gradients)} parameters; all losses are finite)"


def save_bad_batch(path: Path, batch: Mapping[str, Tensor], model: nn.Module, facts: Mapping[str, str]) -> None:
    """Writes what replays a step as safetensors, whole or not at all: the batch, weights as `model.…`, and facts."""
    tensors = {**batch, **{f"model.{name}": tensor for name, tensor in model.state_dict().items()}}
    # Clones: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, safetensors.torch.save(tensors, dict(facts)))
