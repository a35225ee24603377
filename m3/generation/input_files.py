"""Pictures and videos as prompts, tokenized as preprocess.py does."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from m3.annotation.annotators import Annotator, joints_of_picture
from m3.annotation.cuts import CUT_WINDOW, first_cut
from m3.annotation.divided_source import DividedSource
from m3.annotation.survey import largest_as_csv
from m3.clips.base import (
    ClipError,
    DamagedFrame,
    EarlierFrames,
    JointFile,
    LaterFrames,
    first_frames,
    frames_before,
)
from m3.clips.canvas import CANVASES, Canvas, CropCanvas
from m3.clips.joint_paths import JointsBeside
from m3.clips.names import ids_from_paths
from m3.clips.picture_files import PICTURE_SUFFIXES, PictureFiles, picture_size
from m3.clips.sidecar import Sidecar, is_own, read_sidecar
from m3.clips.video_files import VIDEO_SUFFIXES, VideoFiles
from m3.clips.video_frames import MAX_FPS
from m3.core.files import make_folder, write_atomic
from m3.core.frames import Frames, PairChain, Poses, no_tokens
from m3.core.joints import NUM_JOINTS, Joints, pose_extent
from m3.core.modalities import TRANSITIONS, ModalityTable
from m3.core.reading import Record
from m3.core.types import Clip, PairInfo
from m3.generation.prompts import Prompts
from m3.pairs import Chain as ChainMiner
from m3.pairs import Dense, Stride
from m3.pairs.mining import MAX_STEPS
from m3.tokens.base import PictureTokenizer
from m3.tokens.displacement import displacement_tokens
from m3.tokens.encoding import encode_pictures, torch_threads
from m3.tokens.gaps import encode_gap, encode_seconds
from m3.tokens.joints import JointCodec

_THRESHOLD = 0.89
_ENCODE_BATCH_SIZE, _ENCODE_THREADS = 8, 1
"""The defaults of preprocess.py: a tokenizer's ids may depend on them."""


@dataclass(frozen=True)
class Preparation:
    """How the frames of files become pairs of tokens: with the settings of the model's own data.

    canvas: the visible part of a frame.
    miner: finds the successors, each the next reference, from the first frame on.
    fps: frames per second of a video that are read; None for all.
    origin: where these settings come from, as shown to users.
    finds_cuts: a video is divided where the picture jumps to another scene.
    annotator: finds the joints of files without any; None: they have none.
    annotations: folder of the joints that were found.
    start: the reference of a video: its first frame, its last one, or one with a number, counted in the frames read.
    """

    canvas: Canvas
    miner: ChainMiner | Stride
    fps: float | None
    origin: str
    finds_cuts: bool = True
    annotator: Annotator | None = None
    annotations: Path = Path("outputs/annotations")
    start: Literal["start", "end"] | int = "start"

    @property
    def summary(self) -> str:
        """One line, to be printed."""
        miner = self.miner
        found = f"a step of {miner.step}" if isinstance(miner, Stride) else f"SSIM below {miner.threshold}"
        return f"input: {self.canvas.size} px canvas ({self.canvas.mode}), successors by {found}, {self.origin}"


def preparation(canvas_size: int, num_frames: int, settings: dict[str, Any] | None, origin: str) -> Preparation:
    """The settings of a data set, `Manifest.preparation`; without them preprocess.py's defaults.

    num_frames: T, the number of successors to look for. origin: whose settings they are.
    Raises ValueError for settings that no data set has.
    """
    stored = Record(settings or {}, f"the settings of {origin}")
    mode = stored.text("canvas") if "canvas" in stored else ""
    if mode not in CANVASES:
        miner = ChainMiner(_THRESHOLD, num_frames)
        origin = "preprocess.py's defaults: the model's own data were not found, data.root=… names them"
        return Preparation(CropCanvas(canvas_size), miner, None, origin)
    fps = None if stored.is_null("fps") else stored.number("fps", 0.001, MAX_FPS)
    finds_cuts = False if stored.is_null("cuts") else stored.flag("cuts")  # older data sets are not divided
    return Preparation(CANVASES[mode](canvas_size), _miner(stored, num_frames), fps, f"as in {origin}", finds_cuts)


def _miner(stored: Record, num_frames: int) -> ChainMiner | Stride:
    """The miner that finds the chain of successors which the data's own miner finds from the first frame on.

    Of several steps that is the middle one, of two middle ones the smaller.
    """
    pairs = stored.record("pairs")
    kind = "" if pairs.is_null("_target_") else pairs.text("_target_").rpartition(".")[2]
    if kind == Stride.__name__:
        return Stride(_step(pairs), "chain", num_frames)
    has_threshold = kind in (ChainMiner.__name__, Dense.__name__)
    return ChainMiner(pairs.number("threshold", 0, 1) if has_threshold else _THRESHOLD, num_frames)


def _step(pairs: Record) -> float | str:
    """The step of the settings of a `Stride`."""
    if pairs.is_number("step"):
        return pairs.number("step", 0, 2**31)
    if pairs.is_list("step"):
        steps = sorted(pairs.counts("step", 1, 2**31 - 1, MAX_STEPS))
        if not steps:
            raise pairs.error("step", "at least one")
        return steps[(len(steps) - 1) // 2]
    return pairs.text("step", "[0-9]{1,9}([./][0-9]{1,9})?")


def prompts_of_files(
    paths: Sequence[Path],
    joints: Path | None,
    num_frames: int,
    table: ModalityTable,
    tokenizer: PictureTokenizer,
    how: Preparation,
    with_history: bool = False,
) -> Prompts:
    """The first frame of each file, and the frames that follow it in a video.

    Args:
        joints: the annotations of the one file; None for those beside each file, if there are any.
        num_frames: T.
        with_history: the frame from which the motion came to the reference is the history. At the start of a video that
            is its first frame, and the reference is its successor.
    Raises:
        FileNotFoundError or ValueError naming the file that cannot be used.
    """
    if joints is not None and len(paths) > 1:
        raise ValueError(
            f"joints={joints}: one file for the {len(paths)} files of input; put a file of joints beside each"
        )
    if repeated := [path for path, count in Counter(map(str, paths)).items() if count > 1]:
        raise ValueError(f"input={repeated[0]}: named twice; rollout.num_samples gives several futures of one file")
    tokens, history = (no_tokens(table, (len(paths), num)) for num in (num_frames + 1, 1))
    codec = JointCodec(how.canvas.size)
    real = np.zeros((len(paths), num_frames + 1, codec.canvas_size, codec.canvas_size, 3), np.uint8)
    chains = []
    for n, (name, path) in enumerate(_named(paths).items()):
        clip = _decoded(path, name, joints, how, with_history)
        extent = None if clip.joints is None else pose_extent(clip.joints)
        ids, is_known = _frame_tokens(clip, codec, tokenizer, tokens.ids)
        first = clip.num_before  # place of the reference among the frames
        num_present = min(len(clip.indices) - first, num_frames + 1)
        own = slice(first, first + num_present)
        tokens.is_present[n, :num_present], real[n, :num_present] = True, clip.pictures[own]
        for modality in ids:
            tokens.ids[modality][n, :num_present] = ids[modality][own]
            tokens.is_known[modality][n, :num_present] = is_known[modality][own]
            if first and modality in history.ids and modality not in TRANSITIONS:
                history.ids[modality][n], history.is_known[modality][n] = ids[modality][:1], is_known[modality][:1]
                history.is_present[n] = True
        chains.append(_chain(name, clip, clip.indices[own], extent))
    previous = None
    if "coords" in tokens.ids:
        poses = codec.decode(history.ids["coords"].reshape(len(paths), 1, 3, NUM_JOINTS))
        previous = Frames({"coords": Poses(*poses)}, np.asarray(history.is_known["coords"].any(-1)))
    pictures = Frames({"tok_rgb": real}, tokens.is_present)
    return Prompts(chains, tokens, history, np.arange(len(chains)), previous, pictures)


def _frame_tokens(
    clip: _DecodedClip, codec: JointCodec, tokenizer: PictureTokenizer, wanted: Container[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ids and is_known, each (t, L), of the wanted modalities of a clip's frames; transitions are not known at the
    first."""
    ids, num_frames = {}, len(clip.indices)
    is_known: dict[str, np.ndarray] = {}
    if "tok_rgb" in wanted:
        with torch_threads(_ENCODE_THREADS):
            pictures = encode_pictures(tokenizer, clip.pictures, _ENCODE_BATCH_SIZE)  # (t, h, w)
        ids["tok_rgb"] = pictures.reshape(num_frames, -1)
        is_known["tok_rgb"] = np.ones(ids["tok_rgb"].shape, bool)
    if clip.joints is not None and "coords" in wanted:
        xy, is_visible = clip.joints.xy[clip.indices], clip.joints.is_visible[clip.indices]
        poses = codec.encode(xy, is_visible)
        ids["coords"] = poses.reshape(num_frames, -1)
        is_known["coords"] = np.tile(is_visible, 3)  # x, y, visibility
        if "motion" in wanted:
            moved = displacement_tokens(poses[:-1], poses[1:])
            ids["motion"] = np.concatenate([np.zeros((1, NUM_JOINTS), np.int64), moved])
            is_known["motion"] = np.repeat(np.arange(num_frames) > 0, NUM_JOINTS).reshape(num_frames, NUM_JOINTS)
    gaps = np.diff(clip.indices, prepend=0)[:, None]
    is_later = (np.arange(num_frames) > 0)[:, None]
    if "gap" in wanted:
        ids["gap"], is_known["gap"] = encode_gap(gaps), is_later
    if "seconds" in wanted and clip.fps is not None:
        ids["seconds"] = encode_seconds(np.maximum(gaps, 1) / clip.fps)
        is_known["seconds"] = is_later
    return ids, is_known


def read_clip(path: Path, clip_id: str, joints: Path | None, how: Preparation) -> tuple[Clip, int]:
    """The scene of a video in which the roll-out starts, or a picture as a clip of one frame; and the start's index.

    The joints are those of `joints`, else of the file beside it, else those that the annotator finds.
    """
    if not path.is_file():
        raise FileNotFoundError(f"input={path}: no such file")
    if joints is not None and not joints.is_file():
        raise FileNotFoundError(f"joints={joints}: no such file")
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        clip, start = _scene(path, joints, how)
        return replace(clip, id=clip_id), start
    if suffix not in PICTURE_SUFFIXES:
        known = ", ".join((*PICTURE_SUFFIXES, *VIDEO_SUFFIXES))
        raise ValueError(f"input={path}: neither a picture nor a video by its name; need one of {known}")
    size = picture_size(path, is_upright=True)
    frames = PictureFiles([path], size, "its header", is_upright=True)
    beside = JointsBeside({clip_id: path})
    file = beside.foreign(clip_id) if joints is None else JointFile(joints)
    own = beside.own(clip_id) if file is None else _own_joints(file, Clip(clip_id, frames, size, None), how)
    sidecar = Sidecar(None) if own is None else read_sidecar(own, 1, size)
    clip = Clip(clip_id, frames, size, sidecar.joints, sidecar.action, notes=sidecar.notes)
    if clip.joints is None and how.annotator is not None:
        clip = replace(clip, joints=joints_of_picture(clip, how.annotator))
    return clip, 0


def _scene(path: Path, joints: Path | None, how: Preparation) -> tuple[Clip, int]:
    video = VideoFiles(path, how.fps, how.finds_cuts)
    (video_id,) = video.clip_ids()
    annotator = None if joints is not None or how.annotator is None else replace(how.annotator, person="largest")
    if joints is not None and not is_own(joints):
        joints = _own_joints(JointFile(joints), VideoFiles(path).whole_without_joints(video_id), how)
    is_known = joints is not None or not video.has_foreign_joints(video_id)
    if annotator is None and how.start == "start" and is_known:
        return video.read(video_id, joints), 0
    divided = DividedSource(video, annotator, how.annotations)
    for missing in divided.not_surveyed():
        divided.survey(missing)
    parts = divided.parts_in_order()
    if not parts:
        divided.read(video_id)  # says why
    if how.start == "start":
        return divided.read_part(parts[0], joints), 0
    if how.start == "end":
        clip = divided.read_part(parts[-1], joints)
        return clip, len(clip.frames) - 1
    holding = [part for part in parts if part.first <= how.start < part.end]
    if not holding:
        spans = ", ".join(f"{part.first} … {part.end - 1}" for part in parts[:5])
        raise ClipError(f"rollout.from={how.start}: no person or no scene there; there is one in frames {spans}")
    clip = divided.read_part(holding[0], joints)
    share = (how.start - holding[0].first) / max(1, holding[0].end - holding[0].first - 1)
    return clip, round(share * (len(clip.frames) - 1))


def _own_joints(file: JointFile, clip: Clip, how: Preparation) -> Path:
    """A joint file in m3's own format: that file, or another program's as it is understood, which is kept.

    clip: with all of its frames.
    """
    if not file.frames and is_own(file.path):
        return file.path
    content = largest_as_csv(file, clip)
    digest = hashlib.sha256(content).hexdigest()[:8]
    path = how.annotations / "joints" / f"{clip.id}-{digest}.csv"
    make_folder(path.parent)
    write_atomic(path, content)
    return path


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Clip id → path. Ids are the files' names, also used as folder names."""
    return {name: Path(path) for name, path in ids_from_paths({str(path): Path(path).stem for path in paths}).items()}


@dataclass(frozen=True)
class _DecodedClip:
    """The frame of a file that is the reference, its successors, and the frame before it.

    num_before: 1 with the frame from which the motion came to the reference, else 0.
    indices: of the frames. pictures: (t, size, size, 3) uint8 of these, on the canvas.
    joints: on the canvas, of all frames of the clip; None without annotations.
    """

    num_before: int
    indices: list[int]
    pictures: np.ndarray
    joints: Joints | None
    action: str | None
    fps: float | None


def _decoded(path: Path, name: str, joints: Path | None, how: Preparation, with_history: bool) -> _DecodedClip:
    try:
        clip, start = read_clip(path, name, joints, how)
        while True:
            try:
                num_before, indices = _indices(clip, how, start, with_history)
                cut = first_cut(clip.frames, indices[-1] + 1 + CUT_WINDOW) if how.finds_cuts else None
                if cut is not None and indices[0] < cut <= indices[-1]:
                    clip = first_frames(clip, cut)
                    continue
                window = how.canvas.window(clip.size, clip.joints)
                pictures = np.stack([window.picture(clip.frames[index]) for index in indices])
                on_canvas = None if clip.joints is None else window.joints(clip.joints)
                return _DecodedClip(num_before, indices, pictures, on_canvas, clip.action, clip.fps)
            except DamagedFrame as damage:
                clip = frames_before(clip, damage)
                start = min(start, len(clip.frames) - 1)
    except ClipError as error:
        raise ValueError(f"input={path}: {error}") from error


def _chain(name: str, clip: _DecodedClip, indices: Sequence[int], extent: float | None) -> PairChain:
    """indices: of the reference and of the frames that follow it."""
    infos = [PairInfo(f"{name}-{a:06d}", name, a, b, clip.action, extent) for a, b in zip(indices, indices[1:])]
    alone = PairInfo(f"{name}-{indices[0]:06d}", name, indices[0], indices[0], clip.action, extent)
    return PairChain(tuple(range(len(infos))), tuple(infos or [alone]))


def _indices(clip: Clip, how: Preparation, start: int, with_history: bool) -> tuple[int, list[int]]:
    """The number of frames before the reference, 0 or 1, and the indices of these, the reference and its successors."""
    later = [start, *(start + pair.successor for pair in how.miner.pairs(LaterFrames(clip.frames, start)))]
    if how.start == "start":
        return int(with_history and len(later) > 1), later
    before = next(iter(how.miner.pairs(EarlierFrames(clip.frames, start))), None) if with_history else None
    return (0, later) if before is None else (1, [start - before.successor, *later])
