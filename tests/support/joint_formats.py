"""One person who walks, as the joint files of other programs have her. Everything is written down by hand here."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZE = (64, 64)
"""(height, width) of the videos, pixels."""

NUM_FRAMES = 12

BODY = {
    "nose": (30, 8), "left_eye": (32, 7), "right_eye": (28, 7), "left_ear": (35, 9), "right_ear": (25, 9),
    "neck": (30, 14), "left_shoulder": (38, 16), "right_shoulder": (22, 16), "left_elbow": (42, 24),
    "right_elbow": (18, 24), "left_wrist": (43, 31), "right_wrist": (17, 31), "pelvis": (30, 34), "left_hip": (35, 34),
    "right_hip": (25, 34), "left_knee": (36, 45), "right_knee": (24, 45), "left_ankle": (36, 56),
    "right_ankle": (24, 56), "head_top": (30, 3),
}  # fmt: skip
"""Place of each point of a person who looks at the camera, in frame 0; the sides are her own."""

TRUTH = {
    "head": (30, 9), "left_shoulder": (22, 16), "right_shoulder": (38, 16), "left_elbow": (18, 24),
    "right_elbow": (42, 24), "left_wrist": (17, 31), "right_wrist": (43, 31), "left_hip": (25, 34),
    "right_hip": (35, 34), "left_knee": (24, 45), "right_knee": (36, 45), "left_ankle": (24, 56),
    "right_ankle": (36, 56),
}  # fmt: skip
"""The same as m3 has it: her right is m3's left."""

COCO = """nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle""".split()
BODY_25 = """nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist pelvis right_hip
right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_ankle left_ankle
left_ankle right_ankle right_ankle right_ankle""".split()
COCO_18 = """nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee
right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear""".split()
BLAZEPOSE = """nose left_eye left_eye left_eye right_eye right_eye right_eye left_ear right_ear nose nose left_shoulder
right_shoulder left_elbow right_elbow left_wrist right_wrist left_wrist right_wrist left_wrist right_wrist left_wrist
right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle left_ankle right_ankle left_ankle
right_ankle""".split()
H36M = """pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle pelvis neck nose head_top left_shoulder
left_elbow left_wrist right_shoulder right_elbow right_wrist""".split()
SMPL = """pelvis left_hip right_hip pelvis left_knee right_knee pelvis left_ankle right_ankle neck left_ankle
right_ankle neck left_shoulder right_shoulder nose left_shoulder right_shoulder left_elbow right_elbow left_wrist
right_wrist""".split()


def places(names: Sequence[str], t: int, shift: float = 0.0) -> np.ndarray:
    """(K, 2) places of points in frame t: she walks 1 px per frame to the right."""
    return np.array([BODY[name] for name in names], float) + (t + shift, 0)


def truth(t: int, shift: float = 0.0) -> np.ndarray:
    """(13, 2) places of m3's joints in frame t."""
    return np.array(list(TRUTH.values()), float) + (t + shift, 0)


def flat(names: Sequence[str], t: int, shift: float = 0.0, sure: float = 0.9) -> list[float]:
    """x, y, confidence of each point in turn."""
    return [value for x, y in places(names, t, shift) for value in (float(x), float(y), sure)]


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_openpose(folder: Path, stem: str, names: Sequence[str], numbers: Sequence[int] = range(NUM_FRAMES)) -> None:
    for t, number in enumerate(numbers):
        people = [{"person_id": [-1], "pose_keypoints_2d": flat(names, t), "face_keypoints_2d": []}]
        write_json(folder / f"{stem}_{number:012d}_keypoints.json", {"version": 1.3, "people": people})


def coco(numbers: Sequence[int] = range(NUM_FRAMES), flag: int = 2, **image: Any) -> dict[str, Any]:
    images = [{"id": 100 + n, "file_name": f"frame_{n:05d}.jpg", "width": 64, "height": 64, **image} for n in numbers]
    annotations = [
        {"id": t, "image_id": 100 + n, "category_id": 1, "keypoints": flat(COCO, t, sure=flag)}
        for t, n in enumerate(numbers)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"name": "person", "keypoints": COCO}]}


def alphapose(names: Sequence[str] = COCO, shifts: Sequence[float] = (0.0,)) -> list[dict[str, Any]]:
    return [
        {"image_id": f"{t}.jpg", "category_id": 1, "keypoints": flat(names, t, shift), "score": 2.9, "idx": who + 1}
        for t in range(NUM_FRAMES)
        for who, shift in enumerate(shifts)
    ]


def mmpose(first: int = 1) -> dict[str, Any]:
    info = [
        {"frame_id": t + first,
         "instances": [{"keypoints": places(COCO, t).tolist(), "keypoint_scores": [0.9] * 17, "bbox": [[0, 0, 9, 9]]}]}
        for t in range(NUM_FRAMES)
    ]  # fmt: skip
    return {"meta_info": {"keypoint_id2name": {str(k): name for k, name in enumerate(COCO)}}, "instance_info": info}


def mediapipe() -> list[dict[str, Any]]:
    return [
        {"frame": t,
         "landmarks": [{"x": x / 64, "y": y / 64, "z": -0.1, "visibility": 0.95} for x, y in places(BLAZEPOSE, t)]}
        for t in range(NUM_FRAMES)
    ]  # fmt: skip


DLC_PARTS = ("nose", *COCO[5:])


def deeplabcut_rows() -> list[list[str]]:
    columns = [(part, axis) for part in DLC_PARTS for axis in ("x", "y", "likelihood")]
    rows = [["scorer", *["DLC_resnet50_walkJan1shuffle1_1000"] * len(columns)], ["bodyparts", *(p for p, _ in columns)],
            ["coords", *(axis for _, axis in columns)]]  # fmt: skip
    return rows + [[str(t), *map(str, flat(DLC_PARTS, t))] for t in range(NUM_FRAMES)]


def write_rows(path: Path, rows: Sequence[Sequence[str]], separator: str = ",", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


def write_deeplabcut_hdf5(path: Path) -> Path:
    """As pandas and PyTables write it: a table of rows, and the columns' names pickled in an attribute."""
    import h5py

    columns = [("DLC_x", part, axis) for part in DLC_PARTS for axis in ("x", "y", "likelihood")]
    with h5py.File(path, "w") as file:
        table = np.zeros(NUM_FRAMES, [("index", "<i8"), ("values_block_0", "<f8", (len(columns),))])
        table["index"], table["values_block_0"] = range(NUM_FRAMES), [flat(DLC_PARTS, t) for t in range(NUM_FRAMES)]
        stored = file.create_dataset("df_with_missing/table", data=table)
        rows = "".join("(" + "".join(f"V{word}\n" for word in column) + "ta" for column in columns)
        stored.attrs["values_block_0_kind"] = np.bytes_(f"(lp0\n{rows}.")
    return path


def write_sleap(path: Path) -> Path:
    import h5py

    tracks = np.stack([places(COCO, t).T for t in range(NUM_FRAMES)], axis=-1)[None]  # (1, 2, K, T)
    with h5py.File(path, "w") as file:
        file["tracks"] = tracks
        file["node_names"] = [name.encode() for name in COCO]
        file["track_names"] = [b"track_0"]
        file["point_scores"] = np.full((1, 17, NUM_FRAMES), 0.9)
    return path


def array(names: Sequence[str]) -> np.ndarray:
    """(T, K, 2)."""
    return np.stack([places(names, t) for t in range(NUM_FRAMES)])
