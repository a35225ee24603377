"""A picture or a video of one's own as the start of a roll-out, made into tokens as preprocess.py makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from m3.clips.base import ClipError, DamagedFrame, frames_before
from m3.clips.canvas import CANVASES, Canvas, CropCanvas
from m3.clips.names import ids_from_paths
from m3.clips.picture_files import PICTURE_SUFFIXES, PictureFiles, picture_size
from m3.clips.sidecar import Sidecar, find_sidecar, read_sidecar
from m3.clips.video_files import VIDEO_SUFFIXES, VideoFiles
from m3.core.frames import Chain, TokenFrames
from m3.core.joints import NUM_JOINTS, Joints, pose_extent
from m3.core.modalities import COORDS_LENGTH, ModalityTable
from m3.core.types import Clip, PairInfo
from m3.generation.prompts import Starts, no_previous
from m3.generation.rollout import frame_modalities
from m3.pairs import Chain as ChainMiner
from m3.pairs import Dense, Stride
from m3.shards.manifest import Manifest
from m3.tokens.base import PictureTokenizer
from m3.tokens.encoding import encode_pictures, torch_threads
from m3.tokens.joints import JointCodec

_THRESHOLD = 0.89
_ENCODE_BATCH_SIZE, _ENCODE_THREADS = 8, 1
"""preprocess.py's own, on which a tokenizer's ids may depend."""


@dataclass(frozen=True)
class Preparation:
    """How frames of files become pairs of tokens: as the data were made that a model learned from.

    canvas: which part of a frame is seen.
    miner: finds the successors, each the next reference, from the first frame on.
    fps: frames per second of a video that are looked at; None for all.
    made_of: words on where this comes from, for people.
    """

    canvas: Canvas
    miner: ChainMiner | Stride
    fps: float | None
    made_of: str

    @property
    def words(self) -> str:
        """What is done with the files."""
        is_stride = isinstance(self.miner, Stride)
        found = f"a step of {self.miner.step}" if is_stride else f"SSIM below {self.miner.threshold}"
        return f"input: {self.canvas.size} px canvas ({self.canvas.mode}), successors by {found}, {self.made_of}"


def preparation(canvas_size: int, num_frames: int, manifest: Manifest | None, root: str) -> Preparation:
    """What the manifest of the data set `root` says; without one preprocess.py's defaults.

    num_frames: at most so many successors are looked for.
    """
    if manifest is None or manifest.canvas.get("mode") not in CANVASES:
        miner = ChainMiner(_THRESHOLD, num_frames)
        words = "preprocess.py's defaults: the model's own data are not at hand"
        return Preparation(CropCanvas(canvas_size), miner, None, words)
    canvas, fps = CANVASES[manifest.canvas["mode"]](canvas_size), manifest.settings.get("source", {}).get("fps")
    return Preparation(canvas, _miner(manifest.settings.get("pairs", {}), num_frames), fps, f"as in {root}")


def _miner(settings: dict[str, Any], num_frames: int) -> ChainMiner | Stride:
    """The miner that finds the chain of successors which the data's own miner finds from the first frame on."""
    kind = str(settings.get("_target_", "")).rpartition(".")[2]
    if kind == Stride.__name__:
        return Stride(settings["step"], "chain", num_frames)
    threshold = settings["threshold"] if kind in (ChainMiner.__name__, Dense.__name__) else _THRESHOLD
    return ChainMiner(threshold, num_frames)


def starts_of_files(
    paths: Sequence[Path],
    joints: Path | None,
    num_frames: int,
    table: ModalityTable,
    tokenizer: PictureTokenizer,
    how: Preparation,
) -> Starts:
    """The first frame of each file, and what follows it in a video.

    Args:
        joints: the annotations of the one file; None for those that lie beside each, if there are any.
        num_frames: T.
    Raises:
        FileNotFoundError or ValueError naming the file that cannot be used.
    """
    if joints is not None and len(paths) > 1:
        raise ValueError(f"joints={joints}: of which of the {len(paths)} files of input? Put each file's beside it")
    shape = len(paths), num_frames + 1
    names, codec = frame_modalities(table), JointCodec(how.canvas.size)
    length = table.max_seq_lens[table.index("tok_rgb")] if "tok_rgb" in names else 0
    tokens = TokenFrames(
        np.zeros((*shape, length), np.int64), np.zeros((*shape, COORDS_LENGTH), np.int64), np.zeros(shape, bool)
    )
    real = np.zeros((*shape, codec.canvas_size, codec.canvas_size, 3), np.uint8)
    are_joints_known = np.zeros((*shape, NUM_JOINTS), bool)
    chains = []
    for n, (name, path) in enumerate(_named(paths).items()):
        seen = _seen(path, name, joints, how)
        num_present, extent = len(seen.indices), None
        tokens.is_present[n, :num_present], real[n, :num_present] = True, seen.pictures
        if length:
            with torch_threads(_ENCODE_THREADS):
                ids = encode_pictures(tokenizer, seen.pictures, _ENCODE_BATCH_SIZE)  # (t, h, w)
            tokens.tok_rgb[n, :num_present] = ids.reshape(num_present, -1)
        if seen.joints is not None and "coords" in names:
            xy, is_visible = seen.joints.xy[seen.indices], seen.joints.is_visible[seen.indices]
            extent, are_joints_known[n, :num_present] = pose_extent(seen.joints), is_visible
            tokens.coords[n, :num_present] = codec.encode(xy, is_visible).reshape(num_present, -1)
        chains.append(_chain(name, seen, extent))
    return Starts(
        chains, tokens, are_joints_known, np.arange(len(chains)), no_previous(len(chains)), real, tokens.is_present
    )


def read_clip(path: Path, clip_id: str, joints: Path | None, fps: float | None) -> Clip:
    """A video, or a picture as a clip of one frame, with its annotations."""
    if not path.is_file():
        raise FileNotFoundError(f"input={path}: no such file")
    if joints is not None and not joints.is_file():
        raise FileNotFoundError(f"joints={joints}: no such file")
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        videos = VideoFiles(path, fps)
        return replace(videos.read(videos.clip_ids()[0], joints), id=clip_id)
    if suffix not in PICTURE_SUFFIXES:
        known = ", ".join((*PICTURE_SUFFIXES, *VIDEO_SUFFIXES))
        raise ValueError(f"input={path}: neither a picture nor a video by its name; need one of {known}")
    size = picture_size(path, is_upright=True)
    beside = joints or find_sidecar(path)
    sidecar = Sidecar(None) if beside is None else read_sidecar(beside, 1, size)
    frames = PictureFiles([path], size, "its header", is_upright=True)
    return Clip(clip_id, frames, size, sidecar.joints, sidecar.action, notes=sidecar.notes)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Ids for people and for folders: the files' names."""
    return {name: Path(path) for name, path in ids_from_paths({str(path): Path(path).stem for path in paths}).items()}


@dataclass(frozen=True)
class _Seen:
    """A file's first frame and its successors.

    indices: of the frames. pictures: (t, size, size, 3) uint8 of these, on the canvas.
    joints: on the canvas, of all frames of the clip; None without annotations.
    """

    indices: list[int]
    pictures: np.ndarray
    joints: Joints | None
    action: str | None


def _seen(path: Path, name: str, joints: Path | None, how: Preparation) -> _Seen:
    try:
        clip = read_clip(path, name, joints, how.fps)
        while True:
            try:
                indices = _indices(clip, how.miner)
                window = how.canvas.window(clip.size, clip.joints)
                pictures = np.stack([window.picture(clip.frames[index]) for index in indices])
                on_canvas = None if clip.joints is None else window.joints(clip.joints)
                return _Seen(indices, pictures, on_canvas, clip.action)
            except DamagedFrame as damage:
                clip = frames_before(clip, damage)
    except ClipError as error:
        raise ValueError(f"input={path}: {error}") from error


def _chain(name: str, seen: _Seen, extent: float | None) -> Chain:
    pairs = zip(seen.indices, seen.indices[1:])
    infos = [PairInfo(f"{name}-{a:06d}", name, a, b, seen.action, extent) for a, b in pairs]
    alone = PairInfo(f"{name}-000000", name, 0, 0, seen.action, extent)
    return Chain(tuple(range(len(infos))), tuple(infos or [alone]))


def _indices(clip: Clip, miner: ChainMiner | Stride) -> list[int]:
    """The first frame, its successor, that one's successor …"""
    if len(clip.frames) == 1:
        return [0]
    return [0, *(pair.successor for pair in miner.pairs(clip.frames))]
