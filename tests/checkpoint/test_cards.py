"""Model cards: the scores that generate.py really writes, as tables and as a model index, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from support import forecast_runs
from support.inpainting_world import run as inpainting_run
from support.random_world import completed, config

import generate
from m3.checkpoint import LoadedModel, load_model
from m3.forecast.benchmark import Benchmark
from m3.reporting.forecast import write_forecast


@pytest.fixture(scope="module")
def loaded(random_world: Path) -> LoadedModel:
    return load_model(random_world / "run")


@pytest.fixture(scope="module")
def rolled_out(random_world: Path) -> Path:
    """metrics.json of roll-outs of 3 frames."""
    return generate.run(config(random_world, f"out={random_world / 'rolled_out'}", "rollout.frames=3")).metrics


@pytest.fixture(scope="module")
def forecaster() -> LoadedModel:
    model = forecast_runs.tiny_model()
    settings = forecast_runs.config("train", *forecast_runs.TINY, "data.root=DIR").model
    cfg = OmegaConf.to_container(settings, resolve=True)
    data = {"canvas_size": 256, "canvas": "pad", "tokenizer": "none", "tokenizer_fingerprint": None}
    return LoadedModel(model, model.table, {"model": cfg, "name": "tiny", "seed": 0}, data, 5)


def card_of(loaded: LoadedModel, folder: Path, *scores: Path, **options: Any) -> ModelCard:
    return ModelCard.load(loaded.save_pretrained(folder, scores, **options) / "README.md")


def results_of(card: ModelCard) -> dict[tuple, EvalResult]:
    """By task, metric and horizon; the hub's own reading of the card."""
    results = {(r.task_name, r.metric_type, (r.metric_args or {}).get("horizon")): r for r in card.data.eval_results}
    assert len(results) == len(card.data.eval_results)
    return results


def test_roll_outs(loaded: LoadedModel, rolled_out: Path, tmp_path) -> None:
    card = card_of(loaded, tmp_path, rolled_out, license="cc-by-4.0", repository="acme/walker")
    assert (card.data.library_name, card.data.license, card.data.model_name) == ("m3", "cc-by-4.0", "walker")
    assert card.data.tags == ["m3", "human-motion", "masked-modeling"]
    results, scores = results_of(card), json.loads(rolled_out.read_text())["scores"]
    factors = {
        "pck@0.05": 100, "pck@0.1": 100, "joint_error": 1, "pck_moved@0.05": 100, "motion_ratio": 1, "psnr": 1,
        "ssim": 1, "psnr_moving": 1, "ssim_moving": 1, "tok_rgb_changed_accuracy": 100,
    }  # fmt: skip
    assert len(results) == len(factors) * 3
    for metric, factor in factors.items():
        for at in scores[metric]["horizons"]:
            result = results["Roll-outs of human motion", metric, at["horizon"]]
            assert result.metric_value == pytest.approx(at["model"] * factor, abs=1e-3)
            assert (result.dataset_name, result.dataset_split) == ("data", "test")
    at = [f"{h['model']:.1f} / {h['nothing_moves']:.1f}" for h in scores["psnr"]["horizons"]]
    assert f"| PSNR, dB | {' | '.join(at)} |" in card.text and "on 4 roll-outs of the test split of data" in card.text
    front = yaml.safe_load(card.content.split("---\n")[1])["model-index"][0]
    assert front["name"] == "walker" and front["results"][0]["task"]["type"] == "roll-outs-of-human-motion"
    assert str(rolled_out.parent.parent) not in card.content


def test_completed_pairs_beside_roll_outs(random_world: Path, loaded: LoadedModel, rolled_out: Path, tmp_path) -> None:
    made = completed(random_world, "tok_rgb,{coords: [head]}", "coords,tok_rgb_next", f"out={tmp_path / 'pairs'}")
    card = card_of(loaded, tmp_path / "model", rolled_out, tmp_path / "pairs/metrics.json")
    results = results_of(card)
    assert len({r.task_type for r in results.values()}) == 3  # roll-outs, the reference, the successor
    scores = {frame: {score.name: score for score in of_frame} for frame, of_frame in made.scores.items()}
    task = "coords, tok_rgb_next from tok_rgb, 1 parts of coords, the"
    for frame, metric, factor in (("reference", "pck@0.1", 100), ("successor", "psnr", 1)):
        value = scores[frame][metric].model[0] * factor
        assert results[f"{task} {frame}", metric, None].metric_value == pytest.approx(value, abs=1e-3)
    assert "| the reference | model / other frame |" in card.text and "on 9 pairs of the test split" in card.text


def test_in_painting(inpainting_world: Path, tmp_path) -> None:
    record = inpainting_run(inpainting_world).record
    card = card_of(load_model(inpainting_world / "run"), tmp_path, inpainting_world / "out/inpainting.json")
    (result,) = card.data.eval_results
    errors = {name: guess["mean_error_px"] for name, guess in record["guesses"].items()}
    assert result.metric_value == pytest.approx(errors["model"], abs=1e-3) and result.metric_args == {"num_hidden": 7}
    assert (result.task_name, result.dataset_name) == ("In-painting of poses", "data")
    assert f"| model | {errors['model']:.1f} |" in card.text
    assert f"| fitted mean pose | {errors['fitted_mean_pose']:.1f} |" in card.text


def test_forecasts(forecaster: LoadedModel, tmp_path) -> None:
    forecast_runs.write_labels(tmp_path / "labels", 3)
    made = Benchmark(str(tmp_path / "labels"), max_sequences=5, dtype="fp32").run(forecaster)
    write_forecast(tmp_path, made, Console(quiet=True))
    card = card_of(forecaster, tmp_path / "model", tmp_path / "forecast.json")
    results = results_of(card)
    for horizon, (value, still) in enumerate(zip(made.scores.model.pck, made.scores.nothing_moves.pck), start=1):
        result = results["Forecasting of poses", "pck@0.05", horizon]
        assert result.metric_value == pytest.approx(value, abs=1e-3) and result.dataset_name == "Penn Action"
        assert f"| {value:.1f} / {still:.1f} |" in card.text
    assert len(results) == 16 and "on 5 sequences, evenly spaced, of 1 clips of Penn Action" in card.text
    assert "experiment=penn_forecast checkpoint=FOLDER" in card.text and "from it alone" in card.text
    # The shared model forecasts as the one it was made of.
    shared = load_model(tmp_path / "model")
    again = Benchmark(str(tmp_path / "labels"), max_sequences=5, dtype="fp32").run(shared)
    write_forecast(tmp_path, again, Console(quiet=True))
    assert again.scores.model.pck == made.scores.model.pck
    assert len(card_of(forecaster, tmp_path / "again", tmp_path / "forecast.json").data.eval_results) == 16


def test_without_scores_the_card_has_no_index(loaded: LoadedModel, tmp_path) -> None:
    card = card_of(loaded, tmp_path)
    assert card.data.eval_results is None and "None were given." in card.text
    assert "checkpoint=FOLDER" in card.text and "tokenizer=mini" in card.text
    assert loaded.data["tokenizer_fingerprint"] in card.text


def test_the_card_has_a_picture_an_install_line_and_code_to_run(
    loaded: LoadedModel, rolled_out: Path, tmp_path
) -> None:
    picture = rolled_out.parent / "rollout.gif"
    card = card_of(loaded, tmp_path / "model", rolled_out, repository="acme/walker", picture=picture)
    assert "](picture.gif)" in card.text and (tmp_path / "model/picture.gif").read_bytes() == picture.read_bytes()
    assert "pip install m3-motion" in card.text and "m3-generate checkpoint=acme/walker input=clip.mp4" in card.text
    assert "https://arxiv.org/abs/2312.06647" in card.text
    code = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)[0]
    compile(code, "card", "exec")
    assert 'm3.load("acme/walker")' in code and "continue_video" in code
    (tmp_path / "words.png").write_text("words")
    for other in (tmp_path / "words.png", rolled_out):
        with pytest.raises(ValueError, match="need a picture, .gif, .png or .webp"):
            loaded.save_pretrained(tmp_path / "other", picture=other)
    assert not (tmp_path / "other").exists()


def changed(file: Path, folder: Path, **changes: Any) -> Path:
    record = json.loads(file.read_text()) | changes
    path = folder / "changed.json"
    path.write_text(json.dumps({key: value for key, value in record.items() if value != "gone"}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 9}, "not those of this model: step is 9 there and 3 here"),
        ({"weights": "f" * 64}, "not those of this model: weights is ffff"),
        ({"data": {"root": "d", "split": "test", "canvas_size": 64}}, "canvas_size is 64 there and 32 here"),
        ({"data": {"root": None, "split": None}, "input": ["a.jpg", "b.jpg"]}, "scores of a.jpg, b.jpg, not of a data"),
        ({"data": {"root": None, "split": None}}, "scores of nothing, not of a data set"),
        ({"schema_version": 3}, "no scores of schema version 3 .*accepted are metrics.json, forecast.json and"),
        ({"scores": "gone"}, "no scores of schema version 2"),
        ({"schema_version": "gone"}, "no scores that a card can show"),
        ({"scores": {}}, "holds none of pck@0.05"),
        ({"scores": {"psnr": {"horizons": []}}}, "holds no score with a truth"),
        ({"scores": {"psnr": 3}}, "damaged"),
        ({"num_samples": "gone"}, "damaged, it lacks something .*num_samples"),
    ],
)
def test_scores_that_a_card_cannot_have(loaded, rolled_out: Path, tmp_path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf"changed\.json: .*{message}"):
        loaded.save_pretrained(tmp_path / "model", [changed(rolled_out, tmp_path, **changes)])
    assert not (tmp_path / "model").exists()


def test_scores_of_another_version_without_the_weights_are_told_apart_by_step_and_data(
    loaded: LoadedModel, rolled_out: Path, tmp_path
) -> None:
    assert card_of(loaded, tmp_path / "model", changed(rolled_out, tmp_path, weights="gone")).data.eval_results
    with pytest.raises(ValueError, match="step is 4 there"):
        loaded.save_pretrained(tmp_path / "model", [changed(rolled_out, tmp_path, weights="gone", step=4)])


def test_scores_of_a_file_of_ones_own_are_refused(random_world: Path, loaded: LoadedModel, tmp_path) -> None:
    Image.new("RGB", (48, 40), (90, 120, 60)).save(tmp_path / "photo.png")
    options = [f"input={tmp_path / 'photo.png'}", "rollout.frames=1", "sampling.schemes.coords.num_steps=2"]
    made = generate.run(config(random_world, f"out={tmp_path / 'out'}", *options))
    with pytest.raises(ValueError, match=r"metrics\.json: scores of .*photo\.png, not of a data set"):
        loaded.save_pretrained(tmp_path / "model", [made.metrics])


@pytest.mark.parametrize("content", ["", "[1]", '{"pck": 3}', "\x00"])
def test_a_file_that_holds_no_scores_is_named(loaded: LoadedModel, tmp_path, content: str) -> None:
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ValueError, match=r"odd\.json: no.*accepted are metrics.json"):
        loaded.save_pretrained(tmp_path / "model", [tmp_path / "odd.json"])
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        loaded.save_pretrained(tmp_path / "model", [tmp_path / "nowhere.json"])
