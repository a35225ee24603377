"""Joint files that are arrays: poses in `.npy` and `.npz`, DeepLabCut's and SLEAP's HDF5."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from m3.annotation.formats.detections import MAX_NUMBERS, UNKNOWN, Detections, FormatError
from m3.annotation.formats.tables import from_labels
from m3.core.keypoints import Layout, layout_of_names, layout_of_number
from m3.core.reading import read_npy

_NUM_KEYPOINTS = (13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 33, 133, 136)
_SURE = ("confidence", "confidences", "conf", "scores", "score", "keypoint_scores", "visibility", "likelihood")
_IN_SPACE = (
    "positions in space, and no camera says where they are in the picture; give their projection, (T, K, 2) pixels"
)


def read_npy_file(content: bytes) -> Detections:
    """An array (T, K, 2), (T, K, 3) with confidences, or with people, (T, P, K, …). Raises FormatError."""
    try:
        return _from_array(read_npy(io.BytesIO(content), 24 * MAX_NUMBERS), None)
    except ValueError as error:
        raise error if isinstance(error, FormatError) else FormatError(f"not a readable .npy file ({error})") from error


def read_npz_file(content: bytes) -> Detections:
    """Such an array, and perhaps one with the confidences, in an `.npz`. Raises FormatError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {}
            for member in archive.namelist()[:20]:
                with archive.open(member) as file:
                    arrays[member.removesuffix(".npy")] = read_npy(file, 24 * MAX_NUMBERS)
    except Exception as error:  # zip, header, dtype and memory errors of all kinds
        raise FormatError(f"not a readable .npz file ({error})") from error
    sure = next((arrays[name] for name in _SURE if name in arrays), None)
    poses = [name for name, values in arrays.items() if values.ndim in (3, 4) and name not in _SURE]
    if len(poses) != 1:
        shapes = ", ".join(f"{name[:30]} {values.shape}" for name, values in list(arrays.items())[:6])
        raise FormatError(f"arrays {shapes}: need x and y as m3's own, or one array (T, K, 2); see docs/joints.md")
    return _from_array(arrays[poses[0]], sure)


def _from_array(values: np.ndarray, sure: np.ndarray | None) -> Detections:
    if values.dtype.kind not in "iuf":
        raise FormatError(f"an array of {values.dtype}, need numbers")
    if values.ndim == 2 and values.shape[1] == 263:
        raise FormatError(f"HumanML3D's features of {len(values)} frames: {_IN_SPACE}")
    if values.ndim == 3 and values.shape[1] in (2, 3) and values.shape[2] in _NUM_KEYPOINTS:
        values = values.transpose(0, 2, 1)
    if values.ndim == 3:
        values = values[:, None]  # (T, 1 person, K, …)
        sure = sure[:, None] if sure is not None and sure.ndim == 2 else sure
    if values.ndim != 4 or values.shape[2] < 6 or values.shape[3] not in (2, 3, 4) or not values.size:
        raise FormatError(f"an array of shape {values.shape}, need (T, K, 2) or (T, K, 3), T frames and K keypoints")
    num_frames, num_people, num_keypoints, width = values.shape
    values = values.astype(np.float64)
    xy, is_flag = values[..., :2], False
    if sure is not None and sure.shape == values.shape[:3]:
        confidence = sure.astype(np.float64)
    elif width == 2:
        confidence = np.ones(values.shape[:3])
    else:
        confidence = values[..., -1]
        known = confidence[np.isfinite(confidence)]
        is_depth = len(known) and not ((known >= 0) & (known <= 1.5)).all() and not np.isin(known, (0, 1, 2)).all()
        if is_depth and num_keypoints == 33 and width == 3 and _is_share(xy):
            confidence = np.ones(values.shape[:3])  # MediaPipe's x, y, z
        elif is_depth:
            raise FormatError(_IN_SPACE)
        if is_flag := np.isin(known, (0, 1, 2)).all() and bool((known == 2).any()):  # COCO's: 1 is labeled and hidden
            xy = np.where((confidence > 0)[..., None], xy, np.nan)
            confidence = (confidence == 2).astype(np.float64)
    frames = np.repeat(np.arange(num_frames), num_people)
    people = np.tile(np.arange(num_people) if num_people == 1 else np.full(num_people, UNKNOWN), num_frames)
    flat_xy, flat_sure = xy.reshape(-1, num_keypoints, 2), confidence.reshape(-1, num_keypoints)
    layout = layout_of_number(num_keypoints, flat_xy)
    format = "HumanML3D" if num_keypoints == 22 else "array"
    if isinstance(layout, Layout) and layout.name == "h36m17":
        format = "Human3.6M"
    return Detections(
        format, layout, frames, people, flat_xy, flat_sure, span=(0, num_frames), is_one_person=num_people == 1,
        is_visibility=bool(is_flag) or num_keypoints == 33,
    )  # fmt: skip


def _is_share(xy: np.ndarray) -> bool:
    known = xy[np.isfinite(xy)]
    return bool(len(known)) and bool((np.abs(known) <= 2).all())


def from_hdf5(arrays: Mapping[str, np.ndarray]) -> Detections:
    """The poses of the arrays of an HDF5 file, DeepLabCut's or SLEAP's export for analysis. Raises FormatError."""
    if "tracks" in arrays and "node_names" in arrays:
        return _sleap(arrays)
    if "metadata@json" in arrays or any(path in arrays for path in ("points.x", "pred_points.x")):
        raise FormatError(
            "SLEAP's labels; export them with `sleap-convert --format analysis`, which writes .analysis.h5"
        )
    for path in arrays:
        if match := re.fullmatch(r"(.+)/table[.]values_block_0", path):
            return _pytables(arrays[path], arrays.get(f"{match[1]}/table@values_block_0_kind"))
        if match := re.fullmatch(r"(.+)/block0_values", path):
            return _fixed(arrays, match[1])
    listed = ", ".join(path[:40] for path in list(arrays)[:6])
    raise FormatError(
        f"HDF5 with {listed or 'no array'}: neither DeepLabCut's nor SLEAP's; move it away if it holds no joints"
    )


def _sleap(arrays: Mapping[str, np.ndarray]) -> Detections:
    tracks, names = arrays["tracks"].astype(np.float64), [str(name) for name in arrays["node_names"].ravel()]
    if tracks.ndim != 4:
        raise FormatError(f"SLEAP: tracks of shape {tracks.shape}, need (tracks, 2, nodes, frames)")
    if tracks.shape[1:3] != (2, len(names)):  # written without transposing
        tracks = tracks.transpose(3, 2, 1, 0)
    if tracks.shape[1:3] != (2, len(names)):
        raise FormatError(f"SLEAP: tracks of shape {arrays['tracks'].shape} for {len(names)} nodes")
    num_tracks, _, num_nodes, num_frames = tracks.shape
    xy = tracks.transpose(3, 0, 2, 1)  # (T, tracks, K, 2)
    scores = arrays.get("point_scores", np.ones(0)).astype(np.float64)
    for order in ((2, 0, 1), (0, 2, 1)):
        if scores.ndim == 3 and scores.transpose(order).shape == xy.shape[:3]:
            confidence = np.nan_to_num(scores.transpose(order))
            break
    else:
        confidence = np.isfinite(xy).all(-1).astype(np.float64)
    is_there = np.isfinite(xy).any(axis=(2, 3))
    frames, people = np.nonzero(is_there)
    named = layout_of_names(names)
    missing = (
        f"nodes {', '.join(name[:30] for name in names[:12])}, too few of which are called like joints of a person"
    )
    return Detections(
        "SLEAP", missing if named is None else named[0], frames.astype(np.int64), people.astype(np.int64), xy[is_there],
        confidence[is_there], span=(0, num_frames), is_one_person=num_tracks == 1,
        notes=(named[1],) if named and named[1] else (),
    )  # fmt: skip


def _pytables(values: np.ndarray, kind: np.ndarray | None) -> Detections:
    labels = _labels("" if kind is None else str(kind))
    if values.ndim != 2 or len(labels) != values.shape[1]:
        raise FormatError("DeepLabCut: no names of its columns; use its .csv (save_as_csv=True, or analyze_videos_csv)")
    return from_labels("DeepLabCut", labels, values.astype(np.float64))


def _fixed(arrays: Mapping[str, np.ndarray], group: str) -> Detections:
    """A pandas frame in the "fixed" format: names of columns as levels and numbers of these."""
    values, levels = arrays[f"{group}/block0_values"], []
    while f"{group}/block0_items_level{len(levels)}" in arrays:
        number = len(levels)
        texts, places = (arrays.get(f"{group}/block0_items_{part}{number}") for part in ("level", "label"))
        if texts is None or places is None or places.ndim != 1 or not ((places >= 0) & (places < len(texts))).all():
            break
        levels.append([str(texts[place]) for place in places])
    labels = _of_levels(list(zip(*levels)))
    if values.ndim != 2 or len(labels) != values.shape[1]:
        raise FormatError("DeepLabCut: no names of its columns; use its .csv")
    return from_labels("DeepLabCut", labels, values.astype(np.float64))


def _of_levels(rows: Sequence[Sequence[str]]) -> list[tuple[str, str, str]]:
    """(scorer, [individual,] part, axis) → (individual, part, axis)."""
    if not rows or len(rows[0]) not in (3, 4):
        return []
    return [(row[1] if len(row) == 4 else "", row[-2], row[-1]) for row in rows]


def _labels(pickled: str) -> list[tuple[str, str, str]]:
    """The names of columns, which PyTables keeps as a pickled list of tuples of texts.

    Nothing is unpickled: the codes are read one by one, and everything but texts, tuples and lists is refused.
    """
    stack: list[str | tuple[str, ...] | None] = []  # None: a mark
    memo: dict[object, str] = {}
    rows: list[tuple[str, ...]] = []
    try:
        for code, argument, _ in pickletools.genops(pickled.encode()):
            if code.name in ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE"):
                stack.append(str(argument)[:200])
            elif code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                if stack and isinstance(stack[-1], str):
                    memo[argument] = stack[-1]
            elif code.name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif code.name == "MARK":
                stack.append(None)
            elif code.name == "TUPLE":
                start = len(stack) - stack[::-1].index(None)
                rows.append(tuple(str(each) for each in stack[start:]))
                del stack[start - 1 :]
            elif code.name not in ("PROTO", "FRAME", "LIST", "EMPTY_LIST", "APPEND", "APPENDS", "STOP"):
                return []
            elif code.name == "LIST":
                stack.pop()
    except (ValueError, KeyError, IndexError):
        return []
    return _of_levels(rows) if len({len(row) for row in rows}) == 1 else []
