"""Where to say that a joint will be: the place whose disc holds the most probability."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS_PER_RADIUS = 4
EXTENT_RATIOS = (1.01, 1.07, 1.2, 1.49)
"""L over the larger side of the box of one pose of the clip: means of four equal parts of the training poses."""

_REACH = 14  # cells that are looked at on either side of the likeliest place: three and a half radii
_MARGIN = 6  # cells of a disc's radius: the largest ratio times CELLS_PER_RADIUS, rounded up
_SUBCELLS = 9  # along a side of a cell, to find how much of it a disc covers
_SMOOTHING = 8  # canvas cells; of the likeliest place's first guess


def disc_weights(ratios: tuple[float, ...] = EXTENT_RATIOS) -> Tensor:
    """(2 · margin + 1, 2 · margin + 1) float64: how much of each cell around a place lies in its disc.

    The mean over discs of radius ratio · CELLS_PER_RADIUS cells.
    """
    inside = (torch.arange(_SUBCELLS, dtype=torch.float64) + 0.5) / _SUBCELLS - 0.5
    line = (torch.arange(-_MARGIN, _MARGIN + 1)[:, None] + inside).flatten()  # points along an axis
    distance = (line[:, None].square() + line.square()).sqrt()
    radii = torch.tensor(ratios, dtype=torch.float64) * CELLS_PER_RADIUS
    is_in = (distance[..., None] < radii).double().mean(-1)
    side = 2 * _MARGIN + 1
    return is_in.view(side, _SUBCELLS, side, _SUBCELLS).mean((1, 3))


@lru_cache(maxsize=8)
def _kernel(device: torch.device) -> tuple[Tensor, Tensor]:
    """The disc as Σ_k weight_k · e_k(x) · e_k(y): what sums over discs as sums over lines.

    Returns:
        (K,) weights and a (window + 2 · margin, window, K) band matrix: a line's cells → its sums with each e_k.
    """
    values, vectors = torch.linalg.eigh(disc_weights())
    is_used = values.abs() > 1e-9 * values.abs().max()
    values, vectors = values[is_used], vectors[:, is_used]  # (K,), (2 · margin + 1, K)
    window = 2 * _REACH + 1
    band = torch.zeros(window + 2 * _MARGIN, window, len(values), dtype=torch.float64)
    for place in range(window):
        band[place : place + 2 * _MARGIN + 1, place] = vectors
    return values.float().to(device), band.float().to(device)


def best_places(p_x: Tensor, p_y: Tensor, here: Tensor, radius: Tensor, tolerance: float) -> Tensor:
    """The places that are most probably hit.

    A place's worth is the probability of the disc around it. Places are `here` and whole cells of a quarter of a radius
    from it. Of all places worth at least (1 − tolerance) of the best one that which is nearest to `here` is taken:
    a sharp distribution fits into many discs.

    Args:
        p_x, p_y: (R, F, V) probabilities of V equal cells of the canvas along each axis, independent of each other;
            a row's distribution is the mean of its F products.
        here: (R, 2) where the joint is now, in cells of the canvas from its top left corner; may lie outside.
        radius: (R,) of a disc of ratio 1, in cells of the canvas.
        tolerance: in [0, 1).
    Returns:
        (R, 2) in cells of the canvas.
    """
    weights, band = _kernel(p_x.device)
    cell = radius / CELLS_PER_RADIUS  # (R,)
    sums, first = [], []
    for axis, p in enumerate((p_x, p_y)):
        cumulative = F.pad(p.cumsum(-1), (1, 0))  # (R, F, V + 1)
        middle = ((_likeliest(cumulative) - here[:, axis]) / cell).round()  # (R,) whole cells from here
        cells = _resample(cumulative, here[:, axis] + (middle - _REACH - _MARGIN - 0.5) * cell, cell)  # (R, F, …)
        sums.append((cells @ band.flatten(1)).unflatten(-1, band.shape[1:]))  # (R, F, W, K)
        first.append(middle - _REACH)
    along_x, along_y = (line.transpose(1, 2).flatten(2) for line in sums)  # (R, W, F · K)
    worth = (along_x * weights.repeat(p_x.shape[1])) @ along_y.transpose(1, 2)  # (R, W, W): x, then y
    steps = torch.arange(2 * _REACH + 1, device=p_x.device)
    x, y = (start[:, None] + steps for start in first)  # (R, W) cells from here
    distance = x.square()[:, :, None] + y.square()[:, None]
    is_good = worth >= (1 - tolerance) * worth.amax((1, 2), keepdim=True)
    chosen = torch.where(is_good, distance, torch.inf).flatten(1).argmin(1)
    window = 2 * _REACH + 1
    moved = torch.stack([x.gather(1, (chosen // window)[:, None]), y.gather(1, (chosen % window)[:, None])], dim=2)
    return here + moved[:, 0] * cell[:, None]


def _likeliest(cumulative: Tensor) -> Tensor:
    """(R, F, V + 1) → (R,): the middle of the stretch of cells that holds the most, what is nearer counting more."""
    twice = cumulative.mean(1).cumsum(-1)  # (R, V + 1)
    held = twice[:, 2 * _SMOOTHING :] - 2 * twice[:, _SMOOTHING:-_SMOOTHING] + twice[:, : -2 * _SMOOTHING]
    return held.argmax(-1) + _SMOOTHING + 0.5


def _resample(cumulative: Tensor, start: Tensor, cell: Tensor) -> Tensor:
    """(R, F, V + 1) of the canvas's cells → (R, F, window + 2 · margin) probabilities of cells from `start` (R,) on."""
    num_cells, (num_rows, num_products, last) = 2 * (_REACH + _MARGIN) + 1, cumulative.shape
    edges = start[:, None] + torch.arange(num_cells + 1, device=start.device) * cell[:, None]  # (R, n + 1)
    edges = edges.clamp(0, last - 1)
    low = edges.floor().clamp(max=last - 2)
    index = low.long()[:, None].expand(num_rows, num_products, num_cells + 1)
    below, above = cumulative.gather(2, index), cumulative.gather(2, index + 1)
    return (below + (above - below) * (edges - low)[:, None]).diff(dim=2)
