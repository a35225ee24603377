"""Every score but the agreement, of one kind of frames against the truth: what the model made, what a baseline says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3.core.frames import Frames, TokenFrames
from m3.core.joints import NUM_JOINTS
from m3.metrics.baselines import PoseFrames
from m3.metrics.measures import Tally, joint_error_px, pck, squared_error, ssim, token_accuracy, visibility_f1
from m3.tokens.joints import JointCodec

Tallies = dict[str, Tally]
"""Score → tally over N samples and T horizons."""


@dataclass(frozen=True)
class RolloutTokens:
    """The tokens of roll-outs and of their truth, (N, T + 1) frames each, and the codec of their joints."""

    predicted: TokenFrames
    truth: TokenFrames
    codec: JointCodec

    def of_joints(self, frames: PoseFrames) -> TokenFrames:
        """What tokens can say of a baseline's joints, which may leave the canvas; its pictures are the truth's."""
        on_canvas = frames.xy.clip(0, self.codec.canvas_size)
        coords = self.codec.encode(on_canvas, frames.is_visible).astype(np.int64)  # (N, T + 1, 3, 13)
        return TokenFrames(self.truth.tok_rgb, coords.reshape(self.truth.coords.shape), frames.is_present)


def joint_tallies(frames: Frames | PoseFrames, truth: Frames, extent: np.ndarray) -> Tallies:
    """`frames`, `truth`: (N, T + 1). `extent`: (N,) pose_extent_px."""
    is_present = (truth.is_present & frames.is_present)[:, 1:]
    xy, true_xy = frames.xy[:, 1:], truth.xy[:, 1:]
    is_scored = truth.is_visible[:, 1:] & is_present[..., None]
    return {
        "pck@0.05": pck(xy, true_xy, is_scored, extent, 0.05),
        "pck@0.1": pck(xy, true_xy, is_scored, extent, 0.1),
        "joint_error": joint_error_px(xy, true_xy, is_scored),
        "visibility_f1": visibility_f1(frames.is_visible[:, 1:], truth.is_visible[:, 1:], is_present),
    }


def token_tallies(
    frames: TokenFrames, truth: TokenFrames, names: Sequence[str] = ("tok_rgb_accuracy", "coords_accuracy")
) -> Tallies:
    """x and y tokens count where the joint is visible in the truth: those of invisible joints are never targets."""
    is_present = (truth.is_present & frames.is_present)[:, 1:, None]
    true_coords, true_pictures = truth.coords[:, 1:], truth.tok_rgb[:, 1:]
    is_visible = true_coords[..., 2 * NUM_JOINTS :].astype(bool)
    is_scored = np.concatenate([is_visible, is_visible, np.ones_like(is_visible)], -1) & is_present
    found = {
        "tok_rgb_accuracy": token_accuracy(
            frames.tok_rgb[:, 1:], true_pictures, np.broadcast_to(is_present, true_pictures.shape)
        ),
        "coords_accuracy": token_accuracy(frames.coords[:, 1:], true_coords, is_scored),
    }
    return {name: found[name] for name in names}


def picture_tallies(pictures: np.ndarray, true_pictures: np.ndarray, is_scored: np.ndarray) -> Tallies:
    """(N, T + 1, H, W, 3) uint8 both, (N, T + 1) bool; the references count for nothing."""
    shape = len(is_scored), is_scored.shape[1] - 1
    found = {name: Tally(np.zeros(shape), is_scored[:, 1:].astype(float)) for name in ("psnr", "ssim")}
    for n, k in np.argwhere(is_scored[:, 1:]):
        pair = pictures[n, k + 1], true_pictures[n, k + 1]
        found["psnr"].numerator[n, k], found["ssim"].numerator[n, k] = squared_error(*pair), ssim(*pair)
    return found
