"""Joints → RGB frame: a clothed body with volume, standing in a place.

Limbs are chains of tapered capsules, drawn from their signed distance inside their bounding boxes only: the distance
gives the anti-aliased silhouette, the height of the round surface gives its shading. Parts are painted from far to
near. The same joints and scene give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from m3.clips.backgrounds import PAINTERS, Background, Colour, blend, hsv, paint_background
from m3.clips.body import ANKLES, ELBOWS, HEAD, HIPS, KNEES, SHOULDERS, WRISTS, Pose, pose_of

OCCLUDER_KINDS = ("box", "post", "bench", "hedge")


@dataclass(frozen=True)
class Occluder:
    """An object in front of the person. kind: of OCCLUDER_KINDS; box: x0, y0, x1, y1 as fractions of the frame."""

    kind: str
    box: tuple[float, float, float, float]
    colour: Colour


@dataclass(frozen=True)
class Scene:
    """All that a frame shows besides the joints; constant within a clip.

    build: thickness of the limbs, 1 is average. shirt, trousers, shoes, skin, hair: sRGB in 0 … 255.
    sleeve: share of the arm (shoulder to wrist) that the shirt covers. leg: the same of the trousers.
    band: colour of a broad band across the chest, or None. is_long_haired: whether hair falls on the neck.
    light: unit vector towards the light (right, down, towards the viewer). tint: factor of red, green and blue.
    """

    build: float
    shirt: Colour
    trousers: Colour
    shoes: Colour
    skin: Colour
    hair: Colour
    sleeve: float
    leg: float
    band: Colour | None
    is_long_haired: bool
    light: tuple[float, float, float]
    tint: tuple[float, float, float]
    background: Background
    occluder: Occluder | None = None


_SKINS = ((247, 214, 186), (236, 188, 152), (214, 160, 120), (178, 122, 86), (134, 88, 60), (98, 64, 46))
_HAIRS = ((34, 28, 26), (66, 44, 32), (112, 74, 44), (176, 134, 78), (224, 190, 124), (150, 66, 36), (150, 150, 152))


def random_scene(rng: np.random.Generator, feet: float = 0.85) -> Scene:
    """A scene drawn from `rng`. feet: where, 0 top … 1 bottom, the person usually stands; the horizon lies above."""
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


def render_frame(
    xy: np.ndarray,
    is_visible: np.ndarray,
    size: tuple[int, int],
    scene: Scene,
    depth: np.ndarray | None = None,
    ground_y: float | None = None,
) -> np.ndarray:
    """Draws one frame.

    Args:
        xy: (13, 2) float pixels, continuous, origin at the top-left corner of the frame.
        is_visible: (13,) bool. An invisible joint with a plausible position is drawn too (the body is whole, something
            hides it); one without is left out, and so is the whole person where no shoulder and no hip is known.
        size: (height, width).
        scene: what to draw; its background is the same in every frame.
        depth: (13,) float pixels towards the viewer, or None to infer what is in front of what.
        ground_y: where the shadow lies, in pixels, or None for below the lowest joint.

    Returns: (height, width, 3) uint8 RGB.
    """
    height, width = size
    if xy.shape != (13, 2) or is_visible.shape != (13,):
        raise ValueError(f"a pose has joints (13, 2) and visibilities (13,), got {xy.shape} and {is_visible.shape}")
    canvas = _Canvas(paint_background(scene.background, size), scene)
    pose = pose_of(xy, is_visible, size, depth)
    if pose is not None:
        _shadow(canvas, pose, ground_y)
        for _, part in sorted(_parts(canvas, pose, scene), key=lambda keyed: keyed[0]):
            part()
    pixels = canvas.rgb * np.asarray(scene.tint, dtype=np.float32)
    if scene.occluder is not None:
        colour, cover = _painted_occluder(scene.occluder, size)
        pixels += (colour - pixels) * cover[..., None]
    return (pixels + 0.5).clip(0, 255).astype(np.uint8)


def occluder_cover(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """(height, width) float32 share of each pixel that the scene's occluder hides."""
    if scene.occluder is None:
        return np.zeros(size, dtype=np.float32)
    return _painted_occluder(scene.occluder, size)[1]


class _Canvas:
    """rgb: (height, width, 3) float32; body: (height, width) share of the pixel that a body covers."""

    def __init__(self, background: np.ndarray, scene: Scene) -> None:
        self.rgb = background.copy()
        self.body = np.zeros(background.shape[:2], dtype=np.float32)
        self.light = scene.light

    def window(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
        """Slices of the pixels between two corners, and their x (1, w) and y (h, 1); None when all lie outside."""
        height, width = self.body.shape
        x0, x1 = max(int(low[0]), 0), min(int(high[0]) + 2, width)
        y0, y1 = max(int(low[1]), 0), min(int(high[1]) + 2, height)
        if x0 >= x1 or y0 >= y1:
            return None
        x = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5)
        y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5)
        return (slice(y0, y1), slice(x0, x1)), x, y

    def paint(
        self, where: tuple[slice, slice], distance: np.ndarray, colour: np.ndarray, halo: np.ndarray | None
    ) -> None:
        """Lays a part over the picture, first darkening (`halo`) what it nearly touches.

        distance: (h, w) signed pixels to its outline, negative inside. colour: (h, w, 3).
        """
        rgb, body = self.rgb[where], self.body[where]
        if halo is not None:
            rgb *= (1 - halo * (0.10 + 0.25 * body))[..., None]
        cover = np.clip(0.5 - distance, 0, 1)
        rgb += (colour - rgb) * cover[..., None]
        np.maximum(body, cover, out=body)


def _shade(light: tuple[float, float, float], nx: np.ndarray, ny: np.ndarray, nz: np.ndarray) -> np.ndarray:
    """Brightness of a matt surface with the normal (nx, ny, nz): 0.6 in the shadow, about 1.1 facing the light."""
    lambert = np.clip(nx * np.float32(light[0]) + ny * np.float32(light[1]) + nz * np.float32(light[2]), -0.25, 1)
    return np.float32(0.70) + np.float32(0.40) * lambert


@dataclass(frozen=True)
class _Segment:
    """A tapered capsule from a to b (pixels): radii, depths, swelling between them, two colours and where they meet."""

    a: np.ndarray
    b: np.ndarray
    radius_a: float
    radius_b: float
    colour: Colour
    beyond: Colour | None = None
    split: float = 1.0
    bulge: float = 0.0
    depth_a: float = 0.0
    depth_b: float = 0.0


def _paint_chain(canvas: _Canvas, segments: list[_Segment], halo_width: float, root: np.ndarray | None = None) -> None:
    """Draws capsules as one body: where they overlap, the surface nearer to the viewer shows, with a soft seam.

    halo_width: pixels. root: where the chain grows out of another part, which it does not darken there.
    """
    ends = np.array([point for segment in segments for point in (segment.a, segment.b)])
    margin = max(max(s.radius_a, s.radius_b) + s.bulge for s in segments) + 2 * halo_width + 1
    window = canvas.window(ends.min(0) - margin, ends.max(0) + margin)
    if window is None:
        return
    where, x, y = window
    best = distance = colour = None
    for segment in segments:
        d, surface, rgb = _capsule(segment, x, y, canvas.light)
        if best is None:
            best, distance, colour = surface, d, rgb
            continue
        share = np.clip((surface - best) * np.float32(0.4) + np.float32(0.5), 0, 1)
        colour += (rgb - colour) * share[..., None]
        best = np.maximum(best, surface)
        distance = np.minimum(distance, d)
    halo = np.exp(np.maximum(distance, 0) ** 2 * np.float32(-1 / halo_width**2))
    if root is not None:
        away = (x - np.float32(root[0])) ** 2 + (y - np.float32(root[1])) ** 2
        halo = halo * (1 - np.exp(away * np.float32(-1 / (6 * halo_width) ** 2)))
    canvas.paint(where, distance, colour, halo)


def _capsule(
    segment: _Segment, x: np.ndarray, y: np.ndarray, light: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance, height of the surface (falling off outside), and colour, of a capsule on a grid."""
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
    shade = _shade(light, nx, ny, nz)[..., None]
    colour = np.asarray(segment.colour, dtype=np.float32)
    if segment.beyond is None:
        return distance, surface, colour * shade
    edge = np.clip((t_line - np.float32(segment.split)) * np.float32(squared**0.5) + np.float32(0.5), 0, 1)[..., None]
    return distance, surface, (colour + (np.asarray(segment.beyond, dtype=np.float32) - colour) * edge) * shade


def _parts(canvas: _Canvas, pose: Pose, scene: Scene):
    """Pairs of (depth in pixels, function that draws the part)."""
    z, s = pose.depth, pose.scale
    trunk = z[list(SHOULDERS + HIPS)].mean()
    yield trunk, lambda: _torso(canvas, pose, scene)
    yield trunk + 0.02 * s, lambda: _head(canvas, pose, scene)
    for k in range(2):
        arm = [SHOULDERS[k], ELBOWS[k], WRISTS[k]]
        leg = [HIPS[k], KNEES[k], ANKLES[k]]
        arm_depth, leg_depth = z[arm] @ [0.3, 0.45, 0.25], z[leg] @ [0.5, 0.4, 0.1]
        yield arm_depth + 0.03 * s, lambda arm=arm: _arm(canvas, pose, scene, arm)
        yield leg_depth - 0.02 * s, lambda leg=leg: _leg(canvas, pose, scene, leg)


def _dimmed(colour: Colour, pose: Pose, joints: list[int]) -> Colour:
    """Limbs on the far side are a little darker."""
    behind = (pose.depth[[*SHOULDERS, *HIPS]].mean() - pose.depth[joints].mean()) / pose.scale
    return blend(colour, (30, 34, 44), float(np.clip(1.6 * behind, 0, 0.22)))


def _arm(canvas: _Canvas, pose: Pose, scene: Scene, joints: list[int]) -> None:
    """Upper arm, forearm and hand, as far as their joints are known."""
    if not pose.is_usable[joints[:2]].all():
        return
    s, thick = pose.scale, pose.scale * scene.build
    skin, shirt = _dimmed(scene.skin, pose, joints), _dimmed(scene.shirt, pose, joints)
    shoulder, elbow, wrist = pose.xy[joints]
    depth = pose.depth[joints] - pose.depth[joints[0]]
    upper_split, lower_split = np.clip(scene.sleeve / 0.52, 0, 1), (scene.sleeve - 0.52) / 0.48
    cloth = 0.004 * thick if scene.sleeve > 0.5 else 0.0
    inner = pose.neck + (shoulder - pose.neck) * 0.94
    first, second = shirt if scene.sleeve else skin, skin if scene.sleeve < 0.52 else None
    radii = (0.036 * thick, 0.026 * thick + cloth, 0.018 * thick + cloth)
    segments = [
        _Segment(inner, elbow, radii[0], radii[1], first, second, float(upper_split), 0.003 * thick, 0, depth[1])
    ]
    if pose.is_usable[joints[2]]:
        first, split = shirt if lower_split > 0 else skin, float(max(lower_split, 0))
        segments.append(
            _Segment(elbow, wrist, radii[1], radii[2], first, skin, split, 0.003 * thick, depth[1], depth[2])
        )
        reach = wrist - elbow
        reach = reach / max(np.hypot(*reach), 0.06 * s)
        heel, tip, near = wrist + 0.012 * s * reach, wrist + 0.045 * s * reach, depth[2] + 0.01 * s
        segments.append(_Segment(heel, tip, 0.022 * thick, 0.021 * thick, skin, depth_a=near, depth_b=near))
    _paint_chain(canvas, segments, 0.014 * s, shoulder)


def _leg(canvas: _Canvas, pose: Pose, scene: Scene, joints: list[int]) -> None:
    """Thigh, shin and shoe, as far as their joints are known."""
    if not pose.is_usable[joints[:2]].all():
        return
    s, thick = pose.scale, pose.scale * scene.build
    skin, cloth = _dimmed(scene.skin, pose, joints), _dimmed(scene.trousers, pose, joints)
    hip, knee, ankle = pose.xy[joints]
    depth = pose.depth[joints] - pose.depth[joints[0]]
    hip = pose.pelvis + (hip - pose.pelvis) * 0.8
    second, split = skin if scene.leg < 0.5 else None, min(scene.leg / 0.5, 1.0)
    segments = [_Segment(hip, knee, 0.060 * thick, 0.040 * thick, cloth, second, split, 0.004 * thick, 0, depth[1])]
    if pose.is_usable[joints[2]]:
        share = (scene.leg - 0.5) / 0.5
        wide = 0.006 * thick if share > 0.5 else 0.0
        first, split, bulge = cloth if share > 0 else skin, float(max(share, 0)), 0.007 * thick - wide
        segments.append(
            _Segment(knee, ankle, 0.039 * thick, 0.023 * thick + wide, first, skin, split, bulge, depth[1], depth[2])
        )
        shin = (ankle - knee) / max(np.hypot(*(ankle - knee)), 0.08 * s)
        ahead = np.array([-shin[1], shin[0]]) * -1.0  # to the picture's right below an upright person
        toe = 0.115 * pose.facing[0] * ahead + 0.05 * max(pose.facing[2], 0) * shin
        toe = toe + 0.02 * shin
        heel, tip = ankle + 0.018 * s * shin - 0.1 * toe * s, ankle + 0.026 * s * shin + toe * s
        shoe = _dimmed(scene.shoes, pose, joints)
        near = depth[2] + 0.01 * s
        ahead_of = near + 0.08 * s * max(pose.facing[2], 0)
        segments.append(_Segment(heel, tip, 0.027 * thick, 0.023 * thick, shoe, depth_a=near, depth_b=ahead_of))
    _paint_chain(canvas, segments, 0.014 * s, hip)


def _outline(pose: Pose, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Corners (10, 2) of the trunk's polygon, to be rounded by 0.04 statures, and half widths (5,) down the spine."""
    s = pose.scale
    side = pose.side
    spine = pose.pelvis - pose.neck
    turn = abs(float(pose.facing[2]))
    across = []
    for pair, wide, deep in ((SHOULDERS, 0.10, 0.075), (HIPS, 0.095, 0.08)):
        half = 0.5 * (pose.xy[pair[0]] - pose.xy[pair[1]])
        half = half if half @ side >= 0 else -half
        reach = scene.build * s * float(np.hypot(wide * turn, deep * np.sqrt(max(1 - turn**2, 0)))) - 0.04 * s
        least = min(max(reach, 0.03 * s), 0.12 * s)
        across.append(half + side * max(least - half @ side, 0))
    shares, narrowing = np.array([-0.03, 0.25, 0.62, 0.95, 1.10]), np.array([0.82, 1.0, 0.80, 0.95, 0.72])
    middle = pose.neck + shares[:, None] * spine  # (5, 2)
    half = across[0] + np.clip(shares, 0, 1)[:, None] * (across[1] - across[0])
    half = half * narrowing[:, None]
    return np.concatenate([middle + half, (middle - half)[::-1]]), np.hypot(*half.T)


def _torso(canvas: _Canvas, pose: Pose, scene: Scene) -> None:
    """Chest, waist and pelvis as one rounded shape, shaded like an upright cylinder."""
    s = pose.scale
    corners, half_widths = _outline(pose, scene)
    rounding = 0.04 * s
    margin = rounding + 0.03 * s + 2
    window = canvas.window(corners.min(0) - margin, corners.max(0) + margin)
    if window is None:
        return
    where, x, y = window
    distance = _polygon_distance(corners, x, y) - np.float32(rounding)
    spine = pose.pelvis - pose.neck
    length = max(float(np.hypot(*spine)), 0.05 * s)
    down = spine / length if np.hypot(*spine) > 0.05 * s else -pose.up
    px, py = x - np.float32(pose.neck[0]), y - np.float32(pose.neck[1])
    v = (px * np.float32(down[0]) + py * np.float32(down[1])) / np.float32(length)
    u = px * np.float32(-down[1]) + py * np.float32(down[0])  # across, (h, w)
    half = np.interp(v, [-0.03, 0.25, 0.62, 0.95, 1.10], half_widths + rounding).astype(np.float32)
    u = np.clip(u / half, -1, 1) * np.float32(0.95)
    tilt = np.clip((v - np.float32(0.35)) * np.float32(0.5), -0.4, 0.35)  # the chest looks up a little, the belly down
    nz = np.sqrt(np.maximum(1 - u * u, 0)) * np.sqrt(1 - tilt * tilt)
    nx, ny = u * np.float32(-down[1]) + tilt * np.float32(down[0]), u * np.float32(down[0]) + tilt * np.float32(down[1])
    shade = _shade(canvas.light, nx, ny, nz)[..., None]
    colour = np.asarray(scene.shirt, dtype=np.float32)
    if scene.band is not None:
        inside = np.clip((np.float32(0.11) - np.abs(v - np.float32(0.36))) * np.float32(length) + np.float32(0.5), 0, 1)
        colour = colour + (np.asarray(scene.band, dtype=np.float32) - colour) * inside[..., None]
    hem = np.clip((v - np.float32(0.90)) * np.float32(length) + np.float32(0.5), 0, 1)[..., None]
    colour = (colour + (np.asarray(scene.trousers, dtype=np.float32) - colour) * hem) * shade
    halo = np.exp(np.maximum(distance, 0) ** 2 * np.float32(-1 / (0.014 * s) ** 2))
    halo *= np.clip((np.float32(0.95) - v) * 5, 0, 1)  # legs grow out of the pelvis
    canvas.paint(where, distance, colour, halo)


def _polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
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


def _head(canvas: _Canvas, pose: Pose, scene: Scene) -> None:
    """Neck, then an ellipsoid whose face looks where the chest looks, under a cap of hair."""
    s, thick = pose.scale, pose.scale * (0.5 + 0.5 * scene.build)
    centre = pose.xy[HEAD]
    axis = (centre - pose.neck) / s + 0.04 * pose.up
    axis = axis / max(np.hypot(*axis), 1e-6)
    side = np.array([-axis[1], axis[0]])
    face = np.array([pose.facing[0], -0.12, pose.facing[2]])
    face = face / np.linalg.norm(face)  # along side, axis, towards the viewer
    fall = centre - axis * 0.05 * s - side * 0.035 * s * face[0]
    hair = [
        _Segment(centre - side * 0.02 * s * face[0], fall - axis * 0.055 * s, 0.055 * thick, 0.04 * thick, scene.hair)
    ]
    if scene.is_long_haired and face[2] > -0.2:
        _paint_chain(canvas, hair, 0.012 * s, pose.neck)
    nape = pose.neck - 0.01 * s * axis
    _paint_chain(canvas, [_Segment(nape, centre, 0.034 * thick, 0.032 * thick, blend(scene.skin, (60, 30, 20), 0.15))],
                 0.012 * s, pose.neck)  # fmt: skip
    _skull(canvas, scene, centre, axis, side, face, 0.057 * thick, 0.073 * thick)
    if scene.is_long_haired and face[2] <= -0.2:
        _paint_chain(canvas, hair, 0.012 * s, centre)


def _skull(
    canvas: _Canvas, scene: Scene, centre: np.ndarray, axis: np.ndarray, side: np.ndarray, face: np.ndarray,
    radius_x: float, radius_y: float,
) -> None:  # fmt: skip
    window = canvas.window(centre - 1.3 * radius_y - 2, centre + 1.3 * radius_y + 2)
    if window is None:
        return
    where, x, y = window
    px, py = x - np.float32(centre[0]), y - np.float32(centre[1])
    u = (px * np.float32(side[0]) + py * np.float32(side[1])) / np.float32(radius_x)
    v = (px * np.float32(axis[0]) + py * np.float32(axis[1])) / np.float32(radius_y)
    u = u * (1 - 0.16 * np.minimum(v, 0))  # a narrower chin
    length = np.sqrt(u * u + v * v)
    distance = (length - 1) * np.float32(radius_x)
    inverse = 1 / np.maximum(length, 1)
    u, v = u * inverse, v * inverse
    w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    nx, ny = u * np.float32(side[0]) + v * np.float32(axis[0]), u * np.float32(side[1]) + v * np.float32(axis[1])
    shade = _shade(canvas.light, nx, ny, w)[..., None]
    towards = u * np.float32(face[0]) + v * np.float32(face[1]) + w * np.float32(face[2])
    is_face = towards - np.float32(0.12) - np.float32(0.9) * np.maximum(v - np.float32(0.28), 0)
    share = np.clip(is_face * np.float32(radius_x) + np.float32(0.5), 0, 1)[..., None]
    hair, skin = np.asarray(scene.hair, dtype=np.float32), np.asarray(scene.skin, dtype=np.float32)
    colour = hair + (skin - hair) * share
    for yaw in (-0.36, 0.36):
        ex, ez = face[0] * np.cos(yaw) + face[2] * np.sin(yaw), face[2] * np.cos(yaw) - face[0] * np.sin(yaw)
        if ez > 0.1:
            dark = np.exp(((u - np.float32(0.93 * ex)) ** 2 + (v - np.float32(0.06)) ** 2) * np.float32(-1 / 0.15**2))
            colour = colour + (np.float32(40) - colour) * (np.float32(0.75 * min(1.0, 2 * ez)) * dark)[..., None]
    halo = np.exp(np.maximum(distance, 0) ** 2 * np.float32(-1 / (0.2 * radius_x) ** 2))
    canvas.paint(where, distance, colour * shade, halo)


def _shadow(canvas: _Canvas, pose: Pose, ground_y: float | None) -> None:
    """A soft ellipse on the ground under the body."""
    points = pose.xy[pose.is_usable]
    lowest = points[:, 1].max() + 0.04 * pose.scale if ground_y is None else ground_y
    low_x, high_x = points[:, 0].min(), points[:, 0].max()
    is_near = points[:, 1] > lowest - 0.35 * pose.scale
    foot = points[is_near, 0].mean() if is_near.any() else 0.5 * (low_x + high_x)
    centre_x = 0.5 * foot + 0.5 * pose.pelvis[0] - 0.06 * pose.scale * np.sign(canvas.light[0])
    radius_x = max(0.16 * pose.scale, 0.45 * (high_x - low_x))
    radius_y = 0.05 * pose.scale
    centre, reach = np.array([centre_x, lowest]), np.array([2 * radius_x, 2 * radius_y])
    if (window := canvas.window(centre - reach, centre + reach)) is None:
        return
    where, x, y = window
    dx, dy = (x - np.float32(centre_x)) / np.float32(radius_x), (y - np.float32(lowest)) / np.float32(radius_y)
    canvas.rgb[where] *= (1 - np.float32(0.42) * np.exp(-((dx * dx) ** 1.5) - dy * dy))[..., None]


@lru_cache(maxsize=4)
def _painted_occluder(occluder: Occluder, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Colour (height, width, 3) and cover (height, width), float32, of an object made of rounded boxes."""
    height, width = size
    x0, y0, x1, y1 = np.array(occluder.box) * [width, height, width, height]
    w, h = x1 - x0, y1 - y0
    base = occluder.colour
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
    colour, cover = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    for left, top, right, bottom, paint, roundness in boards:
        rounding = roundness * min(right - left, bottom - top)
        dx = np.abs(x - 0.5 * (left + right)) - (0.5 * (right - left) - rounding)
        dy = np.abs(y - 0.5 * (top + bottom)) - (0.5 * (bottom - top) - rounding)
        distance = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - rounding
        part = np.clip(0.5 - distance, 0, 1).astype(np.float32)
        across = (x - left) / max(right - left, 1) if occluder.kind == "post" else (y - top) / max(bottom - top, 1)
        shade = np.broadcast_to(1.08 - 0.32 * np.clip(across, 0, 1), part.shape)
        # `colour` is not weighted by `cover`: where only this board is, its full colour must stand.
        share = np.where(cover > 0, part, (part > 0).astype(np.float32))[..., None]
        colour += (np.asarray(paint, dtype=np.float32) * shade[..., None] - colour) * share
        cover = np.maximum(cover, part)
    colour.setflags(write=False)
    cover.setflags(write=False)
    return colour.astype(np.float32), cover
