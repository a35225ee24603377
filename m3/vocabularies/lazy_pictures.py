"""Pictures of many frames that are decoded when they are looked at, so that memory does not grow with their number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_BYTES = 2**29
"""Pictures of more bytes than this are decoded when they are indexed, and again when they are indexed later."""

_BLOCK = 64
"""Frames that are decoded together."""

_BLOCKS_IN_MEMORY = 16


class _Store:
    """Decoded blocks of consecutive frames, the least recently used ones first."""

    def __init__(self, decode: Callable[[np.ndarray], np.ndarray], num_frames: int) -> None:
        self._decode, self._num_frames = decode, num_frames
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getitem__(self, frame: int) -> np.ndarray:
        number, place = divmod(frame, _BLOCK)
        if number in self._blocks:
            self._blocks.move_to_end(number)
        else:
            self._blocks[number] = self._decode(
                np.arange(number * _BLOCK, min((number + 1) * _BLOCK, self._num_frames))
            )
            if len(self._blocks) > _BLOCKS_IN_MEMORY:
                self._blocks.popitem(last=False)
        return self._blocks[number][place]


class LazyPictures:
    """An array of pictures, (…, H, W, 3) uint8, that NumPy indices of the leading dimensions select from.

    One picture is an array, several are again lazy; NumPy functions decode all that they are given.

    Args:
        decode: (n,) int64 numbers of frames → (n, H, W, 3) uint8.
        frames: (…) int64 number of each picture's frame.
        size: (H, W).
    """

    def __init__(self, decode: Callable[[np.ndarray], np.ndarray], frames: np.ndarray, size: tuple[int, int]) -> None:
        num_frames = int(frames.max()) + 1 if frames.size else 0
        self._store, self._frames, self._size = _Store(decode, num_frames), frames, size

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self._frames.shape, *self._size, 3)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: Any) -> Any:
        frames = self._frames[index]
        if np.ndim(frames) == 0:
            return self._store[int(frames)]
        chosen = object.__new__(LazyPictures)
        chosen._store, chosen._frames, chosen._size = self._store, frames, self._size
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        pictures = np.empty(self.shape, np.uint8)
        for place, frame in np.ndenumerate(self._frames):
            pictures[place] = self._store[int(frame)]
        return pictures if dtype is None else pictures.astype(dtype)
