"""m3.load beside generate.py: the same settings give the same tokens."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image
from support.random_world import MODALITIES, MODEL, write_run
from support.tiny_videos import write_joints, write_video

import generate
import m3
from m3.clips.video_files import VideoFiles

FEW = [
    "pictures.cell_px=32",
    *(
        f"{key}.{name}.num_steps=2"
        for key in ("sampling.schemes", "rollout.sample_schemes")
        for name in ("coords", "tok_rgb", "coords_next", "tok_rgb_next")
    ),
]
"""Options for speed."""


def run_line(*overrides: str) -> generate.Result:
    """What generate.py makes of a command line."""
    with initialize_config_module("m3.conf", version_base="1.3"):
        return generate.run(compose("generate", list(overrides)))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A random model whose output depends on its input (run), and a video with joints (walk.mp4, walk.csv)."""
    root = tmp_path_factory.mktemp("api")
    write_run(root / "run", scale=1.0)
    write_video(root / "walk.mp4", num_frames=20)
    write_joints(root / "walk.csv", num_frames=20)
    return root


@pytest.fixture(scope="module")
def model(world) -> m3.Model:
    return m3.load(world / "run", "cpu", FEW)


def assert_same(film: m3.Film, frames, row: int = 0) -> None:
    for name, ids in frames.tokens.ids.items():
        np.testing.assert_array_equal(film.tokens[name], ids[row])
        np.testing.assert_array_equal(film.is_known[name], frames.tokens.is_known[name][row])
    np.testing.assert_array_equal(film.pictures, frames.values["tok_rgb"][row])
    np.testing.assert_array_equal(film.joints, frames.values["coords"].xy[row])


def test_importing_m3_imports_nothing_heavy():
    heavy = "{'torch', 'hydra', 'numpy'} & {*sys.modules}"
    code = f"import m3, sys; assert not {heavy}; m3.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="'lode'"):
        m3.lode  # noqa: B018
    assert {"load", "Model"} <= {*dir(m3)}


def test_a_continued_video_is_that_of_generate_py(world, model, tmp_path):
    made = model.continue_video(world / "walk.mp4", frames=2, samples=2, start=3, temperature=0.7, seed=5)
    options = [
        f"rollout.sample_schemes.{name}.temperature=0.7" for name in ("coords", "tok_rgb", "coords_next",
                                                                     "tok_rgb_next", "default")
    ]  # fmt: skip
    result = run_line(
        f"checkpoint={world / 'run'}", "device=cpu", *FEW, f"input={world / 'walk.mp4'}", "rollout.frames=2",
        "rollout.num_samples=2", "rollout.from=3", "seed=5", *options, f"out={tmp_path / 'one'}",
    )  # fmt: skip
    assert_same(made.predicted, result.made.predicted)
    assert len(made.samples) == 2
    for film, frames in zip(made.samples, result.made.samples):
        assert_same(film, frames)
    assert_same(made.truth, result.made.truth)
    assert made.predicted.pictures.shape == (3, 32, 32, 3) and made.predicted.pictures.dtype == np.uint8
    assert made.predicted.joints.shape == (3, 13, 2) and made.predicted.is_visible.dtype == bool
    assert {each.name: each.model for each in made.scores[""]} == {s.name: s.model for s in result.scores[""]}
    assert any(line.startswith("pictures: ") for line in made.verdict)

    program, *overrides = shlex.split(made.command)
    again = run_line(*overrides, f"out={tmp_path / 'two'}")
    assert program == "m3-generate"
    for film, frames in zip(made.samples, again.made.samples):
        assert_same(film, frames)

    made.write(tmp_path / "three")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "three").iterdir()} == names
    for name in ("tokens.npz", "rollout.png"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert made._repr_html_().startswith('<img alt="generated: coords_next, tok_rgb_next" src="data:image/gif;base64,')


def test_arrays_give_what_their_file_gives(world, model):
    clip = VideoFiles(world / "walk.mp4").read("walk")
    frames = np.stack(list(clip.frames))
    joints = np.concatenate([clip.joints.xy, clip.joints.is_visible[..., None]], -1)
    joints[clip.joints.is_visible == 0, :2] = np.nan
    of_file = model.continue_video(world / "walk.mp4", frames=2)
    of_array = model.continue_video(frames, frames=2, joints=joints, fps=25)
    for name, ids in of_file.predicted.tokens.items():
        np.testing.assert_array_equal(of_array.predicted.tokens[name], ids)
    for name, ids in of_file.truth.tokens.items():
        np.testing.assert_array_equal(of_array.truth.tokens[name], ids)
    assert of_array.command is None

    odd = model.continue_picture(frames[0][:47, :63], frames=1)  # sides that other codecs refuse
    assert odd.truth is None and odd.predicted.is_present.tolist() == [True, True]


def test_a_pair_is_completed_as_by_generate_py(world, model, tmp_path):
    made = model.complete(["tok_rgb", {"coords": ["head"]}], ["coords"], world / "walk.mp4")
    result = run_line(
        f"checkpoint={world / 'run'}", "device=cpu", *FEW, f"input={world / 'walk.mp4'}", f"out={tmp_path / 'out'}",
        "sampling.given=[tok_rgb,{coords:[head]}]", "sampling.generate=[coords]",
    )  # fmt: skip
    assert_same(made.predicted, result.made.predicted)
    assert made.scores.keys() == {"reference"} and made._repr_html_().startswith('<img alt="generated: coords"')
    again = run_line(*shlex.split(made.command)[1:], f"out={tmp_path / 'again'}")
    assert_same(made.predicted, again.made.predicted)

    nothing = model.complete([], ["coords", "tok_rgb"])
    assert nothing.truth is None
    assert nothing.predicted.pictures.shape == (2, 32, 32, 3)


def test_what_a_run_never_learned_is_refused_with_its_key(tmp_path):
    table = {**MODALITIES, "target_alphas": [0, 0, 1, 1]}
    write_run(tmp_path / "run", {**MODEL, "table": table})
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    model = m3.load(tmp_path / "run", "cpu")
    assert model.learned == ["tok_rgb_next", "coords_next"]
    message = r"sampling.generate: coords was never a target of this run \(modalities.target_alphas\)"
    with pytest.raises(ValueError, match=message):
        model.complete(["tok_rgb"], ["coords"], tmp_path / "photo.png")
    with pytest.raises(ValueError, match=message):
        run_line(f"checkpoint={tmp_path / 'run'}", "device=cpu", f"input={tmp_path / 'photo.png'}",
                 "sampling.given=[tok_rgb]", "sampling.generate=[coords]", f"out={tmp_path / 'out'}")  # fmt: skip


def test_features_are_those_of_the_encoder(world, model):
    made = model.continue_video(world / "walk.mp4", frames=1)
    first = {name: torch.as_tensor(ids[0]) for name, ids in made.truth.tokens.items()}
    tokens = torch.cat([first["tok_rgb"], first["coords"], torch.zeros(4 + 39, dtype=torch.int64)])[None]
    is_known = torch.arange(tokens.shape[1]) < 4 + 39
    assert model.table.modalities == ("tok_rgb", "coords", "tok_rgb_next", "coords_next")
    expected = model.loaded.encode(tokens, is_known).numpy()
    np.testing.assert_allclose(model.encode(world / "walk.mp4"), expected, atol=1e-5)
    other = np.zeros((8, 8, 3), np.uint8)
    several = model.encode([world / "walk.mp4", other], given=["tok_rgb"], pool=None)
    assert several.shape == (8, 32) and several.dtype == np.float32


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, v: m.continue_video(np.zeros((2, 8, 8, 3))), "float64.*need uint8 RGB"),
        (lambda m, v: m.continue_video(np.zeros((8, 8), np.uint8)), r"uint8 \(8, 8\)"),
        (lambda m, v: m.continue_video(np.zeros((2, 8, 8, 3), np.uint8), fps=0), "fps=0"),
        (lambda m, v: m.continue_video(v, fps=5), "fps=5: is for arrays"),
        (lambda m, v: m.continue_video(v, joints=np.zeros((3, 12, 2))), r"joints: an array of shape \(3, 12, 2\)"),
        (lambda m, v: m.continue_video(v, samples=0), "samples=0"),
        (lambda m, v: m.continue_video(v, temperature=0.5), "temperature=0.5: is that of random samples"),
        (lambda m, v: m.continue_video(v, frames=0), "rollout.frames=0"),
        (lambda m, v: m.continue_video(v, gap=2), "rollout.gap=2"),
        (lambda m, v: m.encode([v, v]), "walk.mp4: named twice"),
        (lambda m, v: m.encode([]), "inputs: empty"),
        (lambda m, v: m.continue_video("nowhere.mp4"), "input=nowhere.mp4: no such file"),
        (lambda m, v: m.continue_video("${oc.env:HOME}.mp4"), r"input=\$\{oc.env:HOME\}.mp4: no such file"),
    ],
)
def test_what_cannot_be_is_named(world, model, call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(model, world / "walk.mp4")


def test_a_saved_model_is_the_same(model, tmp_path):
    again = m3.load(model.save(tmp_path / "saved"), "cpu")
    assert again.loaded.fingerprint == model.loaded.fingerprint
    shown = again._repr_html_()
    assert "32 × 32 px" in shown and again.loaded.fingerprint[:12] in shown
