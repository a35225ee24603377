"""Signs that joints look right and are wrong, whatever file they are from."""

from __future__ import annotations

import numpy as np

from m3.clips.sanitize_joints import is_valid_position
from m3.core.joints import JOINT_NAMES

SURE_SHARE_OUTSIDE, SHARE_OUTSIDE = 0.1, 0.5
"""Share of the visible joints that may lie outside the picture: of networks that look for joints in the picture, and of
all others, which also place the feet of a person who is seen to the hips."""

_MARGIN = 0.05
"""How far outside, as a share of the picture's sides, a place still counts as inside."""

_MIN_POSES, _MIN_CROSSED = 8, 0.9


def no_place(xy: np.ndarray) -> np.ndarray:
    """(…, 2) → (…) bool, whether a place means "missing": NaN, absurdly large, (0, 0), or like (-1, -1)."""
    x, y = xy[..., 0], xy[..., 1]
    return ~is_valid_position(xy) | ((x == y) & ((x == 0) | ((x < 0) & (x == np.round(x)))))


def is_share_of_sides(xy: np.ndarray) -> bool:
    """Whether (k, 2) known places, nearly all of them, are shares of the sides: a body is larger than a pixel."""
    return len(xy) > 0 and bool((np.quantile(np.abs(xy), 0.95, axis=0) <= 1.5).all())


def share_outside(xy: np.ndarray, width: int, height: int) -> float:
    """Share of (k, 2) known places that lie clearly outside a picture of width x height pixels."""
    limits = np.array([width, height])
    is_outside = ((xy < -_MARGIN * limits) | (xy > (1 + _MARGIN) * limits)).any(axis=1)
    return float(is_outside.mean()) if len(xy) else 0.0


def outside_fault(xy: np.ndarray, size: tuple[int, int], limit: float) -> tuple[str, bool] | None:
    """What is wrong with (k, 2) known places that are not in the picture, and whether x and y are exchanged.

    size: (height, width) pixels. limit: share of the places that may lie outside. None: nothing is wrong.
    """
    height, width = size
    outside = share_outside(xy, width, height)
    if outside <= limit:
        return None
    farthest = f"up to ({xy[:, 0].max():.0f}, {xy[:, 1].max():.0f}) of {width} x {height} px (width x height)"
    if share_outside(xy[:, ::-1], width, height) <= min(limit, SURE_SHARE_OUTSIDE):
        return (
            f"{100 * outside:.0f}% of the visible joints lie outside the picture, {farthest}: x and y exchanged",
            True,
        )
    return (
        f"{100 * outside:.0f}% of the visible joints lie outside the picture, {farthest}: of another resolution",
        False,
    )


def crossed(xy: np.ndarray, is_known: np.ndarray) -> str | None:
    """Why the sides of shoulders and hips cannot both be right; None where they can.

    xy: (m, 13, 2). is_known: (m, 13). Where both pairs are seen broadly they are turned alike, but for twists of the
    body: turned against each other in nearly all frames, one of them has its sides exchanged.
    """
    columns = [JOINT_NAMES.index(f"{side}_{part}") for part in ("shoulder", "hip") for side in ("left", "right")]
    pairs = xy[:, columns].reshape(-1, 2, 2, 2)  # (m, shoulders and hips, left and right, x and y)
    across = pairs[:, :, 0] - pairs[:, :, 1]
    trunk = np.linalg.norm(pairs[:, 0].mean(1) - pairs[:, 1].mean(1), axis=-1)
    lengths = np.linalg.norm(across, axis=-1)  # (m, 2)
    is_broad = is_known[:, columns].all(1) & (lengths > trunk[:, None] * (0.35, 0.25)).all(1)
    cosine = across.prod(1).sum(-1)[is_broad] / np.maximum(lengths.prod(1)[is_broad], 1e-9)
    num_crossed = int((cosine < -0.5).sum())
    if len(cosine) < _MIN_POSES or num_crossed < _MIN_CROSSED * len(cosine):
        return None
    return f"left and right of shoulders and hips are crossed in {num_crossed} frames"
