"""Do the joints of one person in several calibrated cameras meet in space?

    python bench/triangulation.py FOLDER [--model full]

FOLDER has `calibration/*.qca.txt` (Qualisys) and synchronized `videos/cam01.mp4` …: the demonstrations in the package
pose2sim, for example. Each video is annotated on its own. A joint that was found in at least three cameras is
triangulated from all of them but one, projected into that one, and compared with what was found there: the distance, in
pixels and as a share of the person's box, is an error of the annotator without any label.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from annotate import annotator_of

from m3.annotation.survey import Surveyor
from m3.clips.video_files import VideoFiles
from m3.core.joints import JOINT_NAMES, NUM_JOINTS

_SUBPIXELS = 64  # Qualisys counts in 1/64 px
_FLIP = np.diag([1.0, -1.0, -1.0])  # its cameras look along −z, y up


def read_cameras(path: Path) -> dict[str, np.ndarray]:
    """Name of a camera → (3, 4) projection from meters to pixels; lens distortion, below 1 px here, is left out."""
    cameras = {}
    for camera in ElementTree.parse(path).getroot().iter("camera"):
        place, lens, view = (camera.find(name) for name in ("transform", "intrinsic", "fov_video"))
        if place is None or lens is None or view is None:
            continue
        rotation = np.array([[float(place.attrib[f"r{row}{column}"]) for column in "123"] for row in "123"])
        center = np.array([float(place.attrib[axis]) / 1000 for axis in "xyz"])
        focal, middle = (
            [float(lens.attrib[key + axis]) / _SUBPIXELS for axis in "UV"] for key in ("focalLength", "centerPoint")
        )
        left, top = (float(view.attrib[side]) for side in ("left", "top"))
        inner = np.array([[focal[0], 0, middle[0] - left], [0, focal[1], middle[1] - top], [0, 0, 1]])
        outer = _FLIP @ np.hstack([rotation, -(rotation @ center)[:, None]])
        cameras[camera.attrib["serial"]] = inner @ outer
    return cameras


def triangulated(cameras: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(C, 3, 4) projections and (C, 2) pixels → (3,) the point whose projections are nearest in the algebraic sense."""
    rows = [xy[c, axis] * camera[2] - camera[axis] for c, camera in enumerate(cameras) for axis in (0, 1)]
    point = np.linalg.svd(np.array(rows))[2][-1]
    return point[:3] / point[3]


def projected(camera: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(3, 4) projection and (3,) point → (2,) pixels."""
    x, y, depth = camera @ np.append(point, 1)
    return np.array([x, y]) / depth


def left_out_errors(cameras: np.ndarray, xy: np.ndarray, is_visible: np.ndarray) -> np.ndarray:
    """(C, T, 13) distance in pixels of each joint from where the other cameras have it; NaN where fewer than 2 do.

    cameras: (C, 3, 4). xy: (C, T, 13, 2). is_visible: (C, T, 13).
    """
    errors = np.full(is_visible.shape, np.nan)
    for c, t, joint in np.argwhere(is_visible):
        others = [other for other in range(len(cameras)) if other != c and is_visible[other, t, joint]]
        if len(others) >= 2:
            point = triangulated(cameras[others], xy[others, t, joint])
            errors[c, t, joint] = np.linalg.norm(projected(cameras[c], point) - xy[c, t, joint])
    return errors


def found_joints(video: Path, model: str) -> tuple[np.ndarray, np.ndarray, float]:
    """(T, 13, 2) pixels, (T, 13) visible, and the mean side of the person's box, of the largest person in a video."""
    source = VideoFiles(video, cuts=False)
    whole = source.whole(source.clip_ids()[0])
    survey = Surveyor(source, annotator_of(model)).survey(whole)
    xy, seen = np.full((survey.num_frames, NUM_JOINTS, 2), np.nan), np.zeros((survey.num_frames, NUM_JOINTS), bool)
    people = sorted(survey.people or (), key=lambda each: each.extent * (each.end - each.first))
    for person in people:  # the largest last, over the others
        table = np.genfromtxt(person.joints.decode().splitlines(), delimiter=",", skip_header=1)
        cells = table[:, 1:].reshape(-1, NUM_JOINTS, 3)
        xy[table[:, 0].astype(int)], seen[table[:, 0].astype(int)] = cells[..., :2], cells[..., 2] == 1
    return xy, seen, people[-1].extent if people else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="full")
    args = parser.parse_args()
    (calibration,) = (args.folder / "calibration").glob("*.qca.txt")
    cameras = read_cameras(calibration)
    found = {name: found_joints(args.folder / "videos" / f"{name}.mp4", args.model) for name in sorted(cameras)}
    num_frames = min(len(xy) for xy, _, _ in found.values())
    xy, seen = (np.stack([each[part][:num_frames] for each in found.values()]) for part in (0, 1))
    extents = np.array([each[2] for each in found.values()])
    errors = left_out_errors(np.stack([cameras[name] for name in found]), xy, seen)
    share = errors / extents[:, None, None]
    known = np.isfinite(errors)
    print(f"{num_frames} frames, {len(found)} cameras, people of {np.array2string(extents, precision=0)} px; "
          f"{known.sum():,} joints compared: median {np.nanmedian(errors):.1f} px, "
          f"{100 * (share[known] < 0.05).mean():.1f}% within 0.05 of the box, {100 * (share[known] < 0.1).mean():.1f}% "
          "within 0.1")  # fmt: skip
    for joint, name in enumerate(JOINT_NAMES):
        print(f"  {name}: median {np.nanmedian(errors[..., joint]):.1f} px")


if __name__ == "__main__":
    main()
