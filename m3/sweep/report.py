"""The report at the end of a sweep: a table, `sweep.csv` and `sweep.png`."""

from __future__ import annotations

import atexit
import csv
import math
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from m3.core.files import atomic_file, write_text_atomic
from m3.core.renames import rename_swept_keys
from m3.core.terminal import PlainConsole
from m3.sweep.records import Trial, best_of, read_sweep, settle, swept_settings

_STYLES = {"done": "green", "running": "blue", "interrupted": "yellow"}
_NUM_COLUMNS = 3


class SweepReport(Callback):
    """Reports a sweep at its end, also after a failure.

    Args:
        value: name of the optimized number.
        direction: minimize or maximize.
    """

    def __init__(self, value: str, direction: Literal["minimize", "maximize"]) -> None:
        if direction not in ("minimize", "maximize"):
            raise ValueError(f"hydra.callbacks.sweep.direction={direction!r}: choose minimize or maximize")
        self.value, self.direction = value, direction

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if params := OmegaConf.select(config, "hydra.sweeper.params"):
            rename_swept_keys(params)
        # Hydra does not call `on_multirun_end` if a launcher or sweeper fails.
        atexit.register(self._report, Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        atexit.unregister(self._report)
        settle(Path(config.hydra.sweep.dir))
        trials = self._report(Path(config.hydra.sweep.dir))
        has_failed = any(trial.status not in ("done", "diverged") for trial in trials)
        if has_failed or (trials and best_of(trials, self.direction) is None):
            raise SystemExit(1)

    def _report(self, folder: Path) -> list[Trial]:
        if trials := read_sweep(folder):
            table = write_csv(folder / "sweep.csv", trials, self.value)
            plot = write_plot(folder / "sweep.png", trials, self.value, self.direction)
            console = PlainConsole()
            console.print(table_of(trials, self.value, self.direction))
            console.print(f"{table}, {plot}", highlight=False, soft_wrap=True)
        return trials


def table_of(trials: list[Trial], value: str, direction: str) -> Table:
    """A row per trial; the best one is marked."""
    best, swept = best_of(trials, direction), swept_settings(trials)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("trial", *swept, value, "time", "status"):
        table.add_column(header, justify="left" if header in swept or header == "status" else "right")
    for row, trial in enumerate(trials):
        settings = [_short(values[row]) for values in swept.values()]
        number = "–" if trial.value is None else f"{trial.value:.4f}"
        seconds = "" if trial.seconds is None else f"{trial.seconds:,.0f} s"
        words = "★ best" if trial is best else trial.reason
        status = Text.assemble((trial.status, _STYLES.get(trial.status, "red")), f" {words}".rstrip())
        table.add_row(str(trial.number), *map(Text, settings), number, seconds, status,
                      style="bold" if trial is best else None)  # fmt: skip
    return table


def write_csv(path: Path, trials: list[Trial], value: str) -> Path:
    """One line per trial, with all digits."""
    swept = swept_settings(trials)
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", *swept, value, "seconds", "status", "reason", "overrides"])
    for row, trial in enumerate(trials):
        settings = [values[row] for values in swept.values()]
        command = " ".join(trial.overrides)
        writer.writerow([trial.number, *settings, trial.value, trial.seconds, trial.status, trial.reason, command])
    write_text_atomic(path, text.getvalue())
    return path


def write_plot(path: Path, trials: list[Trial], value: str, direction: str) -> Path:
    """Plots the value of each trial, and values over each swept setting."""
    # Imported here: Hydra creates the callback at the start of every run, but only sweeps plot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    swept = swept_settings(trials)
    num_panels = 1 + len(swept)
    num_columns = min(num_panels, _NUM_COLUMNS)
    num_rows = math.ceil(num_panels / num_columns)
    figure = Figure(figsize=(4.5 * num_columns, 3.6 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    best = best_of(trials, direction)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flat
    _draw_history(panels[0], trials, best, value, direction)
    for panel, (key, values) in zip(panels[1:], swept.items()):
        _draw_setting(panel, trials, best, key, values, value)
    for panel in panels[num_panels:]:
        panel.set_visible(False)
    if best is not None:
        figure.suptitle(f"best of {len(trials)} trials: #{best.number}, {value} {best.value:.4f}")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


def _draw_history(panel: Any, trials: list[Trial], best: Trial | None, value: str, direction: str) -> None:
    done = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    numbers, values = [number for number, _ in done], [value for _, value in done]
    choose = {"minimize": min, "maximize": max}[direction]
    so_far = [choose(values[: n + 1]) for n in range(len(values))]
    panel.step(numbers, so_far, where="post", color="tab:gray", linewidth=1, label="best so far")
    panel.plot(numbers, values, "o", color="tab:blue")
    without = [trial.number for trial in trials if trial.value is None]
    if without:  # at the lower edge of the panel
        panel.plot(without, [0.03] * len(without), "x", color="tab:red", transform=panel.get_xaxis_transform(),
                   label="without result")  # fmt: skip
    if best is not None:
        panel.plot([best.number], [best.value], "*", color="tab:orange", markersize=14, label="best")
    panel.set(xlabel="trial", ylabel=value)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.3)


def _draw_setting(
    panel: Any, trials: list[Trial], best: Trial | None, key: str, values: list[str | None], value: str
) -> None:
    """Plots values over a numeric axis if the setting is a number in every trial, else over a categorical axis."""
    numbers = [number for each in values if (number := _number(each)) is not None]
    if is_numeric := len(numbers) == len(values):
        places = numbers
        if min(places) > 0 and max(places) / min(places) >= 10:
            panel.set_xscale("log", subs=[])
            panel.xaxis.get_major_locator().set_params(subs=(1, 3), numticks=12)
            panel.xaxis.set_major_formatter("{x:g}")
    else:
        names = list(dict.fromkeys("–" if each is None else each for each in values))
        places = [names.index("–" if each is None else each) for each in values]
        panel.set_xticks(range(len(names)), [name[:24] for name in names], rotation=20 if len(names) > 3 else 0)
        panel.margins(x=0.2)
    for place, trial in zip(places, trials):
        if trial.value is not None:
            look = {"marker": "*", "color": "tab:orange", "markersize": 14} if trial is best else {"marker": "o"}
            panel.plot([place], [trial.value], **{"color": "tab:blue", "zorder": 2, **look})
        elif is_numeric or trial.status != "running":
            panel.plot([place], [0.03], "x", color="tab:red", transform=panel.get_xaxis_transform())
    panel.set(xlabel=key, ylabel=value)
    panel.grid(alpha=0.3)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _short(text: str | None) -> str:
    """The text of a setting in the table: floats with 4 digits, – for none."""
    if text is None:
        return "–"
    number = _number(text)
    return text if number is None or len(text) <= 8 else f"{number:.4g}"
