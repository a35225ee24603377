"""Human motion in three dimensions: a body of rigid bones that performs periodic actions.

An action moves the trunk, the hands and the feet along smooth curves; elbows and knees follow by two-bone inverse
kinematics, so that every bone keeps its length. Axes: x to the subject's left, y up, z the way the subject faces;
lengths in statures, the ground at y = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from m3.core.joints import MIRRORED
from m3.rendering import body

SIDES = np.array([1.0, -1.0])
"""Sign of x for the subject's own left and right."""

Curve = np.ndarray | float
"""A value per frame, (T,), or one for all frames."""


@dataclass(frozen=True)
class Bones:
    """Bone lengths in statures; `shoulder` and `hip` are half widths, `sole` is the ankle's height above the ground."""

    torso: float = body.TORSO
    head: float = body.HEAD_ABOVE_NECK
    shoulder: float = body.SHOULDER_WIDTH / 2
    hip: float = body.HIP_WIDTH / 2
    upper_arm: float = body.UPPER_ARM
    forearm: float = body.FOREARM
    thigh: float = body.THIGH
    shin: float = body.SHIN
    sole: float = 0.045

    @property
    def arm(self) -> float:
        return self.upper_arm + self.forearm

    @property
    def leg(self) -> float:
        return self.thigh + self.shin

    @property
    def standing(self) -> float:
        """Height of the pelvis of a standing person with almost straight legs."""
        return self.sole + 0.985 * self.leg


def random_bones(rng: np.random.Generator) -> Bones:
    """Bones with lengths drawn uniformly within 7% of the average."""
    lengths = asdict(Bones())
    return Bones(**{name: float(length * rng.uniform(0.93, 1.07)) for name, length in lengths.items()})


def rotation_matrices(lean: np.ndarray, twist: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """(T,) angles in radians → (T, 3, 3) rotations: lean forward, then roll to the subject's left, then twist left."""
    cx, sx, cy, sy, cz, sz = (f(angle) for angle in (lean, twist, -roll) for f in (np.cos, np.sin))
    zero, one = np.zeros_like(cx), np.ones_like(cx)
    about_x = np.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx], -1).reshape(-1, 3, 3)
    about_y = np.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).reshape(-1, 3, 3)
    about_z = np.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    return about_y @ about_z @ about_x


def two_bone_ik(
    root: np.ndarray, target: np.ndarray, upper: float, lower: float, hint: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics: middle joint and end joint, (…, 3) each, of a limb from `root` to `target`.

    Args:
        root, target: (…, 3) positions. A target out of reach is approached along the straight line.
        upper, lower: lengths of the two bones.
        hint: (…, 3) direction toward which the middle joint bends.
    """
    way = target - root
    distance = np.linalg.norm(way, axis=-1, keepdims=True)
    way = way / np.maximum(distance, 1e-9)
    distance = np.clip(distance, 1.02 * abs(upper - lower) + 0.01, 0.999 * (upper + lower))
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    aside = hint - (hint * way).sum(-1, keepdims=True) * way
    aside = aside / np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-9)
    height = np.sqrt(np.maximum(upper**2 - along**2, 0))
    return root + along * way + height * aside, root + distance * way


class Rig:
    """The trunk of a body over T frames, to which limbs are attached.

    pelvis, neck: (T, 3) positions.
    chest, hips: (T, 3, 3) rotations.
    shoulders, hip_joints: (T, 2, 3) positions, the subject's left first.
    """

    def __init__(self, bones: Bones, pelvis: np.ndarray, chest: np.ndarray, hips: np.ndarray) -> None:
        self.bones, self.pelvis, self.chest = bones, pelvis, chest
        self.neck = pelvis + bones.torso * chest[:, :, 1]
        self.shoulders = self.neck[:, None] + bones.shoulder * SIDES[:, None] * chest[:, None, :, 0]
        self.hip_joints = pelvis[:, None] + bones.hip * SIDES[:, None] * hips[:, None, :, 0]

    def toward(self, forward: np.ndarray, outward: np.ndarray, reach: np.ndarray | float) -> np.ndarray:
        """(T, 2, 3) hands of arms that are raised from hanging down.

        Args:
            forward, outward: (T, 2) angles in radians.
            reach: distance of the hands from the shoulders, as a fraction of the arm's length.
        """
        way = np.stack(
            [SIDES * np.sin(outward), -np.cos(outward) * np.cos(forward), np.cos(outward) * np.sin(forward)], -1
        )  # (T, 2, 3)
        return self.shoulders + self.bones.arm * np.asarray(reach)[..., None] * way

    def pose(self, hands: np.ndarray, feet: np.ndarray, elbow_hint: np.ndarray, knee_hint: np.ndarray) -> np.ndarray:
        """(T, 13, 3) joints.

        Args:
            hands, feet: (T, 2, 3) wrists and ankles, the subject's left first.
            elbow_hint, knee_hint: see `two_bone_ik`; broadcast to hands and feet.
        """
        bones = self.bones
        points = np.empty((len(self.pelvis), 13, 3))
        points[:, body.HEAD] = self.neck + bones.head * self.chest[:, :, 1]
        points[:, body.SHOULDERS], points[:, body.HIPS] = self.shoulders, self.hip_joints
        points[:, body.ELBOWS], points[:, body.WRISTS] = two_bone_ik(
            self.shoulders, hands, bones.upper_arm, bones.forearm, np.broadcast_to(elbow_hint, hands.shape)
        )
        points[:, body.KNEES], points[:, body.ANKLES] = two_bone_ik(
            self.hip_joints, feet, bones.thigh, bones.shin, np.broadcast_to(knee_hint, feet.shape)
        )
        return points


ELBOWS_BACK = np.array([[0.5, -0.4, -1.0], [-0.5, -0.4, -1.0]])
KNEES_AHEAD = np.array([[0.25, 0.0, 1.0], [-0.25, 0.0, 1.0]])


def _wave(cycles: np.ndarray, shift: float = 0.0) -> np.ndarray:
    return np.sin(2 * np.pi * (cycles + shift))


def _ease(cycles: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """A smooth curve that is 0 at whole cycles and 1 half-way between them."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * (cycles + shift))


def _both(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([left, right], axis=1)


def _at(x: Curve, y: Curve, z: Curve, num_frames: int) -> np.ndarray:
    """(T, 3) positions."""
    return np.stack([np.broadcast_to(value, num_frames) for value in (x, y, z)], -1).astype(np.float64)


def _feet(
    num_frames: int, bones: Bones, apart: Curve, up: Curve = 0.0, ahead_left: Curve = 0.0, ahead_right: Curve = 0.0
) -> np.ndarray:
    """(T, 2, 3) ankles, each `apart` from the middle line."""
    left = _at(apart, bones.sole + up, ahead_left, num_frames)
    return _both(left, _at(-np.asarray(apart), bones.sole + up, ahead_right, num_frames))


def _upright(
    bones: Bones, pelvis: np.ndarray, lean: Curve = 0.0, twist: Curve = 0.0, roll: Curve = 0.0, hip_twist: Curve = 0.0
) -> Rig:
    """A trunk with the pelvis at (T, 3); the chest is turned by lean, twist and roll, the hips by hip_twist."""
    num_frames = len(pelvis)
    curves = [
        np.broadcast_to(np.asarray(angle, dtype=np.float64), num_frames) for angle in (lean, twist, roll, hip_twist)
    ]
    still = np.zeros(num_frames)
    return Rig(bones, pelvis, rotation_matrices(*curves[:3]), rotation_matrices(still, curves[3], still))


def jumping_jacks(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, c = len(p), _ease(p)
    hop = 0.05 * size * _wave(p) ** 2
    rig = _upright(bones, _at(0, bones.standing - 0.03 + hop, 0, n))
    outward = 0.2 + 2.6 * min(size, 1.05) * c
    hands = rig.toward(np.full((n, 2), 0.15), _both(outward, outward), 0.96)
    return rig.pose(hands, _feet(n, bones, 0.06 + 0.17 * size * c, hop), np.array([0, -0.3, -1.0]), KNEES_AHEAD)


def squat(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, c = len(p), _ease(p)
    rig = _upright(bones, _at(0, bones.standing - 0.25 * size * c, -0.11 * c, n), lean=0.7 * c)
    raised = 0.2 + 1.4 * c
    hands = rig.toward(_both(raised, raised), np.full((n, 2), 0.12), 0.95)
    return rig.pose(hands, _feet(n, bones, 0.11), ELBOWS_BACK, KNEES_AHEAD * [1.8, 1, 1])


def walk(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, stride = len(p), 0.42 * size
    feet = []
    for k in range(2):
        q = (p + 0.5 * k) % 1
        lifted = np.clip(2 * q - 1, 0, 1)  # stance in the first half of a cycle, swing in the second
        ahead = np.where(q < 0.5, stride * (0.5 - 2 * q), stride * (0.5 - 0.5 * np.cos(np.pi * lifted) - 0.5))
        feet.append(_at(SIDES[k] * 0.05, bones.sole + 0.10 * size * np.sin(np.pi * lifted), ahead, n))
    swing = 0.6 * size * np.cos(2 * np.pi * p)
    rig = _upright(
        bones, _at(0, bones.standing - 0.035 - 0.012 * np.cos(4 * np.pi * p), 0, n), lean=0.08, twist=0.25 * swing
    )
    hands = rig.toward(_both(-swing, swing), np.full((n, 2), 0.12), 0.93)
    points = rig.pose(hands, np.stack(feet, 1), ELBOWS_BACK, KNEES_AHEAD)
    if rng.uniform() < 0.5:  # across the picture; otherwise in place, as on a treadmill
        points[..., 2] += 2 * stride * (p - p.mean())[:, None]
    return points


def high_knees(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n = len(p)
    lift = [np.maximum(_wave(p, 0.5 * k), 0) ** 1.5 for k in range(2)]
    feet = [_at(s * 0.07, bones.sole + 0.27 * size * up, 0.10 * up, n) for s, up in zip(SIDES, lift)]
    rig = _upright(bones, _at(0, bones.standing - 0.03 + 0.03 * _wave(p) ** 2, 0, n), lean=0.1, twist=-0.2 * _wave(p))
    swing = 0.7 * _wave(p)
    hands = rig.toward(_both(0.6 - swing, 0.6 + swing), np.full((n, 2), 0.15), 0.72)
    return rig.pose(hands, np.stack(feet, 1), ELBOWS_BACK, KNEES_AHEAD)


def golf_swing(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, angle = len(p), 2.2 * size * np.tanh(1.6 * _wave(p)) / np.tanh(1.6)
    rig = _upright(
        bones,
        _at(0.04 * _wave(p), bones.standing - 0.05, -0.05, n),
        lean=0.42,
        twist=0.4 * angle,
        hip_twist=0.22 * angle,
    )
    down = np.array([0, -0.88, 0.47])
    way = np.cos(angle)[:, None] * down + np.sin(angle)[:, None] * [1.0, 0.15, 0]
    grip = rig.neck + (0.29 - 0.05 * (1 - np.cos(angle)))[:, None] * way + [0, 0, 0.06]
    hands = _both(grip + [0.02, 0, 0], grip - [0.02, 0.02, 0])
    return rig.pose(hands, _feet(n, bones, 0.13), np.array([0, -1.0, -0.4]), KNEES_AHEAD)


def baseball_swing(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, sweep = len(p), np.tanh(2 * _wave(p)) / np.tanh(2)
    angle = 1.9 * size * sweep
    pelvis = _at(0.06 * sweep, bones.standing - 0.07, 0, n)
    rig = _upright(bones, pelvis, lean=0.15, twist=0.5 * angle, hip_twist=0.35 * angle, roll=-0.08 * sweep)
    out = np.stack([np.sin(angle), np.zeros(n), np.cos(angle)], -1)
    grip = rig.neck + (0.17 + 0.08 * np.cos(angle))[:, None] * out + _at(0, -0.08 + 0.08 * sweep**2, 0.02, n)
    hands = _both(grip - 0.02 * out, grip + 0.02 * out)
    step = 0.06 * _ease(p, 0.25)
    feet = _both(_at(0.17 + step, bones.sole + 0.03 * step / 0.06, 0, n), _at(-0.17, bones.sole, 0, n))
    return rig.pose(hands, feet, np.array([[0.3, -1.0, 0], [-0.3, -1.0, 0]]), KNEES_AHEAD * [2, 1, 1])


def tennis_serve(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, circle = len(p), -2 * np.pi * p
    dip = _ease(p, 0.2)
    pelvis = _at(0, bones.standing - 0.02 - 0.08 * size * dip, 0.05 * _wave(p, 0.5), n)
    rig = _upright(
        bones, pelvis, lean=0.06 + 0.28 * size * _wave(p, 0.5), twist=-0.45 * _wave(p), hip_twist=-0.2 * _wave(p)
    )
    toss = 0.2 + 2.4 * _ease(p, 0.1) ** 1.5
    hands = rig.toward(
        _both(toss, circle), np.full((n, 2), 0.2), _both(np.full(n, 0.93), 0.78 - 0.18 * np.cos(2 * np.pi * p))
    )
    feet = _both(_at(0.07, bones.sole, 0.11, n), _at(-0.09, bones.sole + 0.03 * dip, -0.11, n))
    return rig.pose(hands, feet, np.array([[0.8, -0.5, -0.4], [-1.0, 0.2, -0.3]]), KNEES_AHEAD)


def bowl(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, c = len(p), _ease(p, 0.25)
    rig = _upright(
        bones, _at(0, bones.standing - 0.03 - 0.13 * size * c, 0.10 * c, n), lean=0.15 + 0.5 * c, twist=0.3 * _wave(p)
    )
    swing = 1.35 * size * _wave(p)
    hands = rig.toward(_both(0.3 * c, swing), _both(0.3 + 0.7 * c, np.full(n, 0.05)), 0.97)
    feet = _both(
        _at(0.07, bones.sole, 0.08 + 0.22 * size * c, n), _at(-0.07, bones.sole + 0.03 * c, -0.05 - 0.22 * size * c, n)
    )
    return rig.pose(hands, feet, ELBOWS_BACK, KNEES_AHEAD)


def pushup(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, line = len(p), bones.torso + 0.99 * bones.leg
    shoulder_height = 0.33 - 0.19 * min(size, 1.05) * _ease(p)
    slope = np.arcsin((shoulder_height - 0.06) / line)
    along = _at(0, np.sin(slope), np.cos(slope), n)
    heel = np.array([0, 0.06, -0.42])
    rig = _upright(bones, heel + 0.99 * bones.leg * along, lean=np.pi / 2 - slope)
    hands = np.broadcast_to(SIDES[:, None] * [0.17, 0, 0] + [0, 0.03, -0.42 + 0.95 * line], (n, 2, 3))
    feet = np.broadcast_to(SIDES[:, None] * [0.06, 0, 0] + heel, (n, 2, 3))
    return rig.pose(hands, feet, np.array([[1.0, 0.3, -0.8], [-1.0, 0.3, -0.8]]), np.array([0, -1.0, 0.3]))


def situp(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, c = len(p), _ease(p)
    rig = _upright(bones, _at(0, 0.08, -0.1, n), lean=-1.45 + 1.75 * min(size, 1.05) * c)
    beside = np.stack([SIDES * 0.12, np.full(2, 0.10), np.full(2, -0.01)], -1)  # (2, 3) in the chest's axes
    hands = rig.neck[:, None] + np.einsum("tij,kj->tki", rig.chest, beside)
    elbows = np.einsum("tij,kj->tki", rig.chest, np.stack([SIDES, np.full(2, 0.1), np.full(2, 0.5)], -1))
    return rig.pose(hands, _feet(n, bones, 0.08, 0, 0.20, 0.20), elbows, np.array([0, 1.0, 0.2]))


def wave(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n, c = len(p), _ease(p)
    rig = _upright(
        bones,
        _at(0.07 * size * _wave(p), bones.standing - 0.04, 0, n),
        roll=0.18 * size * _wave(p),
        twist=0.15 * _wave(p),
    )
    outward = _both(0.5 + 0.4 * c, 1.5 + 1.4 * size * c)
    hands = rig.toward(np.full((n, 2), 0.25), outward, _both(np.full(n, 0.8), 0.96 - 0.2 * _wave(p) ** 2))
    return rig.pose(hands, _feet(n, bones, 0.10), np.array([[0.7, -0.5, -0.6], [-0.5, -1.0, -0.3]]), KNEES_AHEAD)


def boxing(p: np.ndarray, size: float, bones: Bones, rng: np.random.Generator) -> np.ndarray:
    n = len(p)
    twist = -0.55 * size * _wave(p)
    pelvis = _at(0.03 * _wave(p), bones.standing - 0.06 + 0.02 * np.cos(4 * np.pi * p), 0.05 * _ease(2 * p), n)
    rig = _upright(bones, pelvis, lean=0.12, twist=twist, hip_twist=0.5 * twist)
    punch = [np.maximum(_wave(p, 0.5 * k), 0) for k in range(2)]  # (T,) 0 on guard, 1 stretched
    hands = [
        rig.neck + _at(s * (0.08 - 0.05 * out), 0.02 - 0.01 * out, 0.14 + 0.2 * out, n) for s, out in zip(SIDES, punch)
    ]
    feet = _feet(n, bones, 0.09, 0, 0.12, -0.12)
    return rig.pose(np.stack(hands, 1), feet, np.array([[0.6, -1.0, 0], [-0.6, -1.0, 0]]), KNEES_AHEAD)


Action = Callable[[np.ndarray, float, Bones, np.random.Generator], np.ndarray]
"""(phase in cycles (T,), scale of the movement, about 1, bones, generator) → joints (T, 13, 3), right-handed."""

ACTIONS: dict[str, Action] = {
    action.__name__: action
    for action in (
        jumping_jacks, squat, walk, high_knees, golf_swing, baseball_swing,
        tennis_serve, bowl, pushup, situp, wave, boxing,
    )
}  # fmt: skip

LYING = ("pushup", "situp")


def mirror_points(points: np.ndarray) -> np.ndarray:
    """(T, 13, 3) joints → (T, 13, 3) joints of the mirrored movement, by a left-handed subject."""
    return points[:, MIRRORED] * [-1, 1, 1]
