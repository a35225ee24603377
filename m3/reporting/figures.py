"""Pictures of predicted frames with their skeletons, above or beside the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from m3.core.frames import Frames, PairChain
from m3.core.modalities import CLIP_MODALITIES, TRANSITIONS, frame_of
from m3.core.palette import FAINT, INK, LEFT, NO_FRAME, PAPER, RIGHT
from m3.generation.completion import FRAMES, generated_frames
from m3.generation.generation import Generation
from m3.vocabularies import Interpreter

_GAP = 6
_UNKNOWN = "not known"
WITHOUT_PICTURE = {*TRANSITIONS, *CLIP_MODALITIES}
"""Modalities of a frame that are words or arrows."""
_BLANK = (32, 32, 32)
"""RGB of a cell without a picture."""


def choose_samples(chains: Sequence[PairChain], num_samples: int) -> list[int]:
    """Indices of the chains to show: long ones first, and of these one of each action before a second of any."""
    shown_of_action: Counter[str | None] = Counter()
    ranked = []
    for n in sorted(range(len(chains)), key=lambda n: -len(chains[n].rows)):
        action = chains[n].pairs[0].action
        ranked.append((-len(chains[n].rows), shown_of_action[action], n))
        shown_of_action[action] += 1
    return [n for _, _, n in sorted(ranked)[:num_samples]]


@dataclass(frozen=True)
class Panel:
    """Frames of one kind, drawn for every sample.

    name: "predicted", "truth", ….
    frames: (N, T + 1).
    layers: modalities and their interpreters, drawn one over the other; those without a value are left out.
    canvas_size: pixels.
    """

    name: str
    frames: Frames
    layers: Sequence[tuple[str, Interpreter]]
    canvas_size: int

    def cell(self, sample: int, horizon: int, cell_px: int) -> Image.Image:
        """One frame, cell_px on each side; gray where the frame is not present, or a lone modality is unknown."""
        frames = self.frames
        if not frames.is_present[sample, horizon]:
            return _gray_cell(cell_px, "clip has ended" if frames.is_present[sample, 1:].any() else _UNKNOWN)
        if self._is_unknown(sample, horizon):
            return _gray_cell(cell_px, _UNKNOWN)
        cell = Image.new("RGB", (cell_px, cell_px), _BLANK)
        for name, interpreter in self.layers:
            if name in frames.values:
                cell = interpreter.draw(frames.values[name][sample, horizon], cell, self.canvas_size)
        return cell

    def _is_unknown(self, sample: int, horizon: int) -> bool:
        """Whether the one modality that the panel shows has no known token in the frame."""
        name, interpreter = self.layers[0] if self.layers else ("", None)
        if len(self.layers) != 1 or interpreter is None or interpreter.is_overlay or self.frames.tokens is None:
            return False
        is_known = self.frames.tokens.is_known.get(name)
        return is_known is not None and not is_known[sample, horizon].any()


def _gray_cell(cell_px: int, words: str) -> Image.Image:
    gray = Image.new("RGB", (cell_px, cell_px), NO_FRAME)
    center, font = (cell_px / 2, cell_px / 2), _font(cell_px * 0.08)
    ImageDraw.Draw(gray).text(center, words, fill=FAINT, font=font, anchor="mm")
    return gray


def _label(pen: ImageDraw.ImageDraw, name: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A panel's name, in lines where it is wider than its place."""
    return name if pen.textlength(name, font=font) <= width else name.replace(", ", "\n")


def views(interpreters: Mapping[str, Interpreter]) -> list[tuple[str, list[tuple[str, Interpreter]]]]:
    """The pictures that show a frame whole, as (suffix of the panel's name, layers).

    The first modality that is a picture of the frame is drawn with all overlays; each further one, and those that are
    words or arrows, have a picture of their own.
    """
    overlays = [item for item in interpreters.items() if item[1].is_overlay]
    alone = [item for item in interpreters.items() if not item[1].is_overlay]
    first = [item for item in alone if item[0] not in WITHOUT_PICTURE][:1]
    alone = [item for item in alone if item not in first]
    whole = [("", [*first, *overlays])] if first or overlays else []
    return [*whole, *((f", {name}", [(name, each)]) for name, each in alone)]


def panels(
    frames: Sequence[tuple[str, Frames]], interpreters: Mapping[str, Interpreter], canvas_size: int
) -> list[Panel]:
    """A panel for each view of each of the named frames."""
    return [
        Panel(name + suffix, each, layers, canvas_size)
        for name, each in frames
        for suffix, layers in views(interpreters)
    ]


def rollout_panels(made: Generation, rows: Sequence[int], num_samples: int) -> list[Panel]:
    """Some roll-outs, random samples of the same references, and the truth if there is any."""
    chosen = list(rows)
    shown = [("predicted", made.predicted[chosen])]
    shown += [(f"sample {n}", each[chosen]) for n, each in enumerate(made.samples[:num_samples], 1)]
    if (truth := made.truth[chosen]).is_present[:, 1:].any():
        shown.append(("truth", truth))
    return panels(shown, _shown_interpreters(made), made.canvas_size)


def _shown_interpreters(made: Generation) -> dict[str, Interpreter]:
    """Those of frames, and those of what was generated: a displacement, a label or a text is otherwise not drawn."""
    generated = {frame_of(modality)[0] for modality in made.generated}
    if made.is_rollout:
        generated -= WITHOUT_PICTURE
    names = [name for name in made.interpreters if name in generated or name not in WITHOUT_PICTURE]
    return {name: made.interpreters[name] for name in names}


def rollout_sheet(shown: Sequence[Panel], titles: Sequence[str], cell_px: int) -> Image.Image:
    """For each sample a row of every panel; a column for the reference and each horizon.

    Args:
        shown: panels of (N, T + 1) frames.
        titles: one for each sample.
        cell_px: side of a frame in the sheet.
    """
    num_samples, num_columns = shown[0].frames.is_present.shape
    font, small = _fonts(cell_px)
    title_px, line_px, margin = cell_px // 5, cell_px // 6, 2 * _GAP
    step = cell_px + _GAP
    measuring = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    labels = [_label(measuring, panel.name, font, cell_px / 2) for panel in shown]
    widest = max(measuring.multiline_textbbox((0, 0), label, font=font)[2] for label in labels)
    left = max(cell_px // 2, round(widest) + 2 * margin)
    block = title_px + len(shown) * step + _GAP
    sheet = Image.new("RGB", (left + num_columns * step + margin, num_samples * block + 2 * line_px), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column in range(num_columns):
        center = left + column * step + cell_px // 2
        pen.text((center, line_px // 2), _column_name(column), fill=INK, font=font, anchor="mm")
    for n in range(num_samples):
        top = line_px + n * block
        pen.text((left, top + title_px // 2), titles[n], fill=FAINT, font=small, anchor="lm")
        for row, (panel, label) in enumerate(zip(shown, labels)):
            y = top + title_px + row * step
            pen.text((left - margin, y + cell_px // 2), label, fill=INK, font=font, anchor="rm")
            for column in range(num_columns):
                sheet.paste(panel.cell(n, column, cell_px), (left + column * step, y))
    _write_legend(pen, (left, sheet.height - line_px // 2), small)
    return sheet


def completion_panels(made: Generation, rows: Sequence[int], num_samples: int) -> list[Panel]:
    """Of some pairs: the given parts, each generated frame, its samples, and the truth, (N, 1) frames each.

    Of a frame of which words alone are generated, these alone are shown as generated and as the truth.
    """
    chosen, given = list(rows), made.given.tokens
    assert given is not None, "decoded frames keep their tokens"
    shown: list[Panel] = []
    interpreters = _shown_interpreters(made)

    def show(name: str, frames: Frames, place: int, names: Sequence[str]) -> None:
        layers = {each: interpreters[each] for each in names}
        shown.extend(panels([(name, frames[chosen, place : place + 1])], layers, made.canvas_size))

    for place, frame in enumerate(FRAMES):
        names = [name for name in interpreters if name not in WITHOUT_PICTURE or given.is_known[name][:, place].any()]
        if any(given.is_known[name][:, place].any() for name in names):
            show(f"given, {frame}", made.given, place, names)
    for place, generated in generated_frames(made).items():
        names = [name for name in interpreters if name in generated or not generated <= WITHOUT_PICTURE]
        show(f"generated, {FRAMES[place]}", made.predicted, place, names)
        for number, each in enumerate(made.samples[:num_samples], 1):
            show(f"sample {number}", each, place, names)
        if made.truth.is_present[chosen, place].any():
            show(f"truth, {FRAMES[place]}", made.truth, place, names)
    return shown


def completion_sheet(made: Generation, rows: Sequence[int], cell_px: int, num_samples: int) -> Image.Image:
    """A row for each of some pairs: the pictures of `completion_panels`."""
    titles = [made.prompts.chains[n].title for n in rows]
    return column_sheet(completion_panels(made, rows, num_samples), titles, cell_px)


def column_sheet(columns: Sequence[Panel], titles: Sequence[str], cell_px: int) -> Image.Image:
    """A row for each sample, a column for each panel, of (N, 1) frames."""
    font, small = _fonts(cell_px)
    title_px, line_px, step = cell_px // 6, cell_px // 5, cell_px + _GAP
    block, width = title_px + step, len(columns) * step + 3 * _GAP
    measuring = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    labels = [_label(measuring, panel.name, font, cell_px) for panel in columns]
    head_px = max([line_px, *(round(1.5 * font.size) * len(label.splitlines()) for label in labels)])
    sheet = Image.new("RGB", (width, head_px + len(titles) * block + line_px), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, (panel, label) in enumerate(zip(columns, labels)):
        x = 2 * _GAP + column * step
        pen.text((x, head_px // 2), label, fill=INK, font=font, anchor="lm")
        for n in range(len(titles)):
            sheet.paste(panel.cell(n, 0, cell_px), (x, head_px + n * block + title_px))
    for n, title in enumerate(titles):
        pen.text((2 * _GAP, head_px + n * block + title_px // 2), title, fill=FAINT, font=small, anchor="lm")
    _write_legend(pen, (2 * _GAP, sheet.height - line_px // 2), small)
    return sheet


def rollout_animation(
    shown: Sequence[Panel], titles: Sequence[str], cell_px: int, num_columns: int = 2
) -> list[Image.Image]:
    """T + 1 pictures: the samples in a grid, each with its panels beside each other.

    num_columns: of the grid, with two panels; one with more.
    """
    num_samples, num_frames = shown[0].frames.is_present.shape
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
            for place, panel in enumerate(shown):
                words = panel.name if place else f"{panel.name}  {_column_name(horizon)}"
                pen.text((x, y + line_px * 1.5), words, fill=INK, font=font, anchor="lm")
                picture.paste(panel.cell(n, horizon, cell_px), (x, y + 2 * line_px))
                x += cell_px + _GAP
        animation.append(picture)
    return animation


def _fonts(cell_px: int) -> tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]:
    return _font(cell_px * 0.09), _font(cell_px * 0.08)


def _font(size_px: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _write_legend(pen: ImageDraw.ImageDraw, place: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    x, y = place
    for words, color in (("left", LEFT), ("right", RIGHT)):
        radius = font.size * 0.3
        pen.ellipse([x, y - radius, x + 2 * radius, y + radius], fill=color)
        x += 3 * radius
        pen.text((x, y), words, fill=FAINT, font=font, anchor="lm")
        x += pen.textlength(words, font=font) + 4 * radius


def stacked_cells(shown: Sequence[Panel], sample: int, cell_px: int) -> list[tuple[str, Image.Image]]:
    """The name and the picture (RGBA) of the reference and of each horizon: the panels below each other."""
    stacks = []
    for horizon in range(shown[0].frames.is_present.shape[1]):
        stack = Image.new("RGBA", (cell_px, len(shown) * (cell_px + _GAP) - _GAP))
        for row, panel in enumerate(shown):
            stack.paste(panel.cell(sample, horizon, cell_px), (0, row * (cell_px + _GAP)))
        stacks.append((_column_name(horizon), stack))
    return stacks


def _column_name(horizon: int) -> str:
    return f"+{horizon}" if horizon else "reference"
