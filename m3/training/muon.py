"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for matrices and kernels, AdamW for other weights.

Not `torch.optim.Muon`: it takes two-dimensional parameters only, and needs a second optimizer for the others.
"""

# torch documents its foreach functions, under names that begin with "_":
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


def orthogonalized(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """(…, R, C) → (…, R, C) float32: the same singular vectors, singular values of 0.7 … 1.2, by Newton-Schulz."""
    x = matrices.bfloat16()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return (x.mT if is_tall else x).float()


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
            if parameters := [p for p in group["params"] if p.grad is not None]:
                update = self._update_by_muon if group["is_muon"] else self._update_by_adam
                update(parameters, [p.grad for p in parameters], group)
        return loss

    def _update_by_muon(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Kernels of one shape are orthogonalized together: a GPU's host launches a tenth of the operations."""
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        of_shape = defaultdict[torch.Size, list[tuple[Tensor, Tensor]]](list)
        for p, direction in zip(parameters, directions):
            matrix = direction.flatten(1)
            of_shape[matrix.shape].append((p, matrix))
        for shape, members in of_shape.items():
            steps = orthogonalized(torch.stack([matrix for _, matrix in members]))
            alike = [step.view_as(p) for (p, _), step in zip(members, steps)]
            torch._foreach_add_([p for p, _ in members], alike, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _update_by_adam(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(mean=torch.zeros_like(p), square=torch.zeros_like(p), count=torch.zeros(()))
        means, squares, counts = ([self.state[p][name] for p in parameters] for name in ("mean", "square", "count"))
        beta_1, beta_2 = group["betas"]
        adamw(
            parameters, gradients, means, squares, [], counts, foreach=True, amsgrad=False, beta1=beta_1, beta2=beta_2,
            lr=group["lr"], weight_decay=group["weight_decay"], eps=1e-8, maximize=False,
        )  # fmt: skip
