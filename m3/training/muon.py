"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for matrices and kernels, AdamW for other weights.

Not `torch.optim.Muon`: it takes two-dimensional parameters only, and needs a second optimizer for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalized(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """(R, C) → (R, C) float32 with the same singular vectors and singular values of 0.7 … 1.2, by Newton-Schulz."""
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(num_iterations):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return (x.T if is_tall else x).float()


class Muon(torch.optim.Optimizer):
    """Orthogonalized Nesterov momentum for kernels (out, in, …), as matrices (out, in · …); AdamW for other weights.

    Muon's step is scaled to the root mean square 0.2 of an Adam step (Liu et al. 2025, arXiv:2502.16982;
    `adjust_lr_fn="match_rms_adamw"` of `torch.optim.Muon`). With an attribute `found_inf` above 0, a () tensor, a step
    changes nothing, as in torch's fused optimizers.

    Args:
        parameters: of the model.
        lr: of Muon. adam_lr: of AdamW.
        weight_decay: decoupled, for the kernels. adam_weight_decay: for the other weights of two or more dimensions.
        momentum: of Muon. betas: of AdamW.
        kernels: the parameters that Muon updates; None for all of two or more dimensions but depthwise kernels, whose
            `in` is 1.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        adam_lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        adam_weight_decay: float = 0.0,
        kernels: Sequence[nn.Parameter] | None = None,
    ) -> None:
        parameters = list(parameters)
        if kernels is None:
            kernels = [p for p in parameters if p.ndim > 1 and p.shape[1] > 1]
        chosen = {id(p) for p in kernels}
        others = [p for p in parameters if id(p) not in chosen]
        decayed, rest = ([p for p in others if (p.ndim > 1 and adam_weight_decay > 0) == yes] for yes in (True, False))
        groups = [
            {"params": list(kernels), "is_muon": True, "lr": lr, "weight_decay": weight_decay},
            {"params": rest, "is_muon": False, "lr": adam_lr, "weight_decay": 0.0},
        ]
        if decayed:
            groups.append({"params": decayed, "is_muon": False, "lr": adam_lr, "weight_decay": adam_weight_decay})
        super().__init__(groups, {"momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride] (the stub of its overloads)
        self, closure: Callable[[], Tensor] | None = None
    ) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.found_inf is not None and self.found_inf.item():
            return loss
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    (self._muon_step if group["is_muon"] else self._adam_step)(p, p.grad, group)
        return loss

    def _muon_step(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        step = orthogonalized(grad.lerp(state["momentum"], group["momentum"]).flatten(1))
        scale = 0.2 * max(step.shape) ** 0.5
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(step.view_as(p), alpha=-group["lr"] * scale)

    def _adam_step(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta_1, beta_2) = self.state[p], group["betas"]
        if not state:
            state["mean"], state["square"], state["count"] = torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())
        state["count"] += 1
        state["mean"].lerp_(grad, 1 - beta_1)
        state["square"].lerp_(grad.square(), 1 - beta_2)
        count = state["count"].item()
        mean = state["mean"] / (1 - beta_1**count)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(group["lr"] * mean / ((state["square"] / (1 - beta_2**count)).sqrt() + 1e-8))
