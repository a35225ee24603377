"""Scores on the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from rich.console import Console
from support.random_roll_outs import random_roll_outs

from m3 import metrics
from m3.metrics import METRICS, Score, confusion
from m3.reporting.tables import first_scores, heading, in_words, print_confusion, print_scores, score_tables


def printed(scores: list[Score]) -> str:
    out = io.StringIO()
    print_scores(Console(file=out, width=250), scores, "12 roll-outs")
    return out.getvalue()


def test_the_model_is_beside_nothing_moves_and_samples_are_below():
    compared = random_roll_outs()
    scores = {score.name: score for score in metrics.score(compared)}
    text = printed(list(scores.values()))
    pck, error = scores["pck@0.1"], scores["joint_error"]
    for k in range(3):
        assert f"{100 * pck.model[k]:.1f} | {100 * pck.nothing_moves[k]:.1f}" in text
        assert f"{error.model[k]:.1f} | {error.nothing_moves[k]:.1f}" in text
        for name in ("sample", "best_of_n", "median_of_n"):
            assert f"{error.series[name].value[k]:.1f}" in text.split("several samples")[1]
    assert "diversity of joints (px)" in text
    assert "several samples" not in printed(metrics.score(replace(compared, argmax=None, samples=())))


def test_tables_are_as_few_as_80_characters_allow():
    scores = metrics.score(random_roll_outs())
    for some, num_tables in ((scores, 2), ([score for score in scores if score.spec.modality == "coords"], 1)):
        tables = list(score_tables(first_scores(some)))
        assert len(tables) == num_tables
        assert all(Console(width=1000).measure(table).maximum <= 80 for table in tables)
        headers = [column.header for table in tables for column in table.columns[2:]]
        assert headers == [heading(score.spec) for score in first_scores(some)]
    assert [len(list(score_tables(first_scores(scores)[:n]))) for n in (1, 2)] == [1, 1]


def test_what_has_a_ceiling_is_beside_it():
    scores = {score.name: score for score in metrics.score(random_roll_outs())}
    text = printed(list(scores.values()))
    for name, beside in (
        ("psnr_moving_real", ("nothing_moves", "tokenizer")),
        ("agreement", ("reference_joints", "truth")),
    ):
        score = scores[name]
        for k in range(3):
            numbers = [score.spec.text(score.series[series].value[k]) for series in ("model", *beside)]
            assert " | ".join(numbers) in text
    real, joints = text.split("against the real frames; ")[1].split("joints in the predicted pictures; ")
    assert all(name in real for name in ("psnr_real dB", "ssim_real", "psnr_moving_real dB", "ssim_moving_real"))
    assert "agreement@0.05" in joints and "agreement" not in real
    without = printed(metrics.score(replace(random_roll_outs(), real=None)))
    assert "against the real frames" not in without and "joints in the predicted pictures" in without
    bounded = [score for score in scores.values() if "tokenizer" in score.series]
    tables = list(score_tables(bounded, ("nothing_moves", "tokenizer")))
    assert all(Console(width=1000).measure(table).maximum <= 80 for table in tables)


def test_a_confusion_names_the_most_frequent_mistakes():
    names = ["tennis_serve", "bowl", "[red]golf", "squat", "unseen"]
    true, predicted = np.array([0] * 10 + [2] * 3), np.array([0] * 4 + [1] * 3 + [2] * 2 + [3] + [2] * 3)
    out = io.StringIO()
    print_confusion(Console(file=out, width=80), confusion(true, predicted, names), "13 clips")
    head, *rows = [line.split() for line in out.getvalue().splitlines() if "─" not in line and line.strip()]
    assert head[:2] == ["13", "clips;"] and rows == [
        ["n", "right", "%", "taken", "for"],
        ["tennis", "serve", "10", "40.0", "bowl", "30%,", "[red]golf", "20%"],
        ["[red]golf", "3", "100.0"],
        ["all", "13", "53.8"],
    ]
    long = [f"{k}_{'very' * 9}_long_name" for k in range(3)]
    print_confusion(Console(file=out, width=80), confusion(np.zeros(999, int), np.arange(999) % 3, long), "999 clips")
    lines = out.getvalue().splitlines()
    assert any(line.rstrip().endswith("33%") for line in lines) and max(map(len, lines)) <= 80


def test_a_metric_without_the_baseline_shows_the_model():
    spec = replace(METRICS["joint_error"], series=("model",))
    (score,) = metrics.score(random_roll_outs(), {"joint_error": spec})
    assert f"{score.model[0]:.1f} | –" in printed([score])


def test_better_and_worse_than_a_copy_in_words():
    score = next(score for score in metrics.score(random_roll_outs()) if score.name == "psnr")

    def told(model: list[float | None], copy: list[float | None]) -> list[str]:
        values = {"model": model, "nothing_moves": copy}
        return in_words([replace(score, series={k: replace(score.series[k], value=v) for k, v in values.items()})])

    assert told([21.5, 22.0, 20.0], [21.0, 23.2, 20.5]) == [
        "pictures: better than a copy of the reference at +1, by up to 0.5 dB; worse than a copy of the reference at "
        "+2, +3, by up to 1.2 dB"
    ]
    assert told([21.0, None], [20.0, None]) == ["pictures: better than a copy of the reference at +1, by up to 1.0 dB"]
    assert told([21.0, 22.0], [20.0, 20.0]) == [
        "pictures: better than a copy of the reference at every step, by up to 2.0 dB"
    ]
    assert told([21.0], [21.0]) == ["pictures: as good as a copy of the reference"]
    assert told([21.02, 22.0], [21.0, 21.5]) == [  # 0.02 dB would be "0.0 dB"
        "pictures: better than a copy of the reference at +2, by up to 0.5 dB"
    ]
    assert told([21.02, 21.98], [21.0, 22.0]) == ["pictures: as good as a copy of the reference"]
    assert in_words([replace(score, series={"model": score.series["model"]})]) == []
