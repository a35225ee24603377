from __future__ import annotations

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.random_roll_outs import by_name, random_roll_outs

from m3 import metrics
from m3.reporting import score_panels
from m3.reporting.html import Exhibit, Report, write_report
from m3.reporting.plots import LOOKS
from m3.reporting.tables import verdict
from m3.reporting.video import write_mp4

WORDS = '<script>alert("x")</script> & "quotes" <img src=https://example.com/x.png>'


class Page(HTMLParser):
    """All addresses that a page loads something from, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "poster", "srcset")]


@pytest.fixture
def page(tmp_path: Path) -> str:
    scores = metrics.score(random_roll_outs())
    for score in scores:
        score.by_action[WORDS] = score.by_action.pop("run")
    write_mp4(tmp_path / "film.mp4", [Image.new("RGB", (32, 32), "red")])
    cells = [(WORDS, Image.new("RGB", (9, 5), "green")), ("+1", Image.new("RGB", (5, 9), "red"))]
    report = Report(WORDS, WORDS, tmp_path / "film.mp4", {"": scores}, {"psnr_real": WORDS},
                    [Exhibit(WORDS, cells, [WORDS, "truth"])], {WORDS: WORDS}, {WORDS: WORDS}, WORDS)  # fmt: skip
    write_report(tmp_path / "report.html", report)
    assert not list(tmp_path.glob("*.tmp"))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_needs_nothing_else_and_escapes_every_word(page):
    parsed = Page(page)
    media = [source for source in parsed.sources if not source.startswith("#")]
    assert len(media) == 3 and all(source.startswith("data:") for source in media)
    assert "script" not in parsed.tags and parsed.tags.count("img") == 2 and parsed.tags.count("video") == 1
    assert "@import" not in page and "url(" not in page and "default-src 'none'" in unescape(page)
    assert "<script>alert" not in page and "<img src=https" not in page
    # title and h1, lead, action, reason, fact, exhibit and its rows, command, settings: text; the others: attributes
    assert page.count("&lt;script&gt;alert") >= 14


def test_control_characters_are_shown_and_not_sent(tmp_path):
    film = tmp_path / "film.png"
    Image.new("RGB", (8, 8)).save(film)
    write_report(tmp_path / "report.html", Report("a\u202eb", "\x1b[31m", film, settings={"Settings": "a:\n  b: 1"}))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "\u202e" not in page and "\x1b" not in page and "a\\u202eb" in page and "\\x1b[31m" in page
    assert "<pre>a:\n  b: 1</pre>" in page and "Scores" not in page


def test_media_are_inside_as_they_are(page, tmp_path):
    media = [source for source in Page(page).sources if not source.startswith("#")]
    video, wide, high = (base64.b64decode(source.split(",", 1)[1]) for source in media)
    assert video == (tmp_path / "film.mp4").read_bytes()
    for content, size, color in ((wide, (9, 5), (0, 128, 0)), (high, (5, 9), (255, 0, 0))):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == size
            assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - color).max() < 10


def row(table: str, label: str) -> str:
    return re.search(rf"<tr [^>]*><th scope=\"row\">{re.escape(label)}</th>.*?</tr>", table, re.DOTALL)[0]


def table_of(page: str, title: str) -> str:
    return re.search(rf"<h3>{re.escape(title)}</h3>.*?</table>", page, re.DOTALL)[0]


def test_numbers_are_those_of_the_scores(page):
    scores = by_name(random_roll_outs())
    error = scores["joint_error"].series
    table = table_of(page, "joint error (px)")
    assert error.keys() == {"model", "nothing_moves", "constant_velocity", "damped_velocity", "argmax", "sample",
                            "best_of_n", "median_of_n"}  # fmt: skip
    for name, series in error.items():
        cells = re.findall(r"<td.*?</td>", row(table, LOOKS[name][0]))
        wanted = f"{series.value[2]:.1f}<small>{series.low[2]:.1f}…{series.high[2]:.1f}</small></td>"
        assert len(cells) == 3 and cells[2].startswith('<td data-of="+3"') and cells[2].endswith(wanted)
    glance = re.search(r"<h3>PCK@0\.1 %</h3>.*?</div>", page, re.DOTALL)[0]
    assert f"{100 * scores['pck@0.1'].model[0]:.1f}</b>" in glance
    assert f"{scores['joint_error'].by_action['jump'].model[0]:.1f}<small>" in page


def test_better_and_worse_are_words_and_signs_and_the_verdict_is_a_sentence(tmp_path):
    """Pictures that equal the truth at the first horizon, and joints that are far from it."""
    compared = random_roll_outs()
    compared.predicted.values["tok_rgb"][:, 1:] = compared.truth.values["tok_rgb"][:, 1:]
    compared.predicted.values["coords"].xy[:, 1:] += 500
    scores = metrics.score(compared)
    film = tmp_path / "film.png"
    Image.new("RGB", (8, 8)).save(film)
    write_report(tmp_path / "report.html", Report("", "", film, scores={"": scores}))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    verdicts = re.findall(r"<li>(.*?)</li>", page.split("</ul>")[0])
    assert verdicts[0].startswith("Joints: worse than a copy of the reference") and verdicts[0].endswith("points.")
    assert verdicts[1].startswith("Pictures: better than a copy of the reference at every step")
    for title, sign, word in (("joint error (px)", "▼", "worse"), ("PSNR, decoded truth (dB)", "▲", "better")):
        model = row(table_of(page, title), "the model")
        assert f'aria-hidden="true">{sign}</span><span class="hidden">{word}: </span>' in model
    glance = re.search(r"<h3>PSNR dB</h3>.*?</div>", page, re.DOTALL)[0]
    assert "▲" in glance and '<span class="better">better</span>' in glance


def points(text: str) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_panel_shows_the_numbers_on_its_own_scale(page):
    """Places of values and intervals follow from two ticks of the axis."""
    score = by_name(random_roll_outs())["joint_error"]
    drawn = score_panels.panel(score)
    (y0, first), (y1, second) = drawn.y_ticks[0], drawn.y_ticks[-1]
    scale = (y1 - y0) / (float(second) - float(first))
    by_series = {line.name: line for line in drawn.lines}
    assert drawn.lines[-1].name == "model" and by_series.keys() == score.series.keys()
    assert [name for _, name in drawn.x_ticks] == ["+1", "+2", "+3"]
    for name, series in score.series.items():
        line = by_series[name]
        wanted = [y0 + scale * (value - float(first)) for value in series.value]
        assert [y for _, y in line.dots] == pytest.approx(wanted, abs=0.2)
        assert [y for _, y in points(line.segments[0])] == pytest.approx(wanted, abs=0.2)
        bounds = [y0 + scale * (value - float(first)) for value in (*series.high, *reversed(series.low))]
        assert [y for _, y in points(line.bands[0])] == pytest.approx(bounds, abs=0.2)
        assert all(0 < y < score_panels.HEIGHT - 24 for y in bounds)  # above the numbers of the x axis
    assert f'points="{by_series["model"].segments[0]}"' in page and 'aria-label="joint error (px) over' in page


def test_a_line_has_a_gap_where_there_is_no_value():
    score = by_name(random_roll_outs())["joint_error"]
    for series in score.series.values():
        for column in (series.value, series.low, series.high):
            column.insert(1, None)
        series.num_samples.insert(1, 0)
    line = score_panels.panel(score).lines[-1]
    assert len(line.dots) == 3 and len(line.segments) == 1 and len(points(line.segments[0])) == 2
    for series in score.series.values():
        series.value[2:] = [None, None]
    assert score_panels.panel(score) is None  # a single value


def test_green_is_better_beyond_the_interval():
    """Pictures that are equal to the truth, beside a reference that is not."""
    compared = random_roll_outs()
    predicted, truth = (frames.values["tok_rgb"] for frames in (compared.predicted, compared.truth))
    predicted[:, 1:] = truth[:, 1:]
    scores = by_name(compared)
    assert verdict(scores["psnr"], 0) == "better"
    truth[:, 1:] = truth[:, :1]
    predicted[:, 1:] = np.random.default_rng(1).integers(0, 256, predicted[:, 1:].shape, np.uint8)
    scores = by_name(compared)
    assert verdict(scores["psnr"], 0) == "worse" and verdict(scores["diversity_joints"], 0) == ""
