"""FID and FVD by small random networks, against SciPy's formula and torchmetrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from support.frames import frames_of, without
from support.random_world import config, model_of, write_data, write_run
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from m3 import metrics
from m3.commands import generate
from m3.metrics import Comparison, MetricSpec, Score, feature_networks, feature_sets
from m3.metrics.feature_networks import FeatureNetwork, fid_spec, fvd_spec
from m3.metrics.feature_sets import FeatureSets, frechet_distance_of
from m3.reporting.metrics_file import metrics_record

CPU = torch.device("cpu")
SIZE, NUM_FEATURES = 16, 6


class SmallInception(nn.Module):
    """The interface of Inception: features before the last layer if asked, else class probabilities."""

    def __init__(self, num_features: int = NUM_FEATURES) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_features, 5, stride=3)
        self.head = nn.Linear(num_features, 4)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        features = self.conv(img.float() / 127.5 - 1).relu().mean([2, 3]) * 10
        return features if return_features else self.head(features).softmax(1)


class SmallI3D(nn.Module):
    """The interface of I3D: `rescale` takes 0 … 255 to -1 … 1, `resize` brings videos to one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, NUM_FEATURES, (3, 5, 5), stride=(1, 3, 3))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        x = x.float()
        if resize:
            x = nn.functional.interpolate(x, size=[x.shape[2], 24, 24], mode="trilinear", align_corners=False)
        if rescale:
            x = 2 * x / 255 - 1
        features = self.conv(x).relu().mean([2, 3, 4]) * 10
        return features if return_features else features.softmax(1)


def saved(module: nn.Module, path: Path) -> str:
    torch.jit.script(module).save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> tuple[str, SmallInception]:
    torch.manual_seed(0)
    module = SmallInception()
    return saved(module, tmp_path_factory.mktemp("networks") / "inception.pt"), module


@pytest.fixture(scope="module")
def i3d(tmp_path_factory) -> tuple[str, SmallI3D]:
    torch.manual_seed(1)
    module = SmallI3D()
    return saved(module, tmp_path_factory.mktemp("networks") / "i3d.pt"), module


def by_scipy(made: np.ndarray, true: np.ndarray) -> float:
    """The formula as it is written, on (n, F) features."""
    covariances = [np.cov(each.astype(np.float64), rowvar=False) for each in (made, true)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    means = np.square(made.astype(np.float64).mean(0) - true.astype(np.float64).mean(0)).sum()
    return float(np.real(means + np.trace(covariances[0] + covariances[1] - 2 * root)))


def roll_outs(num_samples: int = 40, num_horizons: int = 2, seed: int = 0) -> Comparison:
    """Random pictures, darker in the prediction; some without a truth at the last horizon, or without a real frame."""
    rng = np.random.default_rng(seed)
    shape = num_samples, num_horizons + 1

    def pictures(top: int) -> np.ndarray:
        return rng.integers(0, top, (*shape, 4, 4, 3), np.uint8).repeat(4, -2).repeat(4, -3)

    is_present = np.ones(shape, bool)
    is_present[:4, -1] = False
    is_real = np.ones(shape, bool)
    is_real[5, 1] = False
    return Comparison(
        frames_of(np.ones(shape, bool), pictures(200)),
        frames_of(is_present, pictures(256)),
        np.full(num_samples, np.nan),
        clip=np.arange(num_samples) // 2,
        real=frames_of(is_real, pictures(256)),
    )


def features_of(module: nn.Module, pictures: np.ndarray, **options: bool) -> np.ndarray:
    """(N, F) of (N, H, W, 3) pictures or (N, T, H, W, 3) videos, one at a time and without TorchScript."""
    with torch.no_grad():
        return np.concatenate([
            module(torch.from_numpy(np.moveaxis(each, -1, 0)[None].copy()), **options).numpy() for each in pictures
        ])  # fmt: skip


def only(spec: MetricSpec, compared: Comparison) -> Score:
    (score,) = metrics.score(compared, {spec.name: spec})
    return score


@pytest.mark.parametrize("num_samples", [5, 6, 7, 60])
def test_the_distance_is_that_of_scipy(num_samples: int):
    rng = np.random.default_rng(num_samples)
    made = rng.normal(size=(num_samples, 6)) @ rng.normal(size=(6, 6))
    true = 1 + rng.normal(size=(num_samples, 6)) @ rng.normal(size=(6, 6))
    once = np.ones(num_samples, int)
    # Of a singular covariance SciPy's root is right to half the digits.
    assert frechet_distance_of(made, true, once) == pytest.approx(by_scipy(made, true), rel=1e-6)
    assert frechet_distance_of(made, made, once) == pytest.approx(0, abs=1e-9)
    times = rng.integers(1, 4, num_samples)
    repeated = by_scipy(made.repeat(times, 0), true.repeat(times, 0))
    assert frechet_distance_of(made, true, times) == pytest.approx(repeated, rel=1e-6)


def test_the_distance_of_normal_distributions_by_hand():
    """Means 3 apart; standard deviations 2 and 1 on one axis, equal on the other: 9 + (2 - 1)²."""
    a, b = np.array([[-2, -1], [2, -1], [-2, 1], [2, 1.0]]), np.array([[-1, -1], [1, -1], [-1, 1], [1, 1.0]])
    scale = np.sqrt(3 / 4)  # so that the variances over n - 1 are 4 and 1
    assert frechet_distance_of(a * scale + [3, 0], b * scale, np.ones(4, int)) == pytest.approx(10)


def test_fid_is_that_of_torchmetrics_and_scipy(inception):
    path, module = inception
    compared = replace(roll_outs(), real=None)
    score = only(fid_spec(path, SIZE, CPU), compared)
    made, true = (frames.values["tok_rgb"] for frames in (compared.predicted, compared.truth))
    for k, num_samples in ((1, 40), (2, 36)):
        rows = slice(40 - num_samples, 40)
        for name, pictures in (("model", made[rows, k]), ("nothing_moves", true[rows, 0])):
            fid = FrechetInceptionDistance(feature=_Features(module))
            fid.update(torch.from_numpy(np.moveaxis(true[rows, k], -1, 1).copy()), real=True)
            fid.update(torch.from_numpy(np.moveaxis(pictures, -1, 1).copy()), real=False)
            value = score.series[name].value[k - 1]
            assert value == pytest.approx(fid.compute().item(), rel=1e-4)
            features = [features_of(module, each, return_features=True) for each in (pictures, true[rows, k])]
            assert value == pytest.approx(by_scipy(*features), rel=1e-4)
        assert score.num_samples[k - 1] == num_samples
    assert set(score.series) == {"model", "nothing_moves"}


class _Features(nn.Module):
    num_features = NUM_FEATURES

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pictures: Tensor) -> Tensor:
        return self.module(pictures, return_features=True)


def test_real_frames_are_the_truth_where_they_are_known(inception):
    path, module = inception
    compared = roll_outs()
    score = only(fid_spec(path, SIZE, CPU), compared)
    rows = [n for n in range(40) if n != 5]
    real, true, made = (
        features_of(module, frames.values["tok_rgb"][rows, 1], return_features=True)
        for frames in (compared.real, compared.truth, compared.predicted)
    )
    assert score.num_samples[0] == 39
    assert score.series["model"].value[0] == pytest.approx(by_scipy(made, real), rel=1e-4)
    assert score.series["tokenizer"].value[0] == pytest.approx(by_scipy(true, real), rel=1e-4)
    assert "real_reference" in score.series


def test_fvd_is_that_of_whole_roll_outs(i3d):
    path, module = i3d
    compared = replace(roll_outs(num_horizons=4), real=None)
    score = only(fvd_spec(path, SIZE, 4, CPU), compared)
    options = {"rescale": True, "resize": True, "return_features": True}
    made, true = (frames.values["tok_rgb"][4:] for frames in (compared.predicted, compared.truth))
    still = np.repeat(true[:, :1], 5, 1)
    for name, videos in (("model", made), ("nothing_moves", still)):
        wanted = by_scipy(features_of(module, videos, **options), features_of(module, true, **options))
        assert score.series[name].value[:3] == [None] * 3
        assert score.series[name].value[3] == pytest.approx(wanted, rel=1e-4)
    assert score.num_samples == [0, 0, 0, 36] and score.series["model"].num_clips == [0, 0, 0, 18]
    unscaled = features_of(module, made, **{**options, "rescale": False})
    assert by_scipy(unscaled, unscaled + 1) != pytest.approx(score.model[3])


def test_intervals_are_around_the_value_and_repeatable(inception):
    path, _ = inception
    first, again = (only(fid_spec(path, SIZE, CPU), roll_outs()) for _ in range(2))
    assert first.series == again.series and first.gains == again.gains
    model = first.series["model"]
    for value, low, high in zip(model.value, model.low, model.high):
        assert low < value < high
    gain = first.gains["nothing_moves"]
    assert gain.value[0] == pytest.approx(first.nothing_moves[0] - model.value[0])
    assert gain.low[0] < gain.value[0] < gain.high[0]


def test_resamples_are_those_of_sets_with_repetitions():
    rng = np.random.default_rng(0)
    made, true = rng.normal(size=(2, 12, 1, 4))
    times = rng.integers(0, 3, (5, 12))
    found = FeatureSets(made, true, np.ones((12, 1), bool)).resampled(times)
    wanted = [by_scipy(made[:, 0].repeat(each, 0), true[:, 0].repeat(each, 0)) for each in times]
    assert found[:, 0] == pytest.approx(wanted)


def test_large_sets_have_no_interval(inception, monkeypatch):
    monkeypatch.setattr(feature_sets, "MAX_RESAMPLED", 38)
    model = only(fid_spec(inception[0], SIZE, CPU), replace(roll_outs(), real=None)).series["model"]
    assert model.low[0] is None and model.low[1] is not None and None not in model.value  # 40 and 36 samples


def test_blocks_change_nothing(inception, i3d, monkeypatch):
    compared = replace(roll_outs(), real=None)
    specs = [fid_spec(inception[0], SIZE, CPU), fvd_spec(i3d[0], SIZE, 2, CPU)]
    whole = [only(spec, compared).model[-1] for spec in specs]
    monkeypatch.setattr(feature_networks, "_PICTURES_AT_ONCE", 3)
    assert [only(spec, replace(compared)).model[-1] for spec in specs] == pytest.approx(whole, rel=1e-4)


def test_too_few_samples_have_a_caveat_or_no_score(tmp_path, inception):
    compared = roll_outs()
    torch.manual_seed(0)
    wide = saved(SmallInception(num_features=64), tmp_path / "wide.pt")
    score = only(fid_spec(wide, SIZE, CPU), compared)
    assert score.caveat is not None and "39 samples in 64 features" in score.caveat
    assert metrics_record([score], {})["scores"]["fid"]["caveat"] == score.caveat
    enough = only(fid_spec(inception[0], SIZE, CPU), compared)
    assert enough.caveat is None and "caveat" not in metrics_record([enough], {})["scores"]["fid"]
    spec = fid_spec(inception[0], SIZE, CPU)
    assert metrics.score(roll_outs(num_samples=28), {"fid": spec}) == []
    blind = replace(compared, truth=without(compared.truth, "tok_rgb"), real=None)
    assert metrics.score(blind, {"fid": spec}) == [] and "fewer than 30 pictures" in spec.why_absent


class Wrong(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        if self.how == "shape":
            return img.float()
        if self.how == "integers":
            return img.flatten(1)
        if self.how == "nan":
            return img.float().flatten(1) / 0 * 0
        return nn.functional.conv2d(img.float(), torch.zeros(1, 3, 99, 99)).flatten(1)


class NoOption(nn.Module):
    def forward(self, img: Tensor) -> Tensor:
        return img.float().flatten(1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: path.write_bytes(b"PK no zip"), r"metrics\.fid=.*network\.pt: not a TorchScript file .*pickles"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "not a TorchScript file"),
        (lambda path: saved(Wrong("shape"), path), r"it returns \(1, 3, 16, 16\); need \(1, F\) floating-point"),
        (lambda path: saved(Wrong("integers"), path), r"it returns \(1, 768\); need \(1, F\) floating-point"),
        (
            lambda path: saved(Wrong("large"), path),
            r"fails when called with \(1, 3, 16, 16\) uint8 and return_features",
        ),
        (lambda path: saved(NoOption(), path), r"fails when called with .*return_features=True"),
    ],
)
def test_a_network_of_another_kind_is_named(tmp_path, make: Callable[[Path], object], message: str):
    make(tmp_path / "network.pt")
    with pytest.raises(ValueError, match=message):
        fid_spec(str(tmp_path / "network.pt"), SIZE, CPU)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.fvd=.*no\.pt: no such file"):
        fvd_spec(str(tmp_path / "no.pt"), SIZE, 2, CPU)


def test_too_few_frames_have_a_remedy(tmp_path, i3d):
    with pytest.raises(ValueError, match=r"metrics\.fvd=.*\(1, 3, 2, 16, 16\).*give rollout.frames=15"):
        fvd_spec(i3d[0], SIZE, 1, CPU)


def test_features_that_are_not_finite_are_refused(tmp_path):
    network = FeatureNetwork.load(
        "metrics.fid", saved(Wrong("nan"), tmp_path / "nan.pt"), (3, SIZE, SIZE), {"return_features": True}, CPU
    )
    with pytest.raises(ValueError, match="returns values that are not finite"):
        network.features(np.zeros((1, 3, SIZE, SIZE), np.uint8), np.ones(1, bool))


def test_they_are_in_the_files_of_a_roll_out(tmp_path, inception, i3d, monkeypatch, capsys):
    monkeypatch.setattr(feature_networks, "MIN_SAMPLES", 3)
    write_data(tmp_path / "data")
    write_run(tmp_path / "run")
    options = [f"metrics.fid={inception[0]}", "rollout.frames=2"]
    result = generate.run(config(tmp_path, *options, f"metrics.fvd={i3d[0]}", "pictures.num_folders=0"))
    record = json.loads(result.metrics.read_text())
    assert record["metrics"] == {"fid": inception[0], "fvd": i3d[0]}
    assert {"fid", "fvd"} < record["scores"].keys() and record["scores"]["fid"]["unit"] == "squared distance"
    first = record["scores"]["fid"]["horizons"][0]
    assert first["model"] > 0 and first["nothing_moves"] > 0 and first["num_samples"] == 5
    assert "of 5 samples in 6 features" in record["scores"]["fid"]["caveat"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "FID" in printed and "FVD" in printed and "of 5 samples in 6 features" in printed
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h3>FID</h3>" in report and "<h3>FVD</h3>" in report and "of 5 samples in 6 features" in report
    pairs = ["experiment=pose_following", *options]
    made = generate.run(config(tmp_path, *pairs))
    assert "fid" in {score.name for score in made.all_scores}
    with pytest.raises(ValueError, match=r"metrics\.fvd=.*pairs are completed"):
        generate.run(config(tmp_path, *pairs, f"metrics.fvd={i3d[0]}"))
    write_run(tmp_path / "blind", model_of(["coords", "coords_next"]))
    with pytest.raises(ValueError, match=r"metrics\.fid=.*the model has no pictures"):
        generate.run(config(tmp_path, *options, f"checkpoint={tmp_path / 'blind'}"))
