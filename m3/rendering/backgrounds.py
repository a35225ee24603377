"""Backgrounds of rendered people: large clean structures and smooth gradients, constant within a clip.

A background is painted once per scene at twice its size, downsampled, and slightly blurred, like a background behind
the focal plane. Coordinates are fractions of the frame; the ground begins at `horizon`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from m3.core.rng import numpy_generator

Color = tuple[float, float, float]
"""sRGB red, green, blue in 0 … 255."""

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Background:
    """What to paint.

    kind: a key of `PAINTERS`.
    seed: seed of colors and shapes.
    horizon: y where the ground begins, 0 top … 1 bottom.
    """

    kind: str
    seed: int
    horizon: float


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Hue, saturation and value in 0 … 1 → color; the hue wraps around."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return (255 * red, 255 * green, 255 * blue)


def blend(first: Color, second: Color, share: float) -> Color:
    """Linear interpolation from the first color (share 0) to the second (share 1)."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second))
    return red, green, blue


class _Easel:
    """A picture to paint on in coordinates that are fractions of its width and height."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING
        self.image = Image.new("RGB", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)
        self.aspect = self.width / self.height

    def gradient(self, y0: float, y1: float, top: Color, bottom: Color) -> None:
        """Fills the full width from y0 to y1 with a vertical gradient."""
        first, last = round(y0 * self.height), round(y1 * self.height)
        share = np.linspace(0, 1, max(last - first, 1))[:, None]
        rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share  # (rows, 3)
        strip = np.repeat(rows[:, None].round().clip(0, 255).astype(np.uint8), self.width, axis=1)
        self.image.paste(Image.fromarray(strip), (0, first))

    def polygon(self, points: list[tuple[float, float]], color: Color) -> None:
        self.draw.polygon([(x * self.width, y * self.height) for x, y in points], fill=_ints(color))

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, color: Color) -> None:
        """Radii are fractions of the height: equal ones give a circle."""
        cx, cy, rx, ry = x * self.width, y * self.height, radius_x * self.height, radius_y * self.height
        self.draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=_ints(color))

    def glow(self, x: float, y: float, radius: float, color: Color, strength: float) -> None:
        """Blends a color in around a point, with a Gaussian falloff."""
        pixels = np.asarray(self.image, dtype=np.float32)
        along = (np.arange(self.width, dtype=np.float32) / self.width - x) * self.aspect
        down = np.arange(self.height, dtype=np.float32) / self.height - y
        share = strength * np.exp(-(along[None, :] ** 2 + down[:, None] ** 2) / radius**2)[..., None]
        mixed = pixels + (np.asarray(color, dtype=np.float32) - pixels) * share
        self.image = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.image)

    def converging(self, x_near: float, width: float, horizon: float, color: Color, vanish: float = 0.5) -> None:
        """A stripe on the ground that runs toward the vanishing point."""
        far_x = vanish + (x_near - vanish) * 0.25
        half, far_half = width / 2, width / 8
        self.polygon(
            [(far_x - far_half, horizon), (far_x + far_half, horizon), (x_near + half, 1.0), (x_near - half, 1.0)],
            color,
        )


def _ints(color: Color) -> tuple[int, ...]:
    return tuple(int(min(max(round(channel), 0), 255)) for channel in color)


def _gym(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    wall, panel = hsv(rng.uniform(), rng.uniform(0.05, 0.25), rng.uniform(0.7, 0.9)), hsv(rng.uniform(), 0.45, 0.6)
    easel.gradient(0, horizon, wall, blend(wall, (255, 255, 255), 0.2))
    easel.box(0, horizon * 0.62, 1, horizon, panel)
    easel.box(0, horizon * 0.60, 1, horizon * 0.63, blend(panel, (255, 255, 255), 0.55))
    count, start = int(rng.integers(2, 5)), rng.uniform(-0.1, 0.1)
    for k in range(count):
        x = start + (k + 0.2) / count
        easel.box(x, horizon * 0.12, x + 0.55 / count, horizon * 0.45, (236, 243, 246))
        easel.box(x + 0.27 / count, horizon * 0.12, x + 0.29 / count, horizon * 0.45, blend(wall, (0, 0, 0), 0.3))
    wood = hsv(rng.uniform(0.06, 0.12), rng.uniform(0.35, 0.6), rng.uniform(0.6, 0.85))
    easel.gradient(horizon, 1, blend(wood, (0, 0, 0), 0.25), wood)
    for x in np.linspace(-0.9, 1.9, 8):
        easel.converging(float(x), 0.02, horizon, blend(wood, (0, 0, 0), 0.12))
    if rng.uniform() < 0.6:
        mat, left = hsv(rng.uniform(), 0.5, 0.55), rng.uniform(0.05, 0.3)
        near = horizon + 0.75 * (1 - horizon)
        far, close = near - 0.12, near + 0.02
        easel.polygon([(left + 0.08, far), (left + 0.5, far), (left + 0.62, close), (left, close)], mat)
    easel.box(0, horizon - 0.012, 1, horizon + 0.012, blend(wood, (0, 0, 0), 0.5))


def _sky(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    if rng.uniform() < 0.3:  # evening
        easel.gradient(0, horizon, hsv(rng.uniform(0.58, 0.72), 0.45, 0.6), hsv(rng.uniform(0.04, 0.1), 0.4, 0.95))
    else:
        hue = rng.uniform(0.54, 0.62)
        easel.gradient(0, horizon, hsv(hue, rng.uniform(0.35, 0.6), 0.88), hsv(hue, 0.12, 0.96))
    easel.glow(rng.uniform(0.1, 0.9), horizon * rng.uniform(0.1, 0.5), 0.25, (255, 246, 214), 0.6)
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(0, 1), horizon * rng.uniform(0.1, 0.45)
        for offset in (-0.06, 0.0, 0.07):
            radius = rng.uniform(0.04, 0.07)
            easel.ellipse(x + offset, y, radius * 1.8, radius, (240, 244, 248))


def _tree(easel: _Easel, x: float, base: float, height: float, leaf: Color) -> None:
    easel.box(x - 0.05 * height, base - 0.5 * height, x + 0.05 * height, base, (104, 78, 58))
    for dx, dy, radius in ((-0.16, 0.62, 0.26), (0.17, 0.66, 0.25), (0.0, 0.85, 0.29)):
        easel.ellipse(x + dx * height / easel.aspect, base - dy * height, radius * height, radius * height, leaf)
    lit = blend(leaf, (255, 255, 200), 0.18)
    easel.ellipse(x - 0.06 * height / easel.aspect, base - 0.92 * height, 0.16 * height, 0.14 * height, lit)


def _park(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    _sky(easel, rng, horizon)
    green = hsv(rng.uniform(0.22, 0.36), rng.uniform(0.35, 0.55), rng.uniform(0.5, 0.7))
    far = blend(green, (190, 210, 225), 0.45)
    for _ in range(3):
        easel.ellipse(rng.uniform(-0.1, 1.1), horizon + 0.05, rng.uniform(0.4, 0.7), rng.uniform(0.12, 0.25), far)
    easel.gradient(horizon, 1, blend(green, (40, 60, 20), 0.25), blend(green, (255, 255, 170), 0.12))
    if rng.uniform() < 0.6:
        near, away = rng.uniform(0.1, 0.9), rng.uniform(0.2, 0.8)
        sand = (206, 190, 156)
        easel.polygon([(away - 0.02, horizon), (away + 0.03, horizon), (near + 0.35, 1), (near - 0.2, 1)], sand)
    for _ in range(int(rng.integers(1, 4))):
        leaf = blend(green, (20, 60, 30), rng.uniform(0.35, 0.6))
        _tree(easel, rng.uniform(0, 1), horizon + 0.03, rng.uniform(0.3, 0.6) * horizon / 0.6, leaf)


def _court(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    fence = hsv(rng.choice([0.4, 0.6, 0.33, 0.08]), rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.55))
    if rng.uniform() < 0.5:
        _sky(easel, rng, horizon * 0.5)
    else:
        easel.gradient(0, horizon * 0.5, blend(fence, (255, 255, 255), 0.35), blend(fence, (255, 255, 255), 0.2))
    easel.gradient(horizon * 0.42, horizon, fence, blend(fence, (0, 0, 0), 0.2))
    for x in np.arange(rng.uniform(0, 0.2), 1, rng.uniform(0.22, 0.4)):
        easel.box(float(x), horizon * 0.40, float(x) + 0.018, horizon, blend(fence, (255, 255, 255), 0.3))
    floor = hsv(rng.choice([0.04, 0.38, 0.58, 0.75]), rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.75))
    outer = hsv(rng.choice([0.35, 0.6, 0.05]), 0.4, 0.5)
    easel.gradient(horizon, 1, outer, outer)
    left, right = rng.uniform(-0.5, 0.05), rng.uniform(0.95, 1.5)
    far_left, far_right = 0.5 + (left - 0.5) * 0.55, 0.5 + (right - 0.5) * 0.55
    top = horizon + 0.06
    easel.polygon([(far_left, top), (far_right, top), (right, 1), (left, 1)], floor)
    white = (232, 234, 230)
    easel.polygon([(far_left, top), (far_left + 0.012, top), (left + 0.03, 1), (left, 1)], white)
    easel.polygon([(far_right - 0.012, top), (far_right, top), (right, 1), (right - 0.03, 1)], white)
    easel.box(far_left, top, far_right, top + 0.014, white)
    middle = top + (1 - top) * rng.uniform(0.35, 0.75)
    share = (middle - top) / (1 - top)
    easel.box(
        far_left + (left - far_left) * share, middle, far_right + (right - far_right) * share, middle + 0.02, white
    )


def _street(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    _sky(easel, rng, horizon)
    x = -rng.uniform(0, 0.15)
    while x < 1:
        width, top = rng.uniform(0.2, 0.38), horizon * rng.uniform(0.02, 0.4)
        wall = hsv(
            rng.uniform(0, 0.15) if rng.uniform() < 0.7 else rng.uniform(),
            rng.uniform(0.1, 0.4),
            rng.uniform(0.55, 0.85),
        )
        easel.box(x, top, x + width, horizon + 0.02, wall)
        pane = blend(wall, (60, 84, 110), 0.65)
        for row in range(2):
            for column in range(2):
                wx, wy = x + width * (0.14 + 0.44 * column), top + (horizon - top) * (0.1 + 0.3 * row)
                easel.box(wx, wy, wx + width * 0.28, wy + (horizon - top) * 0.19, pane)
        if rng.uniform() < 0.6:
            easel.box(x + width * 0.36, horizon - (horizon - top) * 0.28, x + width * 0.64, horizon + 0.02,
                      hsv(rng.uniform(), 0.5, 0.45))  # fmt: skip
        x += width + (0.05 if rng.uniform() < 0.3 else 0.0)
    curb = horizon + (1 - horizon) * rng.uniform(0.25, 0.5)
    easel.gradient(horizon, curb, (168, 166, 162), (188, 186, 182))
    easel.gradient(curb, 1, (104, 106, 112), (128, 130, 136))
    easel.box(0, curb, 1, curb + 0.018, (214, 212, 206))
    if rng.uniform() < 0.7:
        line = curb + (1 - curb) * 0.6
        for x in np.arange(rng.uniform(-0.3, 0), 1, 0.45):
            easel.polygon(
                [(x + 0.02, line), (x + 0.27, line), (x + 0.25, line + 0.03), (x, line + 0.03)], (224, 214, 160)
            )


def _beach(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    sea = horizon * rng.uniform(0.6, 0.8)
    _sky(easel, rng, sea)
    water = hsv(rng.uniform(0.48, 0.58), rng.uniform(0.45, 0.65), rng.uniform(0.6, 0.8))
    if rng.uniform() < 0.5:
        easel.ellipse(
            rng.uniform(0, 1), sea, rng.uniform(0.3, 0.6), rng.uniform(0.06, 0.14), blend(water, (90, 100, 90), 0.6)
        )
    easel.gradient(sea, horizon + 0.02, blend(water, (20, 50, 90), 0.3), blend(water, (255, 255, 255), 0.25))
    sand = hsv(rng.uniform(0.09, 0.12), rng.uniform(0.25, 0.4), rng.uniform(0.8, 0.92))
    easel.gradient(horizon, 1, blend(sand, (120, 90, 60), 0.2), sand)
    easel.box(0, horizon - 0.015, 1, horizon + 0.012, (240, 244, 240))
    if rng.uniform() < 0.6:
        x, top, cloth = rng.uniform(0.08, 0.92), horizon * 0.42, hsv(rng.uniform(), 0.6, 0.85)
        easel.box(x - 0.008, top, x + 0.008, horizon + 0.1, (226, 222, 214))
        easel.polygon([(x, top - 0.1), (x + 0.2, top + 0.06), (x - 0.2, top + 0.06)], cloth)
        easel.polygon([(x, top - 0.1), (x + 0.06, top + 0.06), (x - 0.06, top + 0.06)], (240, 236, 226))


def _studio(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    base = hsv(rng.uniform(), rng.uniform(0.15, 0.55), rng.uniform(0.5, 0.8))
    easel.gradient(0, horizon, blend(base, (0, 0, 0), 0.25), blend(base, (255, 255, 255), 0.1))
    easel.gradient(horizon, 1, blend(base, (255, 255, 255), 0.1), blend(base, (0, 0, 0), 0.12))
    accent = hsv(rng.uniform(), rng.uniform(0.3, 0.55), rng.uniform(0.6, 0.9))
    shape = rng.integers(3)
    if shape == 0:
        easel.ellipse(rng.uniform(0.3, 0.7), horizon * 0.5, 0.32, 0.32, blend(base, accent, 0.7))
    elif shape == 1:
        x = rng.uniform(0.05, 0.6)
        easel.box(x, 0, x + 0.3, horizon, blend(base, accent, 0.7))
    else:
        easel.polygon([(0, horizon * 0.25), (1, horizon * 0.75), (1, horizon), (0, horizon)], blend(base, accent, 0.6))
    easel.glow(rng.uniform(0.3, 0.7), horizon * 0.6, 0.6, (255, 255, 255), 0.3)


def _room(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    wall = hsv(rng.uniform(), rng.uniform(0.1, 0.35), rng.uniform(0.7, 0.9))
    easel.gradient(0, horizon, blend(wall, (0, 0, 0), 0.08), wall)
    x = rng.uniform(0.02, 0.6)
    easel.box(x - 0.015, horizon * 0.1, x + 0.315, horizon * 0.62, (246, 244, 238))
    easel.box(x, horizon * 0.13, x + 0.3, horizon * 0.59, hsv(rng.uniform(0.52, 0.6), rng.uniform(0.15, 0.4), 0.95))
    easel.box(x + 0.143, horizon * 0.1, x + 0.157, horizon * 0.62, (246, 244, 238))
    curtain = hsv(rng.uniform(), rng.uniform(0.3, 0.55), rng.uniform(0.5, 0.75))
    easel.box(x - 0.1, horizon * 0.06, x + 0.0, horizon * 0.75, curtain)
    easel.box(x + 0.3, horizon * 0.06, x + 0.4, horizon * 0.75, curtain)
    floor = hsv(rng.uniform(0.04, 0.1), rng.uniform(0.25, 0.5), rng.uniform(0.45, 0.7))
    easel.gradient(horizon, 1, blend(floor, (0, 0, 0), 0.2), floor)
    easel.box(0, horizon - 0.03, 1, horizon + 0.006, (236, 232, 224))
    if rng.uniform() < 0.7:
        rug = hsv(rng.uniform(), rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.75))
        easel.ellipse(0.5, horizon + (1 - horizon) * 0.6, 0.6, (1 - horizon) * 0.32, rug)
        easel.ellipse(0.5, horizon + (1 - horizon) * 0.6, 0.46, (1 - horizon) * 0.23, blend(rug, (255, 255, 255), 0.25))
    if rng.uniform() < 0.6:
        sofa, left = hsv(rng.uniform(), 0.4, 0.5), (0.62 if x < 0.3 else 0.0)
        easel.box(left, horizon - 0.2, left + 0.38, horizon + 0.06, sofa)
        easel.box(left + 0.03, horizon - 0.08, left + 0.35, horizon + 0.02, blend(sofa, (255, 255, 255), 0.18))


def _stadium(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    stand = hsv(rng.uniform(), rng.uniform(0.25, 0.5), rng.uniform(0.4, 0.6))
    _sky(easel, rng, horizon * 0.3)
    tiers = int(rng.integers(3, 5))
    for k in range(tiers):
        top, bottom = (horizon * (0.25 + 0.6 * step / tiers) for step in (k, k + 1))
        easel.gradient(top, bottom, blend(stand, (255, 255, 255), 0.1 + 0.22 * (k % 2)), blend(stand, (0, 0, 0), 0.15))
    stair, top, bottom = blend(stand, (255, 255, 255), 0.5), horizon * 0.25, horizon * 0.86
    for x in np.arange(rng.uniform(0.05, 0.25), 1, rng.uniform(0.3, 0.45)):
        easel.polygon([(x, top), (x + 0.03, top), (x + 0.05, bottom), (x, bottom)], stair)
    easel.box(0, horizon * 0.85, 1, horizon, hsv(rng.uniform(), rng.uniform(0.4, 0.6), rng.uniform(0.6, 0.85)))
    if rng.uniform() < 0.5:
        field = hsv(rng.uniform(0.27, 0.36), rng.uniform(0.4, 0.55), rng.uniform(0.5, 0.65))
        easel.gradient(horizon, 1, blend(field, (0, 0, 0), 0.15), field)
        for x in np.arange(-1.2, 2.2, 0.56):
            easel.converging(float(x), 0.28, horizon, blend(field, (255, 255, 255), 0.1))
    else:
        track = hsv(rng.uniform(0.0, 0.06), rng.uniform(0.45, 0.6), rng.uniform(0.55, 0.75))
        easel.gradient(horizon, 1, blend(track, (0, 0, 0), 0.15), track)
        for share in (0.12, 0.36, 0.72):
            y = horizon + (1 - horizon) * share
            easel.box(0, y, 1, y + 0.008 + 0.012 * share, (230, 224, 218))


def _mountains(easel: _Easel, rng: np.random.Generator, horizon: float) -> None:
    _sky(easel, rng, horizon)
    rock = hsv(rng.uniform(0.55, 0.75), rng.uniform(0.15, 0.35), rng.uniform(0.45, 0.65))
    for layer in range(2):
        color = blend(rock, (210, 220, 235), 0.4 - 0.3 * layer)
        for _ in range(3):
            x, top, half = (
                rng.uniform(0, 1),
                horizon * rng.uniform(0.2 + 0.25 * layer, 0.5 + 0.25 * layer),
                rng.uniform(0.2, 0.4),
            )
            easel.polygon([(x - half, horizon), (x, top), (x + half, horizon)], color)
            cut = (horizon - top) * 0.28
            side = half * cut / (horizon - top)
            easel.polygon([(x - side, top + cut), (x, top), (x + side, top + cut)], blend(color, (255, 255, 255), 0.75))
    snow = rng.uniform() < 0.4
    ground = (226, 232, 240) if snow else hsv(rng.uniform(0.12, 0.3), rng.uniform(0.25, 0.45), rng.uniform(0.55, 0.7))
    easel.gradient(horizon, 1, blend(ground, (90, 100, 110), 0.2), ground)
    for _ in range(int(rng.integers(0, 4))):
        x, height, fir = rng.uniform(0, 1), rng.uniform(0.18, 0.35), hsv(rng.uniform(0.36, 0.45), 0.35, 0.4)
        for k in range(2):
            top, half = horizon + 0.03 - height * (1 - 0.35 * k), 0.13 * height + 0.1 * height * k
            easel.polygon([(x - half, top + 0.62 * height), (x, top), (x + half, top + 0.62 * height)], fir)


PAINTERS: dict[str, Callable[[_Easel, np.random.Generator, float], None]] = {
    "gym": _gym,
    "park": _park,
    "court": _court,
    "street": _street,
    "beach": _beach,
    "studio": _studio,
    "room": _room,
    "stadium": _stadium,
    "mountains": _mountains,
}


@lru_cache(maxsize=4)
def paint_background(background: Background, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) float32 RGB in 0 … 255; cached, therefore read-only."""
    easel = _Easel(size)
    PAINTERS[background.kind](
        easel, numpy_generator(background.seed, "background", background.kind), background.horizon
    )
    height, width = size
    small = easel.image.resize((width, height), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(0.004 * height))
    pixels = np.asarray(blurred, dtype=np.float32)
    pixels.setflags(write=False)
    return pixels
