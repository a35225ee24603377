"""Plots of scores."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from support.random_roll_outs import random_roll_outs

from m3 import metrics
from m3.metrics import METRICS
from m3.reporting.plots import scores_plot


@pytest.mark.parametrize("names", [["pck@0.1"], ["pck@0.05", "pck@0.1", "joint_error"], list(METRICS)])
def test_the_legend_fits_below_any_number_of_panels(names, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k))[1])
    scores_plot(metrics.score(random_roll_outs(), {name: METRICS[name] for name in names}), "12 roll-outs")
    (figure,) = figures
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.x1 and 0 <= legend.y0
    # below the panels, which keep their height
    assert all(legend.y1 <= axis.get_window_extent().y0 for axis in figure.axes)
    assert all(axis.get_window_extent().height > 1.6 * figure.dpi for axis in figure.axes)
