"""generate.py in-process, on a world of its own: shards of random tokens, a random model, the shipped tokenizer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.utils import instantiate
from PIL import Image
from support.random_world import CONF, MODALITIES, config, write_checkpoint
from support.tiny_world import write_world

import generate
import preprocess
from m3.batches.table import TokenTable
from m3.clips.canvas import CropCanvas, PersonCanvas
from m3.clips.penn_action import PennAction
from m3.generation.prompts import prompts_of_split
from m3.generation.real_frames import real_frames
from m3.generation.rollout import find_chains
from m3.tokens.base import to_frames
from m3.tokens.mini import MiniTokenizer


def test_from_a_checkpoint_to_pictures_and_scores(random_world, monkeypatch):
    monkeypatch.chdir(random_world)
    result = generate.run(config(random_world))
    made, truth, predicted = result.made, result.made.truth, result.made.predicted
    assert sorted(p.name for p in (random_world / "out").iterdir()) == [
        "metrics.json", "report.html", "rollout.gif", "rollout.mp4", "rollout.png", "samples",
        "samples.npz", "scores.png", "tokens.npz"]  # fmt: skip
    assert [len(chain.rows) for chain in made.prompts.chains] == [6, 1, 2]  # a: 6 of 7 pairs, then the last; b
    assert predicted.values["tok_rgb"].shape == (3, 7, 32, 32, 3)
    # The truth of a frame is one frame, whether it comes as a successor or as the next reference.
    assert (truth.values["tok_rgb"][1, 0] == truth.values["tok_rgb"][0, 6]).all()
    true, poses = truth.values["coords"], predicted.values["coords"]
    assert (true.xy[1, 0] == true.xy[0, 6]).all()
    assert (poses.xy[:, 0] == true.xy[:, 0]).all()

    record = json.loads(result.metrics.read_text())
    assert record["num_samples"] == 3 and record["step"] == 3 and record["data"]["split"] == "test"
    assert set(record["absent"]) == {
        "motion_frechet", "psnr_real", "ssim_real", "psnr_moving_real", "ssim_moving_real", "diversity_joints",
        "diversity_pictures"
    }  # fmt: skip
    assert set(record["by_action"]) == {"jump"}
    assert len(record["scores"]) == 16
    for name, entry in record["scores"].items():
        if name.startswith("agreement"):  # of clip a at horizons that clip b does not reach nothing is known
            continue
        assert [h["num_samples"] for h in entry["horizons"]] == [3, 2, 1, 1, 1, 1]
        assert [h["num_clips"] for h in entry["horizons"]] == [2, 2, 1, 1, 1, 1]
        for horizon in entry["horizons"]:
            assert math.isfinite(horizon["model"]) and math.isfinite(horizon["nothing_moves"])
    # Only the second chain of clip a has a frame before it, and ends after one horizon.
    errors = record["scores"]["joint_error"]["horizons"]
    assert errors[0]["constant_velocity"] > 0 and errors[0]["constant_velocity_num_samples"] == 1
    assert errors[0]["damped_velocity"] > 0 and errors[0]["damped_velocity_num_samples"] == 1
    assert errors[1]["constant_velocity"] is None and errors[1]["damped_velocity"] is None
    assert 0 <= generate.mean_pck(result.all_scores) <= 1
    names = ("rollout.png", "rollout.gif", "scores.png")
    sheet, animation, plot = (Image.open(result.out / name) for name in names)
    with sheet, animation, plot:
        assert sheet.width > 7 * 64 and animation.n_frames == 7 and plot.width > 1000


def test_the_same_seed_makes_the_same_scores(random_world):
    schemes = ["sampling.schemes.tok_rgb_next.pick=sample", "sampling.schemes.coords_next.pick=sample"]
    options = [*schemes, "rollout.frames=2"]
    runs = [generate.run(config(random_world, *options, *more)).made.predicted for more in ([], [], ["seed=1"])]
    first, again, other = (run.values["tok_rgb"] for run in runs)
    assert (first == again).all() and (first != other).any()
    first, again, other = (run.values["coords"].xy for run in runs)
    assert (first == again).all() and (first != other).any()


def test_max_samples_and_frames(random_world):
    result = generate.run(config(random_world, "rollout.max_samples=1", "rollout.frames=1", "rollout.starts=first"))
    assert len(result.made.prompts.chains) == 1 and result.made.predicted.values["tok_rgb"].shape[1] == 2
    assert result.scores.keys() == {""} and all(len(score.model) == 1 for score in result.all_scores)


@pytest.mark.parametrize(
    "override, message",
    [
        ("checkpoint=null", "checkpoint=null: .*python train.py"),
        ("checkpoint=nowhere", "nowhere.*python train.py"),
        ("data.root=nowhere", "nowhere.*python preprocess.py"),
        ("data.split=dev", "dev"),
        ("data.split=train", "data.split=train: .* no pairs"),
        ("rollout.frames=0", "rollout.frames=0"),
        ("rollout.starts=last", "rollout.starts='last'"),
        ("rollout.max_samples=0", "rollout.max_samples=0"),
        ("rollout.batch_size=0", "rollout.batch_size=0"),
        ("pictures.num_samples=0", "pictures.num_samples=0"),
        ("pictures.cell_px=-1", "pictures.cell_px=-1"),
        ("sampling.schemes.coords_next.num_steps=40", "sampling.schemes.coords_next.num_steps=40"),
        ("rollout.num_samples=0", "rollout.num_samples=0"),
        ("rollout.sample_schemes.coords_next=1", "rollout.sample_schemes.coords_next=1: need keys"),
        (
            "rollout.sample_schemes.coords_next.pick=mode",
            "rollout.sample_schemes.coords_next: sampling.schemes.coords_next.pick=.mode",
        ),
        ("pictures.num_folders=-1", "pictures.num_folders=-1"),
        ("pictures.num_reported=-1", "pictures.num_reported=-1"),
        ("rollout.sample_schemes.tok_rgb_next.temperature=-1", "sampling.schemes.tok_rgb_next.temperature=-1"),
        ("joints=walk.csv", "joints=walk.csv: needs the picture"),
        ("input=nowhere.mp4", "input=nowhere.mp4: no such file"),
        ("sampling.given=[coords]", "sampling.given: a roll-out goes on from a picture"),
        ("device=abacus", "device=abacus"),
    ],
)
def test_what_cannot_be_stops_before_any_work(random_world, override, message):
    out = random_world / "nothing"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        generate.run(config(random_world, f"out={out}", override))
    assert not out.exists()


def test_impossible_sampling_values_name_their_key(random_world):
    with pytest.raises(InstantiationException) as caught:
        generate.run(config(random_world, "sampling.schemes.coords_next.temperature=-1"))
    assert "sampling.schemes.coords_next.temperature=-1" in str(caught.value.__cause__ or caught.value)


@pytest.mark.parametrize("override", ["rollout.horizons=6", "temperature=1", "sampling.schemes.coords_next.steps=4"])
def test_unknown_keys_are_refused(random_world, override):
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0]):
        config(random_world, override)


def test_a_checkpoint_of_other_data_is_refused(random_world):
    with pytest.raises(ValueError, match="canvas_size is 64 there and 32 here; tokenizer_fingerprint is ffff"):
        generate.run(config(random_world, f"checkpoint={random_world / 'other_run'}"))


def test_data_of_another_tokenizer_is_refused(random_world, tmp_path):
    for path in (random_world / "data").rglob("*.tar"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    text = (random_world / "data" / "dataset.json").read_text()
    (tmp_path / "dataset.json").write_text(text.replace(MiniTokenizer().fingerprint, "e" * 64))
    with pytest.raises(ValueError, match="tokenizer: mini .* is not the one that made .*eeee"):
        generate.run(config(random_world, f"data.root={tmp_path}"))


@pytest.fixture(scope="module")
def filmed(tmp_path_factory) -> Path:
    """A Penn Action folder, its shards at 32 px, and a checkpoint for them."""
    root = tmp_path_factory.mktemp("filmed")
    write_world(root / "penn")
    with initialize_config_dir(CONF, version_base="1.3"):
        manifest = preprocess.run(compose("preprocess", [
            "source=penn_action", f"source.root={root / 'penn'}", f"out={root / 'data'}", "canvas=person",
            "canvas.size=32", "pairs=stride", "pairs.step=1", "split.ratios=[0,0,1]", "workers=1",
            "contact_sheet.num_pairs=0",
        ]))  # fmt: skip
    tokenizer = manifest.tokenizer["name"], manifest.tokenizer["fingerprint"]
    data = dict(zip(("canvas_size", "tokenizer", "tokenizer_fingerprint"), (32, *tokenizer)))
    write_checkpoint(root / "run", data)
    return root


def test_against_real_frames(filmed):
    options = ["source=penn_action", f"source.root={filmed / 'penn'}", "rollout.frames=2"]
    result = generate.run(config(filmed, *options))
    scores = {score.name: score for score in result.all_scores}
    line = scores["psnr_real"].series
    assert set(line) == {"model", "nothing_moves", "tokenizer", "real_reference"}
    assert line["tokenizer"].value[0] > line["model"].value[0]
    # By hand, for the first horizon: the frames as files, through the canvas, beside the decoded truth.
    errors = []
    for n, chain in enumerate(result.made.prompts.chains):
        clip = PennAction(filmed / "penn").read(chain.pairs[0].clip)
        picture = PersonCanvas(32).window(clip.size, clip.joints).picture(clip.frames[chain.pairs[0].successor])
        errors.append(np.square(picture.astype(float) - result.made.truth.values["tok_rgb"][n, 1]).mean())
    assert line["tokenizer"].value[0] == pytest.approx(10 * math.log10(255**2 / np.mean(errors)))
    record = json.loads(result.metrics.read_text())
    assert set(record["absent"]) == {"motion_frechet", "diversity_joints", "diversity_pictures"}
    assert len(record["by_action"]) == 3


def test_completed_pictures_against_real_frames(filmed):
    options = ["source=penn_action", f"source.root={filmed / 'penn'}", "sampling.given=[tok_rgb_next]"]
    made = generate.run(config(filmed, *options, "sampling.generate=[tok_rgb]", "sampling.schemes.tok_rgb.num_steps=2"))
    scores = {score.name: score for score in made.scores["reference"]}
    prompts = made.made.prompts
    real = prompts.real.values["tok_rgb"][:, 0].astype(float)
    decoded = decoded_pictures(prompts.tokens.ids["tok_rgb"][:, 0])
    wanted = 10 * math.log10(255**2 / np.square(real - decoded).mean())
    assert scores["psnr_real"].series["tokenizer"].value == pytest.approx([wanted])


def decoded_pictures(ids: np.ndarray) -> np.ndarray:
    """(N, 4) → (N, 32, 32, 3) uint8."""
    with torch.inference_mode():
        return to_frames(MiniTokenizer().decode(torch.as_tensor(ids).view(-1, 2, 2)))


def test_a_source_that_did_not_make_the_shards_is_refused(filmed, tmp_path):
    write_world(tmp_path, num_clips=2)
    with pytest.raises(ValueError, match="source=penn_action is not what the shards were made of"):
        generate.run(config(filmed, "source=penn_action", f"source.root={tmp_path}"))
    with pytest.raises(ValueError, match="does not record the canvas|another fingerprint|other settings"):
        generate.run(config(filmed, "source=poses", f"source.labels={filmed / 'penn' / 'labels'}"))


def test_joints_that_differ_from_the_shards_are_refused(filmed, tmp_path):
    """Frames of a clip that was relabeled would not be those of the tokens; the files' identity is the same."""
    source, split = PennAction(filmed / "penn"), TokenTable.open(filmed / "data", "test")
    chains = find_chains(split.pairs, 2, "first")
    table = instantiate(MODALITIES)
    truth = prompts_of_split(split, table, chains, 2).tokens
    real = real_frames(source, PersonCanvas(32), chains, truth, has_joints=True)
    assert (real.is_present == truth.is_present).all() and real.values["tok_rgb"][~real.is_present].sum() == 0
    with pytest.raises(ValueError, match="joints of clip 0001 are not those of the shards"):
        real_frames(source, CropCanvas(32), chains, truth, has_joints=True)


def test_a_clip_that_cannot_be_read_again_has_no_real_frames(filmed, tmp_path):
    shutil.copytree(filmed / "penn", tmp_path / "penn")
    for picture in (tmp_path / "penn" / "frames" / "0002").iterdir():
        picture.write_bytes(b"")
    split, table = TokenTable.open(filmed / "data", "test"), instantiate(MODALITIES)
    chains = find_chains(split.pairs, 2, "first")
    truth = prompts_of_split(split, table, chains, 2).tokens
    found = real_frames(PennAction(tmp_path / "penn"), PersonCanvas(32), chains, truth, has_joints=True)
    assert [chain.pairs[0].clip for chain, real in zip(chains, found.is_present) if not real.any()] == ["0002"]
