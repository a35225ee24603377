"""Pairings and clip sources that only tests need; classes here can be sent to worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from m3.core.types import Clip, FramePair
from support.tiny_world import frame


class EveryFrame:
    """Each frame and the next; reads no picture."""

    needs_pictures = False

    def pairs(self, frames: Sequence[np.ndarray]) -> Iterator[FramePair]:
        return (FramePair(index, index + 1, None) for index in range(len(frames) - 1))


class Deadly:
    """A source with clips that kill the process that reads them: always, or once."""

    name = "deadly"

    def __init__(self, root: Path, always: tuple[str, ...] = (), once: tuple[str, ...] = ()) -> None:
        self.root, self.always, self.once = root, always, once

    def read(self, clip_id: str) -> Clip:
        if clip_id in self.once and not (self.root / clip_id).exists():
            (self.root / clip_id).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if clip_id in self.always:
            os.kill(os.getpid(), signal.SIGKILL)
        if clip_id == "slow":
            time.sleep(600)
        return Clip(clip_id, [frame(n) for n in range(3)], (48, 64), None)
