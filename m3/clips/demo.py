"""A data set without a download: generated motion, filmed by a virtual camera, rendered, in Penn Action's layout."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from m3.clips.penn_action import PennAction
from m3.core.files import atomic_folder, final_name, write_atomic, write_text_atomic
from m3.core.joints import NUM_JOINTS, Joints
from m3.core.progress import track
from m3.core.rng import numpy_generator
from m3.rendering.body import ANKLES, ELBOWS, HEAD, HIPS, KNEES, SHOULDERS, WRISTS
from m3.rendering.motion import ACTIONS, LYING, mirror_points, random_bones
from m3.rendering.render import render_frame
from m3.rendering.scene import OCCLUDER_KINDS, Occluder, Scene, occluder_cover, random_scene

JPEG_QUALITY = 92
_VERSION = 1  # to be raised when the same settings give other motion or other pictures
_SETTINGS = "demo.json"
_MIN_FRAMES_FOR_PROCESSES = 600


@dataclass(frozen=True)
class DemoClip:
    """One generated clip before it is rendered.

    points: (T, 13, 3) float64 joints in statures, in the subject's axes (see `m3.rendering.motion`).
    joints: the same joints in pixels of the picture, and their visibility.
    depth: (T, 13) float64 pixels toward the viewer.
    ground_y: y of the ground under the feet, pixels.
    scene: body, clothes, light, background and occluder.
    action: name of the action, a key of `ACTIONS`.
    pose: the view, as Penn Action names it: front, back, left or right.
    is_train: the clip's split.
    """

    points: np.ndarray
    joints: Joints
    depth: np.ndarray
    ground_y: float
    scene: Scene
    action: str
    pose: str
    is_train: bool

    def render(self, frame: int, size: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8 picture of one frame; size: (height, width), pixels."""
        return render_frame(
            self.joints.xy[frame], self.joints.is_visible[frame], size, self.scene, self.depth[frame], self.ground_y
        )


def demo_clip(seed: int, clip: int, num_frames: int, size: tuple[int, int]) -> DemoClip:
    """A clip as a pure function of its arguments. clip: number from 0; size: (height, width), pixels."""
    rng = numpy_generator(seed, "demo", clip)
    names = list(ACTIONS)
    action = names[clip % len(names)]
    bones, scope = random_bones(rng), float(rng.uniform(0.85, 1.1))
    start, is_mirrored, style = rng.uniform(), rng.uniform() < 0.3, int(rng.integers(2**31))

    def perform(cycles: np.ndarray) -> np.ndarray:
        points = ACTIONS[action](cycles, scope, bones, numpy_generator(style))
        return mirror_points(points) if is_mirrored else points

    yaw, pose, travel = _choose_view(rng, action, perform(start + np.linspace(0, 1, 33)))
    period = float(np.clip(travel / rng.uniform(0.024, 0.032), 10, 26))  # frames of a cycle
    points = perform(start + np.arange(num_frames) / period)
    xy, depth, ground_y, horizon = _project(points, yaw, size, rng)
    scene = random_scene(rng)
    scene = replace(scene, background=replace(scene.background, horizon=horizon))
    if rng.uniform() < 0.2:
        scene = replace(scene, occluder=_random_occluder(rng, action, xy, size))
    is_visible = ~(_self_occluded(xy, depth) | _behind_occluder(xy, scene, size))
    is_train = bool(rng.uniform() < 0.8)
    return DemoClip(points, Joints(xy, is_visible), depth, ground_y, scene, action, pose, is_train)


_SIDE_VIEW_PROBABILITY = {"pushup": 1.0, "situp": 1.0, "boxing": 0.8, "jumping_jacks": 0.1, "wave": 0.1}
"""Probability of a side view, for actions that look best from the side or from the front."""


def _random_yaw(rng: np.random.Generator, action: str) -> tuple[float, str]:
    """(yaw, name of the view): the subject's turn to the picture's right in radians, 0 facing the viewer."""
    side_probability = _SIDE_VIEW_PROBABILITY.get(action, 0.45)
    kind = rng.uniform()
    if kind < side_probability:
        pose = str(rng.choice(["left", "right"]))
        return float((1 if pose == "right" else -1) * rng.normal(np.pi / 2, 0.3)), pose
    if kind < side_probability + (1 - side_probability) * 0.75:
        return float(rng.normal(0, 0.4)), "front"
    return float(np.pi + rng.normal(0, 0.35)), "back"


def _choose_view(rng: np.random.Generator, action: str, cycle: np.ndarray) -> tuple[float, str, float]:
    """(yaw, name, travel) of the one of three random views in which the joints move most.

    cycle: (T, 13, 3) joints of one cycle. travel: mean length of a joint's path in the picture during the cycle, in
    heights of the picture.
    """
    views = []
    for _ in range(3):
        yaw, pose = _random_yaw(rng, action)
        right = np.array([np.cos(yaw), np.sin(yaw)])
        flat = np.stack([cycle[..., [0, 2]] @ right, cycle[..., 1]], -1)  # (T, 13, 2)
        height = np.ptp(flat[..., 1]) + 0.16
        views.append(
            (yaw, pose, float(np.linalg.norm(np.diff(flat, axis=0), axis=-1).sum(0).mean() / max(height, 0.7)))
        )
    return max(views, key=lambda view: view[2])


def _project(
    points: np.ndarray, yaw: float, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Perspective projection through a level, static camera that is placed so that the movement fills the picture.

    Returns: (T, 13, 2) pixels, (T, 13) depth in pixels toward the viewer, y of the ground in pixels, and the horizon
        as a fraction of the height.
    """
    height, width = size
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    world = points @ turn.T
    world[..., [0, 2]] -= world[:, list(HIPS)][..., [0, 2]].mean((0, 1))
    eye, distance = rng.uniform(0.45, 0.8), rng.uniform(3.2, 5.5)  # the camera's height and distance in statures
    scale = distance / (distance - world[..., 2])  # (T, 13) magnification, 1 at the subject's middle
    flat = np.stack([world[..., 0] * scale, (eye - world[..., 1]) * scale], -1)  # (T, 13, 2) statures, y down
    low, high = flat.min((0, 1)) - 0.09, flat.max((0, 1)) + 0.09  # flesh around the joints
    share = rng.uniform(0.86, 0.95)
    pixels = min(share * height / (high[1] - low[1]), 0.94 * min(height, width) / (high[0] - low[0]))
    room = (min(height, width) - pixels * (high[0] - low[0])) / 2
    left = width / 2 - pixels * (low[0] + high[0]) / 2 + rng.uniform(-0.6, 0.6) * max(room, 0)
    spare = height - pixels * (high[1] - low[1])
    top = spare * rng.uniform(0.45, 0.75) - pixels * low[1]
    if spare > 0.35 * height:  # a person lying: on the ground in the lower half of the picture
        top = spare * rng.uniform(0.7, 0.85) - pixels * low[1]
    xy = flat * pixels + [left, top]
    ground_y = top + pixels * eye
    horizon = float(np.clip((ground_y - 0.9 * eye * pixels) / height, 0.28, 0.72))
    horizon = min(horizon, (ground_y - 0.1 * pixels) / height)
    return xy, world[..., 2] * pixels, float(ground_y), horizon


def _random_occluder(rng: np.random.Generator, action: str, xy: np.ndarray, size: tuple[int, int]) -> Occluder:
    """An object that hides the legs, one side or one limb, never most of the person."""
    (left, top), (right, bottom) = xy.min((0, 1)) / size[::-1], xy.max((0, 1)) / size[::-1]
    kind = "post" if action in LYING else str(rng.choice(OCCLUDER_KINDS))
    color = {
        "box": (176, 132, 84), "post": (120, 124, 130), "bench": (142, 96, 60), "hedge": (62, 108, 62)
    }[kind]  # fmt: skip
    if kind == "post":
        half, x = 0.025, left + (right - left) * rng.choice([rng.uniform(0.0, 0.25), rng.uniform(0.75, 1.0)])
        return Occluder(kind, (float(x - half), -0.05, float(x + half), min(float(bottom) + 0.12, 1.05)), color)
    middle = left + (right - left) * rng.uniform(0.25, 0.75)
    half = {"box": 0.12, "bench": 0.25, "hedge": 0.2}[kind] * rng.uniform(0.8, 1.2)
    y0 = bottom - (bottom - top) * rng.uniform(0.18, 0.36)
    return Occluder(kind, (float(middle - half), float(y0), float(middle + half), float(bottom) + 0.09), color)


def _behind_occluder(xy: np.ndarray, scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """(T, 13) bool, joints that the scene's occluder hides."""
    columns, rows = np.moveaxis(np.floor(xy).astype(int), -1, 0)
    cover = occluder_cover(scene, size)
    return cover[rows.clip(0, size[0] - 1), columns.clip(0, size[1] - 1)] > 0.5


def _self_occluded(xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(T, 13) bool, joints well inside the outline of a nearer body part that does not end at the joint."""
    points = np.concatenate([xy, depth[..., None]], -1)  # (T, 13, 3)
    stature = np.linalg.norm(points[:, list(SHOULDERS)].mean(1) - points[:, list(HIPS)].mean(1), axis=-1) / 0.29  # (T,)
    pelvis, neck = points[:, list(HIPS)].mean(1), points[:, list(SHOULDERS)].mean(1)
    trunk = (pelvis, neck, 0.08, (HEAD, *SHOULDERS, *HIPS))
    limbs = [
        (points[:, chain[k]], points[:, end[k]], radius, (chain[k], end[k]))
        for k in range(2)
        for chain, end, radius in (
            (SHOULDERS, ELBOWS, 0.03), (ELBOWS, WRISTS, 0.025), (HIPS, KNEES, 0.05), (KNEES, ANKLES, 0.03)
        )
    ]  # fmt: skip
    skull = (points[:, HEAD], points[:, HEAD], 0.05, (HEAD,))
    is_hidden = np.zeros(depth.shape, dtype=bool)
    for first, second, radius, ends in (trunk, skull, *limbs):
        along = second - first
        offset = points - first[:, None]  # (T, 13, 3)
        flat = (along[:, None, :2] * offset[..., :2]).sum(-1) / np.maximum((along[:, :2] ** 2).sum(-1), 1e-9)[:, None]
        share = np.clip(flat, 0, 1)[..., None]
        gap = offset - share * along[:, None]
        is_inside = np.hypot(gap[..., 0], gap[..., 1]) < 0.8 * radius * stature[:, None]
        is_nearer = gap[..., 2] < -1.3 * radius * stature[:, None]
        is_other = ~np.isin(np.arange(NUM_JOINTS), ends)
        is_hidden |= is_inside & is_nearer & is_other
    return is_hidden


def write_demo(root: str | Path, num_clips: int, num_frames: int, size: tuple[int, int], seed: int) -> None:
    """Writes `frames/0001/000001.jpg …` and `labels/0001.mat …`, the layout of Penn Action, with a progress bar.

    A clip appears under its final name when it is complete. An interrupted call is continued by the next call with
    the same arguments; a call returns at once where all clips exist.

    Args:
        root: folder, created where it is missing.
        num_clips, num_frames: number of clips, and of frames per clip.
        size: (height, width) in pixels, at least 32 each.
        seed: seed of motion and appearance; a clip is a function of (seed, its number, num_frames, size).

    Raises ValueError for impossible sizes, FileExistsError where `root` holds anything but this demo, and WriteError.
    """
    root = Path(root)
    if min(num_clips, num_frames) < 1 or min(size) < 32:
        raise ValueError(
            f"source: num_clips={num_clips}, num_frames={num_frames}, height={size[0]}, width={size[1]}: "
            "need at least 1 clip, 1 frame and 32 x 32 px"
        )
    settings = {"version": _VERSION, "num_clips": num_clips, "num_frames": num_frames, "size": list(size), "seed": seed}
    _claim_folder(root, settings)
    missing = [clip for clip in range(num_clips) if not (root / "labels" / f"{_name(clip)}.mat").exists()]
    if not missing:
        return
    for folder in ("frames", "labels"):
        (root / folder).mkdir(exist_ok=True)
    for stale in (*(root / "frames").glob(".*.tmp"), *(root / "labels").glob("*.tmp")):  # of a killed process
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    written = _write_clips([(root, seed, clip, num_frames, size) for clip in missing], len(missing) * num_frames)
    for _ in track(written, len(missing), "demo clips"):
        pass


def _claim_folder(root: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into an empty folder. Raises FileExistsError unless a used one has the same settings."""
    path = root / _SETTINGS
    if path.exists():
        if (found := json.loads(path.read_text())) != settings:
            raise FileExistsError(
                f"source.root={root} holds a demo with other settings ({found}, asked for {settings}); "
                "delete the folder or choose another one"
            )
        return
    if root.exists() and any(final_name(path.name) != _SETTINGS for path in root.iterdir()):
        raise FileExistsError(f"source.root={root} is not empty and holds no demo; choose another folder")
    root.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, json.dumps(settings, indent=1) + "\n")


_Job = tuple[Path, int, int, int, tuple[int, int]]  # arguments of `_write_clip`


def _write_clips(jobs: list[_Job], num_frames: int) -> Iterator[None]:
    """Yields after each written clip; in several processes if there are many frames (`num_frames` of all jobs)."""
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = min(num_cpus, len(jobs))
    if num_workers < 2 or num_frames < _MIN_FRAMES_FOR_PROCESSES:
        for job in jobs:
            yield _write_clip(*job)
        return
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_write_clip, *job) for job in jobs]):
            yield done.result()


def _name(clip: int) -> str:
    return f"{clip + 1:04d}"


def _write_clip(root: Path, seed: int, number: int, num_frames: int, size: tuple[int, int]) -> None:
    """Writes the frames first and the label last: a clip with a label is complete."""
    clip = demo_clip(seed, number, num_frames, size)
    folder = root / "frames" / _name(number)
    if folder.exists():
        shutil.rmtree(folder)
    with atomic_folder(folder) as temporary:
        for frame in range(num_frames):
            picture = Image.fromarray(clip.render(frame, size))
            picture.save(temporary / f"{frame + 1:06d}.jpg", quality=JPEG_QUALITY, subsampling=0)
    label = root / "labels" / f"{_name(number)}.mat"
    write_atomic(label, _label_bytes(clip, size))


def _label_bytes(clip: DemoClip, size: tuple[int, int]) -> bytes:
    """A Penn Action label file, without the date that scipy writes into the header."""
    xy, num_frames = clip.joints.xy + 0.5, len(clip.joints.xy)  # 1-based pixel centers
    low, high = xy.min(1), xy.max(1)
    buffer = io.BytesIO()
    scipy.io.savemat(
        buffer,
        {
            "action": clip.action,
            "pose": clip.pose,
            "x": xy[..., 0],
            "y": xy[..., 1],
            "visibility": clip.joints.is_visible.astype(np.uint8),
            "train": np.array([[1 if clip.is_train else -1]], dtype=np.int32),
            "bbox": np.concatenate([low, high], -1),
            "dimensions": np.array([[*size, num_frames]], dtype=np.uint16),
            "nframes": np.array([[num_frames]], dtype=np.uint16),
        },
    )
    header = b"MATLAB 5.0 MAT-file, written by m3"
    return header.ljust(116) + buffer.getvalue()[116:]


class Demo(PennAction):
    """The demo's clips, generated once, then read like any Penn Action folder.

    Args:
        root: folder of the demo; `write_demo` writes it with the other arguments unless it is complete.
        num_clips, num_frames: number of clips, and of frames per clip.
        height, width: size of the pictures, pixels.
        seed: seed of motion and appearance.
        name: name of the data set, for the manifest and the default output folder.
    """

    def __init__(
        self,
        root: str | Path,
        num_clips: int,
        num_frames: int,
        height: int,
        width: int,
        seed: int = 0,
        name: str = "demo",
    ) -> None:
        write_demo(root, num_clips, num_frames, (height, width), seed)
        super().__init__(root, name=name)
