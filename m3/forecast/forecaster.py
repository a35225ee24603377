"""A trained model as a forecaster of poses."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m3.batches.futures import check_forecast_table, given_tokens
from m3.clips.canvas import PadCanvas
from m3.core.joints import MIRRORED, NUM_JOINTS, Joints
from m3.core.modalities import MOTION_SIDE, NUM_HORIZONS, NUM_JOINT_BINS, UNSEEN_MOTION
from m3.forecast.places import best_places
from m3.forecast.protocol import THRESHOLD, ForecastClip, nothing_moves
from m3.masking.select import pack
from m3.model.encoder_decoder import EncoderDecoder
from m3.tokens.joints import JointCodec
from m3.tokens.pose_box import PoseBox, mirrored


class Forecaster:
    """Forecasts the 16 future poses of single poses, every horizon in one forward pass.

    Args:
        model: trained on `modalities=forecast`, in eval mode.
        canvas_size: side of the canvas that it was trained on, px.
        mirror: average the predictions for the pose and for its mirror image; twice the work.
        dtype: "fp32" or "bf16", in which all but the probabilities is computed; bf16 is faster on processors with
            bfloat16 instructions.
    Raises:
        ValueError for a model of other modalities, or another dtype.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        canvas_size: int,
        mirror: bool = True,
        dtype: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        check_forecast_table(model.table)
        if dtype not in ("fp32", "bf16"):
            raise ValueError(f"forecast.dtype={dtype!r}: choose fp32 or bf16")
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self.model, self.table, self.mirror = model, model.table, mirror
        self.canvas = PadCanvas(canvas_size)
        self.codec = JointCodec(canvas_size)

    def forecast(self, clip: ForecastClip, starts: np.ndarray) -> np.ndarray:
        """(N,) first frames of a clip → (N, 16, 13, 2) forecast joints in continuous pixels of the label's frame.

        Where the clip is so short that its step is 0, every horizon is the first frame itself.
        """
        if clip.step == 0:
            return nothing_moves(clip, starts)
        window, label = self.canvas.window(clip.label.size), clip.label
        here = Joints(label.joints.xy[starts], label.joints.is_visible[starts])
        joints = window.joints(here)
        poses = self.codec.encode(joints.xy, joints.is_visible)  # (N, 3, 13)
        probabilities = self.probabilities(poses, clip.step).flatten(0, 2)
        moved = best_places(probabilities.to(self.dtype), THRESHOLD).double().cpu().numpy()
        side = PoseBox.around(poses).side * (self.canvas.size / (NUM_JOINT_BINS - 1))  # (N,) px of the canvas
        moved = moved.reshape(len(starts), NUM_HORIZONS, NUM_JOINTS, 2) * side[:, None, None, None]
        return here.xy[:, None] + moved / window.scale

    @torch.inference_mode()
    def probabilities(self, poses: np.ndarray, step: int) -> Tensor:
        """(N, 3, 13) joint tokens → (N, 16, 13, V) float32 probabilities of the cells of each motion token.

        With `mirror` the mean of the predictions for the pose and for its mirror image.
        """
        probabilities = self._one_way(poses, step)
        if not self.mirror:
            return probabilities
        other = self._one_way(mirrored(poses), step)[:, :, MIRRORED]
        other = other.unflatten(-1, (MOTION_SIDE, MOTION_SIDE)).flip(-1).flatten(-2)
        return probabilities.add_(other).div_(2)

    def _one_way(self, poses: np.ndarray, step: int) -> Tensor:
        """`probabilities` without mirroring."""
        given = torch.from_numpy(given_tokens(poses, np.array(step)))  # (N, 40)
        rows = torch.zeros(len(given), self.table.num_tokens, dtype=torch.int64)
        rows[:, : given.shape[1]] = given
        rows = rows.to(next(self.model.parameters()).device)
        is_given = torch.zeros_like(rows, dtype=torch.bool)
        is_given[:, : given.shape[1]] = True
        with torch.autocast(rows.device.type, self.dtype, enabled=self.dtype is torch.bfloat16):
            hidden = self.model(pack(rows, is_given, self.table), pack(rows, ~is_given, self.table))  # (M, D)
            (logits,) = self.model.digit_logits(hidden, self.table.index("motion"), UNSEEN_MOTION)
        return logits.float().softmax(-1).view(len(given), NUM_HORIZONS, NUM_JOINTS, UNSEEN_MOTION)
