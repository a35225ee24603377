"""The appearance of a rendered clip: body, clothes, light, background, and an object in front of the person."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from m3.rendering.backgrounds import PAINTERS, Background, Color, blend, hsv

OCCLUDER_KINDS = ("box", "post", "bench", "hedge")


@dataclass(frozen=True)
class Occluder:
    """An object in front of the person.

    kind: one of `OCCLUDER_KINDS`.
    box: x0, y0, x1, y1 as fractions of the frame.
    color: its base color.
    """

    kind: str
    box: tuple[float, float, float, float]
    color: Color


@dataclass(frozen=True)
class Scene:
    """Everything that determines a frame besides the joints; constant within a clip.

    build: thickness of the limbs relative to the average.
    shirt, trousers, shoes, skin, hair: colors.
    sleeve: fraction of the arm (shoulder to wrist) that the shirt covers.
    leg: fraction of the leg (hip to ankle) that the trousers cover.
    band: color of a broad band across the chest, or None.
    is_long_haired: whether hair falls on the neck.
    light: unit vector toward the light (right, down, toward the viewer).
    tint: factors of red, green and blue.
    background, occluder: what is behind and in front of the person.
    """

    build: float
    shirt: Color
    trousers: Color
    shoes: Color
    skin: Color
    hair: Color
    sleeve: float
    leg: float
    band: Color | None
    is_long_haired: bool
    light: tuple[float, float, float]
    tint: tuple[float, float, float]
    background: Background
    occluder: Occluder | None = None


_SKINS = ((247, 214, 186), (236, 188, 152), (214, 160, 120), (178, 122, 86), (134, 88, 60), (98, 64, 46))
_HAIRS = ((34, 28, 26), (66, 44, 32), (112, 74, 44), (176, 134, 78), (224, 190, 124), (150, 66, 36), (150, 150, 152))


def random_scene(rng: np.random.Generator, feet: float = 0.85) -> Scene:
    """A random scene. feet: y of the ground under the person, 0 top … 1 bottom; the horizon is above it."""
    hue = rng.uniform()
    shirt = hsv(hue, rng.uniform(0.45, 0.85), rng.uniform(0.6, 0.95))
    if rng.uniform() < 0.25:
        shirt = hsv(hue, 0.05, rng.choice([0.25, 0.9]))
    trousers = hsv(hue + rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.55))
    if rng.uniform() < 0.4:
        trousers = hsv(0.6, 0.1, rng.choice([0.2, 0.35, 0.8]))
    light = np.array([rng.choice([-1, 1]) * rng.uniform(0.35, 0.6), -rng.uniform(0.4, 0.65), 0.7])
    light /= np.linalg.norm(light)
    warmth = rng.uniform(-0.05, 0.05)
    return Scene(
        build=float(rng.uniform(0.95, 1.25)),
        shirt=shirt,
        trousers=trousers,
        shoes=hsv(rng.uniform(), rng.uniform(0, 0.6), rng.choice([0.3, 0.9])),
        skin=_SKINS[rng.integers(len(_SKINS))],
        hair=_HAIRS[rng.integers(len(_HAIRS))],
        sleeve=float(rng.choice([0.0, 0.33, 0.36, 0.42, 0.97])),
        leg=float(rng.choice([0.3, 0.42, 0.52, 0.97, 0.97, 0.97])),
        band=hsv(rng.uniform(), 0.3, 0.95) if rng.uniform() < 0.3 else None,
        is_long_haired=bool(rng.uniform() < 0.4),
        light=(float(light[0]), float(light[1]), float(light[2])),
        tint=(1 + warmth, 1.0, 1 - warmth),
        background=Background(
            str(rng.choice(list(PAINTERS))),
            int(rng.integers(2**31)),
            float(np.clip(feet - rng.uniform(0.12, 0.35), 0.3, 0.72)),
        ),
    )


def occluder_cover(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """(height, width) float32 in 0 … 1, fraction of each pixel that the scene's occluder covers."""
    if scene.occluder is None:
        return np.zeros(size, dtype=np.float32)
    return paint_occluder(scene.occluder, size)[1]


@lru_cache(maxsize=4)
def paint_occluder(occluder: Occluder, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Color (height, width, 3) and coverage (height, width), float32, of an object made of rounded boxes."""
    height, width = size
    x0, y0, x1, y1 = np.array(occluder.box) * [width, height, width, height]
    w, h = x1 - x0, y1 - y0
    base = occluder.color
    boards = {
        "box": [(x0, y0, x1, y1, base, 0.03), (x0, y0, x1, y0 + 0.16 * h, blend(base, (255, 255, 255), 0.25), 0.03)],
        "post": [(x0, y0, x1, y1, base, 0.1)],
        "bench": [(x0 + 0.08 * w, y0, x0 + 0.16 * w, y1, blend(base, (0, 0, 0), 0.3), 0.02),
                  (x1 - 0.16 * w, y0, x1 - 0.08 * w, y1, blend(base, (0, 0, 0), 0.3), 0.02),
                  (x0, y0, x1, y0 + 0.55 * h, base, 0.06)],
        "hedge": [(x0, y0 + 0.1 * h, x1, y1, base, 0.3), (x0 + 0.05 * w, y0, x0 + 0.5 * w, y1, base, 0.4),
                  (x0 + 0.45 * w, y0 + 0.04 * h, x1 - 0.05 * w, y1, base, 0.4)],
    }[occluder.kind]  # fmt: skip
    x, y = np.arange(width, dtype=np.float32)[None, :] + 0.5, np.arange(height, dtype=np.float32)[:, None] + 0.5
    color, cover = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    for left, top, right, bottom, paint, roundness in boards:
        rounding = roundness * min(right - left, bottom - top)
        dx = np.abs(x - 0.5 * (left + right)) - (0.5 * (right - left) - rounding)
        dy = np.abs(y - 0.5 * (top + bottom)) - (0.5 * (bottom - top) - rounding)
        distance = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - rounding
        part = np.clip(0.5 - distance, 0, 1).astype(np.float32)
        across = (x - left) / max(right - left, 1) if occluder.kind == "post" else (y - top) / max(bottom - top, 1)
        shade = np.broadcast_to(1.08 - 0.32 * np.clip(across, 0, 1), part.shape)
        # `color` is not premultiplied by `cover`: where only this board covers a pixel, it has its full color.
        share = np.where(cover > 0, part, (part > 0).astype(np.float32))[..., None]
        color += (np.asarray(paint, dtype=np.float32) * shade[..., None] - color) * share
        cover = np.maximum(cover, part)
    color.setflags(write=False)
    cover.setflags(write=False)
    return color.astype(np.float32), cover
