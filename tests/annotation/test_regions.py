"""Crops of turned rectangles against a naive one, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from m3.annotation.regions import Region


def smooth_picture(height: int, width: int) -> np.ndarray:
    """A linear picture: interpolation reproduces it exactly, whatever the method."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 127 / (width + height)], -1).astype(np.uint8)


def naive_crop(frame: np.ndarray, region: Region, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixel to the center of each cropped pixel; the border is repeated."""
    cropped = np.zeros((*size, 3), np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            u = ((column + 0.5) / size[1] - 0.5) * region.width
            v = ((row + 0.5) / size[0] - 0.5) * region.height
            x = region.x + u * np.cos(region.angle) - v * np.sin(region.angle)
            y = region.y + u * np.sin(region.angle) + v * np.cos(region.angle)
            x, y = np.clip(int(np.floor(x)), 0, frame.shape[1] - 1), np.clip(int(np.floor(y)), 0, frame.shape[0] - 1)
            cropped[row, column] = frame[y, x]
    return cropped


@pytest.mark.parametrize(
    "region",
    [
        Region(60, 40, 40, 40), Region(60, 40, 30, 60, 0.7), Region(60, 40, 200, 200, -2.1), Region(5, 3, 40, 40, 1.2),
        Region(118, 78, 50, 50, 3.0), Region(60.3, 40.8, 16, 16, 0.1), Region(-30, 40, 40, 40), Region(60, 300, 90, 90),
    ],
)  # fmt: skip
def test_a_crop_is_that_of_the_naive_one(region: Region):
    frame = smooth_picture(80, 120)
    cropped = region.crop(frame, (32, 24))
    assert cropped.shape == (32, 24, 3) and cropped.dtype == np.uint8
    apart = np.abs(cropped.astype(int) - naive_crop(frame, region, (32, 24)))
    assert apart.max() <= 12 and apart.mean() < 3


def test_a_much_larger_region_is_averaged_before_it_is_reduced():
    checks = np.indices((400, 400)).sum(0) % 2 * 255
    cropped = Region(200, 200, 400, 400).crop(np.stack([checks] * 3, -1).astype(np.uint8), (20, 20))
    assert np.abs(cropped.astype(int) - 127).max() < 20


def test_places_of_a_region_and_of_the_frame():
    upright, turned = Region(50, 40, 20, 10), Region(50, 40, 20, 10, np.pi / 2)
    corners = np.array([[0, 0], [1, 1], [0.5, 0.5]])
    assert np.allclose(upright.to_frame(corners), [[40, 35], [60, 45], [50, 40]])
    assert np.allclose(turned.to_frame(corners), [[55, 30], [45, 50], [50, 40]])  # clockwise on the screen
