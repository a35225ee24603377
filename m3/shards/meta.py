"""What a sample's meta.json and captions.json hold.

Every value of meta.json has the same type in all samples: −1, "", 0.0 or −1.0 stands for what is unknown, never null.
"""

from __future__ import annotations

from typing import Any

from m3.clips.names import is_clip_id
from m3.core.reading import MAX_CAPTION_LENGTH, MAX_CAPTIONS, MAX_LABEL_LENGTH, is_encodable, parse_json, shown
from m3.core.types import FramePair, PairInfo
from m3.shards.manifest import ShardError

_UNKNOWN_SSIM, _UNKNOWN_EXTENT, _UNKNOWN_FPS, _NO_ACTION, _NO_FRAME = -1.0, 0.0, 0.0, "", -1

_LIMIT = 2**31
"""Frame indices, extents and rates are smaller."""

META_NAME, CAPTIONS_NAME = "meta.json", "captions.json"
"""The members of a sample besides its tokens."""

META_TYPES = {
    "clip": str, "reference": int, "successor": int, "ssim": float, "previous": int, "action": str, "canvas": dict,
    "pose_extent_px": float, "fps": float,
}  # fmt: skip
"""Key of meta.json → type of its value."""

KEYS_OF_VERSION_2 = ("clip", "reference", "successor", "ssim", "action", "canvas", "pose_extent_px")


def pair_meta(
    pair: FramePair,
    clip: str,
    action: str | None,
    canvas: dict[str, Any],
    pose_extent_px: float | None,
    fps: float | None,
) -> dict[str, Any]:
    """meta.json of a pair.

    canvas: mode, size in pixels, and window: the rectangle of the source's pictures that it shows (left, top, width,
        height), pixels, four zeros where it is unknown.
    action, pose_extent_px, fps: see `PairInfo`; None is stored as "", 0.0 and 0.0.
    """
    return {
        "clip": clip,
        "reference": pair.reference,
        "successor": pair.successor,
        "ssim": _UNKNOWN_SSIM if pair.ssim is None else float(pair.ssim),
        "previous": _NO_FRAME if pair.previous is None else pair.previous,
        "action": action or _NO_ACTION,
        "canvas": canvas,
        "pose_extent_px": float(pose_extent_px or _UNKNOWN_EXTENT),
        "fps": float(fps or _UNKNOWN_FPS),
    }


def read_meta(members: dict[str, bytes], where: str) -> dict[str, Any]:
    """meta.json of a sample's members. Raises ShardError, naming file and sample by `where`, where it is no mapping."""
    meta = _read_json(members, META_NAME, where)
    if not isinstance(meta, dict):
        raise ShardError(f"{where}: meta.json is {shown(meta)}, need a mapping")
    return meta


def pair_info(key: str, meta: dict[str, Any], where: str | None = None) -> PairInfo:
    """The pair of a sample with this key and meta.json; null, as older data sets have it, and placeholders are None.

    where: names file and sample in an error; None: the key.
    Raises ShardError naming a value that is missing or of another type, a clip that cannot be part of a file name, a
    key of another clip or frame, a previous frame that is not before the reference, and numbers that are not finite.
    """
    where = key if where is None else where
    reference, successor = (_whole_number(meta, name, where, low=0) for name in ("reference", "successor"))
    clip, action = meta.get("clip"), meta.get("action")
    if not isinstance(clip, str) or not is_clip_id(clip):
        raise ShardError(f"{where}: meta.json has clip {shown(clip)}, need letters, digits and _ + = , @ - only")
    if not (action is None or _is_text(action, MAX_LABEL_LENGTH)):
        raise ShardError(f"{where}: meta.json has action {shown(action)}, need at most {MAX_LABEL_LENGTH} characters")
    info = PairInfo(
        key=key,
        clip=clip,
        reference=reference,
        successor=successor,
        action=action or None,
        pose_extent_px=_positive(meta, "pose_extent_px", where),
        previous=previous_frame(meta, where),
        fps=_positive(meta, "fps", where),
    )
    if key != f"{clip}-{reference:06d}":
        raise ShardError(f"{where}: meta.json is of clip {clip}, reference frame {reference}")
    return info


def stored_pair(fields: Any, where: str) -> PairInfo:
    """A pair as `dataclasses.asdict` gives it, read from the files of a token table: checked as `pair_info` checks.

    Raises ShardError naming a value as `pair_info` does.
    """
    if not isinstance(fields, dict) or not isinstance(key := fields.get("key"), str):
        raise ShardError(f"{where}: {shown(fields)}, need a pair")
    return pair_info(key, {**fields, "previous": _NO_FRAME if (p := fields.get("previous")) is None else p}, where)


def stored_caption(caption: Any, where: str) -> str:
    """A caption, read from the files of a token table. Raises ShardError for anything but a text of its length."""
    if not _is_text(caption, MAX_CAPTION_LENGTH):
        raise ShardError(f"{where}: caption {shown(caption)}, need a text of at most {MAX_CAPTION_LENGTH:,} characters")
    return caption


def previous_frame(meta: dict[str, Any], where: str) -> int | None:
    """The previous frame of a meta.json, or None. Raises ShardError where it is not before the reference."""
    if "previous" not in meta:  # schema version 2
        return None
    previous, reference = (_whole_number(meta, name, where, low=_NO_FRAME) for name in ("previous", "reference"))
    if previous != _NO_FRAME and previous >= reference:
        raise ShardError(f"{where}: meta.json has previous frame {previous}, which is not before reference {reference}")
    return None if previous == _NO_FRAME else previous


def ssim_of(meta: dict[str, Any]) -> float | None:
    """The SSIM of a meta.json, or None where it was not computed."""
    ssim = meta.get("ssim")
    is_number = isinstance(ssim, int | float) and abs(ssim) <= 1
    return None if not is_number or ssim == _UNKNOWN_SSIM else ssim


def stored_captions(captions: tuple[str, ...]) -> list[str]:
    """captions.json of a sample: [""] without captions, so that the list has the same type in all samples."""
    return list(captions or ("",))


def captions_of(members: dict[str, bytes], where: str) -> tuple[str, ...]:
    """The captions of a sample's members, without empty ones.

    Raises ShardError where they are no list of at most 100 texts of at most 10,000 characters.
    """
    captions = _read_json(members, CAPTIONS_NAME, where)
    if not isinstance(captions, list) or not all(_is_text(caption, MAX_CAPTION_LENGTH) for caption in captions):
        raise ShardError(
            f"{where}: captions.json is no list of texts of at most {MAX_CAPTION_LENGTH:,} characters: "
            f"{shown(captions)}"
        )
    if len(captions) > MAX_CAPTIONS:
        raise ShardError(f"{where}: captions.json has {len(captions):,} captions, need at most {MAX_CAPTIONS}")
    return tuple(caption for caption in captions if caption)


def _read_json(members: dict[str, bytes], name: str, where: str) -> Any:
    if name not in members:
        raise ShardError(f"{where}: no member {name}")
    try:
        return parse_json(members[name], name)
    except ValueError as error:
        raise ShardError(f"{where}: {str(error).replace(': ', ' is ', 1)}") from error


def _is_text(value: Any, max_length: int) -> bool:
    return isinstance(value, str) and len(value) <= max_length and is_encodable(value)


def _whole_number(meta: dict[str, Any], name: str, where: str, low: int) -> int:
    value = meta.get(name)
    if type(value) is not int or not low <= value < _LIMIT:  # True is an int, but no frame
        raise ShardError(f"{where}: meta.json has {name} {shown(value)}, need a whole number from {low} on")
    return value


def _positive(meta: dict[str, Any], name: str, where: str) -> float | None:
    value = meta.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _LIMIT:
        raise ShardError(f"{where}: meta.json has {name} {shown(value)}, need a finite number from 0 on")
    return float(value) or None
