"""What a person looks at: predicted frames with their skeletons above or beside the truth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m3.core.frames import Chain, Frames
from m3.core.joints import JOINT_NAMES, LIMBS
from m3.core.palette import FAINT, INK, LEFT, MIDDLE, NO_FRAME, OUTLINE, PAPER, RIGHT

_SUPERSAMPLING = 3
_GAP = 6
Panels = Sequence[tuple[str, Frames]]
"""Names and (N, T + 1) frames of what stands below or beside each other for every sample."""


def choose_samples(chains: Sequence[Chain], num_samples: int) -> list[int]:
    """Indices of the chains to show: long ones first, and of these one of each action before a second of any."""
    shown_of_action: Counter[str | None] = Counter()
    ranked = []
    for n in sorted(range(len(chains)), key=lambda n: -len(chains[n].rows)):
        action = chains[n].pairs[0].action
        ranked.append((-len(chains[n].rows), shown_of_action[action], n))
        shown_of_action[action] += 1
    return [n for _, _, n in sorted(ranked)[:num_samples]]


def draw_skeleton(picture: Image.Image, xy: np.ndarray, is_visible: np.ndarray) -> Image.Image:
    """The picture with the visible joints and the limbs between them drawn on it, anti-aliased.

    Args:
        picture: RGB.
        xy: (13, 2) pixels of the picture.
        is_visible: (13,) bool; an invisible joint is not drawn, nor a limb that ends in one.
    """
    size = picture.width * _SUPERSAMPLING, picture.height * _SUPERSAMPLING
    scale = _SUPERSAMPLING * min(picture.size) / 256
    layer = Image.new("RGBA", size)
    pen = ImageDraw.Draw(layer)
    points = {name: tuple(xy[j] * _SUPERSAMPLING) for j, name in enumerate(JOINT_NAMES) if is_visible[j]}
    segments = [(points[a], points[b], _colour(a, b)) for a, b in LIMBS if a in points and b in points]
    if {"head", "left_shoulder", "right_shoulder"} <= points.keys():
        neck = tuple(np.mean([points["left_shoulder"], points["right_shoulder"]], axis=0))
        segments.insert(0, (points["head"], neck, MIDDLE))
    for widening, opaque in ((2.4, False), (0.0, True)):
        for start, end, colour in segments:
            width = round((3.4 + widening) * scale)
            pen.line([start, end], fill=(*colour, 255) if opaque else OUTLINE, width=width)
        for name, (x, y) in points.items():
            radius = (3.0 + widening / 2) * scale
            colour = (*_colour(name, name), 255) if opaque else OUTLINE
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    drawn = picture.convert("RGBA")
    drawn.alpha_composite(layer.resize(picture.size, Image.Resampling.BOX))
    return drawn.convert("RGB")


def _colour(a: str, b: str) -> tuple[int, int, int]:
    sides = {name.split("_")[0] for name in (a, b)}
    return LEFT if sides == {"left"} else RIGHT if sides == {"right"} else MIDDLE


def cell(frames: Frames, sample: int, horizon: int, cell_px: int) -> Image.Image:
    """One frame with its skeleton, cell_px on each side; grey where the frame is not present."""
    if not frames.is_present[sample, horizon]:
        grey = Image.new("RGB", (cell_px, cell_px), NO_FRAME)
        centre, font = (cell_px / 2, cell_px / 2), ImageFont.load_default(cell_px * 0.08)
        words = "clip has ended" if frames.is_present[sample, 1:].any() else "not known"
        ImageDraw.Draw(grey).text(centre, words, fill=FAINT, font=font, anchor="mm")
        return grey
    picture = Image.fromarray(np.ascontiguousarray(frames.pictures[sample, horizon]))
    scale = cell_px / picture.width
    picture = picture.resize((cell_px, cell_px), Image.Resampling.LANCZOS)
    return draw_skeleton(picture, frames.xy[sample, horizon] * scale, frames.is_visible[sample, horizon])


def panels(predicted: Frames, truth: Frames, draws: Sequence[Frames] = ()) -> list[tuple[str, Frames]]:
    """The roll-outs, others drawn from the same references, and the truth if there is any."""
    drawn = [(f"sample {number}", frames) for number, frames in enumerate(draws, 1)]
    return [("predicted", predicted), *drawn, *([("truth", truth)] if truth.is_present[:, 1:].any() else [])]


def rollout_sheet(shown: Panels, titles: Sequence[str], cell_px: int) -> Image.Image:
    """For each sample a row of every panel; a column for the reference and each horizon.

    Args:
        shown: names and (N, T + 1) frames, from `panels`.
        titles: one for each sample.
        cell_px: side of a frame in the sheet.
    """
    num_samples, num_columns = shown[0][1].is_present.shape
    font, small = _fonts(cell_px)
    left, title_px, line_px, margin = cell_px // 2, cell_px // 5, cell_px // 6, 2 * _GAP
    step = cell_px + _GAP
    block = title_px + len(shown) * step + _GAP
    sheet = Image.new("RGB", (left + num_columns * step + margin, num_samples * block + 2 * line_px), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column in range(num_columns):
        centre = left + column * step + cell_px // 2
        pen.text((centre, line_px // 2), _column_name(column), fill=INK, font=font, anchor="mm")
    for n in range(num_samples):
        top = line_px + n * block
        pen.text((left, top + title_px // 2), titles[n], fill=FAINT, font=small, anchor="lm")
        for row, (name, frames) in enumerate(shown):
            y = top + title_px + row * step
            pen.text((left - margin, y + cell_px // 2), name, fill=INK, font=font, anchor="rm")
            for column in range(num_columns):
                sheet.paste(cell(frames, n, column, cell_px), (left + column * step, y))
    _write_legend(pen, (left, sheet.height - line_px // 2), small)
    return sheet


def column_sheet(columns: Panels, titles: Sequence[str], cell_px: int) -> Image.Image:
    """A row for each sample, a column for each panel, of which the frames (N, 1) are shown."""
    font, small = _fonts(cell_px)
    title_px, line_px, step = cell_px // 6, cell_px // 5, cell_px + _GAP
    block = title_px + step
    sheet = Image.new("RGB", (len(columns) * step + 3 * _GAP, len(titles) * block + 2 * line_px), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, (name, frames) in enumerate(columns):
        x = 2 * _GAP + column * step
        pen.text((x, line_px // 2), name, fill=INK, font=font, anchor="lm")
        for n in range(len(titles)):
            sheet.paste(cell(frames, n, 0, cell_px), (x, line_px + n * block + title_px))
    for n, title in enumerate(titles):
        pen.text((2 * _GAP, line_px + n * block + title_px // 2), title, fill=FAINT, font=small, anchor="lm")
    _write_legend(pen, (2 * _GAP, sheet.height - line_px // 2), small)
    return sheet


def rollout_animation(shown: Panels, titles: Sequence[str], cell_px: int, num_columns: int = 2) -> list[Image.Image]:
    """T + 1 pictures: the samples in a grid, each with its panels beside each other.

    num_columns: of the grid, with two panels; one with more.
    """
    num_samples, num_frames = shown[0][1].is_present.shape
    font, small = _fonts(cell_px)
    line_px, margin = cell_px // 7, 3 * _GAP
    block = len(shown) * (cell_px + _GAP) - _GAP + margin, cell_px + 2 * line_px + margin
    columns = min(num_columns if len(shown) <= 2 else 1, num_samples)
    rows = -(-num_samples // columns)
    animation = []
    for horizon in range(num_frames):
        picture = Image.new("RGB", (columns * block[0] + margin, rows * block[1] + margin), PAPER)
        pen = ImageDraw.Draw(picture)
        for n in range(num_samples):
            x, y = margin + n % columns * block[0], margin // 2 + n // columns * block[1]
            pen.text((x, y + line_px // 2), titles[n], fill=FAINT, font=small, anchor="lm")
            for place, (name, frames) in enumerate(shown):
                words = name if place else f"{name}  {_column_name(horizon)}"
                pen.text((x, y + line_px * 1.5), words, fill=INK, font=font, anchor="lm")
                picture.paste(cell(frames, n, horizon, cell_px), (x, y + 2 * line_px))
                x += cell_px + _GAP
        animation.append(picture)
    return animation


def _fonts(cell_px: int) -> tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]:
    return ImageFont.load_default(cell_px * 0.09), ImageFont.load_default(cell_px * 0.08)


def _write_legend(pen: ImageDraw.ImageDraw, place: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    x, y = place
    for words, colour in (("left", LEFT), ("right", RIGHT)):
        radius = font.size * 0.3
        pen.ellipse([x, y - radius, x + 2 * radius, y + radius], fill=colour)
        x += 3 * radius
        pen.text((x, y), words, fill=FAINT, font=font, anchor="lm")
        x += pen.textlength(words, font=font) + 4 * radius


def _column_name(horizon: int) -> str:
    return f"+{horizon}" if horizon else "reference"


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG under its final name only when complete."""
    unfinished = path.with_name(path.name + ".tmp")
    picture.save(unfinished, format="PNG")
    os.replace(unfinished, path)
