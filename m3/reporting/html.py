"""`report.html`: what was generated and its scores, in one file that loads nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from m3.core.files import write_text_atomic
from m3.core.terminal import printable
from m3.metrics import Score
from m3.metrics.bootstrap import LEVEL_PERCENT
from m3.metrics.specs import SERIES
from m3.reporting import score_panels
from m3.reporting.plots import LOOKS
from m3.reporting.tables import first_scores, heading, in_words, verdict

_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
"""The page loads nothing, even if one of its texts contains markup."""

_MIME = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}
_BESIDE_REFERENCE = ("", "successor")
"""Frames whose "nothing moves" is a copy of the reference."""
_WORDS = {"better": "better", "worse": "worse", "": "about even"}


@dataclass(frozen=True)
class Exhibit:
    """One sample in pictures.

    cells: name and picture of each. rows: what a picture shows, from its top to its bottom; empty for one thing.
    """

    title: str
    cells: Sequence[tuple[str, Image.Image]]
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """The content of a report.

    title, lead: a heading and a sentence or two.
    film: an animation (.mp4) or a picture, at the top.
    scores: per horizon; by frame of a pair where these were completed.
    absent: label of a score, or a modality → why it is missing.
    exhibits: the samples.
    facts: name → text: the run, the date, the version.
    settings: name → text: the settings as YAML, the facts of the model.
    command: that made it, or None.
    """

    title: str
    lead: str
    film: Path
    scores: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    exhibits: Sequence[Exhibit] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None


def write_report(path: Path, report: Report) -> None:
    """Writes the page."""
    environment = Environment(
        loader=PackageLoader("m3.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        report=report,
        policy=_POLICY,
        width=score_panels.WIDTH,
        height=score_panels.HEIGHT,
        looks={look.name: look for scores in report.scores.values() for look in score_panels.looks(scores)},
        verdicts=_verdicts(report),
        film={"uri": _data_uri(report.film.read_bytes(), mime := _MIME[report.film.suffix]),
              "is_video": mime.startswith("video")},
        sections=[_section(frame, scores) for frame, scores in report.scores.items() if scores],
        exhibits=[_exhibit(each) for each in report.exhibits],
    )  # fmt: skip
    write_text_atomic(path, page)


def _shown(value: Any) -> Any:
    """What is put into the page: a text from outside without control characters."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _verdicts(report: Report) -> list[str]:
    """Sentences: where the model is better and where it is worse than a copy of the reference."""
    found = [sentence for frame in _BESIDE_REFERENCE for sentence in in_words(report.scores.get(frame, ()))]
    return [sentence[:1].upper() + sentence[1:] + "." for sentence in found] or [
        "No score compares the model with a copy of the reference here."
    ]


def _section(frame: str, scores: Sequence[Score]) -> dict[str, Any]:
    tables = [_table(score) for score in scores if _is_known(score)]
    return {
        "frame": frame,
        "how_to_read": _how_to_read(scores, frame),
        "glance": [card for score in first_scores(scores) if (card := _card(score))],
        "looks": score_panels.looks(scores),
        "has_panels": any(table["panel"] is not None for table in tables),
        "tables": tables,
        "by_action": _by_action(scores),
    }


def _card(score: Score) -> dict[str, Any] | None:
    """A score at the first and the last horizon with a truth."""
    known = [k for k, value in enumerate(score.model) if value is not None]
    places = [
        {
            "name": f"+{k + 1}",
            "value": score.spec.text(score.model[k]),
            "still": score.spec.text(score.nothing_moves[k]),
            "verdict": verdict(score, k),
            "words": _WORDS[verdict(score, k)] if "nothing_moves" in score.gains else "",
        }
        for k in (sorted({known[0], known[-1]}) if known else ())
    ]
    return {"heading": heading(score.spec), "places": places} if places else None


def _how_to_read(scores: Sequence[Score], frame: str) -> str:
    present = {name for score in scores for name in score.series}
    best = f" Best of n: {SERIES['best_of_n']}." if "best_of_n" in present else ""
    still = "the pair's other frame, copied" if frame else SERIES["nothing_moves"]
    return (
        f"Small numbers and bands: {LEVEL_PERCENT}% intervals, bootstrap over clips. ▲: better than “nothing moves” "
        f"beyond the interval; ▼: worse; without a sign: about even. Nothing moves: {still}.{best}"
    )


def _is_known(score: Score) -> bool:
    return any(value is not None for value in score.first.value)


def _table(score: Score) -> dict[str, Any]:
    names = [f"+{k + 1}" for k in range(len(score.num_samples))]
    rows = []
    for series_name, series in score.series.items():
        is_model = series_name == "model"
        cells = [
            {
                "name": name,
                "value": score.spec.text(series.value[k]),
                "small": _interval(score, series.low[k], series.high[k]),
                "verdict": verdict(score, k) if is_model else "",
            }
            for k, name in enumerate(names)
        ]
        label = LOOKS[series_name][0] if score.spec.needs_truth else "samples"
        rows.append({"kind": "model" if is_model else "other", "label": label, "cells": cells})
    counts = [
        {"name": name, "value": count, "small": "", "verdict": ""} for name, count in zip(names, score.num_samples)
    ]
    rows.append({"kind": "faint", "label": "n samples", "cells": counts})
    caption = score.spec.description if score.caveat is None else f"{score.spec.description}. {score.caveat}"
    panel = score_panels.panel(score)
    return {"title": score.spec.title, "caption": caption, "horizons": names, "rows": rows, "panel": panel}


def _interval(score: Score, low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{score.spec.text(low)}…{score.spec.text(high)}"


def _by_action(scores: Sequence[Score]) -> dict[str, Any] | None:
    """The first scores at the first, a middle and the last horizon, an action a row."""
    chosen = sorted((score for score in scores if score.spec.by_action), key=lambda score: score.spec.headline)
    actions = sorted({action for score in chosen for action in score.by_action})
    if not actions:
        return None
    last = len(chosen[0].num_samples) - 1
    horizons = sorted({0, last // 2, last})
    names = {(score.name, k): f"{heading(score.spec)} +{k + 1}" for score in chosen for k in horizons}
    rows = []
    for action in actions:
        parts = [score.by_action[action] for score in chosen]
        cells = [
            {
                "name": names[part.name, k],
                "value": part.spec.text(part.model[k]),
                "small": part.spec.text(part.nothing_moves[k]),
                "verdict": verdict(part, k),
            }
            for part in parts
            for k in horizons
        ]
        most = max(part.num_samples[0] for part in parts)
        rows.append({"label": f"{action.replace('_', ' ')} ({most})", "cells": cells})
    return {"names": list(names.values()), "rows": rows}


def _exhibit(exhibit: Exhibit) -> dict[str, Any]:
    cells = []
    for name, picture in exhibit.cells:
        buffer = io.BytesIO()
        picture.save(buffer, format="WEBP", quality=88)
        cells.append((name, _data_uri(buffer.getvalue(), "image/webp")))
    return {"title": exhibit.title, "rows": ", ".join(exhibit.rows), "cells": cells}


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
