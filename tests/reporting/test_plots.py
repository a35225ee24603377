"""Plots of scores and of confusion."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from support.random_roll_outs import random_roll_outs

from m3 import metrics
from m3.metrics import METRICS, confusion
from m3.reporting.plots import confusion_plot, scores_plot


def figures_of(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k))[1])
    return figures


@pytest.mark.parametrize("names", [["pck@0.1"], ["pck@0.05", "pck@0.1", "joint_error"], list(METRICS)])
def test_the_legend_fits_below_any_number_of_panels(names, monkeypatch):
    figures = figures_of(monkeypatch)
    scores_plot(metrics.score(random_roll_outs(), {name: METRICS[name] for name in names}), "12 roll-outs")
    (figure,) = figures
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.x1 and 0 <= legend.y0
    # below the panels, which keep their height
    assert all(legend.y1 <= axis.get_window_extent().y0 for axis in figure.axes)
    assert all(axis.get_window_extent().height > 1.6 * figure.dpi for axis in figure.axes)


@pytest.mark.parametrize("is_dark", [False, True])
def test_the_cells_of_a_confusion(is_dark, monkeypatch):
    """Of 4 jumps 3 are right and 1 is taken for a run; nobody sits."""
    figures = figures_of(monkeypatch)
    found = confusion(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1]), ["long_jump", "run", "sit"])
    picture = np.asarray(confusion_plot(found, "5 clips", is_dark))
    (axis,) = figures[0].axes
    assert {(text.get_position(), text.get_text()) for text in axis.texts} == {
        ((0, 0), "75"), ((1, 0), "25"), ((1, 1), "100")
    }  # fmt: skip
    assert [label.get_text() for label in axis.get_yticklabels()] == ["long jump  (4)", "run  (1)", "sit  (0)"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["long jump", "run", "sit"]
    assert (picture[0, 0].mean() < 40) == is_dark and (picture[0, 0].mean() == 255) == (not is_dark)
    # Right predictions are blue, wrong ones red, empty cells as the paper.
    (cells,) = (np.asarray(image.get_array()) for image in axis.get_images())
    assert cells[1, 1, 2] > cells[1, 1, 0] and cells[0, 1, 0] > cells[0, 1, 2]
    assert (255 * cells[2, 0]).round().tolist() == picture[0, 0].tolist()


@pytest.mark.parametrize("is_dark", [False, True])
def test_a_confusion_of_fifteen_classes_is_readable(is_dark, monkeypatch):
    figures = figures_of(monkeypatch)
    rng = np.random.default_rng(0)
    names = [f"class_{k}_with_a_very_long_name" for k in range(15)]
    confusion_plot(confusion(*rng.integers(0, 15, (2, 600)), names), "600 clips", is_dark)
    figure, (axis,) = figures[0], figures[0].axes
    boxes = [text.get_window_extent() for text in axis.texts]
    cell = axis.get_window_extent().width / 15
    assert len(boxes) > 150 and all(box.width < 0.9 * cell and box.height < 0.9 * cell for box in boxes)
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels(), axis.xaxis.label, axis.yaxis.label):
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for text in axis.texts:
        x, y = text.get_position()
        ground, ink = axis.get_images()[0].get_array()[y, x], np.array(to_rgb(text.get_color()))
        linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (ground, ink)]
        low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
        assert (high + 0.05) / (low + 0.05) > 3  # WCAG 2: large or bold text


def test_names_of_classes_are_no_formulas():
    found = confusion(np.array([0, 1]), np.array([0, 1]), ["$\\frac{x$", "a$b"])
    confusion_plot(found, "$5 and $\\frac{6$")
