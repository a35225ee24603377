"""The pictures of the page: panels in a grid, one picture for each frame, and the same as a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from m3.core.palette import INK, PAPER
from m3.generation.generation import Generation
from m3.reporting.figures import Panel, rollout_panels
from m3.reporting.video import write_mp4

CELL_PX = 256
_LABEL_PX, _GAP = 28, 6
_MAX_COLUMNS = 3


def panels_of(made: Generation, has_skeleton: bool, has_truth: bool) -> list[Panel]:
    """Prediction, samples and truth of the one roll-out; without the truth or the skeletons where not asked for."""
    shown = rollout_panels(made, [0], len(made.samples))
    if not has_truth:
        shown = [panel for panel in shown if not panel.name.startswith("truth")]
    return shown if has_skeleton else [_without_skeleton(panel) for panel in shown]


def _without_skeleton(panel: Panel) -> Panel:
    """The same without overlays, unless there is nothing else to see."""
    layers = [(name, each) for name, each in panel.layers if not each.is_overlay]
    return replace(panel, layers=layers) if layers else panel


def frame_pictures(panels: Sequence[Panel]) -> list[Image.Image]:
    """T + 1 pictures, the panels in a grid under their names."""
    num_columns = min(len(panels), 2 if len(panels) == 4 else _MAX_COLUMNS)
    num_rows = -(-len(panels) // num_columns)
    size = num_columns * (CELL_PX + _GAP) + _GAP, num_rows * (CELL_PX + _LABEL_PX + _GAP) + _GAP
    font = ImageFont.load_default(17)
    pictures = []
    for frame in range(panels[0].frames.is_present.shape[1]):
        picture = Image.new("RGB", size, PAPER)
        pen = ImageDraw.Draw(picture)
        for place, panel in enumerate(panels):
            left = _GAP + place % num_columns * (CELL_PX + _GAP)
            top = _GAP + place // num_columns * (CELL_PX + _LABEL_PX + _GAP)
            moment = f"+{frame}" if frame else "reference"
            pen.text((left, top + _LABEL_PX / 2), f"{panel.name}  {moment}", fill=INK, font=font, anchor="lm")
            picture.paste(panel.cell(0, frame, CELL_PX), (left, top + _LABEL_PX))
        pictures.append(picture)
    return pictures


def write_film(folder: Path, pictures: Sequence[Image.Image], name: str) -> dict[str, object]:
    """Writes a PNG for each picture and a film of all. Returns their paths: "frames" and "film"."""
    frames = []
    for number, picture in enumerate(pictures):
        path = folder / f"{name}-{number:02d}.png"
        picture.save(path, compress_level=1)
        frames.append(str(path))
    film = folder / f"{name}.mp4"
    write_mp4(film, pictures)
    return {"frames": frames, "film": str(film)}
