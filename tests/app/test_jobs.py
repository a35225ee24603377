"""What the page computes, in this process: a random model, tiny videos, hostile paths."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from PIL import Image
from support.random_world import write_data, write_run
from support.tiny_videos import write_joints, write_video

import generate
from m3.app import browse, jobs
from m3.app.folders import inside
from m3.core.joints import JOINT_NAMES

FEW = [
    "pictures.cell_px=32",
    *(
        f"{key}.{name}.num_steps=2"
        for key in ("sampling.schemes", "rollout.sample_schemes")
        for name in ("coords", "tok_rgb", "coords_next", "tok_rgb_next")
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A data set (root/data), a run (run), a video (walk.mp4) with joints (walk-joints.csv), and a photo."""
    root = tmp_path_factory.mktemp("app")
    write_data(root / "root" / "data")
    write_run(root / "run", scale=1.0)
    write_video(root / "walk.mp4", num_frames=20)
    write_joints(root / "joints.csv", num_frames=20)
    Image.new("RGB", (60, 40), (90, 120, 40)).save(root / "photo.png")
    return root


@pytest.fixture(scope="module")
def desk(world) -> jobs.Desk:
    own = world / "own"
    own.mkdir()
    desk = jobs.Desk(str(world / "run"), "cpu", FEW, str(world / "root"), str(own))
    desk.has_blazepose = False  # nobody is in these pictures
    return desk


def result_folder(world: Path, name: str) -> Path:
    folder = world / "own" / name
    folder.mkdir()
    return folder


ASKED = {"frames": 2, "futures": 1, "gap": None, "action": None, "captions": None, "temperature": 1.0, "seed": 0}


def test_a_video_is_looked_at_mended_and_continued(world, desk, monkeypatch):
    folder = result_folder(world, "r1")
    (folder / "walk.mp4").write_bytes((world / "walk.mp4").read_bytes())
    seen = jobs.look(desk, str(folder / "walk.mp4"), str(folder), joints=str(world / "joints.csv"))
    assert seen["is_video"] and (seen["num_frames"], seen["start"]) == (20, 6) and len(seen["joints"]) == 13
    assert Image.open(seen["reference"]).size == (64, 48)
    drawn = jobs.draw(desk, seen, str(folder), 0, chosen=0)
    assert Image.open(drawn).tobytes() != Image.open(seen["reference"]).tobytes()

    seen["joints"][JOINT_NAMES.index("left_wrist")] = [11.0, 12.5, True]
    seen["joint_file"] = jobs.move(desk, seen, str(folder))
    again = jobs.look(desk, seen["path"], str(folder), start=6, joints=seen["joint_file"])
    assert again["joints"][JOINT_NAMES.index("left_wrist")] == [11.0, 12.5, True]
    np.testing.assert_allclose(again["joints"], seen["joints"], atol=0.006)
    other = jobs.look(desk, seen["path"], str(folder), start=7, joints=seen["joint_file"])
    assert other["joints"][JOINT_NAMES.index("left_wrist")][0] != 11.0  # the other frames keep theirs

    made = jobs.roll_out(desk, seen["path"], str(folder), seen["joint_file"], 6, **{**ASKED, "futures": 2})
    assert len(made["frames"]) == 3 and Path(made["film"]).stat().st_size > 0 and made["has_truth"]
    assert "copy of the reference" in made["verdict"] and "<table" in made["scores"]
    assert str(folder) not in made["command"] and "input=walk.mp4 joints=walk-joints.csv" in made["command"]

    # The command line, in the folder of the downloads, makes the same tokens.
    monkeypatch.chdir(folder)
    with initialize_config_module("m3.conf", version_base="1.3"):
        same = generate.run(compose("generate", [*shlex.split(made["command"])[1:], "out=again"])).made
    found, _ = desk.result(made["result"])
    for name, ids in same.predicted.tokens.ids.items():
        np.testing.assert_array_equal(found.predicted.tokens[name], ids[0])

    bare = jobs.film(desk, made["result"], False, False)
    sizes = [Image.open(each["frames"][1]).size for each in (made, bare)]
    assert sizes[0] != sizes[1]  # four panels, and three without the truth
    drawn = jobs.film(desk, made["result"], True, False)
    assert Image.open(drawn["frames"][1]).tobytes() != Image.open(bare["frames"][1]).tobytes()
    assert jobs.film(desk, made["result"], False, False) == bare
    names = {Path(path).name for path in jobs.downloads(desk, made["result"])}
    assert {"report.html", "tokens.npz", "metrics.json", "rollout.mp4", "walk-joints.csv"} <= names


def test_a_photo_has_no_truth(world, desk):
    folder = result_folder(world, "r2")
    seen = jobs.look(desk, str(world / "photo.png"), str(folder))
    assert not seen["is_video"] and seen["start"] is None and seen["joints"] is None
    made = jobs.roll_out(desk, seen["path"], str(folder), None, None, **ASKED)
    assert not made["has_truth"] and "Nothing follows" in made["verdict"]


def test_pairs_are_completed(world, desk):
    folder = result_folder(world, "r3")
    made = jobs.complete(desk, str(world / "photo.png"), str(folder), None, None, ["tok_rgb"], ["coords"], 1, 0)
    assert Image.open(made["sheet"]).width > 200 and "sampling.generate=[coords]" in made["command"]
    nothing = jobs.complete(desk, str(world / "photo.png"), str(folder), None, None, [], ["coords", "tok_rgb"], 2, 0)
    assert "input" not in nothing["command"] and "nothing" in nothing["verdict"]
    for given, wanted, message in (([], [], "choose what"), (["tok_rgb"], ["coords"], "drop a video")):
        with pytest.raises(ValueError, match=message):
            jobs.complete(desk, None, str(folder), None, None, given, wanted, 1, 0)


@pytest.mark.parametrize(
    "limit, value, message",
    [
        ("MAX_FRAMES", 19, "a video of 20 frames, 1 s: the page takes 19 frames"),
        ("MAX_SECONDS", 0.5, "the page takes 900 frames and 0 s"),
        ("MAX_SIDE_PX", 50, "64 × 48 px: the page takes 50 px a side"),
    ],
)
def test_long_and_large_files_are_refused(world, desk, monkeypatch, limit, value, message):
    monkeypatch.setattr(jobs, limit, value)
    with pytest.raises(ValueError, match=message):
        jobs.look(desk, str(world / "walk.mp4"), str(world / "own"))


def test_other_files_and_values_are_refused(world, desk):
    (world / "page.html").write_text("<script>")
    (world / "broken.mp4").write_bytes(b"no video")
    for name, message in (("page.html", "neither a video nor a picture"), ("broken.mp4", "broken.mp4")):
        with pytest.raises(ValueError, match=message):
            jobs.look(desk, str(world / name), str(world / "own"))
    for key, value in (("frames", 17), ("frames", 0), ("futures", 9), ("captions", "a" * 501), ("gap", 10**9)):
        with pytest.raises(ValueError):
            jobs.roll_out(desk, str(world / "walk.mp4"), str(world / "own"), None, 3, **{**ASKED, key: value})
    with pytest.raises(ValueError, match="no longer kept"):
        jobs.film(desk, "r0", True, True)


def test_the_model_says_what_it_takes_and_makes(desk):
    facts = json.loads(json.dumps(jobs.facts(desk)))
    assert facts["learned"] == ["tok_rgb", "coords", "tok_rgb_next", "coords_next"] and facts["rolls_out"]
    assert not facts["has_gap"] and not facts["has_captions"] and facts["actions"] == []
    assert facts["labels"]["coords_next"] == "next joints (coords_next)"


def test_a_data_set_is_shown(world, desk):
    folder = result_folder(world, "r4")
    found = jobs.data_set(desk, "data", str(folder), 0)
    assert "2 clips, 9 pairs" in found["facts"] and found["rejected"] == []
    # as many pairs as the data set has clips, then second ones
    assert len(found["pairs"]) == 6 and all(Image.open(path).width > 100 for path, _ in found["pairs"])
    assert jobs.places(desk)["data"] == ["data"]


def test_runs_are_compared(world, desk):
    root = world / "root"
    name = "<b>x"
    for run, values in (("one", (0.5, 0.4)), (name, (0.6, 0.3))):
        (root / run / "csv" / "version_0").mkdir(parents=True)
        log = "step,train/loss,eval/loss\n0,9.5,\n1,8.25,\n1,,8.5\nx,nan,inf\n"
        (root / run / "csv" / "version_0" / "metrics.csv").write_text(log)
        horizons = [{"horizon": k, "model": value} for k, value in enumerate(values, 1)]
        record = {"scores": {"pck@0.1": {"horizons": horizons}, "<script>": {"horizons": []}}}
        (root / run / "metrics.json").write_text(json.dumps(record))
    assert set(jobs.places(desk)["runs"]) == {"one", name}
    found = jobs.runs(desk, ["one", name])
    assert "<b>x" not in found["scores"] + found["training"] and "&lt;b&gt;x" in found["scores"]
    assert "<td>50.0</td><td>60.0 ★</td>" in found["scores"] and "<td>40.0 ★</td><td>30.0</td>" in found["scores"]
    assert [row["value"] for row in found["curves"] if row["run"] == "one"][:2] == [9.5, 8.25]
    assert {row["horizon"] for row in found["horizons"]} == {1, 2}
    assert "8.2500" in found["training"] and "script" not in json.dumps(found)

    (root / "one" / "metrics.json").write_text('{"scores": {"pck@0.1": {"horizons": 7}}}')
    with pytest.raises(ValueError, match="horizons"):
        jobs.runs(desk, ["one"])
    with pytest.raises(ValueError, match="up to 8 runs"):
        jobs.runs(desk, ["one"] * 9)


@pytest.mark.parametrize("text", ["..", "../own", "/etc", "a/../../own", "link", "", " ", "\0", "x" * 600, None])
def test_paths_stay_inside_the_root(world, desk, text):
    root = world / "root"
    if not (root / "link").is_symlink():
        (root / "link").symlink_to(world / "own")
    with pytest.raises(ValueError):
        inside(root, text)
    with pytest.raises(ValueError):
        browse.data_set(root, text, world / "own", 0)
    with pytest.raises(ValueError):
        browse.runs(root, [text])
    assert inside(root, "data") == (root / "data").resolve()
    assert inside(root, str(root / "data")) == (root / "data").resolve()


def test_a_manifest_is_no_way_out_of_the_root(world):
    root = world / "root"
    (root / "one").mkdir(exist_ok=True)
    (world / "secret.json").write_text('{"scores": {}}')
    (root / "linked").mkdir()
    (root / "linked" / "metrics.json").symlink_to(world / "secret.json")
    with pytest.raises(ValueError, match="outside of"):
        browse.runs(root, ["linked"])
