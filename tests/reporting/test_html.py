from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.random_roll_outs import by_name, random_roll_outs

from m3 import metrics
from m3.reporting.files import write_png
from m3.reporting.html import Report, write_report
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
    write_png(tmp_path / "scores.png", Image.new("RGB", (20, 10), "blue"))
    strip = Image.new("RGB", (9, 5), "green")
    report = Report(WORDS, WORDS, tmp_path / "film.mp4", tmp_path / "scores.png", {"": scores},
                    {"psnr_real": WORDS}, [(WORDS, strip)], {WORDS: WORDS}, WORDS)  # fmt: skip
    write_report(tmp_path / "report.html", report)
    assert not list(tmp_path.glob("*.tmp"))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_needs_nothing_else_and_escapes_every_word(page):
    parsed = Page(page)
    assert len(parsed.sources) == 3 and all(source.startswith("data:") for source in parsed.sources)
    assert "script" not in parsed.tags and parsed.tags.count("img") == 2 and parsed.tags.count("video") == 1
    assert "@import" not in page and "url(" not in page and "default-src 'none'" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_media_are_inside_as_they_are(page, tmp_path):
    video, plot, strip = (base64.b64decode(source.split(",", 1)[1]) for source in Page(page).sources)
    assert video == (tmp_path / "film.mp4").read_bytes() and plot == (tmp_path / "scores.png").read_bytes()
    with Image.open(io.BytesIO(strip)) as picture:
        assert picture.size == (9, 5)
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - (0, 128, 0)).max() < 10


def test_numbers_are_those_of_the_scores(page):
    scores = by_name(random_roll_outs())
    error = scores["joint_error"].series
    table = re.search(r"<h3>joint error \(px\)</h3>.*?</table>", page, re.DOTALL)[0]
    for name in ("model", "nothing_moves", "constant_velocity", "damped_velocity", "argmax", "sample", "best_of_n",
                 "median_of_n"):  # fmt: skip
        assert f"{error[name].value[2]:.1f}<small>{error[name].low[2]:.1f}…{error[name].high[2]:.1f}</small>" in table
    assert f">{100 * scores['pck@0.1'].model[0]:.1f}<" in page
    assert f"{scores['joint_error'].by_action['jump'].model[0]:.1f}<small>" in page


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
