"""Detection of losses and gradients that are not finite, without a wait for the device, and the file for a replay."""

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
"""Limit of consecutive steps with an infinite gradient under a scaled loss (fp16). Each of them halves the scale, which
is 2¹⁶ at first: a gradient that is still infinite after 30 halvings is not infinite because of the scale."""


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is not finite; the message names step, modality or parameter, and the saved batch."""


@dataclass(frozen=True)
class Fault:
    """A value that is not finite, on any rank.

    step: number of the optimizer step, from 1.
    what: its description for the message.
    """

    step: int
    what: str


@dataclass(frozen=True)
class _Watched:
    """Flags of a step on their way to the host.

    flags: (K + 1,) int32 numbers of ranks: with a bad loss of each modality, then with a bad gradient.
    arrival: end of the copy to the host; None where the flags were there already.
    """

    step: int
    flags: Tensor
    arrival: torch.cuda.Event | None


class Guard:
    """Watches the losses and gradients of a training; its findings are equal on all ranks.

    The flags of a step are copied to the host asynchronously and read in the next step, on a GPU after its forward
    pass, so that the host waits while the device works. Until then weights are safe: the result of `watch` skips the
    update on the device.

    Args:
        modalities: names of the K losses.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self._watched: _Watched | None = None
        self._num_skipped: Tensor | int = 0

    def watch(self, step: int, sums: Tensor, grad_norm: Tensor, is_scaled: bool) -> Tensor:
        """Checks a step, between its backward pass and its update.

        Args:
            step: number of the optimizer step, from 1.
            sums: (K,) float losses of this rank.
            grad_norm: () float norm of the gradient of all ranks.
            is_scaled: a GradScaler scales the loss, and skips steps with infinite gradients itself.
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
        """The fault of the step that was checked last; None if it has none, or was returned before.

        Args:
            model: still has the gradients of that step.
            sums: (K,) losses of that step on this rank.
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
    # Gradients flow from the loss backwards: the last bad parameter was the first to become bad.
    return f"the gradient of {bad[-1]} is not finite ({len(bad)} of {len(gradients)} parameters; all losses are finite)"


def save_bad_batch(path: Path, batch: Mapping[str, Tensor], model: nn.Module, facts: Mapping[str, str]) -> None:
    """Writes a safetensors file for replaying a step: `batch`, the weights as `model.…`, `facts` as metadata."""
    tensors = {**batch, **{f"model.{name}": tensor for name, tensor in model.state_dict().items()}}
    # Clones: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, safetensors.torch.save(tensors, dict(facts)))
