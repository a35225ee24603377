"""File and table of the forecasting benchmark: `forecast.json`, the scores on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3.core.files import make_folder, write_text_atomic
from m3.core.modalities import NUM_HORIZONS
from m3.forecast.benchmark import ForecastResult
from m3.forecast.protocol import THRESHOLD


def write_forecast(out: Path, result: ForecastResult, console: Console) -> None:
    """Writes `out`/forecast.json and prints the scores per horizon and the most frequent reasons for skipped files."""
    make_folder(out)
    path = out / "forecast.json"
    write_text_atomic(path, json.dumps(result.record, indent=1) + "\n")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("step", "model", "nothing moves", "gain"):
        table.add_column(header, justify="right", no_wrap=True)
    for k, (model, still) in enumerate(zip(result.scores.model.pck, result.scores.nothing_moves.pck)):
        if model is None or still is None:
            table.add_row(f"+{k + 1}", "–", "–", "–")
            continue
        style = "bold green" if model > still else "bold"
        table.add_row(f"+{k + 1}", Text(f"{model:.2f}", style), f"{still:.2f}", f"{model - still:+.2f}")
    sequences = f"{result.scores.model.num_sequences:,} sequences of {result.num_clips:,} clips, {NUM_HORIZONS} steps"
    console.print(
        f"PCK@{THRESHOLD:g} in percent, {sequences}; {len(result.skipped):,} label files skipped", highlight=False
    )
    console.print(table)
    reasons: dict[str, int] = {}
    for each in result.skipped:
        reasons[each.reason] = reasons.get(each.reason, 0) + 1
    for reason, number in sorted(reasons.items(), key=lambda item: -item[1])[:5]:
        console.print(f"skipped   {number:,}: {reason}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"scores    {path}", highlight=False, soft_wrap=True, markup=False)
