"""Files and table of an in-painting: `inpainting.json`, `inpainting.png`, the errors on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3.core.files import make_folder
from m3.core.palette import BLANK, INK, PAPER
from m3.generation.inpainting import InpaintingResult
from m3.reporting.files import write_json, write_png
from m3.vocabularies.joints import draw_skeleton

_CELL_PX, _GAP = 168, 8


def write_inpainting(out: Path, result: InpaintingResult, console: Console) -> None:
    """Writes both files to the folder `out` and prints the errors."""
    make_folder(out)
    write_json(out / "inpainting.json", result.record)
    write_png(out / "inpainting.png", inpainting_sheet(result))
    print_inpainting(console, result.record, out)


def inpainting_sheet(result: InpaintingResult) -> Image.Image:
    """A column for each of the first poses: the given joints, each guess, the truth."""
    num_shown, is_visible = min(result.num_shown, len(result.rows)), result.is_visible
    given = is_visible & ~result.is_hidden
    shown = {"given": (result.truth, given)}
    names = {"model": "generated", "mean_pose": "mean pose", "fitted_mean_pose": "mean pose, fitted"}
    shown |= {names[name]: (xy, is_visible) for name, xy in result.guesses.items()} | {
        "truth": (result.truth, is_visible)
    }
    font, left, step = ImageFont.load_default(_CELL_PX * 0.085), round(_CELL_PX * 0.9), _CELL_PX + _GAP
    picture = Image.new("RGB", (left + num_shown * step, len(shown) * step + _GAP), PAPER)
    pen = ImageDraw.Draw(picture)
    for row, (name, (xy, is_drawn)) in enumerate(shown.items()):
        top = _GAP + row * step
        pen.text((left - 2 * _GAP, top + _CELL_PX // 2), name, fill=INK, font=font, anchor="rm")
        for n in range(num_shown):
            cell = Image.new("RGB", (_CELL_PX, _CELL_PX), BLANK)
            cell = draw_skeleton(cell, xy[n] * _CELL_PX / result.canvas_size, is_drawn[n])
            picture.paste(cell, (left + n * step, top))
    return picture


def print_inpainting(console: Console, record: dict[str, Any], out: Path) -> None:
    """The errors of `inpainting.json`, and the files in the folder `out`."""
    hidden = f"{record['num_hidden']} of 13 joints hidden in {record['num_poses']} poses of {record['num_clips']} clips"
    console.print(f"{hidden}; mean error over {record['num_scored_joints']} hidden joints:", highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False)
    for name, entry in record["guesses"].items():
        within = "" if entry["ci95"] is None else "95% interval {:.2f} … {:.2f}".format(*entry["ci95"])
        table.add_row(name.replace("_", " "), Text(f"{entry['mean_error_px']:.2f} px", "bold"), within)
    console.print(table)
    for name in ("inpainting.png", "inpainting.json"):
        console.print(str(out / name), highlight=False, soft_wrap=True, markup=False)
