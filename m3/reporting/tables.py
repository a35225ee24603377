"""Scores for people: which ones are shown first, in which unit, and the tables of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from m3.metrics.scores import Score

SHOWN = {"pck@0.1": "PCK@0.1 %", "pck@0.05": "PCK@0.05 %", "joint_error": "error px", "psnr": "PSNR dB",
         "ssim": "SSIM"}  # fmt: skip
"""The first scores to look at, as columns are headed."""

_IN_PERCENT = ("pck@0.05", "pck@0.1", "tok_rgb_accuracy", "coords_accuracy")
_DRAWN = {"argmax": "argmax", "sample": "sample", "best_of_n": "best of n"}


def number(score: Score, value: float | None) -> str:
    """A value of the score in the unit in which people read it; "–" for none."""
    if value is None:
        return "–"
    if score.name in _IN_PERCENT:
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if score.unit == "share" else f"{value:.1f}"


def verdict(score: Score, k: int) -> str:
    """Beside "nothing moves" at horizon k + 1: "better", "worse", or "" within the 95% interval."""
    gain = score.gains.get("nothing_moves")
    if gain is None or gain.low[k] is None:
        return ""
    return "better" if gain.low[k] > 0 else "worse" if gain.high[k] < 0 else ""


def print_scores(console: Console, scores: Sequence[Score], of_what: str) -> None:
    """The first scores beside "nothing moves", and below them those of several draws; `of_what`: "64 roll-outs"."""
    found = [score for score in scores if score.name in SHOWN and "model" in score.series]
    found.sort(key=lambda score: list(SHOWN).index(score.name))
    if found:
        says = "model | nothing moves, n samples with truth; green: better beyond the 95% interval over clips"
        console.print(f"{of_what}; {says}:", highlight=False)
        table = _table(["", "n", *(SHOWN[score.name] for score in found)])
        for k in range(len(found[0].num_samples)):
            if any(score.num_samples[k] for score in found):
                most = max(score.num_samples[k] for score in found)
                table.add_row(f"+{k + 1}", str(most), *(_cell(score, k) for score in found))
        console.print(table)
    _print_draws(console, [score for score in scores if _DRAWN.keys() & score.series.keys()])


def _print_draws(console: Console, scores: Sequence[Score]) -> None:
    shown = [score for score in scores if score.name in SHOWN or score.name.startswith("diversity")]
    if not shown:
        return
    horizons = [k for k in range(len(shown[0].num_samples)) if any(score.num_samples[k] for score in shown)]
    console.print("several draws from each reference; sample: their mean; best of n: by the truth:", highlight=False)
    table = _table(["", "", *(f"+{k + 1}" for k in horizons)])
    for score in shown:
        name = SHOWN.get(score.name, f"{score.name.removeprefix('diversity_')} apart {score.unit}")
        for series, words in _DRAWN.items():
            if series in score.series:
                values = score.series[series].value
                is_diversity = score.name.startswith("diversity")
                table.add_row(name, "" if is_diversity else words, *(number(score, values[k]) for k in horizons))
                name = ""
    console.print(table)


def _table(headers: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left", no_wrap=True)
    return table


def _cell(score: Score, k: int) -> str:
    model, still = score.model[k], score.nothing_moves[k]
    if model is None or still is None:
        return "–"
    style = "bold green" if verdict(score, k) == "better" else "bold"
    return f"[{style}]{number(score, model)}[/] | {number(score, still)}"
