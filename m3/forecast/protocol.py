"""The protocol of the Penn Action forecasting papers: which sequences there are, and what a hit is.

As in 3D-PFNet (Chao et al., CVPR 2017) and TP-RNN (Chiu et al., WACV 2019): a sequence starts at every frame of a test
clip; one pose is given, 16 are to be told, a seventeenth of the clip apart; beyond the clip's end its last pose is
repeated. PCK@0.05 counts the joints that are visible in the true frame and closer than 0.05 · L to their prediction, L
being the larger side of the box around all 13 joints, invisible ones included, over all frames of the clip. All in the
label's own pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3.batches.futures import clip_step
from m3.clips.base import ClipError
from m3.clips.penn_action import Label, read_label
from m3.core.modalities import NUM_HORIZONS
from m3.core.progress import track
from m3.core.types import Rejection

THRESHOLD = 0.05


@dataclass(frozen=True)
class ForecastClip:
    """A clip whose every frame starts a sequence.

    id: of the label file.
    label: its content.
    """

    id: str
    label: Label

    @property
    def extent(self) -> float:
        """L, in pixels."""
        return float(np.ptp(self.label.joints.xy.reshape(-1, 2), axis=0).max())

    @property
    def step(self) -> int:
        """Frames from one horizon to the next."""
        return clip_step(self.label.num_frames)

    def future_frames(self, starts: np.ndarray) -> np.ndarray:
        """(N,) first frames → (N, 16) frames to be told."""
        later = np.arange(1, NUM_HORIZONS + 1) * self.step
        return np.minimum(starts[:, None] + later, self.label.num_frames - 1)


def read_clips(folder: str | Path) -> tuple[list[ForecastClip], list[Rejection]]:
    """The clips with train = −1 of a folder of Penn Action label files, in order of their names; and the others.

    Raises FileNotFoundError where there are no label files, ValueError where none of them is a test clip.
    """
    paths = sorted(Path(folder).glob("*.mat"))
    if not paths:
        raise FileNotFoundError(f"labels={folder}: no *.mat files there; give Penn Action's labels/ folder")
    clips, skipped = [], []
    for path in track(paths, len(paths), "labels"):
        try:
            label = read_label(path)
        except ClipError as error:
            skipped.append(Rejection(path.stem, str(error)))
            continue
        if label.is_train is False:
            clips.append(ForecastClip(path.stem, label))
        else:
            skipped.append(Rejection(path.stem, "train = 1" if label.is_train else "no word on train or test"))
    if not clips:
        raise ValueError(
            f"labels={folder}: none of the {len(paths)} label files is a test clip (train = -1); "
            f"the first says: {skipped[0].reason}"
        )
    return clips, skipped


@dataclass(frozen=True)
class Tally:
    """Hits and scored joints per horizon.

    hits, counts: (16,) int64.
    num_sequences: that were scored.
    """

    hits: np.ndarray
    counts: np.ndarray
    num_sequences: int

    @property
    def pck(self) -> list[float | None]:
        """Percent at each horizon, None where no joint is visible."""
        return [100 * int(hits) / int(count) if count else None for hits, count in zip(self.hits, self.counts)]

    @staticmethod
    def total(tallies: Sequence[Tally]) -> Tally:
        """Hits pooled over joints and sequences, not averaged over clips."""
        hits, counts, numbers = zip(*((t.hits, t.counts, t.num_sequences) for t in tallies))
        return Tally(np.sum(hits, axis=0), np.sum(counts, axis=0), sum(numbers))


def score_forecast(clip: ForecastClip, starts: np.ndarray, predicted: np.ndarray) -> Tally:
    """Compares (N, 16, 13, 2) predicted places, in continuous pixels of the label's frame, with the truth."""
    frames = clip.future_frames(starts)  # (N, 16)
    is_scored = clip.label.is_annotated[frames]  # (N, 16, 13)
    distance = np.linalg.norm(predicted - clip.label.joints.xy[frames], axis=-1)
    is_hit = is_scored & (distance < THRESHOLD * clip.extent)
    return Tally(is_hit.sum(axis=(0, 2)), is_scored.sum(axis=(0, 2)), len(starts))


def nothing_moves(clip: ForecastClip, starts: np.ndarray) -> np.ndarray:
    """(N, 16, 13, 2): every joint, visible or not, stays where the label has it in the first frame."""
    return np.repeat(clip.label.joints.xy[starts][:, None], NUM_HORIZONS, axis=1)
