"""The table of metrics: consistent, and all that a new metric needs is one entry."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console
from support.random_roll_outs import by_name, random_roll_outs
from support.random_world import MODEL

from m3 import metrics
from m3.checkpoint.evaluations import Subject, read_evaluations
from m3.core.modalities import ModalityTable
from m3.metrics.measures import Ratio
from m3.metrics.specs import BASELINES, METRICS, SERIES, MetricSpec, first_metrics, pck_spec
from m3.reporting import plots
from m3.reporting.html import Report, write_report
from m3.reporting.metrics_file import metrics_record
from m3.reporting.plots import LOOKS
from m3.reporting.tables import print_scores
from m3.vocabularies import metrics_of

TABLE = ModalityTable(**{key: value for key, value in MODEL["table"].items() if not key.startswith("_")})

BINDING = {"canvas_size": 16, "canvas": "pad", "tokenizer": "none", "tokenizer_fingerprint": None}


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> MetricSpec:
    """pck@0.2, by one entry."""
    spec = pck_spec(0.2, "share of the truth's visible joints closer than 0.2 L", 9)
    monkeypatch.setitem(METRICS, spec.name, spec)
    return spec


def share_within(threshold: float, horizon: int) -> float:
    """Of the random roll-outs, by a naive loop."""
    compared = random_roll_outs()
    poses, true = compared.predicted.values["coords"], compared.truth.values["coords"]
    hits = []
    for n in np.flatnonzero(compared.truth.is_present[:, horizon]):
        for j in np.flatnonzero(true.is_visible[n, horizon]):
            distance = np.linalg.norm(poses.xy[n, horizon, j] - true.xy[n, horizon, j])
            hits.append(distance < threshold * compared.extent[n])
    return float(np.mean(hits))


def test_a_new_metric_is_computed_and_written(new):
    scores = metrics.score(random_roll_outs())
    # Twelve roll-outs are too few for a distance between distributions.
    known = [name for name in METRICS if name != "motion_frechet"]
    assert [score.name for score in scores] == known and scores[-1].spec is new
    expected = [share_within(0.2, horizon) for horizon in (1, 2, 3)]
    assert scores[-1].model == pytest.approx(expected) and 0 < expected[0] < 1
    record = json.loads(json.dumps(metrics_record(scores, {}), allow_nan=False))
    entry = record["scores"]["pck@0.2"]
    assert [at["model"] for at in entry["horizons"]] == pytest.approx(expected, abs=1e-6)
    assert (entry["is"], entry["unit"], entry["is_better"]) == (new.description, "share", "higher")
    assert list(record["by_action"]["run"]) == known and list(record["absent"]) == ["motion_frechet"]


def test_a_new_metric_is_absent_with_its_reason(new):
    scores = metrics.score(replace(random_roll_outs(), has_joints=np.zeros(12, bool)))
    record = metrics_record(scores, {})
    assert "pck@0.2" not in record["scores"] and record["absent"]["pck@0.2"] == new.why_absent
    assert "no joints" in new.why_absent


def test_a_new_metric_is_printed(new):
    out = io.StringIO()
    print_scores(Console(file=out, width=80), metrics.score(random_roll_outs()), "12 roll-outs")
    headers = [line for line in out.getvalue().splitlines() if "PCK@" in line]
    assert headers[0].split()[:2] == ["n", "PCK@0.1"] and "PCK@0.2 %" in headers[1]
    assert "…" not in out.getvalue()  # in a second table: 80 characters hold no sixth column
    assert f"{100 * share_within(0.2, 1):.1f} | " in out.getvalue()


def test_a_new_metric_has_a_panel(new, monkeypatch):
    titles = []
    monkeypatch.setattr(Axes, "set_title", lambda axis, label, **_: titles.append(label))
    plots.scores_plot(metrics.score(random_roll_outs()), "")
    assert len(titles) == len(METRICS) - 1 and titles[-1] == "PCK@0.2 (%) ↑"


def test_a_new_metric_is_in_the_report(new, tmp_path):
    film = tmp_path / "film.png"
    Image.new("RGB", (8, 8)).save(film)
    write_report(tmp_path / "report.html", Report("", "", film, scores={"": metrics.score(random_roll_outs())}))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    value = f"{100 * share_within(0.2, 1):.1f}"
    glance = re.search(r"<h3>PCK@0\.2 %</h3>.*?</div>", page, re.DOTALL)
    assert glance is not None and f"{value}</b>" in glance[0]
    table = re.search(r"<h3>PCK@0\.2 \(%\)</h3>.*?</table>", page, re.DOTALL)
    assert table is not None and f"{value}<small>" in table[0] and new.description in unescape(table[0])


def test_a_new_metric_is_on_a_card(new, tmp_path):
    facts = {"step": 3, "num_samples": 12, "rollout": {}, "data": {"root": "data", "split": "test", **BINDING}}
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(metrics_record(metrics.score(random_roll_outs()), facts)))
    (found,) = read_evaluations(file, Subject(TABLE, BINDING, step=3, weights="w", num_parameters=1))
    value = 100 * share_within(0.2, 1)
    row = next(row for row in found.table if row[0] == "PCK@0.2, %")
    assert row[1].startswith(f"{value:.1f} / ") and len(row) == 4
    shown = {each.args["horizon"]: each.number for each in found.values if each.metric == "pck@0.2"}
    assert list(shown) == [1, 2, 3] and shown[1] == pytest.approx(value, abs=1e-3)
    assert [row[0] for row in found.table[1:]] == [
        "PCK@0.05, %", "PCK@0.1, %", "joint error, px", "moved@0.05, %", "motion ratio", "PSNR, dB", "SSIM",
        "box PSNR, dB", "box SSIM", "new tokens, %", "PCK@0.2, %"]  # fmt: skip


def test_scores_from_before_a_metric_was_added_are_still_read(tmp_path):
    newer = ("pck_moved@0.05", "motion_ratio", "psnr_moving", "ssim_moving", "tok_rgb_changed_accuracy")
    older = {name: spec for name, spec in METRICS.items() if name not in newer}
    facts = {"step": 3, "num_samples": 12, "rollout": {}, "data": {"root": "data", "split": "test", **BINDING}}
    record = metrics_record(metrics.score(random_roll_outs(), older), facts, metrics=older)
    for entry in record["scores"].values():  # nor had they these series
        for at in entry["horizons"]:
            for name in [key for key in at if "damped_velocity" in key or "median_of_n" in key]:
                del at[name]
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(record))
    (found,) = read_evaluations(file, Subject(TABLE, BINDING, step=3, weights="w", num_parameters=1))
    assert [row[0] for row in found.table[1:]] == ["PCK@0.05, %", "PCK@0.1, %", "joint error, px", "PSNR, dB", "SSIM"]


def test_a_new_metric_is_in_the_metrics_of_generation_and_of_previews(new):
    assert metrics_of(TABLE)["pck@0.2"] is new and new.in_preview


# The table.


@pytest.mark.parametrize("spec", METRICS.values(), ids=list(METRICS))
def test_the_fields_of_a_metric_agree(spec: MetricSpec):
    assert METRICS[spec.name] is spec and spec.modality in ("coords", "tok_rgb")
    assert spec.unit in ("share", "ratio", "px", "L", "dB", "levels") and spec.is_better in (
        "higher",
        "lower",
        "neither",
    )
    assert spec.label and spec.description and spec.why_absent
    assert set(spec.series) <= set(SERIES) and len(set(spec.series)) == len(spec.series)
    of_samples = {"best_of_n", "median_of_n"}
    has_best = "sample" in spec.series and spec.is_better != "neither" and not spec.is_of_set
    assert of_samples & set(spec.series) == (of_samples if has_best else set())
    if spec.needs_truth:
        assert spec.series[0] == "model"
    else:
        assert tuple(spec.series) == ("sample",) and spec.is_better == "neither"
    if spec.is_percent:
        assert spec.unit == "share" and spec.factor == 100 and spec.shown_unit == "%"
    assert spec.short is None or (spec.headline > 0 and "model" in spec.series)
    assert spec.headline == sys.maxsize or spec.short is not None
    assert not spec.by_action or spec.short is not None


@pytest.mark.parametrize("spec", METRICS.values(), ids=list(METRICS))
def test_is_error_and_is_better_agree(spec: MetricSpec):
    """`is_error` is about the ratio, from which the best sample is chosen; `is_better` about the score made of it."""
    if spec.is_better == "neither" or spec.is_of_set:
        return
    ratios = np.array([0.1, 0.5, 0.9])
    values = spec.transform(ratios)
    steps = np.diff(values if spec.is_better == "higher" else -values)
    assert ((steps < 0) if spec.is_error else (steps > 0)).all()


def test_the_series_of_all_metrics_are_drawn_and_described():
    used = {name for spec in METRICS.values() for name in spec.series}
    assert used == set(SERIES) and list(SERIES)[0] == "model" and set(BASELINES) <= used
    assert set(LOOKS) == set(SERIES)
    assert len({label for label, *_ in LOOKS.values()}) == len(LOOKS)


def test_headlines_and_names_for_people_are_unique():
    first = [spec for spec in METRICS.values() if spec.short is not None]
    assert sorted(spec.headline for spec in first) == list(range(1, len(first) + 1))
    assert [spec.name for spec in first_metrics(list(METRICS.values()))] == [
        "pck@0.1", "pck@0.05", "pck_moved@0.05", "motion_ratio", "joint_error", "motion_frechet", "psnr",
        "psnr_moving", "ssim", "ssim_moving", "tok_rgb_changed_accuracy"
    ]  # fmt: skip
    for titles in ([spec.short for spec in first], [spec.title for spec in METRICS.values()]):
        assert len(set(titles)) == len(titles)


def test_the_record_is_in_the_order_of_the_table():
    compared = random_roll_outs()
    some = metrics.score(replace(compared, real=None, samples=()))
    for scores in (metrics.score(compared), some):
        record = metrics_record(scores, {})
        names = [name for name in METRICS if name in record["scores"]]
        assert list(record["scores"]) == names
        assert list(record["absent"]) == [name for name in METRICS if name not in names]
        assert list(record["series"]) == [name for name in SERIES if name in record["series"]]
        assert all(list(of_action) == names for of_action in record["by_action"].values())
    assert list(record["absent"]) == [
        "motion_frechet", "psnr_real", "ssim_real", "psnr_moving_real", "ssim_moving_real", "diversity_joints",
        "diversity_pictures"
    ]  # fmt: skip


def test_a_metric_has_the_series_that_it_names():
    """The share of joints that are invisible in the prediction, a metric of its own."""

    def measure(frames, compared) -> Ratio:
        is_hidden = ~frames.values["coords"].is_visible[:, 1:]
        return Ratio(is_hidden.sum(-1).astype(float), np.full(is_hidden.shape[:2], 13.0))

    spec = MetricSpec(
        "hidden", "coords", measure, "share", "lower", "hidden joints", "share of hidden joints", "no joints",
        is_error=True, is_percent=True, series=("model", "truth"),
    )  # fmt: skip
    compared = random_roll_outs()
    score = by_name(compared, {"hidden": spec})["hidden"]
    assert list(score.series) == ["model", "truth"] and score.gains == {}
    for name, frames in (("model", compared.predicted), ("truth", compared.truth)):
        expected = [1 - frames.values["coords"].is_visible[:, k].mean() for k in (1, 2, 3)]
        assert score.series[name].value == pytest.approx(expected)
    assert spec.title == "hidden joints (%)" and spec.text(score.model[0]) == f"{100 * score.model[0]:.1f}"


def test_numbers_for_people():
    names = ("pck@0.1", "joint_error", "ssim", "psnr", "motion_frechet")
    assert [METRICS[name].text(0.25) for name in names] == ["25.0", "0.2", "0.250", "0.2", "0.250"]
    assert METRICS["ssim"].text(None) == "–"
    titles = [METRICS[name].short_title for name in ("pck@0.05", "joint_error", "psnr", "ssim")]
    assert titles == ["PCK@0.05, %", "joint error, px", "PSNR, dB", "SSIM"]
