"""Which scores there are, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from m3.metrics.measures import psnr_db

BASELINES = ("nothing_moves", "constant_velocity")
"""Series that the model is compared with, pair by pair."""

OF_JOINTS = ("pck@0.05", "pck@0.1", "joint_error", "visibility_f1", "coords_accuracy")
OF_PICTURES = ("psnr", "ssim", "psnr_real", "ssim_real", "tok_rgb_accuracy", "agreement", "agreement@0.05",
               "diversity_pictures")  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A score: its unit, whether "higher", "lower" or "neither" is better, and what the quotient of sums still needs.

    is_error: the quotient itself is better where it is lower, whatever becomes of it.
    """

    unit: str
    is_better: str
    is_error: bool = False
    transform: Callable[[np.ndarray], np.ndarray] = lambda quotients: quotients


KINDS = {
    "pck@0.05": Kind("share", "higher"),
    "pck@0.1": Kind("share", "higher"),
    "joint_error": Kind("px", "lower", is_error=True),
    "visibility_f1": Kind("share", "higher"),
    "psnr": Kind("dB", "higher", True, psnr_db),
    "ssim": Kind("share", "higher"),
    "psnr_real": Kind("dB", "higher", True, psnr_db),
    "ssim_real": Kind("share", "higher"),
    "tok_rgb_accuracy": Kind("share", "higher"),
    "coords_accuracy": Kind("share", "higher"),
    "agreement": Kind("share", "higher"),
    "agreement@0.05": Kind("share", "higher"),
    "diversity_joints": Kind("px", "neither"),
    "diversity_pictures": Kind("levels", "neither", transform=np.sqrt),
}
