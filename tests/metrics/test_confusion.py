"""Confusion of classes by hand and by torchmetrics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from m3.metrics import confusion
from m3.reporting.metrics_file import confusion_record


def test_counts_and_shares_by_hand():
    """Of a: 2 right, 1 as b, 1 as c; of b: 1 as c; none of c."""
    found = confusion(np.array([0, 0, 1, 0, 0]), np.array([0, 1, 2, 0, 2]), ["a", "b", "c"])
    assert found.counts.tolist() == [[2, 1, 1], [0, 0, 1], [0, 0, 0]] and found.num_true.tolist() == [4, 1, 0]
    assert found.shares[:2].tolist() == [[0.5, 0.25, 0.25], [0, 0, 1]] and np.isnan(found.shares[2]).all()
    assert (found.num_samples, found.accuracy, found.mean_recall) == (5, 2 / 5, 0.25)
    assert found.mistakes(0) == [(1, 1), (2, 1)] and found.mistakes(1) == [(2, 1)] and found.mistakes(2) == []


def test_the_most_frequent_mistake_is_first():
    found = confusion(np.zeros(6, int), np.array([1, 2, 2, 3, 2, 3]), list("abcd"))
    assert found.mistakes(0) == [(2, 3), (3, 2), (1, 1)]


def test_by_torchmetrics():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 15, (2, 500))
    found = confusion(true, predicted, [f"class {k}" for k in range(15)])
    ids = torch.tensor(predicted), torch.tensor(true)
    assert (found.counts == multiclass_confusion_matrix(*ids, num_classes=15).numpy()).all()
    for average, value in (("micro", found.accuracy), ("macro", found.mean_recall)):
        assert value == pytest.approx(multiclass_accuracy(*ids, num_classes=15, average=average).item(), abs=1e-6)


def test_the_record():
    found = confusion(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0]), ["jump", "run", "sit"])
    record = json.loads(json.dumps(confusion_record(found), allow_nan=False))
    assert record.pop("is").startswith("counts: samples, a row for each true class")
    assert record == {
        "num_samples": 4,
        "accuracy": 0.5,
        "mean_recall": 0.333333,
        "names": ["jump", "run", "sit"],
        "recall": [0.666667, 0.0, None],
        "counts": [[2, 1, 0], [1, 0, 0], [0, 0, 0]],
    }
    nobody = confusion_record(confusion(np.zeros(0, int), np.zeros(0, int), ["jump"]))
    assert (nobody["num_samples"], nobody["accuracy"], nobody["mean_recall"]) == (0, None, None)


@pytest.mark.parametrize(
    ("true", "predicted", "names", "message"),
    [
        ([0, 1], [0], ["a", "b"], r"\(2,\) true and \(1,\) predicted"),
        ([[0]], [[0]], ["a"], r"need \(N,\) of both"),
        ([0, -1], [0, 0], ["a", "b"], "true class -1: there are 2, from 0"),
        ([0, 1], [0, 2], ["a", "b"], "predicted class 2: there are 2"),
        ([0], [0], ["a", "b", "a"], r"\['a'\] twice"),
    ],
)
def test_what_is_no_class_is_named(true, predicted, names, message):
    with pytest.raises(ValueError, match=message):
        confusion(np.array(true), np.array(predicted), names)
