"""Scores as tables of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3.core.terminal import PlainConsole, printable
from m3.metrics import Confusion, MetricSpec, Score
from m3.metrics.specs import first_metrics

_WIDTH = 80
"""Characters of a table with several scores."""

_NUM_MISTAKES = 2
"""Wrong classes that the table names for each true class."""

_NAME_WIDTH = 16
"""Characters of the name of a class."""

_CEILINGS = {
    "tokenizer": ("nothing_moves", "against the real frames; model | nothing moves | the truth's tokens, decoded"),
    "truth": ("reference_joints", "joints in the predicted pictures; model | joints of the reference | the truth"),
}
"""Series that is the best to expect → the series to be better than, and the legend of the table with both."""

_SAMPLE_SERIES = {"argmax": "argmax", "sample": "sample", "best_of_n": "best of n", "median_of_n": "median of n"}


def verdict(score: Score, k: int) -> str:
    """The model against "nothing moves" at horizon k + 1: "better", "worse", or "" within the 95% interval."""
    gain = score.gains.get("nothing_moves")
    low, high = (None, None) if gain is None else (gain.low[k], gain.high[k])
    if low is None or high is None:
        return ""
    return "better" if low > 0 else "worse" if high < 0 else ""


_IN_WORDS = {"pck@0.1": "joints", "psnr": "pictures", "psnr_real": "pictures beside the real frames"}
"""Scores whose comparison with "nothing moves" is told in words → what they are scores of."""


def in_words(scores: Sequence[Score]) -> list[str]:
    """Sentences on joints and pictures: where the model is better, and where worse, than a copy of the reference."""
    return [
        f"{_IN_WORDS[score.name]}: {_steps_in_words(score)}"
        for score in scores
        if score.name in _IN_WORDS and {"model", "nothing_moves"} <= score.series.keys()
    ]


def _steps_in_words(score: Score) -> str:
    gains = {
        k + 1: (model - copy) * (1 if score.spec.is_better == "higher" else -1)
        for k, (model, copy) in enumerate(zip(score.model, score.nothing_moves))
        if model is not None and copy is not None
    }
    none = score.spec.text(0.0)  # a gain that is shown like this is none
    gains = {k: 0.0 if score.spec.text(abs(gain)) == none else gain for k, gain in gains.items()}
    told = []
    for word, chosen in (("better", [k for k in gains if gains[k] > 0]), ("worse", [k for k in gains if gains[k] < 0])):
        if chosen:
            steps = "at every step" if len(chosen) == len(gains) > 1 else f"at {', '.join(f'+{k}' for k in chosen)}"
            largest = score.spec.text(max(abs(gains[k]) for k in chosen))
            unit = " points" if score.spec.is_percent else f" {score.spec.shown_unit}"
            told.append(f"{word} than a copy of the reference {steps}, by up to {largest}{unit}")
    return "; ".join(told) or "as good as a copy of the reference"


def heading(spec: MetricSpec) -> str:
    """A column's heading: "PCK@0.1 %"; a metric without a short label has its name."""
    return f"{spec.short or spec.name} {spec.shown_unit}".strip()


def first_scores(scores: Sequence[Score]) -> list[Score]:
    """The scores of the model with a short label, most important first."""
    found = {score.name: score for score in scores if "model" in score.series}
    return [found[spec.name] for spec in first_metrics([score.spec for score in found.values()])]


def print_scores(console: Console, scores: Sequence[Score], of_what: str) -> None:
    """The first scores beside "nothing moves", below them those with a ceiling, and those of several samples.

    of_what: "64 roll-outs".
    """
    found = first_scores(scores)
    if found:
        legend = "model | nothing moves, n samples with truth; green: better beyond the 95% interval over clips"
        console.print(f"{of_what}; {legend}:", highlight=False)
        for table in score_tables(found):
            console.print(table)
    for caveat in [score.caveat for score in scores if score.caveat is not None]:
        console.print(caveat, highlight=False)
    for ceiling, (baseline, legend) in _CEILINGS.items():
        bounded = [score for score in scores if ceiling in score.series and any(score.num_samples)]
        if bounded:
            console.print(f"{legend}:", highlight=False)
            for table in score_tables(bounded, (baseline, ceiling)):
                console.print(table)
    _print_samples(console, [score for score in scores if _SAMPLE_SERIES.keys() & score.series.keys()])


def print_in_words(console: Console, scores: Sequence[Score]) -> None:
    """Where the model is better and where worse than a copy of the reference."""
    for sentence in in_words(scores):
        console.print(sentence, highlight=False)


def print_confusion(console: Console, confusion: Confusion, of_what: str) -> None:
    """The share of right predictions of each class that occurs, and what it is taken for; `of_what`: "64 poses"."""
    console.print(f"{of_what}; right predictions of each class, and what the others were:", highlight=False)
    table = _table(["", "n", "right %", "taken for"])
    table.columns[-1].justify = "left"
    for k, true_name in enumerate(confusion.names):
        if not confusion.num_true[k]:
            continue
        mistakes = (
            f"{class_name(confusion.names[other], _NAME_WIDTH)} {100 * count / confusion.num_true[k]:.0f}%"
            for other, count in confusion.mistakes(k)[:_NUM_MISTAKES]
        )
        row = class_name(true_name, _NAME_WIDTH), str(confusion.num_true[k])
        table.add_row(*map(Text, (*row, f"{100 * confusion.shares[k, k]:.1f}", ", ".join(mistakes))))
    if confusion.accuracy is not None:
        table.add_row("all", str(confusion.num_samples), Text(f"{100 * confusion.accuracy:.1f}", "bold"), "")
    console.print(table)


def class_name(name: str, max_length: int) -> str:
    """The label of a class as text: "tennis_serve" is "tennis serve"; shortened by "…" if it is longer."""
    words = printable(name).replace("_", " ")
    return words if len(words) <= max_length else words[: max_length - 1] + "…"


def score_tables(scores: Sequence[Score], beside: Sequence[str] = ("nothing_moves",)) -> Iterator[Table]:
    """The scores in as few tables as their width allows; `beside`: series beside the model."""
    unlimited = PlainConsole(width=1000)
    start = 0
    for end in range(1, len(scores) + 1):
        is_last = end == len(scores)
        if is_last or unlimited.measure(_score_table(scores[start : end + 1], beside)).maximum > _WIDTH:
            yield _score_table(scores[start:end], beside)
            start = end


def _score_table(scores: Sequence[Score], beside: Sequence[str]) -> Table:
    """A row per horizon with a truth, a column per score."""
    table = _table(["", "n", *(heading(score.spec) for score in scores)])
    for k in range(len(scores[0].num_samples)):
        if any(score.num_samples[k] for score in scores):
            most = max(score.num_samples[k] for score in scores)
            table.add_row(f"+{k + 1}", str(most), *(_cell(score, k, beside) for score in scores))
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


def _cell(score: Score, k: int, beside: Sequence[str]) -> Text:
    model = score.model[k]
    if model is None:
        return Text("–")
    style = "bold green" if verdict(score, k) == "better" else "bold"
    others = (score.series[name].value[k] if name in score.series else None for name in beside)
    return Text.assemble((score.spec.text(model), style), *(f" | {score.spec.text(other)}" for other in others))
