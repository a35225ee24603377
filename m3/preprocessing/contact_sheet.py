"""A data set at a glance: random pairs with their skeletons, before and after the tokenizer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from m3.clips.base import ClipSource
from m3.clips.canvas import Canvas
from m3.core.modalities import Vocabulary, frame_of
from m3.core.palette import BLANK, FAINT, INK, PAPER
from m3.core.reading import npy_of
from m3.core.rng import numpy_generator
from m3.shards.manifest import STORED_MODALITIES, Manifest, token_members
from m3.shards.meta import captions_of, read_meta, ssim_of
from m3.shards.reader import read_shard
from m3.tokens.base import NoTokenizer, PictureTokenizer, to_frames
from m3.tokens.joints import JointCodec
from m3.vocabularies import DecodingContext, interpreter_of
from m3.vocabularies.joints import draw_skeleton
from m3.vocabularies.picture import PictureInterpreter

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GAP = 6
_NUM_COLUMNS = 2  # of pairs


@dataclass(frozen=True)
class SheetPair:
    """One pair of the sheet.

    title: a line about it.
    panels: name and picture, from left to right.
    """

    title: str
    panels: tuple[tuple[str, Image.Image], ...]


def sheet_pairs(
    root: Path,
    manifest: Manifest,
    tokenizer: PictureTokenizer | None,
    source: ClipSource | None,
    canvas: Canvas | None,
    num_pairs: int,
    cell_px: int,
    seed: int = 0,
) -> list[SheetPair]:
    """Random pairs of all splits, from as many clips as possible; [] for data without pictures and poses.

    Args:
        tokenizer: of the pictures; None draws no decoded pictures.
        source, canvas: what the data set was made from; None draws no original frames.
        num_pairs: upper bound.
        cell_px: side of a panel.
    """
    codec = JointCodec(manifest.canvas_size)
    stored = token_members([modality.name for modality in manifest.modalities], manifest.variants)
    pairs = []
    for split, key, members in _random_samples(root, manifest, num_pairs, seed):
        meta, captions = read_meta(members, key), captions_of(members, key)
        tokens = {name: npy_of(content, len(content)) for name in stored if (content := members.get(f"{name}.npy"))}
        frames = {} if source is None or canvas is None else _frames(source, canvas, meta)
        panels = [
            _panel(name, picture, tokens.get(joints), codec, cell_px)
            for name, picture, joints in _pictures(frames, tokens, tokenizer)
        ]
        panels += _interpreted(manifest, tokens, tokenizer, cell_px)
        if panels:
            pairs.append(SheetPair(_title(split, key, meta, captions), tuple(panels)))
    return pairs


def contact_sheet(pairs: Sequence[SheetPair]) -> Image.Image:
    """The pairs in two columns, each with its title above its panels."""
    cell_px = pairs[0].panels[0][1].width
    font, small = ImageFont.load_default(cell_px * 0.085), ImageFont.load_default(cell_px * 0.075)
    num_panels = max(len(pair.panels) for pair in pairs)
    title_px, name_px = round(cell_px * 0.14), round(cell_px * 0.11)
    block = num_panels * (cell_px + _GAP) + 3 * _GAP, title_px + name_px + cell_px + 4 * _GAP
    columns = min(_NUM_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * block[0] + 3 * _GAP, rows * block[1] + 2 * _GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for n, pair in enumerate(pairs):
        left, top = 3 * _GAP + n % columns * block[0], 2 * _GAP + n // columns * block[1]
        widest = block[0] - 3 * _GAP
        pen.text((left, top), _fitted(pair.title, pen, font, widest), fill=INK, font=font)
        for column, (name, picture) in enumerate(pair.panels):
            x = left + column * (cell_px + _GAP)
            pen.text((x, top + title_px), name, fill=FAINT, font=small)
            sheet.paste(picture, (x, top + title_px + name_px + _GAP))
    return sheet


def _random_samples(
    root: Path, manifest: Manifest, num_pairs: int, seed: int
) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Split, key and members of random pairs in the order of the data set, no clip twice while there are others."""
    places = [
        (split, number, place)
        for split, shards in manifest.shards.items()
        for number, shard in enumerate(shards)
        for place in range(shard.num_pairs)
    ]
    order = [places[i] for i in numpy_generator(seed, "contact sheet").permutation(len(places))[: 8 * num_pairs]]
    found = []
    for split, number in sorted({place[:2] for place in order}):
        samples = list(read_shard(root, manifest.shards[split][number]))
        for rank, place in enumerate(order):
            if place[:2] == (split, number):
                key, members = samples[place[2]]
                found.append((rank, key.rpartition("-")[0], (split, key, members)))
    found.sort(key=lambda item: item[0])
    seen: set[str] = set()
    first_of_clip = [item for item in found if not (item[1] in seen or seen.add(item[1]))]
    others = [item for item in found if item not in first_of_clip]
    chosen = (first_of_clip + others)[:num_pairs]
    yield from (sample for _, _, sample in sorted(chosen, key=lambda item: (item[2][0], item[2][1])))


def _frames(source: ClipSource, canvas: Canvas, meta: dict[str, Any]) -> dict[str, np.ndarray]:
    """Canvas pictures of the pair's frames, "reference" and "successor"."""
    clip = source.read(meta["clip"])
    window = canvas.window(clip.size, clip.joints)
    return {name: window.picture(clip.frames[meta[name]]) for name in ("reference", "successor")}


def _pictures(
    frames: dict[str, np.ndarray], tokens: dict[str, np.ndarray], tokenizer: PictureTokenizer | None
) -> Iterator[tuple[str, np.ndarray | None, str]]:
    """Name, picture (None: joints alone) and joint member of each panel."""
    for frame, suffix in (("reference", ""), ("successor", "_next")):
        for variant in ("", ".flip"):
            pictures, joints = f"tok_rgb{suffix}{variant}", f"coords{suffix}{variant}"
            if not variant and frame in frames:
                yield frame, frames[frame], joints
            if tokenizer is not None and pictures in tokens:
                ids = torch.from_numpy(tokens[pictures].astype(np.int64))[None]
                with torch.inference_mode():
                    yield (
                        f"{frame}, {'flipped' if variant else 'tokenized'}",
                        to_frames(tokenizer.decode(ids))[0],
                        joints,
                    )
            elif frame not in frames and joints in tokens:
                yield frame + (", flipped" if variant else ""), None, joints


def _interpreted(
    manifest: Manifest, tokens: dict[str, np.ndarray], tokenizer: PictureTokenizer | None, cell_px: int
) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of each modality besides those of `_pictures`, where its vocabulary has an interpreter."""
    context, is_present = DecodingContext(tokenizer or NoTokenizer(), manifest.canvas_size), np.ones((1, 1), bool)
    for modality in (each for each in manifest.modalities if each.name not in STORED_MODALITIES):
        interpreter = interpreter_of(Vocabulary(modality.vocabulary, modality.num_ids))
        if interpreter is None or (tokenizer is None and isinstance(interpreter, PictureInterpreter)):
            continue
        ids = tokens[modality.name].reshape(1, 1, -1).astype(np.int64)
        value = interpreter.decode(ids, np.ones(ids.shape, bool), is_present, context)[0, 0]
        name, frame = frame_of(modality.name)
        blank = Image.new("RGB", (cell_px, cell_px), BLANK)
        yield f"{('reference', 'successor')[frame]}, {name}", interpreter.draw(value, blank, manifest.canvas_size)


def _panel(
    name: str, frame: np.ndarray | None, joints: np.ndarray | None, codec: JointCodec, cell_px: int
) -> tuple[str, Image.Image]:
    size = (cell_px, cell_px)
    if frame is None:
        picture = Image.new("RGB", size, BLANK)
    else:
        picture = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
    if joints is not None:
        xy, is_visible = codec.decode(joints)
        picture = draw_skeleton(picture, xy * cell_px / codec.canvas_size, is_visible)
    return name, picture


def _title(split: str, key: str, meta: dict[str, Any], captions: tuple[str, ...]) -> str:
    parts = [f"{split}  {key} to {meta['successor']}"]
    if (ssim := ssim_of(meta)) is not None:
        parts.append(f"SSIM {ssim:.3f}")
    parts += captions[:1] or filter(None, [meta.get("action")])
    return "   ".join(parts)


def _fitted(text: str, pen: ImageDraw.ImageDraw, font: _Font, widest: float) -> str:
    """The text, cut where it would not fit."""
    length = len(text)
    while length > 8 and pen.textlength(textwrap.shorten(text, length, placeholder=" …"), font=font) > widest:
        length -= 4
    return text if length == len(text) else textwrap.shorten(text, length, placeholder=" …")
