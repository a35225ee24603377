"""Comparing runs: the paired bootstrap beside SciPy's, samples that are shared, losses and costs of the log."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from support.random_world import config

import generate
from m3.checkpoint import load_model
from m3.compare import __main__ as command
from m3.compare.differences import compare_runs
from m3.compare.runs import Costs, Run, read_run
from m3.metrics import METRICS
from m3.metrics.bootstrap import ClipBootstrap
from m3.metrics.measures import Ratio
from m3.metrics.scores import gain_over

NUM_CLIPS, PER_CLIP, NUM_HORIZONS = 40, 3, 2


def made_up(name: str, seed: int, shift: float = 0.0) -> Run:
    """Shares of right joints and squared errors that belong to the clip, so that runs are correlated."""
    rng, own = np.random.default_rng(7), np.random.default_rng(seed)
    shape = NUM_CLIPS * PER_CLIP, NUM_HORIZONS
    weight = rng.integers(0, 14, shape).astype(float)
    share = np.repeat(rng.uniform(0.2, 0.7, (NUM_CLIPS, NUM_HORIZONS)), PER_CLIP, 0) + own.normal(shift, 0.05, shape)
    error = np.repeat(rng.uniform(100, 900, (NUM_CLIPS, NUM_HORIZONS)), PER_CLIP, 0) * own.uniform(0.8, 1.2, shape)
    measured = {
        "pck@0.1": {"model": Ratio(share * weight, weight), "nothing_moves": Ratio(0.3 * weight, weight)},
        "joint_error": {"model": Ratio(error * weight / 100, weight)},
        "psnr": {"model": Ratio(error, np.ones(shape))},
    }
    clip = np.repeat([f"c{n:02d}" for n in range(NUM_CLIPS)], PER_CLIP)
    frames = np.arange(shape[0])[:, None] % PER_CLIP * 5 + np.arange(NUM_HORIZONS + 1)
    specs = {metric: METRICS[metric] for metric in measured}
    data = {"canvas_size": 64, "tokenizer": "mini", "tokenizer_fingerprint": "f"}
    return Run(name, Path("out") / name, clip, frames, measured, specs, data, {}, Costs(10, None, None, None))


@pytest.mark.parametrize("metric", ["pck@0.1", "joint_error", "psnr"])
def test_intervals_of_differences_are_those_of_scipy(metric: str) -> None:
    """SciPy resamples the clips of both runs together; the statistic is written out here."""
    one, other = made_up("one", 1), made_up("other", 2, 0.02)
    spec, bootstrap = METRICS[metric], ClipBootstrap(one.clip, num_resamples=20_000)
    models = [run.measured[metric]["model"] for run in (one, other)]
    found = gain_over(models[1], models[0], spec, bootstrap)
    for k in range(NUM_HORIZONS):
        both = np.all([model.denominator[:, k] > 0 for model in models], 0)
        sums = [
            np.where(both, part[:, k], 0).reshape(NUM_CLIPS, PER_CLIP).sum(1)
            for model in models for part in (model.numerator, model.denominator)
        ]  # fmt: skip

        def difference(a, b, c, d, axis):
            first, second = a.sum(axis) / b.sum(axis), c.sum(axis) / d.sum(axis)
            if metric == "psnr":
                first, second = (10 * np.log10(255**2 / each) for each in (first, second))
            return first - second if metric == "joint_error" else second - first

        wanted = scipy.stats.bootstrap(
            sums, difference, paired=True, vectorized=True, n_resamples=20_000, method="percentile",
            rng=np.random.default_rng(3),
        )  # fmt: skip
        low, high = wanted.confidence_interval
        assert found.value[k] == pytest.approx(difference(*sums, axis=-1))
        assert [found.low[k], found.high[k]] == pytest.approx([low, high], abs=0.05 * (high - low))


def test_a_paired_interval_is_narrower_than_one_of_unpaired_runs() -> None:
    comparison = compare_runs([made_up("one", 1), made_up("other", 2, 0.05)])
    score = comparison.scores[0]
    gain, alone = score.gains["other"], score.series["other"]
    assert gain.high[0] - gain.low[0] < 0.4 * (alone.high[0] - alone.low[0])
    assert score.verdict("other", 0) == "better" and score.verdict("one", 0) == ""
    again = compare_runs([made_up("other", 2, 0.05), made_up("one", 1)]).scores[0]
    assert again.verdict("one", 0) == "worse"
    assert again.gains["one"].value == pytest.approx([-value for value in gain.value])


def test_only_shared_samples_count_whatever_their_order() -> None:
    one, other = made_up("one", 1), made_up("other", 2)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(other.clip))[:70]

    def chosen(run: Run, rows: np.ndarray) -> Run:
        measured = {
            name: {series: ratio.rows(rows) for series, ratio in of.items()} for name, of in run.measured.items()
        }
        return replace(run, clip=run.clip[rows], frames=run.frames[rows], measured=measured)

    comparison = compare_runs([one, chosen(other, rows)])
    wanted = compare_runs([chosen(one, np.sort(rows)), chosen(other, np.sort(rows))])
    assert comparison.num_samples == 70 and comparison.notes == ["one: 50 of its 120 samples are not in all runs"]
    for found, expected in zip(comparison.scores, wanted.scores):
        assert found.series == expected.series and found.gains == expected.gains
    longer = replace(one, frames=one.frames + 1)
    with pytest.raises(ValueError, match=r"out/one, out/other: 40 clips in common, but not the frames.*rollout\.gap"):
        compare_runs([longer, other])
    with pytest.raises(ValueError, match="no clips in common"):
        compare_runs([replace(one, clip=np.char.add("x", one.clip)), other])
    with pytest.raises(ValueError, match="out/other: pictures of 32 px, and of 64 px in out/one"):
        compare_runs([one, replace(other, data={**other.data, "canvas_size": 32})])
    with pytest.raises(ValueError, match="given twice"):
        compare_runs([one, one])
    apart = compare_runs([one, replace(other, data={**other.data, "tokenizer_fingerprint": "g"})])
    assert [score.name for score in apart.scores] == ["pck@0.1", "joint_error"]
    assert apart.notes == ["psnr: not compared, the truth is decoded by different tokenizers"]


@pytest.fixture(scope="module")
def folders(random_world: Path, tmp_path_factory) -> tuple[Path, Path]:
    """Two outputs of generate.py, with another schedule of decoding."""
    root = tmp_path_factory.mktemp("compared")
    for name, steps in (("one", 1), ("other", 3)):
        generate.run(config(random_world, f"out={root / name}", f"sampling.schemes.tok_rgb_next.num_steps={steps}",
                            "rollout.frames=2", "pictures.num_reported=0"))  # fmt: skip
    return root / "one", root / "other"


def test_scores_are_those_of_metrics_json(folders: tuple[Path, Path]) -> None:
    comparison = compare_runs([read_run(folder) for folder in folders])
    assert comparison.num_samples == 5
    scores = {score.name: score for score in comparison.scores}
    records = [json.loads((folder / "metrics.json").read_text())["scores"] for folder in folders]
    assert list(scores) == [name for name in records[0] if name in scores] and len(scores) > 8
    for name, score in scores.items():
        for record, series in zip(records, score.series.values()):
            assert series.value == pytest.approx([at["model"] for at in record[name]["horizons"]], abs=1e-6)
            bounds = [at["model_ci95"][0] for at in record[name]["horizons"]]
            assert series.low == pytest.approx(bounds, abs=1e-6)
        if score.nothing_moves is not None:
            still = [at["nothing_moves"] for at in records[0][name]["horizons"]]
            assert score.nothing_moves.value == pytest.approx(still, abs=1e-6)


def test_the_command_writes_table_and_plot(folders: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    command.main([str(folders[0]), str(folders[1] / "metrics.json"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "2 runs on the same 5 samples of" in printed and "PCK@0.1 % +1" in printed and "parameters" in printed
    assert "no csv log" in printed
    text = (tmp_path / "out/comparison.md").read_text()
    assert "| PCK@0.1 % +2 |" in text and "| nothing moves | one | other |" in text
    record = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [run["name"] for run in record["runs"]] == ["one", "other"]
    assert record["scores"]["psnr"]["gain_over_first"].keys() == {"other"}
    with Image.open(tmp_path / "out/comparison.png") as picture:
        assert picture.width > 800
    again = tmp_path / "again"
    command.main([str(folders[0]), str(folders[1]), "--out", str(again)])
    for name in ("comparison.md", "comparison.png"):
        assert (again / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    for arguments, message in (
        ([str(folders[0])], "need two runs"),
        ([str(folders[0]), str(tmp_path / "nothing")], "nothing: no run; need an output folder"),
    ):
        with pytest.raises(SystemExit, match=message):
            command.main(arguments)


def log_of(folder: Path, version: int, text: str) -> None:
    (folder / f"csv/version_{version}").mkdir(parents=True)
    (folder / f"csv/version_{version}/metrics.csv").write_text(text)


def test_losses_and_costs_are_those_of_the_log(random_world: Path, tmp_path: Path) -> None:
    """A run that was stopped behind its checkpoint and repeats a step: the log of the later part counts."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    source = next((random_world / "run/checkpoints").glob("step*.ckpt"))
    (run / "checkpoints" / source.name).write_bytes(source.read_bytes())
    head = "step,train/loss,eval/loss,time/train_s,speed/tokens_per_s,speed/samples_per_s\n"
    log_of(run, 0, head + "0,9.0,,1.0,800,8\n1,8.0,,2.0,800,8\n1,,7.5,,,\n2,99,,4.0,400,4\n")
    log_of(run, 1, head + "2,7.0,,3.5,533,5.333333\n3,,6.0,,,\n3,nan,,,,\n40,1.0,0.5,99,1,1\n")
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / source.name).write_bytes(source.read_bytes())
    found = read_run(run)
    assert found.losses["train/loss"].tolist() == [[0, 9], [1, 8], [2, 7]]
    assert found.losses["eval/loss"].tolist() == [[1, 7.5], [3, 6]]
    num_parameters = sum(each.numel() for each in load_model(run).model.parameters())
    assert found.costs == Costs(step=3, num_tokens=3 * 8 * 100, train_s=3.5, num_parameters=num_parameters)
    comparison = compare_runs([found, read_run(other)])
    assert comparison.scores == [] and re.search("other: no csv log", comparison.notes[0])


def test_hostile_files_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    def changed(name: str, **arrays) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.json").write_bytes((folders[0] / "metrics.json").read_bytes())
        with np.load(folders[0] / "samples.npz") as known:
            content = {**known, **arrays}
        np.savez(folder / "samples.npz", **content)
        return folder

    assert read_run(changed("same")).has_scores
    for name, arrays, message in (
        ("short", {"clip": np.array(["a"])}, "need clip"),
        ("words", {"frames": np.array([["a"] * 3] * 5)}, "need clip"),
        ("nan", {"psnr/model/sum": np.full((5, 2), np.nan)}, "psnr/model: need finite float64"),
        ("shape", {"psnr/model/sum": np.zeros((5, 9))}, r"psnr/model: need sum \(5, 2\)"),
        ("objects", {"clip": np.array([{}] * 5)}, "needs a pickle"),
    ):
        with pytest.raises(ValueError, match=rf"{name}/samples\.npz: .*{message}"):
            read_run(changed(name, **arrays))
    (tmp_path / "same/samples.npz").unlink()
    with pytest.raises(ValueError, match="earlier version; run generate.py again"):
        read_run(tmp_path / "same")
