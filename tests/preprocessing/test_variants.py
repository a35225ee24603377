"""What a data set may hold: mirror images, poses alone, clips without joints, captions and their tokenizer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from support.clip_sources import EveryFrame
from support.tiny_world import frame, label_fields, write_world

from m3.batches.table import TokenTable
from m3.captions import LabelCaptioner, NoCaptioner
from m3.clips.canvas import CropCanvas
from m3.commands import preprocess
from m3.core.joints import JOINT_NAMES, Joints, mirror_joints, mirror_pictures
from m3.core.types import Clip, Rejection
from m3.preprocessing import encode, prepare
from m3.preprocessing.encode import ClipEncoder
from m3.preprocessing.prepare import ClipPreparer, PreparedClip
from m3.shards.manifest import PAIR_MODALITIES, STORED_MODALITIES, Manifest
from m3.shards.reader import read_shard
from m3.tokens.base import NoTokenizer
from m3.tokens.mini import MiniTokenizer
from m3.tokens.text import TextTokenizer

ROOT = Path(__file__).parents[2]
POSES = ("coords", "coords_next")


class Untouchable(Sequence):
    """Frames that must not be decoded."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> np.ndarray:
        raise AssertionError("a frame was decoded")


class Counted(Sequence):
    """Frames of the tiny world that count how often each is decoded."""

    def __init__(self, num_frames: int) -> None:
        self.times_read = [0] * num_frames

    def __len__(self) -> int:
        return len(self.times_read)

    def __getitem__(self, index: int) -> np.ndarray:
        self.times_read[index] += 1
        return frame(index)


class OneClip:
    """A source of one clip."""

    name = "one"

    def __init__(self, frames: Sequence[np.ndarray], has_joints: bool = True) -> None:
        self.frames, self.has_joints = frames, has_joints

    def read(self, clip_id: str) -> Clip:
        fields = label_fields(len(self.frames))
        joints = Joints(np.stack([fields["x"], fields["y"]], -1) - 0.5, np.ones((len(self.frames), 13), bool))
        return Clip(clip_id, self.frames, (48, 64), joints if self.has_joints else None, "squat")


def config(world: Path, out: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        source = ["source=penn_action", f"source.root={world}"]
        settings = ["canvas.size=32", "workers=0", "contact_sheet.num_pairs=0"]
        return compose("preprocess", [*source, f"out={out}", *settings, *overrides])


def stored(out: Path) -> dict[str, dict[str, bytes]]:
    """Key → members of all samples."""
    manifest = Manifest.load(out)
    return {
        key: members
        for shards in manifest.shards.values()
        for shard in shards
        for key, members in read_shard(out, shard)
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 5)
    return root


# ── mirror images ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_left_and_right_change_places() -> None:
    xy = np.stack([np.arange(13.0), 100 + np.arange(13.0)], -1)[None]  # (1, 13, 2)
    is_visible = np.arange(13)[None] != JOINT_NAMES.index("left_knee")
    mirrored = mirror_joints(Joints(xy, is_visible), 32)
    head, left, right = (JOINT_NAMES.index(name) for name in ("head", "left_wrist", "right_wrist"))
    assert mirrored.xy[0, head].tolist() == [32, 100]
    assert mirrored.xy[0, left].tolist() == [32 - right, 100 + right]
    assert mirrored.xy[0, right].tolist() == [32 - left, 100 + left]
    hidden = [JOINT_NAMES[k] for k in np.flatnonzero(~mirrored.is_visible[0])]
    assert hidden == ["right_knee"]
    twice = mirror_joints(mirrored, 32)
    assert np.array_equal(twice.xy, xy) and np.array_equal(twice.is_visible, is_visible)
    # a point and the pixel under it stay together
    picture = np.zeros((1, 4, 8, 3), np.uint8)
    picture[0, 1, 2] = 255  # its center is (2.5, 1.5)
    assert mirror_pictures(picture)[0, 1, 5].tolist() == [255] * 3  # 8 − 2.5 = 5.5
    assert mirror_pictures(picture).sum() == picture.sum()


def write_mirror_world(world: Path, root: Path) -> None:
    """Frames and labels of another world flipped on disk, by other means than m3's."""
    for path in sorted(world.glob("frames/*/*.jpg")):
        folder = root / "frames" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / path.name, format="PNG")  # lossless
    (root / "labels").mkdir()
    swapped = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]
    for path in sorted(world.glob("labels/*.mat")):
        fields = {name: value for name, value in scipy.io.loadmat(path).items() if name[0] != "_"}
        fields["x"] = 64 + 1 - fields["x"][:, swapped]  # 1-based pixels of 64 columns
        fields["y"], fields["visibility"] = fields["y"][:, swapped], fields["visibility"][:, swapped]
        scipy.io.savemat(root / "labels" / path.name, fields)


def test_mirror_images_are_those_of_a_world_mirrored_on_disk(world: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(world.glob("labels/*.mat"))):  # some joints hidden, not the same on both sides
        fields = {name: value for name, value in scipy.io.loadmat(path).items() if name[0] != "_"}
        fields["visibility"][:, 1 + number] = 0
        scipy.io.savemat(path, fields)
    write_mirror_world(world, tmp_path / "mirrored")
    manifest = preprocess.run(config(world, tmp_path / "both", "augment.flip=true"))
    preprocess.run(config(tmp_path / "mirrored", tmp_path / "one"))
    assert manifest.variants == ("flip",) and Manifest.load(tmp_path / "one").variants == ()
    both, one = stored(tmp_path / "both"), stored(tmp_path / "one")
    assert both.keys() == one.keys() and len(both) > 12
    for key, members in both.items():
        names = PAIR_MODALITIES if json.loads(members["meta.json"])["previous"] < 0 else STORED_MODALITIES
        assert {name for name in members if name.endswith("npy")} == {
            f"{name}{variant}.npy" for name in names for variant in ("", ".flip")}  # fmt: skip
        for name in names:
            assert members[f"{name}.flip.npy"] == one[key][f"{name}.npy"], (key, name)
    is_other = [members["tok_rgb.npy"] != members["tok_rgb.flip.npy"] for members in both.values()]
    assert all(is_other)
    rows = TokenTable.open(tmp_path / "both", "train").tokens
    assert rows.shape[1] == 2 * manifest.num_tokens == 2 * 129 and not np.array_equal(rows[:, :129], rows[:, 129:])


# ── poses alone, clips without joints ──────────────────────────────────────────────────────────────────────────────


def test_poses_alone_decode_nothing_that_the_miner_does_not_read() -> None:
    preparer = ClipPreparer(OneClip(Untouchable()), CropCanvas(32), EveryFrame(), POSES, has_flip=True)
    prepared = preparer("0001")
    assert isinstance(prepared, PreparedClip) and prepared.shown == () and prepared.num_frames == 5
    staged = ClipEncoder(preparer, NoTokenizer(), LabelCaptioner(), 4)(prepared)
    assert set(staged.tokens) == {"coords", "coords.flip"} and staged.tokens["coords"].shape == (5, 3, 13)
    assert staged.captions == ("a person doing a squat",) * 4
    with_pictures = ClipPreparer(OneClip(Untouchable()), CropCanvas(32), EveryFrame())("0001")
    assert isinstance(with_pictures, Rejection) and "a frame was decoded" in with_pictures.reason


def test_tokenizer_none_stores_the_joint_tokens_of_a_whole_data_set(world: Path, tmp_path: Path) -> None:
    preprocess.run(config(world, tmp_path / "all"))
    manifest = preprocess.run(config(world, tmp_path / "poses", "tokenizer=none"))
    assert [modality.name for modality in manifest.modalities] == [*POSES, "coords_prev"]
    assert manifest.tokenizer == {"name": "none", "fingerprint": "", "settings": manifest.settings["tokenizer"]}
    everything, poses = stored(tmp_path / "all"), stored(tmp_path / "poses")
    assert everything.keys() == poses.keys()
    for key, members in poses.items():
        assert set(members) - {"coords_prev.npy"} == {"coords.npy", "coords_next.npy", "captions.json", "meta.json"}
        assert all(members[name] == everything[key][name] for name in members)


COORDS = ("modalities=m3", "modalities.modalities=[coords,coords_next]", "modalities.vocab_sizes=[8192,8192]",
          "modalities.max_seq_lens=[39,39]", "modalities.input_alphas=[1,1]", "modalities.target_alphas=[1,1]",
          "modalities.input_tokens_range=[8,39]", "modalities.target_tokens_range=[8,39]")  # fmt: skip


def test_a_table_without_pictures_is_tokenizer_none(world: Path, tmp_path: Path) -> None:
    none = preprocess.run(config(world, tmp_path / "none", "tokenizer=none"))
    table = preprocess.run(config(world, tmp_path / "table", *COORDS, "tokenizer.path=/nowhere"))
    assert table.tokenizer == none.tokenizer and [modality.name for modality in table.modalities] == list(POSES)
    everything, named = stored(tmp_path / "none"), stored(tmp_path / "table")
    assert everything.keys() == named.keys()
    for key, members in named.items():
        assert members == {name: content for name, content in everything[key].items() if name != "coords_prev.npy"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("modalities=m3",), r"256 tokens of tok_rgb, but canvas.size=32 gives 4"),
        (("modalities=m3", "canvas.size=256", "tokenizer=none"), "tokenizer=none makes no tok_rgb"),
        (("augment.flip=yes",), "augment.flip='yes'"),
        (("text_vocab_size=100",), "text_vocab_size=100"),
    ],
)
def test_what_cannot_fit_stops_before_any_work(
    world: Path, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess.run(config(world, tmp_path / "data", *overrides))
    assert not list(tmp_path.iterdir())


def test_a_clip_without_joints_has_no_tokens_of_them() -> None:
    preparer = ClipPreparer(OneClip(Counted(4), has_joints=False), CropCanvas(32), EveryFrame(), has_flip=True)
    staged = ClipEncoder(preparer, MiniTokenizer(), NoCaptioner(), 4)(preparer("0001"))
    assert not staged.has_joints and staged.pose_extent_px is None
    assert set(staged.tokens) == {"tok_rgb", "tok_rgb.flip"}
    assert staged.tokens["tok_rgb"].shape == staged.tokens["tok_rgb.flip"].shape == (4, 2, 2)
    nothing = ClipPreparer(OneClip(Counted(4), has_joints=False), CropCanvas(32), EveryFrame(), POSES)("0001")
    assert isinstance(nothing, Rejection) and "no joints" in nothing.reason


def test_a_data_set_without_any_joints_says_so(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = preprocess.instantiate

    def without_joints(cfg: DictConfig):
        part = read(cfg)
        if hasattr(part, "clip_ids"):
            with_joints = part.read
            part.read = lambda clip_id: Clip(**{**vars(with_joints(clip_id)), "joints": None})
        return part

    assert preprocess.run(config(world, tmp_path / "with")).has_joints
    monkeypatch.setattr(preprocess, "instantiate", without_joints)
    manifest = preprocess.run(config(world, tmp_path / "without"))
    assert not manifest.has_joints and [m.name for m in manifest.modalities][1] == "coords"
    table = TokenTable.open(tmp_path / "without", "train")
    assert {info.pose_extent_px for info in table.pairs} == {None} and not table.tokens[:, 4:43].any()
    with pytest.raises(ValueError, match="none of the 5 clips can be used .*no joints"):
        preprocess.run(config(world, tmp_path / "nothing", "tokenizer=none"))


# ── long clips ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_long_clip_comes_in_blocks_with_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory at once: as many pictures as the limit, whatever the length; each frame decoded once more at most."""
    frames = Counted(11)
    preparer = ClipPreparer(OneClip(frames), CropCanvas(32), EveryFrame())
    encoder = ClipEncoder(preparer, MiniTokenizer(), NoCaptioner(), 4)
    whole = encoder(preparer("0001"))
    assert frames.times_read == [1] * 11
    monkeypatch.setattr(prepare, "MAX_BYTES_OF_PICTURES", 3 * 3 * 32 * 32)
    monkeypatch.setattr(encode, "_PICTURES_AT_ONCE", 5)
    prepared = preparer("0001")
    assert sorted(prepared.pictures) == [0, 1, 2] and prepared.shown == tuple(range(11))
    blocks = [(indices, len(pictures)) for indices, pictures in encoder._blocks(prepared)]
    assert blocks == [(list(range(8)), 8), ([8, 9, 10], 3)]
    in_blocks = encoder(prepared)
    assert all(np.array_equal(in_blocks.tokens[name], whole.tokens[name]) for name in whole.tokens)


def test_a_picture_that_vanished_meanwhile_rejects_the_clip(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "MAX_BYTES_OF_PICTURES", 1)
    shutil.copytree(world, tmp_path / "world")
    pictures = ClipPreparer.pictures

    def vanishing(self: ClipPreparer, prepared: PreparedClip):
        if prepared.staged.clip == "0002":
            (tmp_path / "world/frames/0002/000003.jpg").unlink(missing_ok=True)
        return pictures(self, prepared)

    monkeypatch.setattr(ClipPreparer, "pictures", vanishing)
    manifest = preprocess.run(config(tmp_path / "world", tmp_path / "data"))
    assert [rejection.clip for rejection in manifest.rejected] == ["0002"]
    assert not any(key.startswith("0002") for key in stored(tmp_path / "data"))


# ── captions ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Describer:
    """A captioner that looks at pictures: their mean brightness in words."""

    name, fingerprint, needs_pictures = "describer", "f" * 64, True

    def __init__(self) -> None:
        self.calls: list[int] = []

    def captions(self, action: str | None, num_frames: int, pictures: np.ndarray | None) -> list[str | None]:
        assert pictures is not None and pictures.shape[1:] == (32, 32, 3) and len(pictures) == num_frames
        self.calls.append(num_frames)
        return [f"{action} {round(float(picture.mean()), 3)}" for picture in pictures]


@pytest.mark.parametrize("modalities", [POSES, ("tok_rgb", "tok_rgb_next")])
def test_a_seeing_captioner_sees_each_reference_frame_once(modalities: tuple[str, ...]) -> None:
    captioner, canvas = Describer(), CropCanvas(32)
    preparer = ClipPreparer(OneClip(Counted(6)), canvas, EveryFrame(), modalities, is_captioned_by_sight=True)
    tokenizer = NoTokenizer() if modalities == POSES else MiniTokenizer()
    staged = ClipEncoder(preparer, tokenizer, captioner, 4)(preparer("0001"))
    window = canvas.window((48, 64))
    assert captioner.calls == [5]
    assert staged.captions == tuple(f"squat {round(float(window.picture(frame(n)).mean()), 3)}" for n in range(5))


def test_the_text_tokenizer_of_train_lies_beside_the_manifest(world: Path, tmp_path: Path) -> None:
    manifest = preprocess.run(config(world, tmp_path / "data", "tokenizer=none", "text_vocab_size=300"))
    content = (tmp_path / "data/text_tokenizer.json").read_bytes()
    tokenizer = TextTokenizer(content.decode())
    sha256 = hashlib.sha256(content).hexdigest()
    assert manifest.text_tokenizer == {
        "file": "text_tokenizer.json", "sha256": sha256, "num_ids": tokenizer.num_ids}  # fmt: skip
    assert 258 < tokenizer.num_ids <= 300
    captions = {
        caption for members in stored(tmp_path / "data").values() for caption in json.loads(members["captions.json"])
    }
    assert all(tokenizer.decode(tokenizer.encode(caption, 64)[0]) == caption for caption in captions) and captions
    assert manifest.captioner == {"name": "label", "fingerprint": None, "settings": manifest.settings["captioner"]}
    silent = preprocess.run(config(world, tmp_path / "data", "tokenizer=none", "captioner=none", "overwrite=true"))
    assert silent.text_tokenizer is None and not (tmp_path / "data/text_tokenizer.json").exists()
