from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from m3 import metrics
from m3.rollout import Frames


def test_pck_by_hand():
    true_xy = np.zeros((2, 13, 2))
    xy = np.zeros((2, 13, 2))
    xy[0, :3] = [[6, 8], [3, 4], [0, 9.99]]  # distances 10, 5, 9.99 with L = 100
    xy[1, 0] = [12, 16]  # distance 20 with L = 300
    xy[1, 1] = [500, 0]  # not scored
    is_scored = np.zeros((2, 13), bool)
    is_scored[0, :4] = True  # 10 is not < 10, 5 is, 9.99 is, 0 is
    is_scored[1, 0] = True  # 20 < 30
    assert metrics.pck(xy, true_xy, is_scored, np.array([100.0, 300.0]), 0.1) == pytest.approx(4 / 5)
    assert metrics.pck(xy, true_xy, is_scored, np.array([100.0, 300.0]), 0.05) == pytest.approx(1 / 5)
    assert metrics.joint_error_px(xy, true_xy, is_scored) == pytest.approx((10 + 5 + 9.99 + 0 + 20) / 5)


def test_visibility_f1_by_hand():
    truth = np.array([[True, True, True, False]])
    claim = np.array([[True, False, False, True]])
    assert metrics.visibility_f1(claim, truth) == pytest.approx(2 * 1 / (2 + 3))
    assert metrics.visibility_f1(np.zeros((1, 4), bool), np.zeros((1, 4), bool)) == 1.0


def test_psnr_by_hand_and_by_torchmetrics():
    a, b = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 95, np.uint8)
    assert metrics.psnr_db(a, b) == metrics.psnr_db(b, a) == pytest.approx(10 * np.log10(255**2 / 25))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = peak_signal_noise_ratio(torch.tensor(a).double(), torch.tensor(b).double(), data_range=255.0)
    assert metrics.psnr_db(a, b) == pytest.approx(expected.item(), abs=1e-6)
    assert metrics.psnr_db(a, a) == metrics.MAX_PSNR_DB


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(60, 200, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    values = [metrics.ssim(picture + rng.integers(0, top, picture.shape, np.uint8), picture) for top in (1, 10, 50)]
    assert values[0] == pytest.approx(1) and 1 > values[1] > values[2] > 0


def three_roll_outs() -> tuple[Frames, Frames, np.ndarray]:
    """(N = 3, T = 2): sample 1 ends after horizon 1, sample 2 has no pose extent; joint 12 is invisible in truth."""
    shape = 3, 3
    xy = np.zeros((*shape, 13, 2))
    xy[:, 1], xy[:, 2] = 3.0, 20.0  # moves by 3·√2, then to 20·√2
    is_visible = np.ones((*shape, 13), bool)
    is_visible[..., 12] = False
    is_present = np.ones(shape, bool)
    is_present[1, 2] = False
    pictures = np.zeros((*shape, 16, 16, 3), np.uint8)
    pictures[:, 1], pictures[:, 2] = 10, 30
    truth = Frames(pictures, xy, is_visible, is_present)
    predicted_xy = xy.copy()
    predicted_xy[:, 1:, 12] = 77
    predicted_xy[:, 2, :6] += [3, 4]
    predicted_pictures = pictures.copy()
    predicted_pictures[:, 2] += 5
    # Whatever stands where the truth has ended changes nothing.
    predicted_pictures[1, 2], predicted_xy[1, 2] = 255, 1000
    predicted = Frames(predicted_pictures, predicted_xy, is_visible, np.ones(shape, bool))
    return predicted, truth, np.array([100.0, 100.0, np.nan])


def test_scores_per_horizon_by_hand():
    calls = []
    scores = {s.name: s for s in metrics.score(*three_roll_outs(), on_horizon=lambda: calls.append(1))}
    assert len(calls) == 2
    pck = scores["pck@0.05"]
    assert (pck.num_samples, pck.model, pck.nothing_moves) == ([2, 1], [1.0, pytest.approx(6 / 12)], [1.0, 0.0])
    assert scores["pck@0.1"].model == [1.0, 1.0]
    error = scores["joint_error"]
    assert error.num_samples == [3, 2] and error.model == [0.0, pytest.approx(5 * 6 / 12)]
    assert error.nothing_moves == pytest.approx([3 * 2**0.5, 20 * 2**0.5])
    psnr = scores["psnr"]
    assert psnr.num_samples == [3, 2] and psnr.model == [100.0, pytest.approx(10 * np.log10(255**2 / 25))]
    assert psnr.nothing_moves == pytest.approx([10 * np.log10(255**2 / 100), 10 * np.log10(255**2 / 900)])
    assert scores["visibility_f1"].model == [1.0, 1.0] and scores["ssim"].model[0] == pytest.approx(1)


def test_a_horizon_without_truth_scores_none():
    predicted, truth, extent = three_roll_outs()
    truth.is_present[:, 2] = False
    for score in metrics.score(predicted, truth, extent, lambda: None):
        assert score.num_samples[1] == 0 and score.model[1] is None and score.nothing_moves[1] is None


def test_no_visible_joint_leaves_the_pictures_scored():
    predicted, truth, extent = three_roll_outs()
    truth.is_visible[:] = False
    scores = {s.name: s for s in metrics.score(predicted, truth, extent, lambda: None)}
    assert scores["pck@0.1"].model == [None, None] and scores["joint_error"].num_samples == [0, 0]
    assert scores["psnr"].num_samples == [3, 2]


def test_metrics_json(tmp_path):
    scores = metrics.score(*three_roll_outs(), on_horizon=lambda: None)
    path = tmp_path / "metrics.json"
    metrics.write_metrics(path, metrics.metrics_record(scores, {"split": "test"}))
    record = json.loads(path.read_text())
    assert record["schema_version"] == 1 and record["split"] == "test" and "absent" in record["pictures_against"]
    assert set(record["scores"]) == {"pck@0.05", "pck@0.1", "joint_error", "visibility_f1", "psnr", "ssim"}
    entry = record["scores"]["joint_error"]["horizons"][1]
    assert entry == {"horizon": 2, "num_samples": 2, "model": 2.5, "nothing_moves": pytest.approx(20 * 2**0.5)}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_metrics_json_refuses_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError):
        metrics.write_metrics(tmp_path / "metrics.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())
