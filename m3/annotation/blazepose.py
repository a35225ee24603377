"""BlazePose (Bazarevsky et al., 2020): a detector of people, and 33 landmarks in a turned crop around each.

The steps between the networks are MediaPipe's: anchors, non-maximum suppression, the crop turned so that the person is
upright in it, and refinement of the landmarks by their heat maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from m3.annotation.networks import DETECTOR, LANDMARKS, Network
from m3.annotation.regions import Region

_MARGIN = 1.25
"""Side of the crop, in diameters of the circle around the person."""

_MAX_LOGIT = 100.0
_MAX_OVERLAP = 0.3
"""Intersection over union from which on two detections are the same person."""

_WINDOW, _MIN_HEAT = 3, 0.5
"""Of the refinement: cells around a landmark, and the confidence that one of them must reach."""

NUM_LANDMARKS = 33
_NUM_OUTPUTS = 39
"""The landmarks, and auxiliary ones: the first two of these are the person's center and a point of the circle."""


@dataclass(frozen=True)
class Estimate:
    """A person in a frame.

    xy: (K, 2) float64 keypoints, pixels of the frame.
    confidence: (K,) float64, 0 … 1, that each of them is in view.
    score: 0 … 1, that there is a person in the region.
    region: where to look for the person in the next frame.
    """

    xy: np.ndarray
    confidence: np.ndarray
    score: float
    region: Region


@dataclass(frozen=True)
class Detection:
    """region: the crop around a person. score: 0 … 1."""

    region: Region
    score: float


class Detector:
    """Finds people. min_score: of a detection, 0 … 1."""

    def __init__(self, min_score: float) -> None:
        self._network = Network(DETECTOR)
        self.min_score = min_score
        self.fingerprint = self._network.fingerprint

    def __call__(self, frame: np.ndarray) -> list[Detection]:
        """(H, W, 3) uint8 → people, the surest first."""
        height, width = frame.shape[:2]
        side = self._network.side
        scale = side / max(height, width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (side - inner[0]) // 2, (side - inner[1]) // 2
        picture = np.full((side, side, 3), -1.0, np.float32)
        whole = Region(width / 2, height / 2, width, height).crop(frame, inner)
        picture[top : top + inner[0], left : left + inner[1]] = whole / np.float32(127.5) - 1
        raw, logits = self._network(picture)
        scores = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64).clip(-_MAX_LOGIT, _MAX_LOGIT)))
        chosen = scores >= self.min_score
        values = raw[chosen].astype(np.float64) / side
        points = values[:, 4:8].reshape(-1, 2, 2) + self._anchors[chosen][:, None]  # center, point of the circle
        centers = values[:, :2] + self._anchors[chosen]
        boxes = np.concatenate([centers - values[:, 2:4] / 2, centers + values[:, 2:4] / 2], axis=1)
        found = []
        for members, score in suppressed(boxes, scores[chosen]):
            weights = scores[chosen][members]
            mean = np.average(points[members], axis=0, weights=weights)  # (2, 2)
            xy = (mean * side - (left, top)) / (inner[1] / width, inner[0] / height)
            region = region_of(xy[0], xy[1])
            if region.is_finite() and region.width > 1:
                found.append(Detection(region, score))
        return found

    @cached_property
    def _anchors(self) -> np.ndarray:
        """(2254, 2) centers, 0 … 1: two in each cell of a grid of 28, two of 14, six of 7."""
        centers = []
        for cells, num in ((28, 2), (14, 2), (7, 6)):
            places = (np.arange(cells) + 0.5) / cells
            grid = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
            centers.append(np.repeat(grid, num, axis=0))
        return np.concatenate(centers)


def suppressed(boxes: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Groups of boxes (left, top, right, bottom) of the same person: their indices, and the best score.

    boxes: (N, 4). scores: (N,). The groups are ordered by score, the best first.
    """
    remaining, groups = np.argsort(-scores, kind="stable"), []
    while len(remaining):
        first = remaining[0]
        overlaps = _overlap(boxes[first], boxes[remaining])
        is_same = overlaps > _MAX_OVERLAP
        is_same[0] = True
        groups.append((remaining[is_same], float(scores[first])))
        remaining = remaining[~is_same]
    return groups


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(4,), (N, 4) → (N,) intersection over union."""
    inner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = inner.clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).clip(0).prod(1)
    return shared / np.maximum((box[2:] - box[:2]).clip(0).prod() + areas - shared, 1e-12)


def region_of(center: np.ndarray, rim: np.ndarray) -> Region:
    """The square crop around a person: the middle of the hips, and a point of the circle around the body, above it."""
    dx, dy = (rim - center).tolist()
    side = 2 * math.hypot(dx, dy) * _MARGIN
    return Region(float(center[0]), float(center[1]), side, side, math.atan2(dx, -dy))


class BlazePose:
    """33 landmarks of the person in a region. model: "full" or "lite"."""

    def __init__(self, model: str) -> None:
        if model not in LANDMARKS:
            raise ValueError(f"annotator.model={model!r}: choose {' or '.join(LANDMARKS)}")
        self._network = Network(LANDMARKS[model])
        self.fingerprint = self._network.fingerprint

    def __call__(self, frame: np.ndarray, region: Region) -> Estimate:
        """The person in a region of an (H, W, 3) uint8 frame. A low score says that there is none."""
        side = self._network.side
        crop = region.crop(frame, (side, side)).astype(np.float32) / 255
        raw, score, _, heat, _ = self._network(crop)
        values = raw.astype(np.float64).reshape(_NUM_OUTPUTS, 5)  # x, y, z, visibility, presence
        uv = refined(values[:, :2] / side, heat)
        xy = region.to_frame(uv)
        confidence = _sigmoid(np.minimum(values[:, 3], values[:, 4]))
        following = region_of(xy[NUM_LANDMARKS], xy[NUM_LANDMARKS + 1])
        return Estimate(xy[:NUM_LANDMARKS], confidence[:NUM_LANDMARKS], float(score[0]), following)


def refined(uv: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Landmarks moved to the center of the heat around them, where there is any.

    uv: (K, 2) in 0 … 1. heat: (h, w, K) logits of heat maps.
    """
    height, width, _ = heat.shape
    is_inside = ((uv >= 0) & (uv < 1)).all(axis=1)
    k = np.flatnonzero(is_inside)  # (K',)
    offsets = np.arange(-_WINDOW, _WINDOW + 1)
    columns, rows = ((uv[k] * (width, height)).astype(int)[:, axis, None] + offsets for axis in (0, 1))  # (K', 7)
    is_cell = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    cells = heat[rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :], k[:, None, None]]
    weights = np.where(is_cell, _sigmoid(cells.astype(np.float64)), 0.0)  # (K', 7, 7)
    total = weights.sum(axis=(1, 2))
    center = np.stack([(weights.sum(axis=1) * columns).sum(1), (weights.sum(axis=2) * rows).sum(1)], axis=1)
    is_hot = weights.max(axis=(1, 2), initial=0) >= _MIN_HEAT
    moved = uv.copy()
    moved[k[is_hot]] = center[is_hot] / total[is_hot, None] / (width, height)
    return moved


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.clip(-_MAX_LOGIT, _MAX_LOGIT)))
