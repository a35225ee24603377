"""Captions and actions from training to report: a tiny model that learns which sentence belongs to which poses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.captioned_world import (
    ACTIONS,
    CAPTIONS,
    LENGTH,
    NUM_ACTION_IDS,
    NUM_TEXT_IDS,
    generation,
    training,
    write_data,
    write_text_tokenizer,
)

import generate
import train
from m3.checkpoint import LoadedModel, load_model
from m3.reporting.figures import completion_sheet
from m3.shards.manifest import Manifest

COMPLETION = ["sampling.given=[coords]", "sampling.generate=[captions,action]"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of two kinds of poses, and a run of 195 steps."""
    root = tmp_path_factory.mktemp("captions")
    write_data(root / "data")
    train.run(training(root))
    return root


@pytest.fixture(scope="module")
def described(world: Path) -> generate.Result:
    return generate.run(generation(world, *COMPLETION, f"out={world / 'described'}"))


def test_poses_get_their_sentences(world: Path, described: generate.Result) -> None:
    tokens = np.load(world / "described/tokens.npz", allow_pickle=False)
    found, true = tokens["text_captions"].tolist(), tokens["truth_text_captions"].tolist()
    kinds = [int(clip.removeprefix("test")) % 2 for clip in tokens["clip"]]
    assert true == [CAPTIONS[kind] for kind in kinds]
    scores = {score.name: score for score in described.scores["reference"]}
    share = float(np.mean([one == other for one, other in zip(found, true)]))
    assert scores["captions_exact"].model == pytest.approx([share])
    assert share >= 0.75  # one sentence for all is right in half of the cases
    assert set(scores["captions_exact"].series) == {"model"} and not scores["captions_exact"].gains
    is_right = (tokens["captions"] == tokens["truth_captions"]) & tokens["is_known_captions"]
    num_true = (tokens["truth_captions"] > 0).sum()  # [EOS] counts, padding does not
    assert scores["captions_accuracy"].model == pytest.approx([is_right.sum() / num_true])
    right_actions = tokens["action"][:, 0] == kinds
    assert scores["action_accuracy"].model == pytest.approx([right_actions.mean()])


def test_padding_is_neither_known_nor_content(world: Path, described: generate.Result) -> None:
    tokens = np.load(world / "described/tokens.npz", allow_pickle=False)
    for ids, is_known in zip(tokens["captions"], tokens["is_known_captions"]):
        end = int(np.argmax(ids == 1))
        assert ids[end] == 1 and is_known[: end + 1].all() and not is_known[end + 1 :].any()
        assert not ids[end + 1 :].any()


def test_the_files_show_and_score_them(world: Path, described: generate.Result) -> None:
    out = world / "described"
    assert {path.name for path in out.iterdir()} == {
        "generated.png", "confusion.png", "metrics.json", "report.html", "samples.npz", "tokens.npz"}  # fmt: skip
    record = json.loads((out / "metrics.json").read_text())["frames"]["reference"]
    assert {"captions_exact", "captions_accuracy", "action_accuracy"} <= record["scores"].keys()
    assert record["scores"]["captions_exact"]["unit"] == "share"
    assert "captions exactly right" in (out / "report.html").read_text()
    sheet = completion_sheet(described.made, [0], 64, 0)
    assert 5 * 64 < sheet.width < 6 * 64 + 6 * 6  # the pose; caption and action, generated and true


def test_a_model_generates_no_ids_that_its_data_lack(world: Path) -> None:
    """Its vocabularies have more: 900 text ids and 9 actions, the data fewer than 300 and 2."""
    hot = ["rollout.sample_schemes.default={pick:sample,temperature:1000.0}", "rollout.num_samples=6"]
    made = generate.run(generation(world, *COMPLETION, *hot, "pictures.num_reported=0")).made
    texts, actions = (
        np.stack([each.tokens.ids[name][:, 0] for each in made.samples]) for name in ("captions", "action")
    )
    loaded = load_model(world / "run")
    text_tokenizer = Manifest.load(world / "data").text_tokenizer
    assert text_tokenizer is not None and text_tokenizer["num_ids"] < 300
    assert loaded.table.vocab_sizes == (8192, text_tokenizer["num_ids"], len(ACTIONS), 4226)
    assert texts.max() < text_tokenizer["num_ids"]
    assert len(np.unique(texts)) > 100 and set(actions.ravel()) == {0, 1}
    assert loaded.model.to_logits["text"].num_ids == NUM_TEXT_IDS
    assert loaded.model.to_logits["action"].num_ids == NUM_ACTION_IDS
    assert not (texts == 0)[..., 0].any()  # no text begins with padding


def test_a_shared_model_keeps_its_labels_and_words(world: Path, described: generate.Result, tmp_path: Path) -> None:
    folder = load_model(world / "run").save_pretrained(tmp_path / "shared")
    shared = LoadedModel.from_pretrained(folder)
    assert shared.data["actions"] == list(ACTIONS) and shared.table == load_model(world / "run").table
    made = generate.run(generation(world, *COMPLETION, f"checkpoint={folder}", f"out={tmp_path / 'out'}")).made
    for name in ("captions", "action"):
        assert (made.predicted.tokens.ids[name] == described.made.predicted.tokens.ids[name]).all()


# Steering.


def test_a_sentence_and_an_action_steer_a_roll_out(world: Path) -> None:
    results = [
        generate.run(generation(world, "rollout.frames=2", f"captions={caption}", f"action={action}"))
        for caption, action in zip(CAPTIONS, ACTIONS)
    ]
    for kind, result in enumerate(results):
        made = result.made
        assert made.is_rollout and made.generated == ["motion_next"]
        assert set(made.predicted.values["captions"].ravel()) == {CAPTIONS[kind]}
        assert (made.given.tokens.ids["action"][:, 0] == kind).all() and made.given.tokens.is_known["action"][
            :, 0
        ].all()
    poses = [result.made.predicted.values["coords"].xy for result in results]
    assert (poses[0] != poses[1]).any()
    page = (world / "out/report.html").read_text()
    assert f"Asked: action {ACTIONS[1]}, caption “{CAPTIONS[1]}”." in page
    assert json.loads((world / "out/metrics.json").read_text())["captions"] == CAPTIONS[1]


LONG = "'" + "a person doing a golf swing " * 9 + "'"


@pytest.mark.parametrize(
    "asked, message",
    [
        ([f"captions={LONG}"], rf"captions='a person.*: \d+ tokens, the model takes {LENGTH} .*; shorten it"),
        (["captions=' '"], "captions=' ': need a sentence"),
        (["captions=7"], "captions=7: need str"),
        (
            ["captions=hello", "sampling.given=[coords]"],
            "captions=hello: the model is not given it; add captions to samp",
        ),
        (["action=bowl", *COMPLETION], "action=bowl: the model is not given it; add action to sampling.given"),
        (["action=fly"], "action=fly: not a label of the training data; choose one of bowl, golf_swing"),
        (["rollout.gap=3"], "rollout.gap=3: the model has no modality gap_next"),
        (
            ["sampling.given=[captions]", "sampling.generate=[coords]"],
            r"sampling.generate: coords was never a target of this run \(modalities.target_alphas\): choose from cap",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_key(world: Path, asked: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate.run(generation(world, *asked))


@pytest.mark.parametrize("name, message", [
    ("labels", "actions are bowl, golf_swing there and bowl, squat here"),
    ("words", "text tokens of captions are .*… there and .*… here"),
])  # fmt: skip
def test_data_of_other_labels_or_words_are_refused(world: Path, tmp_path: Path, name: str, message: str) -> None:
    """Their ids would mean something else."""
    data = tmp_path / "data"
    shutil.copytree(world / "data", data, ignore=shutil.ignore_patterns(".tables"))
    changed = {"actions": ("bowl", "squat")} if name == "labels" else \
        {"text_tokenizer": write_text_tokenizer(data, ["jumping", "jumping"])}  # fmt: skip
    replace(Manifest.load(data), **changed).save(data)
    with pytest.raises(ValueError, match=message):
        generate.run(generation(world, f"data.root={data}"))
