"""A modality that m3 does not have, depth tokens: rolled out, completed and scored by its tokens; with an interpreter
of its vocabulary also decoded, drawn, scored by its own metric and reported."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from support.random_world import CONF, MODEL, config, write_data, write_run
from support.tiny_world import frame

import generate
from m3.core.frames import Frames
from m3.core.modalities import PICTURE, ModalityTable, Vocabulary
from m3.generation.prompts import with_generated_reference
from m3.metrics import Comparison, MetricSpec
from m3.metrics.measures import Ratio
from m3.reporting.figures import completion_sheet, rollout_panels
from m3.shards.manifest import StoredModality
from m3.vocabularies import (
    DecodingContext,
    Interpreter,
    interpreter_of,
    interpreters_of,
    metrics_of,
    without_interpreter,
)

NUM_DEPTHS = 64
DEPTH = StoredModality("tok_depth", (2, 2), "depth", NUM_DEPTHS)
YAML = """
defaults:
  - m3
  - _self_
modalities: [tok_rgb, coords, tok_depth, tok_rgb_next, coords_next, tok_depth_next]
vocab_sizes: [65536, 65536, 64, 65536, 65536, 64]
max_seq_lens: [4, 39, 4, 4, 39, 4]
input_alphas: [1, 1, 1, 1, 1, 1]
target_alphas: [1, 1, 1, 1, 1, 1]
input_tokens_range: [8, 40]
target_tokens_range: [8, 40]
extra_vocabularies:
  tok_depth: {name: depth, num_ids: 64}
"""
SCHEME = "{num_steps: 2, temperature: 0.0}"
ROLL_OUT = ["sampling.given=[tok_rgb,coords,tok_depth]", "sampling.generate=[coords_next,tok_depth_next,tok_rgb_next]",
            f"+sampling.schemes.tok_depth_next={SCHEME}", "rollout.frames=2"]  # fmt: skip
COMPLETION = ["sampling.given=[tok_rgb]", "sampling.generate=[tok_depth]", f"+sampling.schemes.tok_depth={SCHEME}"]
CELL_PX = 64


def modalities(folder: Path) -> dict[str, Any]:
    """Of `modalities=depth`, an option in a folder of the user's own."""
    (folder / "modalities").mkdir(parents=True, exist_ok=True)
    (folder / "modalities" / "depth.yaml").write_text(YAML)
    with initialize_config_dir(CONF, version_base="1.3"):
        options = ["modalities=depth", f"hydra.searchpath=[pkg://m3.conf.train,file://{folder}]"]
        found = OmegaConf.to_container(compose("train", options).modalities, resolve=True)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("depths")
    write_data(root / "data", [DEPTH])
    write_run(root / "run", {**MODEL, "table": modalities(root / "conf")}, scale=1.0)
    return root


class DepthInterpreter(Interpreter):
    """2 × 2 depths in [0, 1]."""

    def decode(
        self, ids: np.ndarray, is_known: np.ndarray, is_present: np.ndarray, context: DecodingContext
    ) -> np.ndarray:
        return (ids * is_known / (NUM_DEPTHS - 1)).reshape(*is_present.shape, 2, 2)

    def draw(self, value: np.ndarray, cell: Image.Image, canvas_size: int) -> Image.Image:
        return (
            Image.fromarray((value * 255).astype(np.uint8)).convert("RGB").resize(cell.size, Image.Resampling.NEAREST)
        )

    def metrics(self, modality: str) -> Sequence[MetricSpec]:
        def depth_error(frames: Frames, compared: Comparison) -> Ratio | None:
            if modality not in frames.values:
                return None
            error = np.abs(frames.values[modality] - compared.truth.values[modality])[:, 1:].mean((-2, -1))
            is_scored = (compared.truth.is_present & frames.is_present)[:, 1:]
            return Ratio(np.where(is_scored, error, 0.0), is_scored.astype(float))

        return [MetricSpec("depth_error", modality, depth_error, "share", "lower", "error of the depths",
                           "mean absolute difference", "no depths", is_error=True, short="depth error")]  # fmt: skip


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were m3/vocabularies/depth.py."""
    module = ModuleType("m3.vocabularies.depth")
    module.INTERPRETER = DepthInterpreter()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def accuracy(predicted: np.ndarray, truth: np.ndarray, is_present: np.ndarray) -> float:
    """(N, L) ids and (N,) bool → the share of equal ids, by a loop."""
    rows = np.flatnonzero(is_present)
    return float(np.mean([predicted[n, place] == truth[n, place] for n in rows for place in range(predicted.shape[1])]))


# Without an interpreter.


def test_it_is_rolled_out_and_its_tokens_are_scored(world, tmp_path, capsys):
    result = generate.run(config(world, *ROLL_OUT, f"out={tmp_path}"))
    made = result.made
    assert made.is_rollout and "tok_depth" not in made.interpreters
    predicted, truth = made.predicted.tokens, made.truth.tokens
    ids, true_ids = predicted.ids["tok_depth"], truth.ids["tok_depth"]
    assert ids.shape == (len(made.prompts.chains), 3, 4) and ids.max() < NUM_DEPTHS
    assert (ids[:, 0] == true_ids[:, 0]).all() and predicted.is_known["tok_depth"].all()
    assert len({each.tobytes() for each in ids[:, 1]}) > 1
    record = json.loads(result.metrics.read_text())
    for k, at in enumerate(record["scores"]["tok_depth_accuracy"]["horizons"], 1):
        assert at["model"] == pytest.approx(accuracy(ids[:, k], true_ids[:, k], truth.is_present[:, k]), abs=1e-6)
        still = accuracy(true_ids[:, 0], true_ids[:, k], truth.is_present[:, k])
        assert at["nothing_moves"] == pytest.approx(still, abs=1e-6)
    assert {"pck@0.1", "psnr", "coords_accuracy"} < record["scores"].keys()  # the others are as without it
    reason = record["absent"]["tok_depth"]
    assert "m3/vocabularies/depth.py" in reason and f"tok_depth: {reason}" in capsys.readouterr().out
    assert "m3/vocabularies/depth.py" in (tmp_path / "report.html").read_text()
    tokens = np.load(tmp_path / "tokens.npz", allow_pickle=False)
    assert (tokens["predicted_tok_depth"] == ids).all() and (tokens["truth_tok_depth"] == true_ids).all()


def test_the_model_sees_the_depths_that_were_generated(world, tmp_path):
    """Horizon 2 depends on the depths of horizon 1, which are its reference."""
    hot = "sampling.schemes.tok_depth_next.temperature=5.0"
    one, other = (generate.run(config(world, *ROLL_OUT, f"out={tmp_path}", *more)).made.predicted.tokens
                  for more in ([], [hot]))  # fmt: skip
    assert (one.ids["tok_depth"][:, 1] != other.ids["tok_depth"][:, 1]).any()
    assert (one.ids["coords"][:, 1] == other.ids["coords"][:, 1]).all()  # generated before the depths
    assert (one.ids["coords"][:, 2] != other.ids["coords"][:, 2]).any()


def test_the_default_sampling_gives_and_generates_it(world, tmp_path):
    """As its last modality, by the scheme "default"; random samples are drawn, by sample_schemes.default."""
    result = generate.run(config(world, "rollout.frames=2", "rollout.num_samples=3", f"out={tmp_path}"))
    assert result.made.is_rollout and result.made.generated == ["coords_next", "tok_rgb_next", "tok_depth_next"]
    assert result.made.given.tokens.is_known["tok_depth"][:, 0].all()
    assert len({each.tokens.ids["tok_depth"][:, 1].tobytes() for each in result.made.samples}) == 3
    sampling = json.loads(result.metrics.read_text())["sampling"]
    assert sampling["given"] == ["tok_rgb", "coords", "tok_depth"] and sampling["generate"] == result.made.generated


def test_a_sampling_that_leaves_out_more_completes(world, tmp_path):
    """A successor that is not whole cannot be a reference."""
    made = generate.run(config(world, "sampling.generate=[coords_next]", f"out={tmp_path}")).made
    assert not made.is_rollout and made.generated == ["coords_next"]
    assert not made.predicted.tokens.is_known["tok_depth"][:, 1].any()


def test_a_photo_is_rolled_out_without_it(world, tmp_path):
    """A picture of one's own has no depths: they are unknown in the reference, and generated from then on."""
    Image.fromarray(frame(0)).save(tmp_path / "me.png")
    options = ["rollout.frames=2", f"input={tmp_path / 'me.png'}", f"out={tmp_path / 'out'}"]
    made = generate.run(config(world, *options)).made
    assert made.is_rollout and not made.given.tokens.is_known["tok_depth"].any()
    is_known = made.predicted.tokens.is_known["tok_depth"]
    assert not is_known[:, 0].any() and is_known[:, 1:].all()


def test_it_is_completed_and_its_tokens_are_scored(world, tmp_path, capsys):
    result = generate.run(config(world, *COMPLETION, f"out={tmp_path}"))
    assert not result.made.is_rollout and result.made.generated == ["tok_depth"]
    tokens = np.load(tmp_path / "tokens.npz", allow_pickle=False)
    assert tokens["is_known_tok_depth"].all() and not tokens["is_given_tok_depth"].any()
    assert not tokens["is_known_tok_depth_next"].any() and not tokens["is_known_coords"].any()
    record = json.loads(result.metrics.read_text())["frames"]
    assert record.keys() == {"reference"} and record["reference"]["scores"].keys() == {"tok_depth_accuracy"}
    wanted = accuracy(tokens["tok_depth"], tokens["truth_tok_depth"], tokens["is_truth_tok_depth"])
    (at,) = record["reference"]["scores"]["tok_depth_accuracy"]["horizons"]
    assert at["model"] == pytest.approx(wanted, abs=1e-6)
    assert at["num_samples"] == len(tokens["tok_depth"])
    reason = record["reference"]["absent"]["tok_depth"]
    assert "m3/vocabularies/depth.py" in reason and f"tok_depth: {reason}" in capsys.readouterr().out
    assert "m3/vocabularies/depth.py" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "generated.png").is_file()


def test_it_conditions_what_is_generated(world, tmp_path):
    rest = ["sampling.generate=[coords]", f"out={tmp_path}"]
    one, other = (generate.run(config(world, f"sampling.given=[{given}]", *rest)).made.predicted.tokens.ids["coords"]
                  for given in ("tok_depth", "tok_depth_next"))  # fmt: skip
    assert (one != other).any()


def test_it_is_generated_from_nothing(world, tmp_path):
    given = ["sampling.given=[]", "sampling.generate=[tok_depth]", f"+sampling.schemes.tok_depth={SCHEME}"]
    result = generate.run(config(world, *given, f"out={tmp_path}", "data.root=nowhere"))
    assert result.made.predicted.tokens.is_known["tok_depth"][:, 0].all()
    assert "tok_depth" in result.made.undecoded and result.scores == {"reference": []}
    absent = json.loads(result.metrics.read_text())["frames"]["reference"]["absent"]
    assert absent.keys() == {"tok_depth", "tok_depth_accuracy"} and "no ground truth" in absent["tok_depth_accuracy"]


def test_where_it_has_no_truth_it_is_not_scored(world, tmp_path):
    """A picture of one's own has no depths to give, and none to compare with."""
    Image.fromarray(frame(0)).save(tmp_path / "me.png")
    mine = [f"input={tmp_path / 'me.png'}", f"out={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match="sampling.given: me has no tok_depth to give; leave it out"):
        generate.run(config(world, *ROLL_OUT, *mine))
    result = generate.run(config(world, *COMPLETION, *mine))
    assert result.made.predicted.tokens.is_known["tok_depth"][:, 0].all() and result.scores == {"reference": []}
    record = json.loads(result.metrics.read_text())["frames"]["reference"]
    assert record["scores"] == {} and record["absent"].keys() == {"tok_depth", "tok_depth_accuracy"}


def test_of_the_reference_alone_it_conditions_and_is_not_rolled_out(tmp_path, interpreted):
    """A successor without depths is whole where the model has none there; depths that are not there are not right."""
    write_data(tmp_path / "data", [DEPTH])
    table = {
        **modalities(tmp_path / "conf"),
        "modalities": ["tok_rgb", "coords", "tok_depth", "tok_rgb_next", "coords_next"],
    }
    of_five = {key: value[:5] for key, value in table.items() if key.endswith(("alphas", "sizes"))}
    write_run(tmp_path / "run", {**MODEL, "table": table | of_five | {"max_seq_lens": [4, 39, 4, 4, 39]}}, scale=1.0)
    result = generate.run(config(tmp_path, "sampling.given=[tok_rgb,coords,tok_depth]", "rollout.frames=2"))
    known = result.made.predicted.tokens.is_known["tok_depth"]
    assert result.made.is_rollout and known[:, 0].all() and not known[:, 1:].any()
    names = {score.name for score in result.all_scores}
    assert "pck@0.1" in names and not {"tok_depth_accuracy", "depth_error"} & names
    result = generate.run(config(tmp_path, *COMPLETION))
    series = {score.name: score for score in result.scores["reference"]}["tok_depth_accuracy"].series
    assert series["model"].value[0] is not None and series["nothing_moves"].value == [None]


@pytest.mark.parametrize("name", ["../x", "..x", "x.y", "os.path", "/x", "", "Base", "__init__", "x y", "é"])
def test_a_vocabulary_name_that_is_no_word_is_refused(world, name):
    with pytest.raises(ValueError, match="modalities.extra_vocabularies.tok_depth.name="):
        table_of(world, name)


@pytest.mark.parametrize("name", ["base", "lookup", "table", "keys", "training"])
def test_a_reserved_vocabulary_name_is_refused(world, name):
    with pytest.raises(ValueError, match="modalities.extra_vocabularies.tok_depth.name=.*reserved"):
        table_of(world, name)


@pytest.mark.parametrize("name", ["os", "json", "sys", "step"])
def test_a_module_that_is_no_interpreter_is_none(world, name, monkeypatch):
    """The name may come from a checkpoint of somebody else's: only m3/vocabularies is looked at."""
    table, asked = table_of(world, name), []
    importer = sys.modules["importlib"].import_module
    monkeypatch.setattr("importlib.import_module", lambda path: asked.append(path) or importer(path))
    assert interpreters_of(table).keys() == {"tok_rgb", "coords"}
    assert f"m3/vocabularies/{name}.py" in without_interpreter(table)["tok_depth"]
    assert "tok_depth_accuracy" in metrics_of(table)
    assert set(asked) == {f"m3.vocabularies.{each}" for each in ("picture", "joints", name)}


def table_of(world: Path, name: str) -> ModalityTable:
    settings = {key: value for key, value in modalities(world / "conf").items() if not key.startswith("_")}
    settings["extra_vocabularies"] = {"tok_depth": {"name": name, "num_ids": NUM_DEPTHS}}
    return ModalityTable(**settings)


# With an interpreter.


def test_an_interpreted_modality_is_decoded_drawn_scored_and_reported(world, tmp_path, interpreted, capsys):
    result = generate.run(config(world, *ROLL_OUT, f"out={tmp_path}", "rollout.num_samples=2"))
    made = result.made
    assert made.undecoded == {} and "vocabularies" not in capsys.readouterr().out
    predicted, truth = made.predicted.values["tok_depth"], made.truth.values["tok_depth"]
    assert predicted.shape == truth.shape == (len(made.prompts.chains), 3, 2, 2)
    assert (predicted.reshape(-1, 3, 4) * (NUM_DEPTHS - 1)).round().tolist() == \
        made.predicted.tokens.ids["tok_depth"].tolist()  # fmt: skip
    record = json.loads(result.metrics.read_text())
    assert "tok_depth" not in record["absent"] and "tok_depth_accuracy" in record["scores"]
    for k, at in enumerate(record["scores"]["depth_error"]["horizons"], 1):
        rows = [n for n in range(len(truth)) if made.truth.is_present[n, k]]
        for series, guess in (("model", predicted[:, k]), ("nothing_moves", truth[:, 0])):
            errors = [abs(guess[n, y, x] - truth[n, k, y, x]) for n in rows for y in range(2) for x in range(2)]
            assert at[series] == pytest.approx(np.mean(errors), abs=1e-6)
        assert at["num_samples"] == len(rows) and {"argmax", "sample", "best_of_n"} < at.keys()
        assert at["best_of_n"] <= at["sample"]
    page = (tmp_path / "report.html").read_text()
    assert "error of the depths" in page and "tok_depth tokens right" in page and "What is not scored" in page


def test_the_sheet_has_rows_of_its_own_for_it(world, tmp_path, interpreted, monkeypatch):
    options = [*ROLL_OUT, "pictures.num_samples=1"]
    result = generate.run(config(world, *options, f"out={tmp_path / 'seen'}"))
    shown = rollout_panels(result.made, [0], 0)
    assert [panel.name for panel in shown] == ["predicted", "predicted, tok_depth", "truth", "truth, tok_depth"]
    for panel, frames in ((shown[1], result.made.predicted), (shown[3], result.made.truth)):
        for horizon in range(3):
            corners = np.asarray(panel.cell(0, horizon, CELL_PX))[::CELL_PX - 1, ::CELL_PX - 1]  # fmt: skip
            gray = (frames.values["tok_depth"][0, horizon] * 255).astype(np.uint8)
            assert (corners == gray[..., None]).all()
    monkeypatch.delitem(sys.modules, "m3.vocabularies.depth")
    generate.run(config(world, *options, f"out={tmp_path / 'unseen'}"))
    with Image.open(tmp_path / "seen/rollout.png") as seen, Image.open(tmp_path / "unseen/rollout.png") as unseen:
        assert 2 * CELL_PX <= seen.height - unseen.height < 3 * CELL_PX


def test_an_interpreted_modality_is_completed(world, tmp_path, interpreted):
    result = generate.run(config(world, *COMPLETION, f"out={tmp_path}"))
    scores = {score.name: score for score in result.scores["reference"]}
    assert scores.keys() == {"tok_depth_accuracy", "depth_error"}
    guess, truth = (frames.values["tok_depth"][:, 0] for frames in (result.made.predicted, result.made.truth))
    assert scores["depth_error"].model == pytest.approx([np.abs(guess - truth).mean()])
    sheet = completion_sheet(result.made, [0], CELL_PX, 0)
    assert sheet.width > 6 * CELL_PX  # given, generated and truth: each a picture and depths
    record = json.loads(result.metrics.read_text())["frames"]["reference"]
    assert "depth_error" in record["scores"] and "tok_depth" not in record["absent"]


def test_a_generated_reference_starts_the_baseline(world, tmp_path, interpreted):
    """The depths of the references are generated too; "nothing moves" copies those."""
    generated = "sampling.generate=[tok_depth,coords_next,tok_depth_next,tok_rgb_next]"
    options = [*ROLL_OUT, "sampling.given=[tok_rgb,coords]", generated, f"+sampling.schemes.tok_depth={SCHEME}"]
    result = generate.run(config(world, *options, f"out={tmp_path}"))
    made = result.made
    assert made.is_rollout and made.is_reference_generated
    (error,) = [score for score in result.all_scores if score.name == "depth_error"]
    guess, truth = made.predicted.values["tok_depth"], made.truth.values["tok_depth"]
    assert (guess[:, 0] != truth[:, 0]).any() and made.truth.is_present[:, 1].all()
    assert error.nothing_moves[0] == pytest.approx(np.abs(guess[:, 0] - truth[:, 1]).mean())


@dataclass(frozen=True)
class Depths:
    """A value that is a record of arrays."""

    meters: np.ndarray
    is_seen: np.ndarray


def test_values_may_be_records_of_arrays():
    rng = np.random.default_rng(0)
    true, made = (Depths(rng.random((2, 3, 2, 2)), rng.random((2, 3)) < 0.5) for _ in range(2))
    frames = [Frames({"tok_depth": value}, np.ones((2, 3), bool)) for value in (true, made)]
    mixed = with_generated_reference(*frames).values["tok_depth"]
    assert isinstance(mixed, Depths)
    for name in ("meters", "is_seen"):
        assert (getattr(mixed, name)[:, 0] == getattr(made, name)[:, 0]).all()
        assert (getattr(mixed, name)[:, 1:] == getattr(true, name)[:, 1:]).all()


def test_a_second_camera_shares_the_head_of_pictures(world):
    """A modality of a vocabulary that m3 has is one more of its modalities: the same ids, digits and head."""
    settings = {key: value for key, value in modalities(world / "conf").items() if not key.startswith("_")}
    size = len(settings["modalities"])
    settings["vocab_sizes"] = [65536] * size
    settings["extra_vocabularies"] = {"tok_depth": {"name": "picture", "num_ids": 64000}}
    table = ModalityTable(**settings)
    assert {table.vocabularies[table.index(name)] for name in ("tok_rgb", "tok_depth")} == {PICTURE}
    with pytest.raises(ValueError, match="num_ids=64: vocabulary picture has 64000 ids"):
        ModalityTable(**settings | {"extra_vocabularies": {"tok_depth": {"name": "picture", "num_ids": 64}}})


def test_two_modalities_of_one_vocabulary_have_metrics_of_their_own(world, interpreted):
    settings = {key: value for key, value in modalities(world / "conf").items() if not key.startswith("_")}
    for key, values in (("modalities", ["tok_depth2", "tok_depth2_next"]), ("vocab_sizes", [NUM_DEPTHS] * 2),
                        ("max_seq_lens", [4, 4]), ("input_alphas", [1, 1]), ("target_alphas", [1, 1])):  # fmt: skip
        settings[key] = [*settings[key], *values]
    depth = settings["extra_vocabularies"]["tok_depth"]
    settings["extra_vocabularies"] = {"tok_depth": depth, "tok_depth2": depth}
    metrics = metrics_of(ModalityTable(**settings))
    assert metrics["depth_error"].modality == "tok_depth"
    assert metrics["tok_depth2_depth_error"].modality == "tok_depth2"


@pytest.mark.parametrize("name", ["../x", "os.path", "lookup.importlib", "", ".", "base", "lookup", "a b"])
def test_a_name_in_a_manifest_imports_nothing(name, monkeypatch):
    """dataset.json names vocabularies too, which no modality table has checked."""
    asked = []
    monkeypatch.setattr("importlib.import_module", asked.append)
    assert interpreter_of(Vocabulary(name, 4)) is None and asked == []
