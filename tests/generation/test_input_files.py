"""Pictures and videos of one's own become the tokens that preprocess.py makes of them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from support.random_world import CONF, MODALITIES, model_of
from support.tiny_videos import write_joints, write_video
from support.tiny_world import frame

import preprocess
from m3.batches.table import TokenTable
from m3.core.joints import JOINT_NAMES
from m3.core.modalities import ModalityTable
from m3.generation.input_files import preparation, prompts_of_files
from m3.generation.prompts import Prompts, prompts_of_split
from m3.generation.rollout import find_chains
from m3.shards.manifest import Manifest
from m3.tokens.mini import MiniTokenizer

TABLE: ModalityTable = instantiate(MODALITIES)


def shards_of(root: Path, *overrides: str) -> Manifest:
    with initialize_config_dir(CONF, version_base="1.3"):
        return preprocess.run(compose("preprocess", [
            "source=video_files", f"source.root={root / 'clips'}", f"out={root / 'data'}", "canvas.size=32",
            f"annotations={root / 'annotations'}",
            "workers=1", "split.ratios=[0,0,1]", "contact_sheet.num_pairs=0", *overrides,
        ]))  # fmt: skip


def prompts_of(root: Path, paths: list[Path], num_frames: int = 4, joints: Path | None = None) -> Prompts:
    settings = Manifest.load(root / "data").preparation if (root / "data").exists() else None
    how = preparation(32, num_frames, settings, "data")
    return prompts_of_files(paths, joints, num_frames, TABLE, MiniTokenizer(), how)


@pytest.mark.parametrize(
    "overrides",
    [
        ["pairs=chain", "pairs.threshold=0.7"],
        ["pairs=dense", "pairs.threshold=0.8", "canvas=person"],
        ["pairs=stride", "pairs.step=2", "canvas=pad", "source.fps=12.5"],
        ["pairs=chain6", "canvas=stretch", "pairs.threshold=0.99"],
    ],
)
def test_a_video_gives_the_tokens_of_its_shards(tmp_path, overrides):
    write_video(tmp_path / "clips" / "walk.mp4", num_frames=24)
    write_joints(tmp_path / "clips" / "walk.csv", num_frames=24)
    shards_of(tmp_path, *overrides)
    split = TokenTable.open(tmp_path / "data", "test")
    chain = find_chains(split.pairs, 4, "first")[0]
    wanted = prompts_of_split(split, TABLE, [chain], 4).tokens
    made = prompts_of(tmp_path, [tmp_path / "clips" / "walk.mp4"])
    assert wanted.is_present.all() and (made.tokens.is_present == wanted.is_present).all()
    for name in ("tok_rgb", "coords"):
        assert (made.tokens.ids[name] == wanted.ids[name]).all()
    assert [p.successor for p in made.chains[0].pairs] == [p.successor for p in chain.pairs]
    assert made.extent[0] == chain.pairs[0].pose_extent_px and made.has_joints.all()
    assert made.real.is_present.all() and not made.previous.is_present.any()


def test_a_video_without_joints(tmp_path):
    write_video(tmp_path / "walk.mp4", num_frames=8)
    made = prompts_of(tmp_path, [tmp_path / "walk.mp4"], num_frames=2)
    assert not made.tokens.is_known["coords"].any() and not made.has_joints.any() and np.isnan(made.extent).all()
    assert made.has_truth and made.tokens.ids["tok_rgb"].any() and not made.tokens.ids["coords"].any()


def test_a_picture_is_a_reference_without_truth(tmp_path):
    Image.fromarray(frame(0)).save(tmp_path / "stand.png")
    write_joints(tmp_path / "stand.csv", 1, hidden=("head", "left_ankle"))
    made = prompts_of(tmp_path, [tmp_path / "stand.png"])
    assert not made.has_truth and made.tokens.is_present[0].tolist() == [True] + [False] * 4
    hidden = [not known for known in made.tokens.is_known["coords"][0, 0, :13]]
    assert [JOINT_NAMES[j] for j in np.flatnonzero(hidden)] == ["head", "left_ankle"]
    assert made.chains[0].title == "clip stand, frame 0"
    is_reference = torch.arange(TABLE.num_tokens) < TABLE.offsets[TABLE.index("tok_rgb_next")]
    known = made.given(is_reference, TABLE)[0].is_known
    assert known["tok_rgb"][:, 0].all() and known["coords"][0, 0].tolist() == 3 * [not each for each in hidden]
    assert not any(each[:, 1].any() for each in known.values())


def test_a_turned_picture_is_upright(tmp_path):
    upright = Image.fromarray(frame(0))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    made = prompts_of(tmp_path, [tmp_path / "turned.png", tmp_path / "upright.png"])
    assert (made.real.values["tok_rgb"][0, 0] == made.real.values["tok_rgb"][1, 0]).all()
    assert (made.tokens.ids["tok_rgb"][0] == made.tokens.ids["tok_rgb"][1]).all()


def test_several_files_and_joints_elsewhere(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", num_frames=8)
    elsewhere = tmp_path / "labels"
    elsewhere.mkdir()
    joints = write_joints(elsewhere / "joints.csv", 8)
    both = prompts_of(tmp_path, [tmp_path / "a.mp4", tmp_path / "b.mp4"], num_frames=2)
    assert both.sample_ids().tolist() == [0, 1] and [c.pairs[0].clip for c in both.chains] == ["a", "b"]
    one = prompts_of(tmp_path, [tmp_path / "a.mp4"], 2, joints)
    assert one.has_joints.all() and not both.has_joints.any()
    write_joints(tmp_path / "b.csv", 8)  # beside the video; the other one goes before it
    other = write_joints(elsewhere / "other.csv", 8, seed=1)
    beside, given = (prompts_of(tmp_path, [tmp_path / "b.mp4"], 2, path) for path in (None, other))
    beside, given, one = (each.tokens.ids["coords"] for each in (beside, given, one))
    assert (beside == one).all() and (given != one).any()


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "broken.jpg").write_text("")
    (tmp_path / "broken.mp4").write_text("")
    Image.fromarray(frame(0)).save(tmp_path / "a.png")
    Image.fromarray(frame(0)).save(tmp_path / "b.png")
    write_joints(tmp_path / "b.csv", 1)
    (tmp_path / "b.npz").write_text("")
    for name, message in [
        ("nowhere.png", "nowhere.png: no such file"), ("notes.txt", "notes.txt: neither a picture nor a video"),
        ("broken.jpg", "broken.jpg: .*the file is empty"), ("broken.mp4", "broken.mp4: .*the file is empty"),
        ("b.png", "b.csv and b.npz"),
    ]:  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            prompts_of(tmp_path, [tmp_path / name])
    with pytest.raises(FileNotFoundError, match="joints=.*nowhere.csv"):
        prompts_of(tmp_path, [tmp_path / "a.png"], joints=tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="one file for the 2 files"):
        prompts_of(tmp_path, [tmp_path / "a.png", tmp_path / "b.png"], joints=tmp_path / "b.csv")


def test_a_video_is_used_up_to_its_damage(tmp_path):
    path = write_video(tmp_path / "walk.mp4", 30, options={"g": "30", "bf": "0"})
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.size][12]
    data = bytearray(path.read_bytes())
    data[start : start + 200] = bytes(range(200))
    path.write_bytes(data)
    made = prompts_of(tmp_path, [path], num_frames=29)
    assert 0 < made.chains[0].pairs[-1].successor < 12 and made.tokens.is_present.sum() == len(made.chains[0].rows) + 1


def test_models_of_one_kind_of_tokens(tmp_path):
    write_video(tmp_path / "walk.mp4", num_frames=8)
    write_joints(tmp_path / "walk.csv", 8)
    how = preparation(32, 2, None, "")
    for names, num_tokens, has_joints in (
        (["coords", "coords_next"], 39, True), (["tok_rgb", "tok_rgb_next"], 4, False)):  # fmt: skip
        table = instantiate(model_of(names)["table"])
        made = prompts_of_files([tmp_path / "walk.mp4"], None, 2, table, MiniTokenizer(), how)
        assert made.tokens.ids.keys() == made.tokens.is_known.keys() == {names[0]}
        assert made.tokens.ids[names[0]].shape == (1, 3, num_tokens) and made.has_joints.any() == has_joints
