"""`report.html`: what was generated and its scores, in one file that loads nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from m3.core.files import write_text_atomic
from m3.metrics import Score
from m3.metrics.bootstrap import LEVEL_PERCENT
from m3.metrics.specs import SERIES
from m3.reporting.plots import LOOKS
from m3.reporting.tables import first_scores, heading, verdict

_STYLE = """
:root { --ink: #22262e; --faint: #6b7280; --paper: #fcfcfa; --card: #fff; --line: #e5e7eb; --good: #15803d;
  --bad: #b45309; --model: #d1495b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --faint: #9aa3b2; --paper: #14161b; --card: #1c1f26;
  --line: #343944; --good: #4ade80; --bad: #fbbf24; --model: #fb7185; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; } h3 { font-size: 15px; margin: 0; }
p { margin: 4px 0 12px; max-width: 75ch; } .faint, figcaption, caption { color: var(--faint); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.number { min-width: 150px; } .number b { display: block; font-size: 24px; line-height: 1.2; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; font-size: 13px; }
caption { text-align: left; padding: 2px 0 8px; } th { font-weight: 600; }
th, td { padding: 4px 3px; text-align: right; border-top: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
td small { display: block; color: var(--faint); font-size: 10px; letter-spacing: -0.2px; white-space: nowrap; }
tr.model td { font-weight: 600; } tr.model td:first-child { color: var(--model); } tr.model small { font-weight: 400; }
.better { color: var(--good); } .worse { color: var(--bad); }
figure { margin: 0 0 20px; } img, video { max-width: 100%; height: auto; border-radius: 6px; display: block; }
figcaption { margin-bottom: 6px; } figure.card { overflow-x: auto; } figure.card img { max-width: none; }
pre { overflow-x: auto; font-size: 12.5px; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 12px 0; } summary { cursor: pointer; font-weight: 600; }
"""
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
"""The page loads nothing, even if one of its texts contains markup."""

_MIME = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}


@dataclass(frozen=True)
class Report:
    """The content of a report.

    title, lead: a heading and a sentence or two.
    film: an animation (.mp4) or a picture, at the top.
    plot: scores.png; None where nothing is scored.
    scores: per horizon; by frame of a pair where these were completed.
    absent: label of a score, or a modality → why it is missing.
    exhibits: title and strip of frames of each sample.
    settings: name → text: the settings as YAML, the facts of the model.
    command: that made it, or None.
    """

    title: str
    lead: str
    film: Path
    plot: Path | None = None
    scores: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    exhibits: Sequence[tuple[str, Image.Image]] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None


def write_report(path: Path, report: Report) -> None:
    """Writes the page."""
    body = [f"<h1>{escape(report.title)}</h1>", f"<p class=faint>{escape(report.lead)}</p>"]
    body += [_headline(scores) for scores in report.scores.values()]
    body.append(f"<figure class=card>{_media(report.film, report.title)}</figure>")
    for frame, scores in report.scores.items():
        if scores:
            body += [f"<h2>Scores{' of the ' + frame if frame else ''}</h2>", _how_to_read(scores, frame)]
            body += [f"<figure>{_media(report.plot, 'scores over the horizons')}</figure>"] if report.plot else []
            body += [_tables(scores), _by_action(scores)]
    if report.absent:
        rows = "".join(f"<tr><td>{escape(name)}<td>{escape(why)}" for name, why in report.absent.items())
        body.append(f"<details><summary>What is not scored</summary><table>{rows}</table></details>")
    body.append(_exhibits(report.exhibits))
    body.append("<h2>How it was made</h2>")
    if report.command is not None:
        body.append(f"<div class=card><pre>{escape(report.command)}</pre></div>")
    for name, text in report.settings.items():
        shown = f"<div class=card><pre>{escape(text)}</pre></div>"
        body.append(f"<details><summary>{escape(name)}</summary>{shown}</details>")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )
    write_text_atomic(path, page)


def _headline(scores: Sequence[Score]) -> str:
    """The first scores at the first and the last horizon with a truth."""
    cards = []
    for score in first_scores(scores):
        known = [k for k, value in enumerate(score.model) if value is not None]
        for k in sorted({known[0], known[-1]}) if known else ():
            still = score.spec.text(score.nothing_moves[k])
            cards.append(
                f"<div class='card number'><span class=faint>{escape(heading(score.spec))}, +{k + 1}</span>"
                f"<b class={verdict(score, k) or 'even'}>{score.spec.text(score.model[k])}</b>"
                f"<span class=faint>nothing moves: {still}</span></div>"
            )
    return f"<div class=cards>{''.join(cards)}</div>" if cards else ""


def _how_to_read(scores: Sequence[Score], frame: str) -> str:
    present = {name for score in scores for name in score.series}
    best = f" Best of n: {SERIES['best_of_n']}." if "best_of_n" in present else ""
    still = "the pair's other frame, copied" if frame else SERIES["nothing_moves"]
    text = (
        f"Small numbers: {LEVEL_PERCENT}% intervals, bootstrap over clips. Green: better than “nothing moves” beyond "
        f"the interval; orange: worse. Nothing moves: {still}.{best}"
    )
    return f"<p class=faint>{escape(text)}</p>"


def _tables(scores: Sequence[Score]) -> str:
    return f"<div class=tables>{''.join(_table(score) for score in scores if _is_known(score))}</div>"


def _is_known(score: Score) -> bool:
    return any(value is not None for value in score.first.value)


def _table(score: Score) -> str:
    horizons = range(len(score.num_samples))
    head = "".join(f"<th>+{k + 1}" for k in horizons)
    rows = []
    for name, series in score.series.items():
        cells = ""
        for k in horizons:
            kind = f" class={verdict(score, k)}" if name == "model" and verdict(score, k) else ""
            cells += f"<td{kind}>{score.spec.text(series.value[k])}{_interval(score, series.low[k], series.high[k])}"
        words = LOOKS[name][0] if score.spec.needs_truth else "samples"
        rows.append(f"<tr class={'model' if name == 'model' else 'other'}><td>{escape(words)}{cells}")
    counts = "".join(f"<td class=faint>{count}" for count in score.num_samples)
    rows.append(f"<tr><td class=faint>n samples{counts}")
    caption = score.spec.description if score.caveat is None else f"{score.spec.description}. {score.caveat}"
    return (
        f"<div class='card scroll'><h3>{escape(score.spec.title)}</h3><table><caption>{escape(caption)}"
        f"</caption><tr><th>frames ahead{head}{''.join(rows)}</table></div>"
    )


def _interval(score: Score, low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"<small>{score.spec.text(low)}…{score.spec.text(high)}</small>"


def _by_action(scores: Sequence[Score]) -> str:
    """The first scores at the first, a middle and the last horizon, an action a row."""
    chosen = sorted((score for score in scores if score.spec.by_action), key=lambda score: score.spec.headline)
    actions = sorted({action for score in chosen for action in score.by_action})
    if not actions:
        return ""
    last = len(chosen[0].num_samples) - 1
    horizons = sorted({0, last // 2, last})
    heads = "".join(f"<th colspan={len(horizons)}>{escape(score.spec.title)}" for score in chosen)
    seconds = "".join(f"<th>+{k + 1}" for _ in chosen for k in horizons)
    rows = []
    for action in actions:
        parts = [score.by_action[action] for score in chosen]
        cells = "".join(_beside_still(part, k) for part in parts for k in horizons)
        most = max(part.num_samples[0] for part in parts)
        rows.append(f"<tr><td>{escape(action.replace('_', ' '))}<td>{most}{cells}")
    return (
        "<h2>By action</h2><div class='card scroll'><table><caption>the model, and below it nothing moves</caption>"
        f"<tr><th>action<th>n{heads}<tr><th><th>{seconds}{''.join(rows)}</table></div>"
    )


def _beside_still(score: Score, k: int) -> str:
    kind = f" class={verdict(score, k)}" if verdict(score, k) else ""
    return f"<td{kind}>{score.spec.text(score.model[k])}<small>{score.spec.text(score.nothing_moves[k])}</small>"


def _exhibits(exhibits: Sequence[tuple[str, Image.Image]]) -> str:
    if not exhibits:
        return ""
    figures = []
    for title, strip in exhibits:
        buffer = io.BytesIO()
        strip.save(buffer, format="WEBP", quality=88)
        figures.append(
            f"<figure class=card><figcaption>{escape(title)}</figcaption>"
            f"{_img(buffer.getvalue(), 'image/webp', title)}</figure>"
        )
    return f"<h2>Samples</h2>{''.join(figures)}"


def _media(path: Path, words: str) -> str:
    mime = _MIME[path.suffix]
    if mime.startswith("video"):
        return f'<video controls autoplay muted loop playsinline src="{_data_uri(path.read_bytes(), mime)}"></video>'
    return _img(path.read_bytes(), mime, words)


def _img(content: bytes, mime: str, words: str) -> str:
    return f'<img alt="{escape(words)}" src="{_data_uri(content, mime)}">'


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
