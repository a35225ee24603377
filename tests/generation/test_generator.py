"""Roll-outs from files, from nothing, of several samples, in either order: generate.py in-process, and an oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.oracle import Oracle, given_references, small_table
from support.random_world import config, model_of, write_data, write_run
from support.tiny_videos import write_joints, write_video
from support.tiny_world import frame

import generate
from m3.checkpoint import LoadedModel
from m3.core.frames import PairChain, TokenFrames, no_tokens
from m3.core.modalities import FSQ_LEVELS
from m3.core.types import PairInfo
from m3.generation.generation import Generation
from m3.generation.generator import Generator
from m3.generation.prompts import Prompts, no_previous
from m3.generation.rollout import roll_out
from m3.sampling.settings import DecodingConfig, Sampling
from m3.tokens.base import PictureTokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_data(root / "data")
    write_run(root / "run", scale=1.0)
    write_run(root / "poses", model_of(["coords", "coords_next"]))
    write_run(root / "blind", model_of(["tok_rgb", "tok_rgb_next"]))
    return root


def generated(world: Path, *overrides: str) -> generate.Result:
    keys = [f"{key}.{name}" for key in ("sampling.schemes", "rollout.sample_schemes") for name in ("coords", "tok_rgb")]
    few = [f"{key}.num_steps=2" for key in keys]
    result = generate.run(config(world, "rollout.frames=2", *few, *overrides))
    assert result.made.is_rollout and result.scores.keys() == {""}
    return result


# Prompts.


def test_a_picture_without_joints_gets_them_first(world, tmp_path):
    Image.fromarray(frame(0)).save(tmp_path / "me.jpg")
    made = generated(world, f"input={tmp_path / 'me.jpg'}", f"out={tmp_path / 'out'}")
    assert made.all_scores == [] and not (tmp_path / "out" / "scores.png").exists()
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["scores"] == {} and record["input"][0].endswith("me.jpg") and record["data"]["split"] is None
    assert (
        "no ground truth" in record["absent"]["psnr"] and "rollout.num_samples" in record["absent"]["diversity_joints"]
    )
    made = made.made
    assert not made.truth.values["coords"].is_visible.any() and made.predicted.is_present.all()
    ids, given = made.predicted.tokens.ids, made.prompts.tokens.ids
    assert ids["coords"][0, 0].any() and (ids["tok_rgb"][:, 0] == given["tok_rgb"][:, 0]).all()
    folder = tmp_path / "out" / "samples" / "me-000000"
    assert sorted(p.name for p in folder.iterdir()) == ["rollout.gif", "rollout.png", "tokens.npz"]


def test_known_joints_of_a_picture_stay_and_unknown_ones_are_generated(world, tmp_path):
    Image.fromarray(frame(0)).save(tmp_path / "me.png")
    joints = write_joints(tmp_path / "annotated.csv", 1, hidden=("head", "left_knee"))
    made = generated(world, f"input={tmp_path / 'me.png'}", f"joints={joints}", f"out={tmp_path / 'out'}").made
    before, after = (frames.ids["coords"][0, 0] for frames in (made.prompts.tokens, made.predicted.tokens))
    is_known = made.prompts.tokens.is_known["coords"][0, 0]
    assert (is_known == np.tile(is_known[:13], 3)).all()
    assert is_known.sum() == 3 * 11 and (before[is_known] == after[is_known]).all()
    assert made.is_reference_generated and (before[~is_known] != after[~is_known]).any()
    whole = write_joints(tmp_path / "whole.csv", 1)
    made = generated(world, f"input={tmp_path / 'me.png'}", f"joints={whole}", f"out={tmp_path / 'out'}")
    assert not made.made.is_reference_generated


def test_a_video_is_scored_against_its_own_frames(world, tmp_path):
    write_video(tmp_path / "walk.mp4", num_frames=8)
    write_joints(tmp_path / "walk.csv", 8)
    made = generated(world, f"input={tmp_path / 'walk.mp4'}", f"out={tmp_path / 'out'}")
    scores = {score.name: score for score in made.all_scores}
    assert scores["joint_error"].num_samples == scores["psnr_real"].num_samples == [1, 1]
    real, shown = (frames.values["tok_rgb"][0, 1] for frames in (made.made.prompts.real, made.made.predicted))
    wanted = 10 * np.log10(255**2 / np.square(shown.astype(float) - real).mean())
    assert scores["psnr_real"].model[0] == pytest.approx(wanted)
    assert set(scores["psnr_real"].series) >= {"model", "nothing_moves", "tokenizer", "real_reference"}
    (tmp_path / "walk.csv").unlink()
    scores = {s.name for s in generated(world, f"input={tmp_path / 'walk.mp4'}", f"out={tmp_path / 'out'}").all_scores}
    assert {"psnr", "ssim_real"} < scores and not {"pck@0.1", "coords_accuracy", "visibility_f1"} & scores


def test_a_real_video(world, real_video: Path, tmp_path):
    made = generated(world, f"input={real_video}", f"out={tmp_path / 'out'}", "rollout.frames=4")
    scores = {score.name: score for score in made.all_scores}
    assert scores["psnr"].num_samples == [1] * 4 and scores["psnr_real"].series["tokenizer"].value[0] > 15


def test_several_files_at_once(world, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(frame(0)).save(tmp_path / f"{name}.png")
    made = generated(world, f"input=[{tmp_path / 'a.png'},{tmp_path / 'b.png'}]", f"out={tmp_path / 'out'}")
    assert [chain.title for chain in made.made.prompts.chains] == ["clip a, frame 0", "clip b, frame 0"]


def test_from_nothing(world, tmp_path):
    everything = "sampling.generate=[tok_rgb,coords,tok_rgb_next,coords_next]"
    options = ["sampling.given=[]", everything, "data.root=nowhere", "rollout.num_samples=3", f"out={tmp_path / 'out'}"]
    made = generated(world, *options)
    assert [score.name for score in made.all_scores] == ["diversity_joints", "diversity_pictures"]
    assert made.all_scores[1].series["sample"].value[0] > 0
    assert made.made.prompts.chains[0].title == "from nothing"
    drawn = [each.tokens.ids["tok_rgb"][0, 0].tobytes() for each in made.made.samples]
    assert len(set(drawn)) == 3
    with pytest.raises(ValueError, match="not used, because sampling.given=.. is empty"):
        generated(world, "sampling.given=[]", everything, "input=me.jpg")


def test_roll_outs_from_pictures_alone(world, tmp_path):
    """The reference's joints are neither given nor generated: the model does not know them, nor are they shown."""
    made = generated(world, "sampling.given=[tok_rgb]", f"out={tmp_path / 'out'}").made.predicted
    both = generated(world, f"out={tmp_path / 'out'}").made.predicted
    is_visible = [frames.values["coords"].is_visible[:, 0].any() for frames in (made, both)]
    assert is_visible == [False, True]
    assert (made.tokens.ids["coords"][:, 1] != both.tokens.ids["coords"][:, 1]).any()


@pytest.mark.parametrize("run, given, of", [("poses", "coords", "pck@0.1"), ("blind", "tok_rgb", "psnr")])
def test_models_of_one_kind_of_tokens_roll_out_too(world, tmp_path, run, given, of):
    options = [f"checkpoint={world / run}", f"sampling.given=[{given}]", f"sampling.generate=[{given}_next]"]
    made = generated(world, *options, f"out={tmp_path / 'out'}")
    names = {score.name for score in made.all_scores}
    assert of in names and not {"pck@0.1", "psnr"} - {of} & names
    by_itself = generated(world, f"checkpoint={world / run}", f"out={tmp_path / 'out'}")
    assert by_itself.made.generated == [f"{given}_next"]
    assert np.array_equal(by_itself.made.predicted.tokens.ids[given], made.made.predicted.tokens.ids[given])


# Order and samples.


def test_the_order_of_joints_and_picture_matters(world, tmp_path):
    first = generated(world, f"out={tmp_path / 'out'}").made.predicted.tokens.ids
    other = generated(world, "sampling.generate=[tok_rgb_next,coords_next]", f"out={tmp_path / 'out'}")
    other = other.made.predicted.tokens.ids
    assert all((first[name] != other[name]).any() for name in ("tok_rgb", "coords"))


def test_later_modalities_see_earlier_ones():
    """Of an oracle that remembers its inputs: the picture is conditioned on the new pose, or the other way round."""
    for names in (("coords_next", "tok_rgb_next"), ("tok_rgb_next", "coords_next")):
        model = Oracle()
        given = given_references({"tok_rgb": np.zeros((1, 6), int), "coords": np.zeros((1, 39), int)})
        schemes = [DecodingConfig(name, 1) for name in names]
        roll_out(model, given, schemes, 1, 0, torch.zeros(1, dtype=torch.int64), 1)
        places = [model.table.index(name) for name in names]
        seen = [{k for _, k, _ in inputs} for inputs, _ in model.queries]
        assert seen == [{0, 1}, {0, 1, places[0]}]


class FlatTokenizer(PictureTokenizer):
    name, fingerprint = "flat", ""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        gray = (ids.sum((1, 2)) % 256 / 127.5 - 1).float()[:, None, None, None]
        return gray.expand(-1, 3, 16 * ids.shape[1], 16 * ids.shape[2])


class SquareOracle(Oracle):
    """With 2 × 2 picture tokens, as canvases are square."""

    def __init__(self) -> None:
        super().__init__()
        lengths = (4, 39, 4, 39)
        self.table = replace(self.table, max_seq_lens=lengths)

    def parameters(self):
        return iter([torch.zeros(1)])


def oracle_generator(batch_size: int, num_samples: int, **changes) -> Generator:
    schemes = {"coords_next": {"num_steps": 3, "pick": "median"}, "tok_rgb_next": {"num_steps": 2, "temperature": 0.0}}
    sampling = Sampling(["tok_rgb", "coords"], ["coords_next", "tok_rgb_next"], schemes)
    model = SquareOracle()
    loaded = LoadedModel(model, model.table, {}, {"canvas_size": 32}, 0)
    of_samples = {name: {"pick": "sample", "temperature": 1.0, **changes} for name in schemes}
    return Generator(loaded, FlatTokenizer(), sampling, 5, batch_size, num_samples, of_samples)


def some_prompts(num_prompts: int, num_frames: int) -> Prompts:
    rng = np.random.default_rng(0)
    shape = num_prompts, num_frames + 1
    ids = {"tok_rgb": rng.integers(0, 64000, (*shape, 4)), "coords": rng.integers(0, 2, (*shape, 39))}
    is_known = {name: np.ones(each.shape, bool) for name, each in ids.items()}
    chains = [PairChain((n,), (PairInfo("k", f"c{n}", 0, 1, None, 20.0),)) for n in range(num_prompts)]
    tokens = TokenFrames(ids, is_known, np.ones(shape, bool))
    history = no_tokens(small_table(), (num_prompts, 1))
    return Prompts(chains, tokens, history, np.arange(num_prompts), no_previous(num_prompts))


def sampled_ids(made: Generation, name: str) -> list[np.ndarray]:
    """(N, T + 1, L) tokens of each sample."""
    return [each.tokens.ids[name] for each in made.samples]


def test_the_same_seed_draws_the_same_samples_whatever_their_batch_and_number():
    prompts = some_prompts(3, 2)
    whole = oracle_generator(64, 4).generate(prompts)
    single = oracle_generator(1, 4).generate(prompts)
    fewer = oracle_generator(5, 2).generate(prompts)
    for name in ("coords", "tok_rgb"):
        for one, other in zip(sampled_ids(whole, name), sampled_ids(single, name), strict=True):
            assert (one == other).all()
    for one, other in zip(sampled_ids(whole, "coords"), sampled_ids(fewer, "coords")):
        assert (one == other).all()
    coords = sampled_ids(whole, "coords")
    assert len({each[0, 1].tobytes() for each in coords}) == 4  # they differ from each other
    assert len({coords[0][n, 1].tobytes() for n in range(3)}) == 3  # and between prompts
    alone = oracle_generator(64, 1).generate(prompts).predicted.tokens
    assert (alone.ids["coords"] == whole.predicted.tokens.ids["coords"]).all()


def test_argmax_is_the_likeliest_id_everywhere():
    made = oracle_generator(8, 2).generate(some_prompts(2, 1))
    model, argmax = SquareOracle(), made.argmax.tokens.ids
    x = model.logits[3][0][:26].argmax(-1).numpy()
    assert (argmax["coords"][:, 1, :26] == x).all() and argmax["coords"][:, 1, 26:].max() <= 1
    assert (made.predicted.tokens.ids["coords"][:, 1, :26] != x).any()  # the median is another id
    digits = [logits[:4].argmax(-1).numpy() for logits in model.logits[2]]
    basis = np.cumprod([1, *FSQ_LEVELS[:-1]])
    assert (argmax["tok_rgb"][:, 1] == sum(d * b for d, b in zip(digits, basis))).all()


def test_samples_have_settings_of_their_own():
    prompts = some_prompts(2, 1)
    hot, cold = (oracle_generator(8, 3, **changes).generate(prompts) for changes in ({}, {"temperature": 0.0}))
    assert len({each.tobytes() for each in sampled_ids(hot, "coords")}) == 3
    assert len({each.tobytes() for each in sampled_ids(cold, "coords")}) == 1
    assert (hot.predicted.tokens.ids["coords"] == cold.predicted.tokens.ids["coords"]).all()
    with pytest.raises(ValueError, match="sampling.schemes.coords_next.temprature: unknown"):
        oracle_generator(8, 3, temprature=1.0)


# Files.


def test_tokens_as_documented(world, tmp_path):
    made = generated(world, "rollout.num_samples=2", f"out={tmp_path / 'out'}")
    tokens = np.load(tmp_path / "out" / "tokens.npz", allow_pickle=False)
    predicted, truth = made.made.predicted.tokens.ids, made.made.prompts.tokens.ids
    assert {name: tokens[name].shape for name in tokens.files} == {
        "clip": (5,), "reference_frame": (5,), "successor_frames": (5, 2), "is_truth": (5, 3),
        "predicted_tok_rgb": (5, 3, 2, 2), "predicted_coords": (5, 3, 3, 13), "truth_tok_rgb": (5, 3, 2, 2),
        "truth_coords": (5, 3, 3, 13), "argmax_tok_rgb": (5, 3, 2, 2), "argmax_coords": (5, 3, 3, 13),
        "sample_tok_rgb": (2, 5, 3, 2, 2), "sample_coords": (2, 5, 3, 3, 13),
    }  # fmt: skip
    assert (tokens["predicted_tok_rgb"].reshape(5, 3, 4) == predicted["tok_rgb"]).all()
    assert (tokens["truth_coords"].reshape(5, 3, 39) == truth["coords"]).all()
    assert (tokens["sample_coords"][1].reshape(5, 3, 39) == sampled_ids(made.made, "coords")[1]).all()
    assert tokens["successor_frames"][0].tolist() == [1, 2] and tokens["successor_frames"][3].tolist() == [7, -1]
    one = np.load(tmp_path / "out" / "samples" / "a-000002" / "tokens.npz", allow_pickle=False)
    assert (one["predicted_coords"][0] == tokens["predicted_coords"][1]).all() and one["clip"].tolist() == ["a"]


def test_how_much_is_written_is_chosen(world, tmp_path):
    few = ["pictures.num_folders=2", "pictures.num_reported=1", f"out={tmp_path / 'few'}"]
    generated(world, *few)
    assert len(list((tmp_path / "few" / "samples").iterdir())) == 2
    generated(world, f"out={tmp_path / 'all'}")
    small, large = ((tmp_path / name / "report.html").read_text() for name in ("few", "all"))
    assert (small.count('"card exhibit"'), large.count('"card exhibit"')) == (1, 5) and len(small) < len(large)
    (tmp_path / "all" / "samples" / "notes").mkdir()
    generated(world, "pictures.num_folders=0", "pictures.num_reported=0", f"out={tmp_path / 'all'}")
    assert not (tmp_path / "all" / "report.html").exists()  # nothing of an earlier run stays
    assert [path.name for path in (tmp_path / "all" / "samples").iterdir()] == ["notes"]
