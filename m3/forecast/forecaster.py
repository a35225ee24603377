"""A trained model as a forecaster of poses."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from m3.batches.futures import NUM_HORIZONS, check_forecast_table, horizon_tokens
from m3.batches.jitter import mirrored
from m3.clips.canvas import PadCanvas
from m3.clips.mirror import MIRRORED
from m3.forecast.places import best_places
from m3.forecast.protocol import THRESHOLD, ForecastClip
from m3.masking.select import pack
from m3.modalities import COORDS_LENGTH, JOINT_LEVELS
from m3.model.encoder_decoder import EncoderDecoder
from m3.records import NUM_JOINTS, Joints
from m3.tokens.joints import JointCodec

_SMALLEST_SIDE_PX = 8.0
"""Of a pose's box on the canvas, where all joints have fallen together."""


class Forecaster:
    """Tells the 16 future poses of single poses, each horizon directly.

    Args:
        model: trained on `modalities=forecast`, in eval mode.
        canvas_size: side of the canvas it was trained on, px.
        mirror: average what it says of the pose and of its mirror image; twice the work.
        tolerance: see `m3.forecast.places.best_places`.
        dtype: bf16 computes all but the logits in it, faster where the processor knows bfloat16.
    Raises:
        ValueError for a model of other modalities, or another dtype.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        canvas_size: int,
        mirror: bool = True,
        tolerance: float = 0.0,
        dtype: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        check_forecast_table(model.table)
        if dtype not in ("fp32", "bf16"):
            raise ValueError(f"forecast.dtype={dtype!r}: choose fp32 or bf16")
        self.is_bf16 = dtype == "bf16"
        self.model, self.table, self.mirror, self.tolerance = model, model.table, mirror, tolerance
        self.canvas = PadCanvas(canvas_size)
        self.codec = JointCodec(canvas_size)
        self.cell_px = canvas_size / JOINT_LEVELS[1]

    def forecast(self, clip: ForecastClip, starts: np.ndarray) -> np.ndarray:
        """(N,) frames of a clip → (N, 16, 13, 2) places in continuous pixels of the label's frame."""
        window, label = self.canvas.window(clip.label.size), clip.label
        joints = window.joints(Joints(label.joints.xy[starts], label.joints.is_visible[starts]))
        side = np.maximum(np.ptp(joints.xy, axis=1).max(-1), _SMALLEST_SIDE_PX)  # (N,) px of the canvas
        p_x, p_y = self.distributions(self.codec.encode(joints.xy, joints.is_visible), clip.step)
        shape = len(starts), NUM_HORIZONS, NUM_JOINTS
        device = p_x.device
        here = torch.from_numpy(joints.xy / self.cell_px).float().to(device)  # (N, 13, 2)
        radius = torch.from_numpy(THRESHOLD * side / self.cell_px).float().to(device)
        places = best_places(
            p_x.flatten(0, 2),
            p_y.flatten(0, 2),
            here[:, None].expand(*shape, 2).flatten(0, 2),
            radius[:, None, None].expand(shape).flatten(),
            self.tolerance,
        )
        return window.to_source(places.view(*shape, 2).double().cpu().numpy() * self.cell_px)

    @torch.inference_mode()
    def distributions(self, poses: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        """(N, 3, 13) tokens → two (N, 16, 13, F, 256) float32: of x and of y, in 256 cells along the canvas.

        F is 2 with `mirror`: from the pose, and from its mirror image.
        """
        parts = [self._axes(poses, step)]
        if self.mirror:
            x, y = self._axes(mirrored(poses), step)
            parts.append((x[:, :, MIRRORED].flip(-1), y[:, :, MIRRORED]))
        x, y = zip(*parts)
        return torch.stack(x, dim=3), torch.stack(y, dim=3)

    def _axes(self, poses: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
        """(N, 3, 13) tokens → two (N, 16, 13, 256)."""
        num_poses, device = len(poses), next(self.model.parameters()).device
        horizons = horizon_tokens(np.arange(1, NUM_HORIZONS + 1), np.array(step))  # (16, 2)
        tokens = np.zeros((num_poses, NUM_HORIZONS, self.table.num_tokens), dtype=np.int64)
        tokens[:, :, self.table.columns("coords")] = poses.reshape(num_poses, 1, COORDS_LENGTH)
        tokens[:, :, self.table.columns("horizon")] = horizons
        rows = torch.from_numpy(tokens).flatten(0, 1).to(device)  # (N · 16, S)
        is_given = torch.ones_like(rows, dtype=torch.bool)
        is_told = torch.zeros_like(is_given)
        places = self.table.columns("coords_next")
        is_given[:, places] = False
        is_told[:, places.start : places.start + 2 * NUM_JOINTS] = True  # x and y; nobody asks for visibility
        targets = pack(rows, is_told, self.table)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.is_bf16):
            hidden = self.model(pack(rows, is_given, self.table), targets)  # (M, D)
        logits = self.model.digit_logits(hidden.float(), self.table.index("coords_next"))
        if len(logits) > 1:
            coarse = logits[-1].softmax(-1)
        else:
            coarse = logits[0].softmax(-1).unflatten(-1, (JOINT_LEVELS[1], JOINT_LEVELS[0])).sum(-1)
        return coarse.view(num_poses, NUM_HORIZONS, 2, NUM_JOINTS, -1).unbind(2)
