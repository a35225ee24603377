"""Scores as tables of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from m3.metrics import MetricSpec, Score
from m3.metrics.specs import first_metrics

_WIDTH = 80
"""Characters of a table with several scores."""

_SAMPLE_SERIES = {"argmax": "argmax", "sample": "sample", "best_of_n": "best of n", "median_of_n": "median of n"}


def verdict(score: Score, k: int) -> str:
    """The model against "nothing moves" at horizon k + 1: "better", "worse", or "" within the 95% interval."""
    gain = score.gains.get("nothing_moves")
    low, high = (None, None) if gain is None else (gain.low[k], gain.high[k])
    if low is None or high is None:
        return ""
    return "better" if low > 0 else "worse" if high < 0 else ""


def heading(spec: MetricSpec) -> str:
    """A column's heading: "PCK@0.1 %"."""
    return f"{spec.short} {spec.shown_unit}".strip()


def first_scores(scores: Sequence[Score]) -> list[Score]:
    """The scores of the model with a short label, most important first."""
    found = {score.name: score for score in scores if "model" in score.series}
    return [found[spec.name] for spec in first_metrics([score.spec for score in found.values()])]


def print_scores(console: Console, scores: Sequence[Score], of_what: str) -> None:
    """The first scores beside "nothing moves", and below them those of several samples; `of_what`: "64 roll-outs"."""
    found = first_scores(scores)
    if found:
        legend = "model | nothing moves, n samples with truth; green: better beyond the 95% interval over clips"
        console.print(f"{of_what}; {legend}:", highlight=False)
        for table in score_tables(found):
            console.print(table)
    _print_samples(console, [score for score in scores if _SAMPLE_SERIES.keys() & score.series.keys()])


def score_tables(scores: Sequence[Score]) -> Iterator[Table]:
    """The scores in as few tables as their width allows."""
    unlimited = Console(width=1000)
    start = 0
    for end in range(1, len(scores) + 1):
        is_last = end == len(scores)
        if is_last or unlimited.measure(_score_table(scores[start : end + 1])).maximum > _WIDTH:
            yield _score_table(scores[start:end])
            start = end


def _score_table(scores: Sequence[Score]) -> Table:
    """A row per horizon with a truth, a column per score."""
    table = _table(["", "n", *(heading(score.spec) for score in scores)])
    for k in range(len(scores[0].num_samples)):
        if any(score.num_samples[k] for score in scores):
            most = max(score.num_samples[k] for score in scores)
            table.add_row(f"+{k + 1}", str(most), *(_cell(score, k) for score in scores))
    return table


def _print_samples(console: Console, scores: Sequence[Score]) -> None:
    shown = [score for score in scores if score.spec.short is not None or not score.spec.needs_truth]
    if not shown:
        return
    horizons = [k for k in range(len(shown[0].num_samples)) if any(score.num_samples[k] for score in shown)]
    console.print("several samples of each reference: mean, best (chosen by the truth), median:", highlight=False)
    table = _table(["", "", *(f"+{k + 1}" for k in horizons)])
    for score in shown:
        is_diversity = not score.spec.needs_truth
        name = score.spec.title if is_diversity else heading(score.spec)
        for series, label in _SAMPLE_SERIES.items():
            if series in score.series:
                values = score.series[series].value
                cells = (score.spec.text(values[k]) for k in horizons)
                table.add_row(name, "" if is_diversity else label, *cells)
                name = ""
    console.print(table)


def _table(headers: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left", no_wrap=True)
    return table


def _cell(score: Score, k: int) -> str:
    model, still = score.model[k], score.nothing_moves[k]
    if model is None:
        return "–"
    style = "bold green" if verdict(score, k) == "better" else "bold"
    return f"[{style}]{score.spec.text(model)}[/] | {score.spec.text(still)}"
