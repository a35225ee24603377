"""Joints → RGB frame: a clothed body with volume in front of a background.

Limbs are chains of tapered capsules, the trunk is a rounded polygon, the head an ellipsoid with a face and hair; they
are painted from far to near. The same joints and scene give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from m3.rendering.backgrounds import Color, blend, paint_background
from m3.rendering.body import ANKLES, ELBOWS, HEAD, HIPS, KNEES, SHOULDERS, WRISTS, Pose, estimate_pose
from m3.rendering.scene import Scene, paint_occluder, random_scene
from m3.rendering.shapes import RenderTarget, Segment, brightness, paint_chain, polygon_distance

__all__ = ["Scene", "random_scene", "render_frame"]


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
        is_visible: (13,) bool. An invisible joint with a plausible position is drawn, too: something hides it. A joint
            without one is omitted, and the whole person where no shoulder and no hip has one.
        size: (height, width), pixels.
        scene: the appearance of body and background.
        depth: (13,) float pixels toward the viewer, or None to infer the depth order.
        ground_y: y of the shadow, pixels, or None for just below the lowest joint.

    Returns: (height, width, 3) uint8 RGB.
    """
    height, width = size
    if xy.shape != (13, 2) or is_visible.shape != (13,):
        raise ValueError(f"a pose has joints (13, 2) and visibilities (13,), got {xy.shape} and {is_visible.shape}")
    target = RenderTarget(paint_background(scene.background, size), scene.light)
    pose = estimate_pose(xy, is_visible, size, depth)
    if pose is not None:
        _shadow(target, pose, ground_y)
        for _, part in sorted(_parts(target, pose, scene), key=lambda keyed: keyed[0]):
            part()
    pixels = target.rgb
    pixels *= np.asarray(scene.tint, dtype=np.float32)
    if scene.occluder is not None:
        color, cover = paint_occluder(scene.occluder, size)
        pixels += (color - pixels) * cover[..., None]
    pixels += np.float32(0.5)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _parts(target: RenderTarget, pose: Pose, scene: Scene) -> Iterator[tuple[float, Callable[[], None]]]:
    """Pairs of (depth in pixels, function that draws the part)."""
    z, s = pose.depth, pose.scale
    trunk = float(z[list(SHOULDERS + HIPS)].mean())
    yield trunk, lambda: _torso(target, pose, scene)
    yield trunk + 0.02 * s, lambda: _head(target, pose, scene)
    for k in range(2):
        arm = [SHOULDERS[k], ELBOWS[k], WRISTS[k]]
        leg = [HIPS[k], KNEES[k], ANKLES[k]]
        arm_depth, leg_depth = float(z[arm] @ [0.3, 0.45, 0.25]), float(z[leg] @ [0.5, 0.4, 0.1])
        yield arm_depth + 0.03 * s, lambda arm=arm: _arm(target, pose, scene, arm)
        yield leg_depth - 0.02 * s, lambda leg=leg: _leg(target, pose, scene, leg)


def _dimmed(color: Color, pose: Pose, joints: list[int]) -> Color:
    """The color of a limb: darker on the far side."""
    behind = (pose.depth[[*SHOULDERS, *HIPS]].mean() - pose.depth[joints].mean()) / pose.scale
    return blend(color, (30, 34, 44), float(np.clip(1.6 * behind, 0, 0.22)))


def _arm(target: RenderTarget, pose: Pose, scene: Scene, joints: list[int]) -> None:
    """Draws upper arm, forearm and hand, as far as their joints are usable."""
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
        Segment(inner, elbow, radii[0], radii[1], first, second, float(upper_split), 0.003 * thick, 0, depth[1])
    ]
    if pose.is_usable[joints[2]]:
        first, split = shirt if lower_split > 0 else skin, float(max(lower_split, 0))
        segments.append(
            Segment(elbow, wrist, radii[1], radii[2], first, skin, split, 0.003 * thick, depth[1], depth[2])
        )
        reach = wrist - elbow
        reach = reach / max(np.hypot(*reach), 0.06 * s)
        heel, tip, near = wrist + 0.012 * s * reach, wrist + 0.045 * s * reach, depth[2] + 0.01 * s
        segments.append(Segment(heel, tip, 0.022 * thick, 0.021 * thick, skin, depth_a=near, depth_b=near))
    paint_chain(target, segments, 0.014 * s, shoulder)


def _leg(target: RenderTarget, pose: Pose, scene: Scene, joints: list[int]) -> None:
    """Draws thigh, shin and shoe, as far as their joints are usable."""
    if not pose.is_usable[joints[:2]].all():
        return
    s, thick = pose.scale, pose.scale * scene.build
    skin, cloth = _dimmed(scene.skin, pose, joints), _dimmed(scene.trousers, pose, joints)
    hip, knee, ankle = pose.xy[joints]
    depth = pose.depth[joints] - pose.depth[joints[0]]
    hip = pose.pelvis + (hip - pose.pelvis) * 0.8
    second, split = skin if scene.leg < 0.5 else None, min(scene.leg / 0.5, 1.0)
    segments = [Segment(hip, knee, 0.060 * thick, 0.040 * thick, cloth, second, split, 0.004 * thick, 0, depth[1])]
    if pose.is_usable[joints[2]]:
        share = (scene.leg - 0.5) / 0.5
        wide = 0.006 * thick if share > 0.5 else 0.0
        first, split, bulge = cloth if share > 0 else skin, float(max(share, 0)), 0.007 * thick - wide
        segments.append(
            Segment(knee, ankle, 0.039 * thick, 0.023 * thick + wide, first, skin, split, bulge, depth[1], depth[2])
        )
        shin = (ankle - knee) / max(np.hypot(*(ankle - knee)), 0.08 * s)
        ahead = np.array([-shin[1], shin[0]]) * -1.0  # to the picture's right below an upright person
        toe = 0.115 * pose.facing[0] * ahead + 0.05 * max(pose.facing[2], 0) * shin
        toe = toe + 0.02 * shin
        heel, tip = ankle + 0.018 * s * shin - 0.1 * toe * s, ankle + 0.026 * s * shin + toe * s
        shoe = _dimmed(scene.shoes, pose, joints)
        near = depth[2] + 0.01 * s
        ahead_of = near + 0.08 * s * max(pose.facing[2], 0)
        segments.append(Segment(heel, tip, 0.027 * thick, 0.023 * thick, shoe, depth_a=near, depth_b=ahead_of))
    paint_chain(target, segments, 0.014 * s, hip)


def _outline(pose: Pose, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Corners (10, 2) of the trunk's polygon before rounding by 0.04 statures, and half widths (5,) along the spine."""
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


def _torso(target: RenderTarget, pose: Pose, scene: Scene) -> None:
    """Draws chest, waist and pelvis as one rounded shape, shaded like an upright cylinder."""
    s = pose.scale
    corners, half_widths = _outline(pose, scene)
    rounding = 0.04 * s
    margin = rounding + 0.03 * s + 2
    region = target.region(corners.min(0) - margin, corners.max(0) + margin)
    if region is None:
        return
    where, x, y = region
    distance = polygon_distance(corners, x, y) - np.float32(rounding)
    spine = pose.pelvis - pose.neck
    length = max(float(np.hypot(*spine)), 0.05 * s)
    down = spine / length if np.hypot(*spine) > 0.05 * s else -pose.up
    px, py = x - np.float32(pose.neck[0]), y - np.float32(pose.neck[1])
    v = (px * np.float32(down[0]) + py * np.float32(down[1])) / np.float32(length)
    u = px * np.float32(-down[1]) + py * np.float32(down[0])  # across, (h, w)
    half = np.interp(v, [-0.03, 0.25, 0.62, 0.95, 1.10], half_widths + rounding).astype(np.float32)
    u = np.clip(u / half, -1, 1) * np.float32(0.95)
    tilt = np.clip((v - np.float32(0.35)) * np.float32(0.5), -0.4, 0.35)  # the chest is tilted up, the belly down
    nz = np.sqrt(np.maximum(1 - u * u, 0)) * np.sqrt(1 - tilt * tilt)
    nx, ny = u * np.float32(-down[1]) + tilt * np.float32(down[0]), u * np.float32(down[0]) + tilt * np.float32(down[1])
    shade = brightness(target.light, nx, ny, nz)[..., None]
    color = np.asarray(scene.shirt, dtype=np.float32)
    if scene.band is not None:
        inside = np.clip((np.float32(0.11) - np.abs(v - np.float32(0.36))) * np.float32(length) + np.float32(0.5), 0, 1)
        color = color + (np.asarray(scene.band, dtype=np.float32) - color) * inside[..., None]
    hem = np.clip((v - np.float32(0.90)) * np.float32(length) + np.float32(0.5), 0, 1)[..., None]
    color = (color + (np.asarray(scene.trousers, dtype=np.float32) - color) * hem) * shade
    halo = np.exp(np.maximum(distance, 0) ** 2 * np.float32(-1 / (0.014 * s) ** 2))
    halo *= np.clip((np.float32(0.95) - v) * 5, 0, 1)  # legs grow out of the pelvis
    target.paint(where, distance, color, halo)


def _head(target: RenderTarget, pose: Pose, scene: Scene) -> None:
    """Draws neck and head: an ellipsoid with hair, and a face in the direction of the chest."""
    s, thick = pose.scale, pose.scale * (0.5 + 0.5 * scene.build)
    center = pose.xy[HEAD]
    axis = (center - pose.neck) / s + 0.04 * pose.up
    axis = axis / max(np.hypot(*axis), 1e-6)
    side = np.array([-axis[1], axis[0]])
    face = np.array([pose.facing[0], -0.12, pose.facing[2]])
    face = face / np.linalg.norm(face)  # along side, axis, toward the viewer
    fall = center - axis * 0.05 * s - side * 0.035 * s * face[0]
    hair = [
        Segment(center - side * 0.02 * s * face[0], fall - axis * 0.055 * s, 0.055 * thick, 0.04 * thick, scene.hair)
    ]
    if scene.is_long_haired and face[2] > -0.2:
        paint_chain(target, hair, 0.012 * s, pose.neck)
    nape = pose.neck - 0.01 * s * axis
    paint_chain(target, [Segment(nape, center, 0.034 * thick, 0.032 * thick, blend(scene.skin, (60, 30, 20), 0.15))],
                 0.012 * s, pose.neck)  # fmt: skip
    _skull(target, scene, center, axis, side, face, 0.057 * thick, 0.073 * thick)
    if scene.is_long_haired and face[2] <= -0.2:
        paint_chain(target, hair, 0.012 * s, center)


def _skull(
    target: RenderTarget, scene: Scene, center: np.ndarray, axis: np.ndarray, side: np.ndarray, face: np.ndarray,
    radius_x: float, radius_y: float,
) -> None:  # fmt: skip
    region = target.region(center - 1.3 * radius_y - 2, center + 1.3 * radius_y + 2)
    if region is None:
        return
    where, x, y = region
    px, py = x - np.float32(center[0]), y - np.float32(center[1])
    u = (px * np.float32(side[0]) + py * np.float32(side[1])) / np.float32(radius_x)
    v = (px * np.float32(axis[0]) + py * np.float32(axis[1])) / np.float32(radius_y)
    u = u * (1 - 0.16 * np.minimum(v, 0))  # a narrower chin
    length = np.sqrt(u * u + v * v)
    distance = (length - 1) * np.float32(radius_x)
    inverse = 1 / np.maximum(length, 1)
    u, v = u * inverse, v * inverse
    w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
    nx, ny = u * np.float32(side[0]) + v * np.float32(axis[0]), u * np.float32(side[1]) + v * np.float32(axis[1])
    shade = brightness(target.light, nx, ny, w)[..., None]
    toward = u * np.float32(face[0]) + v * np.float32(face[1]) + w * np.float32(face[2])
    is_face = toward - np.float32(0.12) - np.float32(0.9) * np.maximum(v - np.float32(0.28), 0)
    share = np.clip(is_face * np.float32(radius_x) + np.float32(0.5), 0, 1)[..., None]
    hair, skin = np.asarray(scene.hair, dtype=np.float32), np.asarray(scene.skin, dtype=np.float32)
    color = hair + (skin - hair) * share
    for yaw in (-0.36, 0.36):
        ex, ez = face[0] * np.cos(yaw) + face[2] * np.sin(yaw), face[2] * np.cos(yaw) - face[0] * np.sin(yaw)
        if ez > 0.1:
            dark = np.exp(((u - np.float32(0.93 * ex)) ** 2 + (v - np.float32(0.06)) ** 2) * np.float32(-1 / 0.15**2))
            color = color + (np.float32(40) - color) * (np.float32(0.75 * min(1.0, 2 * ez)) * dark)[..., None]
    halo = np.exp(np.maximum(distance, 0) ** 2 * np.float32(-1 / (0.2 * radius_x) ** 2))
    target.paint(where, distance, color * shade, halo)


def _shadow(target: RenderTarget, pose: Pose, ground_y: float | None) -> None:
    """Darkens a soft ellipse on the ground under the body."""
    points = pose.xy[pose.is_usable]
    lowest = points[:, 1].max() + 0.04 * pose.scale if ground_y is None else ground_y
    low_x, high_x = points[:, 0].min(), points[:, 0].max()
    is_near = points[:, 1] > lowest - 0.35 * pose.scale
    foot = points[is_near, 0].mean() if is_near.any() else 0.5 * (low_x + high_x)
    center_x = 0.5 * foot + 0.5 * pose.pelvis[0] - 0.06 * pose.scale * np.sign(target.light[0])
    radius_x = max(0.16 * pose.scale, 0.45 * (high_x - low_x))
    radius_y = 0.05 * pose.scale
    center, reach = np.array([center_x, lowest]), np.array([2 * radius_x, 2 * radius_y])
    if (region := target.region(center - reach, center + reach)) is None:
        return
    where, x, y = region
    dx, dy = (x - np.float32(center_x)) / np.float32(radius_x), (y - np.float32(lowest)) / np.float32(radius_y)
    target.rgb[where] *= (1 - np.float32(0.42) * np.exp(-((dx * dx) ** 1.5) - dy * dy))[..., None]
