"""An annotator that needs no network: it finds one bright square, and videos in which such squares move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from m3.annotation.annotators import Annotator
from m3.annotation.regions import Region
from m3.annotation.tracking import Track
from m3.core.types import Clip
from support.tiny_videos import write_video

SHAPE = np.stack(np.meshgrid([-6.0, 2, -2, 6], [-6.0, -2, 2, 6]), -1).reshape(-1, 2)[:13]
"""(13, 2) joints around the middle of a square, pixels."""


def square_video(path: Path, num_frames: int = 20, seed: int = 0, num_squares: int = 1, has_cut: bool = False) -> Path:
    """A white square of 16 px that moves to the right, and others below it; at a cut the gray behind it changes."""
    pictures = []
    for t in range(num_frames):
        late = has_cut and t >= num_frames // 2
        rng = np.random.default_rng(seed + 100 * late)
        picture = np.kron(rng.integers(0, 150, (6, 8, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
        for k in range(num_squares):
            picture[8 + 30 * k : 24 + 30 * k, 10 + 3 * t : 26 + 3 * t] = 255
        pictures.append(picture)
    return write_video(path, num_frames, (96, 128), pictures=pictures)


@dataclass(frozen=True, kw_only=True)
class SquareAnnotator(Annotator):
    """Finds white squares, at most one in each of three bands of 30 px."""

    name: ClassVar[str] = "squares"

    def weights_fingerprint(self) -> str:
        return "none"

    def begin(self, clip: Clip) -> Any:
        return _Session()


class _Session:
    def __init__(self) -> None:
        self._tracks: list[Track] = []
        self._open: dict[int, Track] = {}

    def add(self, number: int, frame: np.ndarray) -> None:
        for band in range(3):
            rows, columns = np.nonzero((frame[30 * band : 30 * band + 30] > 215).all(-1))
            if len(rows) < 100:
                self._open.pop(band, None)
                continue
            middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5 + 30 * band])
            if band not in self._open:
                self._open[band] = Track(number, Region(*middle.tolist(), 20, 20))
                self._tracks.append(self._open[band])
            track = self._open[band]
            track.xy.append((SHAPE + middle).astype(np.float32))
            track.confidence.append(np.full(13, 0.9, np.float32))
            track.scores.append(0.9)

    def restart(self) -> None:
        self._open = {}

    def tracks(self, cuts: Sequence[int]) -> list[Track]:
        return self._tracks


def square_annotator(**changes: Any) -> SquareAnnotator:
    usual = {"person": "largest", "min_seconds": 0.2, "min_mean_score": 0.5, "min_confidence": 0.4, "visibility": 0.5}
    return SquareAnnotator(**{**usual, "smoothing": 0.0, **changes})
