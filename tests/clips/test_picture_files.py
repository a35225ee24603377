"""Pictures of any mode become the RGB picture as displayed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny_world import frame

from m3.clips import picture_files
from m3.clips.base import ClipError, DamagedFrame
from m3.clips.picture_files import PictureFiles, picture_size


def read(path: Path, is_upright: bool = False) -> np.ndarray:
    return PictureFiles([path], picture_size(path, is_upright), "the header", is_upright)[0]


def write_png(path: Path, samples: np.ndarray, color_type: int) -> Path:
    """A PNG of (height, width, channels) uint16 samples, written by hand: Pillow writes no 16-bit colors."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".jpeg"])
def test_colors(tmp_path: Path, suffix: str):
    picture = frame(2)
    Image.fromarray(picture).save(tmp_path / f"1{suffix}", quality=95, **({"lossless": True} if "w" in suffix else {}))
    difference = np.abs(read(tmp_path / f"1{suffix}").astype(int) - picture)
    assert difference.max() == 0 if suffix in (".png", ".webp") else difference.mean() < 3


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_black_and_white_and_palettes(tmp_path: Path, mode: str):
    source = Image.fromarray(frame(2)).convert(mode)
    source.save(tmp_path / "1.png")
    assert np.array_equal(read(tmp_path / "1.png"), np.asarray(source.convert("RGB")))
    if mode == "L":
        source.save(tmp_path / "1.jpg", quality=95)
        gray = read(tmp_path / "1.jpg")
        assert (np.ptp(gray, axis=-1) == 0).all() and np.abs(gray[..., 0].astype(int) - np.asarray(source)).mean() < 2


def test_16_bit_gray_is_scaled_not_clipped(tmp_path: Path):
    gray = np.linspace(0, 65_535, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / "1.png")
    found = read(tmp_path / "1.png")
    assert found.min() == 0 and found.max() == 255 and len(np.unique(found)) == 256
    assert np.array_equal(found, np.repeat(np.round(gray / 257).astype(np.uint8)[..., None], 3, axis=-1))


def test_16_bit_colors_are_scaled(tmp_path: Path):
    samples = np.random.default_rng(0).integers(0, 65_536, (8, 9, 3)).astype(np.uint16)
    found = read(write_png(tmp_path / "1.png", samples, 2))
    assert np.abs(found - samples / 257).max() <= 1
    transparent = np.dstack([samples, np.full((8, 9), 65_535, np.uint16)])
    assert np.abs(read(write_png(tmp_path / "2.png", transparent, 6)) - samples / 257).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_transparent_pictures_are_composited_over_black(tmp_path: Path, suffix: str):
    rgba = np.zeros((16, 24, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, 8:16, 3], rgba[:, 16:, 3] = 128, 255
    Image.fromarray(rgba).save(tmp_path / f"1{suffix}", lossless=True)
    found = read(tmp_path / f"1{suffix}")[8, [4, 12, 20]]
    assert np.abs(found.astype(int) - [[0, 0, 0], [100, 0, 0], [200, 0, 0]]).max() <= 1


def test_a_transparent_palette_color(tmp_path: Path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "1.png", transparency=0)
    assert read(tmp_path / "1.png").tolist() == [[[0, 0, 0], [0, 0, 255]]]


def test_cmyk_jpegs_are_adobe_s_inverted_kind(tmp_path: Path):
    """Red and white in CMYK; the file itself holds inverted inks, as Photoshop writes them."""
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:, :16, 1:3] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "1.jpg", quality=95)
    assert b"Adobe" in (tmp_path / "1.jpg").read_bytes()
    found = read(tmp_path / "1.jpg")
    assert np.abs(found[8, [4, 28]].astype(int) - [[255, 0, 0], [255, 255, 255]]).max() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int):
    """The eight orientations by their definition: which sides of the displayed picture row 0 and column 0 are."""
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:4, :8], picture[:4, 8:], picture[4:, :8] = 250, 150, 80
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "1.png", exif=exif)
    transposed = picture.transpose(1, 0, 2)
    seen = {
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1],
        5: transposed, 6: transposed[:, ::-1], 7: transposed[::-1, ::-1], 8: transposed[::-1],
    }[orientation]  # fmt: skip
    assert np.array_equal(read(tmp_path / "1.png", is_upright=True), seen)
    assert picture_size(tmp_path / "1.png", is_upright=True) == seen.shape[:2]
    assert np.array_equal(read(tmp_path / "1.png", is_upright=False), picture)


def test_a_picture_of_another_size(tmp_path: Path):
    Image.fromarray(frame(0)).save(tmp_path / "1.png")
    with pytest.raises(ClipError, match=r"/1.png: 48 x 64 px \(height x width\), need 10 x 20 as in the label"):
        PictureFiles([tmp_path / "1.png"], (10, 20), "the label")[0]


def test_an_unreadable_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(picture_files, "open_regular", refuse)
    with pytest.raises(DamagedFrame, match=r"/1.png: not a readable picture \(Permission denied\)$"):
        PictureFiles([tmp_path / "0.png", tmp_path / "1.png"], (4, 4), "the label")[1]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_any_damage_raises_clip_errors_only(tmp_path: Path, suffix: str):
    Image.fromarray(frame(1)).save(tmp_path / f"1{suffix}")
    data, rng = (tmp_path / f"1{suffix}").read_bytes(), np.random.default_rng(0)
    num_errors = 0
    for number in range(60):
        damaged = bytearray(data)
        start = int(rng.integers(len(data) if number % 2 else 64))
        damaged[start : start + 8] = rng.bytes(8)
        (tmp_path / f"1{suffix}").write_bytes(damaged)
        try:
            read(tmp_path / f"1{suffix}")
        except ClipError as error:
            num_errors += 1
            assert f"/1{suffix}: " in str(error)
    assert num_errors
