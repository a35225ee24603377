"""From probabilities to a forecast: the displacement of a joint that most probably counts as a hit."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from m3.core.modalities import MOTION_SIDE
from m3.tokens.motion import cell_centers, grid_to_displacement

EXTENT_RATIOS = (1.01, 1.07, 1.2, 1.49)
"""L over the larger side of the box around one pose: means over four equal parts of the sorted training poses."""

_SUBCELLS = 5  # sample points along a side of a cell, to estimate how much of it a disc covers


@lru_cache(maxsize=8)
def disc_shares(radius: float) -> Tensor:
    """(V, V) float32, at [c, k] the share of cell c inside the disc around the center of cell k.

    The mean over discs of radius ratio · `radius` for `EXTENT_RATIOS`, because L itself is unknown at inference.
    `radius` is in sides of the pose's box.
    """
    centers = cell_centers()  # (V, 2)
    inside = (np.arange(MOTION_SIDE)[:, None] + (np.arange(_SUBCELLS) + 0.5) / _SUBCELLS).ravel()
    points = grid_to_displacement(inside)  # along an axis
    shares = np.empty((len(centers), len(centers)), dtype=np.float32)
    for place, (x, y) in enumerate(centers):
        distance = np.hypot(points[:, None] - y, points - x)  # rows along y
        is_in = np.mean([distance < radius * ratio for ratio in EXTENT_RATIOS], axis=0)
        shares[:, place] = is_in.reshape(MOTION_SIDE, _SUBCELLS, MOTION_SIDE, _SUBCELLS).mean((1, 3)).ravel()
    with torch.inference_mode(False):  # kept for all callers
        return torch.from_numpy(shares)


def best_places(probabilities: Tensor, radius: float) -> Tensor:
    """The displacement with the largest probability of a hit: the center of a cell, or 0.

    The probability of a hit is that of the disc around the displacement (`disc_shares`). Ties with 0 go to 0.

    Args:
        probabilities: (R, V) of the cells.
        radius: largest distance of a hit, in sides of the pose's box.
    Returns:
        (R, 2) float32 displacements, x then y, in sides of the pose's box.
    """
    worth = probabilities @ disc_shares(radius).to(probabilities)  # (R, V)
    still = worth[:, worth.shape[1] // 2, None]  # (R, 1)
    best, place = worth.max(1, keepdim=True)
    moved = torch.from_numpy(cell_centers()).float().to(worth.device)[place[:, 0]]
    return torch.where(best > still, moved, 0.0)
