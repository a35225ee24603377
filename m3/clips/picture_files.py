"""Frames of a clip stored as one picture file each, converted to RGB from any mode."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from m3.clips.base import ClipError, DamagedFrame, LazyFrames, check_frame_size, reason_of
from m3.core.reading import open_regular

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

_FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow looks at a file's content, not its name: of an EPS named .jpg it would run Ghostscript."""


class PictureFiles(LazyFrames):
    """Picture files of one clip, decoded when indexed.

    Args:
        paths: the files in the order of the frames.
        size: (height, width) that each picture must have, pixels.
        size_of: where `size` comes from, for the error ("the label").
        is_upright: apply the EXIF orientation.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], size_of: str, is_upright: bool = False) -> None:
        self._paths = paths
        self._size = size
        self._size_of = size_of
        self._is_upright = is_upright

    def __len__(self) -> int:
        return len(self._paths)

    def frame(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8. Raises DamagedFrame for a damaged file, ClipError for one of another size."""
        path = self._paths[index]
        try:
            frame = _decode(path, self._is_upright)
        except ClipError:
            raise
        except Exception as error:  # Pillow raises errors of many types for damaged files
            raise DamagedFrame(_unreadable_message(path, error), index) from error
        if frame.shape[:2] != self._size:
            raise ClipError(
                f"{display_name(path)}: {frame.shape[0]} x {frame.shape[1]} px (height x width), "
                f"need {self._size[0]} x {self._size[1]} as in {self._size_of}"
            )
        return frame


def picture_size(path: Path, is_upright: bool) -> tuple[int, int]:
    """(height, width) from the file's header, in pixels. Raises ClipError where it has none.

    is_upright: after applying the EXIF orientation.
    """
    try:
        with _open(path) as picture:
            width, height = picture.size
            is_turned = is_upright and picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except ClipError:
        raise
    except Exception as error:
        raise ClipError(_unreadable_message(path, error)) from error
    return (width, height) if is_turned else (height, width)


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A picture of any mode → (height, width, 3) uint8 RGB.

    16-bit grayscale is scaled to 8 bits (65,535 → 255); of 16-bit colors Pillow keeps the upper byte. Transparent
    pictures are composited over black. CMYK is converted by Pillow, which reads every CMYK JPEG as Adobe's inverted
    variant.
    """
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        gray = (np.asarray(picture).astype(np.float64).clip(0, 65_535) / 257).round().astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return np.asarray(picture.convert("RGB"))


def display_name(path: Path) -> str:
    """ "FOLDER/FILE", the name of a picture in messages."""
    return f"{path.parent.name}/{path.name}"


def _decode(path: Path, is_upright: bool) -> np.ndarray:
    with _open(path) as picture:
        picture.load()
        return to_rgb(ImageOps.exif_transpose(picture) if is_upright else picture)


def _open(path: Path) -> Image.Image:
    open_regular(path).close()  # a pipe or a device would be waited for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
        picture = Image.open(path, formats=_FORMATS)
    try:
        check_frame_size(display_name(path), (picture.height, picture.width))
    except ClipError:
        picture.close()
        raise
    return picture


def _unreadable_message(path: Path, error: Exception) -> str:
    is_empty = isinstance(error, UnidentifiedImageError) and path.stat().st_size == 0
    reason = "the file is empty" if is_empty else reason_of(error, path)
    return f"{display_name(path)}: not a readable picture ({reason})"
