"""Pictures of a clip as files of their own, read as RGB whatever they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from m3.clips.base import ClipError, DamagedFrame, check_frame_size, reason_of

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class PictureFiles(Sequence):
    """Picture files of one clip, decoded when indexed.

    Args:
        paths: in order.
        size: (height, width) that each must have.
        size_of: who says so, for the error ("the label").
        is_upright: turn pictures as their EXIF orientation asks.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], size_of: str, is_upright: bool = False) -> None:
        self._paths = paths
        self._size = size
        self._size_of = size_of
        self._is_upright = is_upright

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8. Raises DamagedFrame for a damaged file, ClipError for one of another size."""
        path = self._paths[index]
        try:
            frame = _decoded(path, self._is_upright)
        except ClipError:
            raise
        except Exception as error:  # Pillow answers damaged files with whatever its parsers stumble over
            raise DamagedFrame(_unreadable(path, error), range(len(self))[index]) from error
        if frame.shape[:2] != self._size:
            raise ClipError(
                f"{display_name(path)}: {frame.shape[0]} x {frame.shape[1]} px (height x width), "
                f"{self._size_of} says {self._size[0]} x {self._size[1]}"
            )
        return frame


def picture_size(path: Path, is_upright: bool) -> tuple[int, int]:
    """(height, width) from the file's header. Raises ClipError where it has none."""
    try:
        with _opened(path) as picture:
            width, height = picture.size
            is_turned = is_upright and picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except ClipError:
        raise
    except Exception as error:
        raise ClipError(_unreadable(path, error)) from error
    return (width, height) if is_turned else (height, width)


def to_rgb(picture: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8 of a picture of any mode.

    16-bit grayscale is scaled to 8 bits (65,535 → 255); of 16-bit colors Pillow keeps the upper byte. Transparent
    pictures lie on black. CMYK is converted as Pillow does, which takes every CMYK JPEG for Adobe's inverted kind.
    """
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        gray = (np.asarray(picture).astype(np.float64).clip(0, 65_535) / 257).round().astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return np.asarray(picture.convert("RGB"))


def display_name(path: Path) -> str:
    """A picture's name in messages: that of its folder and its own."""
    return f"{path.parent.name}/{path.name}"


def _decoded(path: Path, is_upright: bool) -> np.ndarray:
    with _opened(path) as picture:
        picture.load()
        return to_rgb(ImageOps.exif_transpose(picture) if is_upright else picture)


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here, by name
        picture = Image.open(path)
    try:
        check_frame_size(display_name(path), (picture.height, picture.width))
    except ClipError:
        picture.close()
        raise
    return picture


def _unreadable(path: Path, error: Exception) -> str:
    is_empty = isinstance(error, UnidentifiedImageError) and path.stat().st_size == 0
    return (
        f"{display_name(path)}: not a readable picture ({'the file is empty' if is_empty else reason_of(error, path)})"
    )
