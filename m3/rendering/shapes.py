"""Round, shaded, anti-aliased shapes, drawn from their signed distance inside their bounding boxes only.

A shape's silhouette comes from the distance to its outline, its shading from the normals of its round surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3.rendering.backgrounds import Color


class RenderTarget:
    """A picture to paint on.

    rgb: (height, width, 3) float32 in 0 … 255.
    body: (height, width) float32, fraction of each pixel that body parts cover.
    light: unit vector toward the light.
    """

    def __init__(self, background: np.ndarray, light: tuple[float, float, float]) -> None:
        self.rgb = background.copy()
        self.body: np.ndarray = np.zeros(background.shape[:2], dtype=np.float32)
        self.light = light

    def region(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
        """Slices of the pixels between two corners, and their x (1, w) and y (h, 1); None for corners outside."""
        height, width = self.body.shape
        x0, x1 = max(int(low[0]), 0), min(int(high[0]) + 2, width)
        y0, y1 = max(int(low[1]), 0), min(int(high[1]) + 2, height)
        if x0 >= x1 or y0 >= y1:
            return None
        x = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5)
        y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5)
        return (slice(y0, y1), slice(x0, x1)), x, y

    def paint(
        self, where: tuple[slice, slice], distance: np.ndarray, color: np.ndarray, halo: np.ndarray | None
    ) -> None:
        """Draws a part over the picture.

        Args:
            where: slices of the region, from `region`.
            distance: (h, w) signed distance to the part's outline in pixels, negative inside.
            color: (h, w, 3) of the part.
            halo: (h, w) in 0 … 1, darkening of the picture around the part before it is drawn; None for none.
        """
        rgb, body = self.rgb[where], self.body[where]
        if halo is not None:
            rgb *= (1 - halo * (0.10 + 0.25 * body))[..., None]
        cover = np.clip(0.5 - distance, 0, 1)
        change = color - rgb
        change *= cover[..., None]
        rgb += change
        np.maximum(body, cover, out=body)


def brightness(light: tuple[float, float, float], nx: np.ndarray, ny: np.ndarray, nz: np.ndarray) -> np.ndarray:
    """Brightness of a matte surface with the normal (nx, ny, nz): 0.6 in the shade, about 1.1 facing the light."""
    lambert = np.clip(nx * np.float32(light[0]) + ny * np.float32(light[1]) + nz * np.float32(light[2]), -0.25, 1)
    return np.float32(0.70) + np.float32(0.40) * lambert


@dataclass(frozen=True)
class Segment:
    """A tapered capsule.

    a, b: (2,) ends, pixels.
    radius_a, radius_b: radii at the ends, pixels.
    color: color up to `split`.
    beyond: color from `split` on, or None for one color.
    split: fraction of the way from a to b where the colors meet.
    bulge: additional radius half-way between the ends, pixels.
    depth_a, depth_b: depths of the ends, pixels toward the viewer.
    """

    a: np.ndarray
    b: np.ndarray
    radius_a: float
    radius_b: float
    color: Color
    beyond: Color | None = None
    split: float = 1.0
    bulge: float = 0.0
    depth_a: float = 0.0
    depth_b: float = 0.0


def paint_chain(
    target: RenderTarget, segments: list[Segment], halo_width: float, root: np.ndarray | None = None
) -> None:
    """Draws capsules as one body: where they overlap, the surface nearer to the viewer is shown, with a soft seam.

    Args:
        target: the picture.
        segments: the capsules.
        halo_width: width of the darkening around the chain, pixels.
        root: (2,) point around which there is no darkening: where the chain joins another part. None for none.
    """
    corners = []
    for segment in segments:
        margin = max(segment.radius_a, segment.radius_b) + segment.bulge + 2 * halo_width + 1
        corners.append((np.minimum(segment.a, segment.b) - margin, np.maximum(segment.a, segment.b) + margin))
    region = target.region(np.min([low for low, _ in corners], axis=0), np.max([high for _, high in corners], axis=0))
    if region is None:
        return
    where, x, y = region
    shape, (top, left) = (y.shape[0], x.shape[1]), (where[0].start, where[1].start)
    best, distance = np.full(shape, -1e9, dtype=np.float32), np.full(shape, 1e9, dtype=np.float32)
    color = np.zeros((*shape, 3), dtype=np.float32)
    for segment, (low, high) in zip(segments, corners):
        if (own := target.region(low, high)) is None:
            continue
        (rows, columns), own_x, own_y = own
        inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        own_distance, surface, rgb = _capsule(segment, own_x, own_y, target.light)
        share = np.clip((surface - best[inside]) * np.float32(0.4) + np.float32(0.5), 0, 1)
        color[inside] += (rgb - color[inside]) * share[..., None]
        best[inside] = np.maximum(best[inside], surface)
        distance[inside] = np.minimum(distance[inside], own_distance)
    halo = np.exp(np.clip(distance, 0, 9 * halo_width) ** 2 * np.float32(-1 / halo_width**2))
    if root is not None:
        away = (x - np.float32(root[0])) ** 2 + (y - np.float32(root[1])) ** 2
        halo = halo * (1 - np.exp(away * np.float32(-1 / (6 * halo_width) ** 2)))
    target.paint(where, distance, color, halo)


def _capsule(
    segment: Segment, x: np.ndarray, y: np.ndarray, light: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance, height of the surface (falling off outside) and color of a capsule, on a grid of pixels."""
    along = (segment.b - segment.a).astype(np.float32)
    squared = max(float(along @ along), 1e-3)
    px, py = x - np.float32(segment.a[0]), y - np.float32(segment.a[1])
    t_line = px * (along[0] / np.float32(squared)) + py * (along[1] / np.float32(squared))
    t = np.clip(t_line, 0, 1)
    qx, qy = px - t * along[0], py - t * along[1]
    length = np.sqrt(qx * qx + qy * qy)
    radius = np.float32(segment.radius_a) + np.float32(segment.radius_b - segment.radius_a) * t
    if segment.bulge:
        radius += np.float32(4 * segment.bulge) * t * (1 - t)
    distance = length - radius
    inverse = 1 / np.maximum(radius, length)
    nx, ny = qx * inverse, qy * inverse
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
    surface = nz * radius - 4 * np.maximum(distance, 0)
    if segment.depth_a or segment.depth_b:
        surface += np.float32(segment.depth_a) + np.float32(segment.depth_b - segment.depth_a) * t
    shade = brightness(light, nx, ny, nz)[..., None]
    color = np.asarray(segment.color, dtype=np.float32)
    if segment.beyond is None:
        return distance, surface, color * shade
    edge = np.clip((t_line - np.float32(segment.split)) * np.float32(squared**0.5) + np.float32(0.5), 0, 1)[..., None]
    return distance, surface, (color + (np.asarray(segment.beyond, dtype=np.float32) - color) * edge) * shade


def polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(h, w) signed distance to a simple polygon (Quilez, "2D distance functions"), negative inside."""
    squared = np.full((y.shape[0], x.shape[1]), np.inf, dtype=np.float32)
    is_inside = np.zeros(squared.shape, dtype=bool)
    for first, second in zip(corners.astype(np.float32), np.roll(corners, -1, axis=0).astype(np.float32)):
        edge = second - first
        px, py = x - first[0], y - first[1]
        t = np.clip((px * edge[0] + py * edge[1]) / max(float(edge @ edge), 1e-6), 0, 1).astype(np.float32)
        squared = np.minimum(squared, (px - t * edge[0]) ** 2 + (py - t * edge[1]) ** 2)
        if edge[1]:
            is_between = (y >= first[1]) != (y >= second[1])  # (h, 1)
            is_inside ^= is_between & (px < py * (edge[0] / edge[1]))
    distance = np.sqrt(squared)
    return np.where(is_inside, -distance, distance)
