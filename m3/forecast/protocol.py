"""The protocol of the Penn Action forecasting papers: the test sequences and their score, PCK@0.05.

As in 3D-PFNet (Chao et al., CVPR 2017) and TP-RNN (Chiu et al., WACV 2019): a sequence starts at every frame of a test
clip; one pose is given and the next 16 are forecast, a seventeenth of the clip apart; beyond the end of the clip its
last pose is repeated. PCK@0.05 is the share of joints visible in the true frame that are predicted within 0.05 · L of
the truth. L is the larger side of the box around all 13 joints, invisible ones included, over all frames of the clip.
All coordinates are pixels of the label's frame.
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
from m3.metrics.measures import pck

THRESHOLD = 0.05


@dataclass(frozen=True)
class ForecastClip:
    """A test clip; every frame of it starts a sequence.

    id: name of the label file, without its suffix.
    label: its content.
    """

    id: str
    label: Label

    @property
    def extent(self) -> float:
        """L in pixels of the label's frame."""
        return float(np.ptp(self.label.joints.xy.reshape(-1, 2), axis=0).max())

    @property
    def step(self) -> int:
        """Frames from one horizon to the next."""
        return clip_step(self.label.num_frames)

    def future_frames(self, starts: np.ndarray) -> np.ndarray:
        """(N,) first frames → (N, 16) frames to forecast."""
        later = np.arange(1, NUM_HORIZONS + 1) * self.step
        return np.minimum(starts[:, None] + later, self.label.num_frames - 1)


def read_clips(folder: str | Path) -> tuple[list[ForecastClip], list[Rejection]]:
    """The test clips (train = −1) of a folder of Penn Action label files, sorted by name, and the skipped files.

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
            skipped.append(Rejection(path.stem, "train = 1" if label.is_train else "no train flag"))
    if not clips:
        raise ValueError(
            f"labels={folder}: none of the {len(paths)} label files is a test clip (train = -1); "
            f"the first was skipped: {skipped[0].reason}"
        )
    return clips, skipped


@dataclass(frozen=True)
class HitCounts:
    """Counts of joints per horizon, over `num_sequences` sequences.

    hits: (16,) int64 scored joints within the threshold of the truth.
    counts: (16,) int64 scored joints.
    num_sequences: number of scored sequences.
    """

    hits: np.ndarray
    counts: np.ndarray
    num_sequences: int

    @property
    def pck(self) -> list[float | None]:
        """PCK in percent at each of the 16 horizons; None where no joint was scored."""
        return [100 * int(hits) / int(count) if count else None for hits, count in zip(self.hits, self.counts)]

    @staticmethod
    def total(parts: Sequence[HitCounts]) -> HitCounts:
        """The sum of several counts: PCK pools joints and sequences, it is no mean over clips."""
        hits, counts, numbers = zip(*((part.hits, part.counts, part.num_sequences) for part in parts))
        return HitCounts(np.sum(hits, axis=0), np.sum(counts, axis=0), sum(numbers))


def score_forecast(clip: ForecastClip, starts: np.ndarray, predicted: np.ndarray) -> HitCounts:
    """Compares predicted joints (N, 16, 13, 2), in continuous pixels of the label's frame, with the truth."""
    frames = clip.future_frames(starts)  # (N, 16)
    scored = pck(
        predicted,
        clip.label.joints.xy[frames],
        is_scored=clip.label.is_annotated[frames],
        extent=np.full(len(starts), clip.extent),
        a=THRESHOLD,
    )  # (N, 16)
    hits, counts = (part.sum(0).astype(np.int64) for part in (scored.numerator, scored.denominator))
    return HitCounts(hits, counts, len(starts))


def nothing_moves(clip: ForecastClip, starts: np.ndarray) -> np.ndarray:
    """Baseline (N, 16, 13, 2): every joint, visible or not, stays where it is in the first frame."""
    return np.repeat(clip.label.joints.xy[starts][:, None], NUM_HORIZONS, axis=1)
