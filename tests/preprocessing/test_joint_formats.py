"""Joint files of other programs become the same joints, found beside the videos by preprocess.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from support.configs import CONF
from support.joint_formats import (
    BLAZEPOSE,
    BODY_25,
    COCO,
    COCO_18,
    H36M,
    NUM_FRAMES,
    SIZE,
    SMPL,
    alphapose,
    array,
    coco,
    deeplabcut_rows,
    flat,
    mediapipe,
    mmpose,
    places,
    truth,
    write_deeplabcut_hdf5,
    write_json,
    write_openpose,
    write_rows,
    write_sleap,
)  # fmt: skip
from support.preprocess_runs import contents, samples
from support.tiny_videos import write_video

import preprocess
from m3.core.joints import JOINT_NAMES
from m3.shards.manifest import Manifest
from m3.tokens.joints import JointCodec


def config(root: Path, *overrides: str) -> DictConfig:
    split = [] if "split=official" in overrides else ["split.ratios=[1,0,0]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("preprocess", [
            "source=video_files", f"source.root={root / 'videos'}", f"out={root / 'data'}", "canvas.size=64",
            f"annotations={root / 'annotations'}", "tokenizer=none", "pairs=stride", "pairs.step=1", "workers=0",
            "contact_sheet.num_pairs=0", "source.cuts=false", *split, *overrides,
        ])  # fmt: skip


def write_every_format(root: Path) -> None:
    """A video and a joint file of each format, called after it."""
    write_openpose(root / "openpose25_json", "openpose25", BODY_25)
    write_openpose(root, "openpose18", COCO_18)
    write_json(root / "coco.json", coco())
    write_json(root / "alphapose" / "alphapose-results.json", alphapose())
    write_json(root / "results_mmpose.json", mmpose())
    write_json(root / "mediapipe.mp4.json", mediapipe())
    rows = [["frame", *(f"{axis}{k}" for k in range(33) for axis in "xyzv")]]
    for t in range(NUM_FRAMES):
        rows.append([str(t), *(f"{v:.5f}" for x, y in places(BLAZEPOSE, t) / 64 for v in (x, y, -0.1, 0.99))])
    write_rows(root / "mediapipe_table_landmarks.csv", rows)
    write_rows(root / "dlc_csvDLC_resnet50_walkJan1shuffle1_1000.csv", deeplabcut_rows())
    write_deeplabcut_hdf5(root / "dlc_h5DLC_resnet50_walkJan1shuffle1_1000.h5")
    write_sleap(root / "labels.v001.000_sleap.analysis.h5")
    np.save(root / "h36m.npy", array(H36M))
    np.savez(root / "coco17_array.npz", keypoints=array(COCO), scores=np.full((NUM_FRAMES, 17), 0.9))
    np.save(root / "humanml.npy", array(SMPL))


CLIPS = ("openpose25", "openpose18", "coco", "alphapose", "mmpose", "mediapipe", "mediapipe_table", "dlc_csv", "dlc_h5",
         "sleap", "h36m", "coco17_array", "humanml")  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    root = tmp_path_factory.mktemp("formats")
    for clip in CLIPS:
        write_video(root / "videos" / f"{clip}.mp4", NUM_FRAMES, SIZE)
    write_every_format(root / "videos")
    return root, preprocess.run(config(root))


def poses_of(root: Path) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Clip → frame → (13, 2) places in pixels and (13,) visibilities."""
    found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    codec = JointCodec(64)
    for sample in samples(root / "data", "train"):
        meta = sample["meta.json"]
        for name, frame in (("coords.npy", "reference"), ("coords_next.npy", "successor")):
            xy, is_visible = codec.decode(sample[name][None].astype(np.int64))
            found.setdefault(meta["clip"], {})[meta[frame]] = (xy[0], is_visible[0])
    return found


@pytest.mark.parametrize("clip", CLIPS)
def test_every_format_gives_the_same_joints(built: tuple[Path, Manifest], clip: str) -> None:
    root, manifest = built
    assert manifest.rejected == ()
    frames = poses_of(root)[clip]
    assert sorted(frames) == list(range(NUM_FRAMES))
    for t, (xy, is_visible) in frames.items():
        expected = truth(t)
        if clip.startswith("dlc"):
            expected[0] = places(["nose"], t)[0]  # no ears among its points
        if clip == "h36m":
            expected[0] = places(["head_top", "nose"], t).mean(0)
        if clip == "humanml":
            expected[0] = places(["nose"], t)[0]  # what its skeleton calls head
        assert np.abs(xy - expected).max() <= 0.51, (clip, t, JOINT_NAMES[int(np.abs(xy - expected).max(1).argmax())])
        assert is_visible.all()


def test_the_manifest_says_whose_joints_they_are_and_how_they_were_understood(built: tuple[Path, Manifest]) -> None:
    _, manifest = built
    notes = {(each["clip"], each["note"]) for each in manifest.notes}
    for clip, note in {
        "openpose25": "joints of openpose25_json/, which is OpenPose's",
        "coco": "joints of coco.json, which is COCO's",
        "mmpose": "results_mmpose.json: frames are counted from 1",
        "mediapipe": "mediapipe.mp4.json: coordinates are shares of width and height",
        "sleap": "joints of labels.v001.000_sleap.analysis.h5, which is SLEAP's",
        "h36m": "joints of h36m.npy, which is Human3.6M's",
    }.items():
        assert (clip, note) in notes
    assert manifest.settings["source"]["joint_files"]["person"] == "largest"
    assert manifest.statistics["clips_with_joints"] == len(CLIPS)


def test_found_joints_are_kept_as_m3s_own_files_and_the_bytes_do_not_depend_on_workers(
    built: tuple[Path, Manifest], tmp_path: Path
) -> None:
    root, _ = built
    kept = sorted((root / "annotations").rglob("*.csv"))
    assert len(kept) == len(CLIPS) and kept[0].read_text().startswith("frame,head_x,head_y,head_visibility")
    preprocess.run(config(root, "workers=2", f"out={tmp_path / 'data'}", f"annotations={tmp_path / 'a'}"))
    assert contents(tmp_path / "data") == contents(root / "data")


def one(tmp_path: Path, *overrides: str, num_frames: int = NUM_FRAMES) -> tuple[Manifest, dict]:
    """A data set of one video, `walk.mp4`, whose joint file is there already."""
    write_video(tmp_path / "videos" / "walk.mp4", num_frames, SIZE)
    write_video(tmp_path / "videos" / "other.mp4", NUM_FRAMES, SIZE)
    np.save(tmp_path / "videos" / "other.npy", array(COCO))
    manifest = preprocess.run(config(tmp_path, *overrides))
    return manifest, poses_of(tmp_path)


def reason(tmp_path: Path, *overrides: str, num_frames: int = NUM_FRAMES) -> str:
    manifest, _ = one(tmp_path, *overrides, num_frames=num_frames)
    assert [each.clip for each in manifest.rejected] == ["walk"], manifest.notes
    return manifest.rejected[0].reason


def notes_of(manifest: Manifest) -> str:
    return "; ".join(each["note"] for each in manifest.notes if each["clip"].startswith("walk"))


def test_several_people_become_clips_as_person_says(tmp_path: Path) -> None:
    """Two people without identities, the smaller one in the lower right corner."""
    small = {t: [v for x, y in places(COCO, 0) * 0.3 + (44 - t, 44) for v in (x, y, 0.8)] for t in range(NUM_FRAMES)}
    people = alphapose() + [{"image_id": f"{t}.jpg", "keypoints": small[t], "score": 1} for t in range(NUM_FRAMES)]
    for person in people:
        person.pop("idx", None)
    write_json(tmp_path / "videos" / "walk.json", people[::-1])
    _, found = one(tmp_path, "source.joint_files.person=largest")
    assert set(found) == {"walk", "other"} and np.abs(found["walk"][3][0] - truth(3)).max() <= 0.51
    preprocess.run(config(tmp_path, "source.joint_files.person=every", "overwrite=true"))
    found = poses_of(tmp_path)
    assert set(found) == {"walk-p1", "walk-p2", "other"}
    middles = {clip: [frames[t][0].mean(0)[0] for t in range(NUM_FRAMES)] for clip, frames in found.items()}
    assert sorted(np.sign(middles[clip][-1] - middles[clip][0]) for clip in ("walk-p1", "walk-p2")) == [-1, 1]


def test_shares_of_the_sides_are_understood_in_any_format(tmp_path: Path) -> None:
    np.save(tmp_path / "videos.npy", 0)  # nothing beside the folder is looked at
    (tmp_path / "videos").mkdir()
    np.save(tmp_path / "videos" / "walk.npy", array(COCO) / 64)
    manifest, found = one(tmp_path)
    assert "walk.npy: coordinates are shares of width and height" in notes_of(manifest)
    assert np.abs(found["walk"][5][0] - truth(5)).max() <= 0.51


@pytest.mark.parametrize(("scale", "words"), [(3.0, "of another resolution"), (0.4, "upper left quarter")])
def test_coordinates_of_another_resolution_are_refused_and_scaled_when_asked(tmp_path: Path, scale: float, words: str):
    (tmp_path / "videos").mkdir()
    np.save(tmp_path / "videos" / "walk.npy", array(COCO) * scale)
    assert words in (why := reason(tmp_path)) and "source.joint_files.size=[WIDTH,HEIGHT]" in why
    (tmp_path / "videos" / "other.npy").unlink()
    side = round(64 * scale)
    _, found = one(tmp_path, f"source.joint_files.size=[{side},{side}]", "overwrite=true", "source.max_clips=2")
    assert np.abs(found["walk"][5][0] - truth(5)).max() <= 1


def test_a_size_that_the_file_names_is_used(tmp_path: Path) -> None:
    value = coco(width=32, height=32)
    for person in value["annotations"]:
        person["keypoints"] = [v / 2 if k % 3 < 2 else v for k, v in enumerate(person["keypoints"])]
    write_json(tmp_path / "videos" / "walk.json", value)
    manifest, found = one(tmp_path)
    assert "coordinates are of pictures of 32 x 32 px" in notes_of(manifest)
    assert np.abs(found["walk"][5][0] - truth(5)).max() <= 0.51


@pytest.mark.parametrize("missing", [(0.0, 0.0, 0.0), (-1.0, -1.0, 0.9), (float("nan"), float("nan"), float("nan"))])
def test_a_missing_joint_is_invisible_and_does_not_widen_the_box(tmp_path: Path, missing: tuple[float, ...]) -> None:
    people = alphapose()
    for person in people:
        person["keypoints"][3 * 10 : 3 * 10 + 3] = missing  # her right wrist, m3's left
    write_json(tmp_path / "videos" / "walk.json", people)
    manifest, found = one(tmp_path)
    wrist = JOINT_NAMES.index("left_wrist")
    assert all(not is_visible[wrist] and is_visible.sum() == 12 for _, is_visible in found["walk"].values())
    extents = {s["meta.json"]["clip"]: s["meta.json"]["pose_extent_px"] for s in samples(tmp_path / "data", "train")}
    assert extents["walk"] == 56 - 9  # from the ears to the ankles; 12 frames of 1 px are less
    assert manifest.has_joints


@pytest.mark.parametrize("name", ["walk_json", "walk"])
def test_frames_counted_from_1_are_understood(tmp_path: Path, name: str) -> None:
    write_openpose(tmp_path / "videos" / name, "walk", BODY_25, range(1, NUM_FRAMES + 1))
    manifest, found = one(tmp_path)
    assert "frames are counted from 1" in notes_of(manifest)
    assert np.abs(found["walk"][0][0] - truth(0)).max() <= 0.51


def test_another_frame_rate_is_refused_and_used_when_named(tmp_path: Path) -> None:
    """Joints of every second frame; the frames between lie on the line between them."""
    (tmp_path / "videos").mkdir()
    np.save(tmp_path / "videos" / "walk.npy", array(COCO)[::2].repeat(2, 0)[:NUM_FRAMES][::2])
    why = reason(tmp_path)
    assert "joints of 6 frames, the video has 12" in why and "source.joint_files.fps=" in why and "perhaps 12.5" in why
    (tmp_path / "videos" / "other.npy").unlink()
    manifest = preprocess.run(config(tmp_path, "source.joint_files.fps=12.5", "overwrite=true"))
    found = poses_of(tmp_path)["walk"]
    assert "joints of 12.5 frames per second, the video has 25" in notes_of(manifest)
    assert sorted(found) == list(range(11))
    assert all(np.abs(found[t][0] - truth(t)).max() <= 0.51 for t in found)


def test_exchanged_sides_are_refused_and_exchanged_when_asked(tmp_path: Path) -> None:
    """Her left eye is at the left of a face that looks at the camera."""
    other = {"left": "right", "right": "left"}
    mirrored = [f"{other[side]}_{rest}" if (side := name.split("_")[0]) in other and (rest := name[len(side) + 1 :])
                else name for name in COCO]  # fmt: skip
    write_json(tmp_path / "videos" / "walk.json", alphapose(mirrored))
    assert "left and right exchanged" in (why := reason(tmp_path)) and "source.joint_files.exchange_sides=true" in why
    (tmp_path / "videos" / "other.npy").unlink()
    manifest = preprocess.run(config(tmp_path, "source.joint_files.exchange_sides=true", "overwrite=true"))
    assert "left and right are exchanged, as source.joint_files.exchange_sides asks" in notes_of(manifest)
    assert np.abs(poses_of(tmp_path)["walk"][5][0] - truth(5)).max() <= 0.51


def test_x_and_y_exchanged_are_refused_and_exchanged_when_asked(tmp_path: Path) -> None:
    people = alphapose()
    for person in people:
        points = np.array(person["keypoints"]).reshape(-1, 3)
        person["keypoints"] = points[:, [1, 0, 2]].ravel().tolist()
    write_json(tmp_path / "videos" / "walk.json", people)
    assert "x and y exchanged? source.joint_files.exchange_xy=true" in reason(tmp_path)
    (tmp_path / "videos" / "other.npy").unlink()
    preprocess.run(config(tmp_path, "source.joint_files.exchange_xy=true", "overwrite=true"))
    assert np.abs(poses_of(tmp_path)["walk"][5][0] - truth(5)).max() <= 0.51


def test_confidences_are_compared_with_the_threshold_and_have_to_be_shares(tmp_path: Path) -> None:
    people = alphapose()
    for person in people:
        person["keypoints"][3 * 16 + 2] = 0.25  # her right ankle
    write_json(tmp_path / "videos" / "walk.json", people)
    _, found = one(tmp_path)
    ankle = JOINT_NAMES.index("left_ankle")
    assert not found["walk"][3][1][ankle] and found["walk"][3][1].sum() == 12
    for person in people:
        person["keypoints"][2::3] = [87.0] * 17
    write_json(tmp_path / "videos" / "walk.json", people)
    assert "confidences of 87 … 87, need 0 … 1" in preprocess.run(config(tmp_path, "overwrite=true")).rejected[0].reason


def test_cocos_flags_are_no_confidences(tmp_path: Path) -> None:
    """1 is labeled and hidden, unless no keypoint has 2."""
    value = coco()
    for person in value["annotations"]:
        person["keypoints"][3 * 10 + 2] = 1
    write_json(tmp_path / "videos" / "walk.json", value)
    _, found = one(tmp_path)
    wrist = JOINT_NAMES.index("left_wrist")
    xy, is_visible = found["walk"][4]
    assert not is_visible[wrist] and np.abs(xy - truth(4)).max() <= 0.51
    write_json(tmp_path / "videos" / "walk.json", coco(flag=1))
    manifest = preprocess.run(config(tmp_path, "overwrite=true"))
    assert "1 is taken as visible" in notes_of(manifest) and poses_of(tmp_path)["walk"][4][1].all()


@pytest.mark.parametrize("name", ["walk.MP4.CSV", "walk.mp4.csv", "walk.CSV", "walk_keypoints.csv"])
def test_double_and_upper_case_suffixes(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "videos" / name, deeplabcut_rows())
    _, found = one(tmp_path)
    assert np.abs(found["walk"][5][0] - truth(5))[1:].max() <= 0.51


@pytest.mark.parametrize(("separator", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (";", "utf-8")])
def test_separators_decimal_commas_and_byte_order_marks(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = [[cell.replace(".", ",") if number > 2 else cell for cell in row]
            for number, row in enumerate(deeplabcut_rows())]  # fmt: skip
    write_rows(tmp_path / "videos" / "walk.csv", rows, separator, encoding)
    _, found = one(tmp_path)
    assert np.abs(found["walk"][5][0] - truth(5))[1:].max() <= 0.51


def test_joint_files_of_nobody_and_videos_without_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "videos" / "run.json", coco())
    write_openpose(tmp_path / "videos" / "jump", "jump", BODY_25)
    one(tmp_path)
    told = capsys.readouterr()
    said = " ".join((told.out + told.err).split())
    assert "1 of 2 videos have joints beside them; without: walk" in said
    assert "joint files that belong to no video: jump/jump*.json (12 files), run.json" in said
    assert "clips with joints: 1 of 1" in said
    preprocess.run(config(tmp_path, "split=pair", "split.ratios=[0.5,0.25,0.25]", "overwrite=true"))
    assert "clips with joints: 1 of 1" in " ".join(capsys.readouterr().out.split())  # in each of the splits


@pytest.mark.parametrize(("content", "words"), [
    (b'{"hello": 1}', "of no format that m3 knows"),
    (b"\x80\x04\x95", "a pickle, which could run anything"),
    (b"a,b\n1,2\n", "of no format that m3 knows"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
    (b"", "the file is empty"),
])  # fmt: skip
def test_what_is_no_joint_file_is_refused_with_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "walk.json").write_bytes(content)
    why = reason(tmp_path)
    assert why.startswith("walk.json: ") and words in why


@pytest.mark.parametrize(("values", "words"), [
    (np.random.default_rng(0).normal(0, 1, (NUM_FRAMES, 263)), "HumanML3D's features"),
    (np.random.default_rng(0).normal(0, 1, (NUM_FRAMES, 22, 3)), "positions in space"),
    (np.random.default_rng(0).uniform(2, 60, (NUM_FRAMES, 14, 2)), "14 keypoints, which is no layout that m3 knows"),
    (np.array([{}], dtype=object), "needs a pickle"),
])  # fmt: skip
def test_arrays_that_are_no_poses_in_the_picture_are_refused(tmp_path: Path, values: np.ndarray, words: str) -> None:
    (tmp_path / "videos").mkdir()
    np.save(tmp_path / "videos" / "walk.npy", values, allow_pickle=True)
    assert words in reason(tmp_path)


def test_a_layout_without_a_head_gets_one_that_is_invisible_and_a_layout_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    np.save(tmp_path / "videos" / "walk.npy", array([*COCO[5:], "pelvis", "neck"]))
    layout = "[[3],[1],[0],[3],[2],[5],[4],[7],[6],[9],[8],[11],[10]]"
    _, found = one(tmp_path, f"source.joint_files.layout={layout}", "source.max_clips=1")
    assert found.keys() <= {"walk", "other"}
    rows = [["frame", *(f"{name}_{axis}" for name in COCO[5:] for axis in "xy")]]
    rows += [[str(t), *map(str, places(COCO[5:], t).ravel())] for t in range(NUM_FRAMES)]
    (tmp_path / "videos" / "walk.npy").unlink()
    write_rows(tmp_path / "videos" / "walk.csv", rows)
    manifest = preprocess.run(config(tmp_path, "overwrite=true"))
    assert "has no head: placed above the shoulders" in notes_of(manifest)
    xy, is_visible = poses_of(tmp_path)["walk"][5]
    assert np.abs(xy - truth(5))[1:].max() <= 0.51 and not is_visible[0] and is_visible[1:].all()
    assert np.abs(xy[0] - (35, 16 - 0.42 * (34 - 16))).max() <= 0.51


def test_numbered_sides_are_mpiis(tmp_path: Path) -> None:
    """DeepLabCut's human model calls her right 1."""
    parts = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    names = [("nose", "chin"), ("nose", "forehead")]
    names += [(f"{side}_{part}", f"{part}{n}") for part in parts for side, n in (("right", 1), ("left", 2))]
    rows = [["frame", *(f"{called}_{axis}" for _, called in names for axis in "xy")]]
    rows += [[str(t), *map(str, places([name for name, _ in names], t).ravel())] for t in range(NUM_FRAMES)]
    write_rows(tmp_path / "videos" / "walk.csv", rows)
    manifest, found = one(tmp_path)
    assert "1 is taken as the person's right" in notes_of(manifest)
    assert np.abs(found["walk"][5][0] - truth(5))[1:].max() <= 0.51


def test_the_library_of_hdf5_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    write_sleap(tmp_path / "videos" / "walk.h5")
    monkeypatch.setattr("m3.clips.hdf5_files.importlib.util.find_spec", lambda _: None)
    assert "pip install 'm3-motion[joints]'" in reason(tmp_path)


def test_links_out_of_an_hdf5_file_are_refused(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "videos").mkdir()
    write_sleap(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "videos" / "walk.h5", "w") as file:
        file["tracks"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "tracks")
    assert "a link to another place" in reason(tmp_path)


def test_a_value_of_the_options_that_cannot_be_is_named(tmp_path: Path) -> None:
    faults = {"person=all": "person='all': choose", "size=[1]": "need two numbers", "layout=coco99": "layout='coco99'",
              "fps=0": "joint_files.fps=0"}  # fmt: skip
    for option, words in faults.items():
        with pytest.raises(Exception, match=words.replace("[", r"\[")):
            one(tmp_path, f"source.joint_files.{option}")


def test_flat_is_what_it_says() -> None:
    assert flat(["nose"], 2) == [32.0, 8.0, 0.9] and json.loads(json.dumps(coco()))["annotations"]


def test_the_table_of_clips_gives_actions_and_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Joints of another program, for all of the video: each part has its own."""
    for name in ("a", "b"):
        write_video(tmp_path / "videos" / f"{name}.mp4", NUM_FRAMES, SIZE)
        np.save(tmp_path / "videos" / f"{name}.npy", array(COCO))
    rows = [
        "path,start,end,label,split",
        "a.mp4,0,0.2,walk,train",
        "a.mp4,0.2,0.48,turn,val",
        "b.mp4,,,walk,test",
        "c,,,x,train",
    ]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    manifest = preprocess.run(config(tmp_path, f"source.clips={tmp_path / 'list.csv'}", "split=official"))
    assert manifest.rejected == () and manifest.actions == ("turn", "walk")
    by_split = {split: {s["meta.json"]["clip"] for s in samples(tmp_path / "data", split)} for split in manifest.shards}
    assert by_split == {"train": {"a-0-0_2"}, "eval": {"a-0_2-0_48"}, "test": {"b"}}
    (sample,) = [s for s in samples(tmp_path / "data", "eval") if s["meta.json"]["reference"] == 0]
    xy, _ = JointCodec(64).decode(sample["coords.npy"][None].astype(np.int64))
    assert np.abs(xy[0] - truth(5)).max() <= 0.51  # frame 5 of the video is the first one at 0.2 s
    assert "1 rows of source.clips have no video: c" in " ".join(capsys.readouterr().out.split())
