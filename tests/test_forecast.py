"""Pose forecasting: the protocol, the samples, the choice of places, and the whole way on made-up label files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from tiny_world import write_label

import generate
import preprocess
import train
from m3.batches.datamodule import TrainBatches
from m3.batches.futures import FutureBatches, FutureFrames, clip_step, horizon_tokens
from m3.batches.jitter import Jitter, mirrored
from m3.batches.table import TokenTable
from m3.checkpoint import load_model
from m3.clips.mirror import MIRRORED, mirror_joints
from m3.clips.penn_action import Label, read_label
from m3.forecast.benchmark import Benchmark
from m3.forecast.forecaster import Forecaster
from m3.forecast.places import EXTENT_RATIOS, best_places
from m3.forecast.protocol import ForecastClip, Tally, nothing_moves, read_clips, score_forecast
from m3.loss import modality_scores
from m3.masking.select import choose_and_pack
from m3.model.encoder_decoder import EncoderDecoder
from m3.records import Joints
from m3.seeds import SampleGenerator
from m3.tokens.joints import JointCodec

ROOT = Path(train.__file__).parent
REAL = ROOT.parent / "shared" / "penn_action" / "labels"
NOTHING_MOVES = [80.61, 63.99, 54.77, 49.52, 46.26, 44.12, 42.44, 41.02, 39.84, 38.98, 38.48, 38.17, 38.01, 37.95,
                 37.97, 38.07]  # fmt: skip
"""Of the 1,861 real label files, computed by another program."""
TINY = ["model.width=32", "model.head_width=16", "model.encoder_depth=1", "model.decoder_depth=1",
        "optim.batch_size=8", "optim.total_tokens=0.0032", "optim.warmup_tokens=0.0007", "optim.dtype=fp32",
        "trainer.eval_every_tokens=0.0032", "trainer.checkpoint_every_tokens=0.0032",
        "hardware.accelerator=cpu",
        "trainer.log_every_n_steps=1"]  # fmt: skip
"""5 steps of 8 samples."""


def config(app: str, *overrides: object) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(app, ["experiment=penn_forecast", *map(str, overrides)])


def random_clip(num_frames: int, seed: int = 0, size: tuple[int, int] = (120, 200)) -> ForecastClip:
    rng = np.random.default_rng(seed)
    start = rng.uniform((30, 20), (150, 90), (13, 2))
    xy = start + rng.normal(0, 3, (num_frames, 13, 2)).cumsum(0)
    is_marked = rng.random((num_frames, 13)) < 0.7
    is_inside = ((xy >= 0) & (xy <= size[::-1])).all(-1)
    return ForecastClip("c", Label(Joints(xy, is_marked & is_inside), size, "squat", False, num_frames, is_marked))


def write_labels(folder: Path, num_clips: int = 6) -> None:
    """Clips of which every third is a test clip; people walk to the right."""
    for number in range(1, num_clips + 1):
        rng = np.random.default_rng(number)
        num_frames = 18 + 5 * number
        walk = rng.uniform(8, 40, (1, 13)) + np.linspace(0, 15, num_frames)[:, None]
        write_label(
            folder / f"{number:04d}.mat", num_frames=num_frames, x=walk, y=rng.uniform(4, 44, (1, 13)) + 0 * walk,
            train=np.array([[-1 if number % 3 == 0 else 1]], np.int32), action=("bowl", "squat")[number % 2],
        )  # fmt: skip


# ---- the protocol


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real label files in {REAL}")
def test_nothing_moves_scores_what_it_is_known_to() -> None:
    clips, skipped = read_clips(REAL)
    tallies = []
    for clip in clips:
        starts = np.arange(clip.label.num_frames)
        tallies.append(score_forecast(clip, starts, nothing_moves(clip, starts)))
    total = Tally.total(tallies)
    assert (len(clips), len(skipped), total.num_sequences) == (859, 1002, 60_618)
    assert np.round(total.pck, 2).tolist() == NOTHING_MOVES


@pytest.mark.parametrize("num_frames", [1, 9, 40])
def test_scores_against_a_naive_loop(num_frames: int) -> None:
    clip = random_clip(num_frames, seed=num_frames)
    starts = np.arange(0, num_frames, 2)
    predicted = nothing_moves(clip, starts) + np.random.default_rng(1).normal(0, 5, (len(starts), 16, 13, 2))
    tally = score_forecast(clip, starts, predicted)
    xy, flags = clip.label.joints.xy, clip.label.is_marked
    corners = xy.min((0, 1)), xy.max((0, 1))
    extent = max(corners[1] - corners[0])
    for h in range(1, 17):
        hits = count = 0
        for n, start in enumerate(starts):
            frame = min(start + h * ((num_frames - 1) // 17), num_frames - 1)
            for j in range(13):
                if flags[frame, j]:
                    count += 1
                    hits += math.dist(predicted[n, h - 1, j], xy[frame, j]) < 0.05 * extent
        assert (tally.hits[h - 1], tally.counts[h - 1]) == (hits, count)


def test_a_joint_marked_outside_the_frame_counts(tmp_path: Path) -> None:
    x, y = np.full((2, 13), 30.0), np.full((2, 13), 20.0)
    x[0, 0], x[0, 1], x[0, 2] = 99.0, np.nan, 25.0
    visibility = np.ones((2, 13), np.uint8)
    visibility[0, 2] = 0
    label = read_label(write_label(tmp_path / "1.mat", num_frames=2, x=x, y=y, visibility=visibility))
    assert label.joints.is_visible[0, :4].tolist() == [False, False, False, True]
    assert label.is_marked[0, :4].tolist() == [True, False, False, True]


def test_only_test_clips_are_scored_and_the_others_reported(tmp_path: Path) -> None:
    write_labels(tmp_path)
    (tmp_path / "bad.mat").write_bytes(b"no label")
    write_label(tmp_path / "silent.mat", train=None)
    clips, skipped = read_clips(tmp_path)
    assert [clip.id for clip in clips] == ["0003", "0006"]
    reasons = {each.clip: each.reason for each in skipped}
    assert reasons.pop("bad").startswith("bad.mat: not a readable .mat file")
    assert reasons.pop("silent") == "no word on train or test"
    assert reasons == dict.fromkeys(["0001", "0002", "0004", "0005"], "train = 1")
    with pytest.raises(FileNotFoundError, match=r"labels=.*nowhere: no \*.mat files there"):
        read_clips(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    write_label(tmp_path / "train" / "1.mat")
    with pytest.raises(ValueError, match=r"none of the 1 label files is a test clip \(train = -1\)"):
        read_clips(tmp_path / "train")


# ---- samples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Label files, and the data set made of them."""
    root = tmp_path_factory.mktemp("forecast")
    write_labels(root / "labels")
    overrides = f"source.labels={root / 'labels'}", f"out={root / 'data'}", "workers=1", "split.eval_ratio=0.4"
    preprocess.run(config("preprocess", *overrides))
    return root / "labels", root / "data"


def test_samples_are_the_frames_of_the_labels(world: tuple[Path, Path]) -> None:
    labels, data = world
    split = TokenTable.open(data, "train")
    frames = FutureFrames(split, "train")
    clips = sorted({pair.clip for pair in split.pairs})
    assert len(clips) >= 2
    codec, seen = JointCodec(256), 0
    for clip in clips:
        xy = read_label(labels / f"{clip}.mat").joints.xy
        num_frames = len(xy)
        step = clip_step(num_frames)
        assert step == (num_frames - 1) // 17
        for t in (0, num_frames // 2, num_frames - 1):
            for horizon in (1, 7, 16):
                # 48 x 64 px: the canvas of 256 px is four times as large, with bars of 32 px above and below
                true = xy[min(t + horizon * step, num_frames - 1)] * 4 + (0, 32)
                found = frames.futures(np.array([seen + t]), np.array([horizon]))
                assert np.abs(codec.decode(found.astype(np.uint16))[0][0] - true).max() < 0.016
        seen += num_frames
    assert seen == len(frames)


def test_a_batch_holds_pose_horizon_and_future(world: tuple[Path, Path]) -> None:
    frames = FutureFrames(TokenTable.open(world[1], "train"), "train")
    horizons = []
    for jitter in (None, Jitter()):
        batches = FutureBatches(TrainBatches(frames, 32, 10, 5, 0, 1), frames, 5, jitter)
        for step in range(len(batches)):
            tokens, sample, epoch = batches[step]
            assert tokens.shape == (32, 80) and torch.equal(tokens, batches[step].tokens)
            here, horizon, there = tokens.numpy()[:, :39], tokens.numpy()[:, 39:41], tokens.numpy()[:, 41:]
            n = sample.numpy()
            assert np.array_equal(here, frames.poses[n].reshape(-1, 39))
            assert np.array_equal(there, frames.futures(n, horizon[:, 0]).reshape(-1, 39))
            assert np.array_equal(horizon[:, 1], frames.step[n])
            horizons += horizon[:, 0].tolist()
    assert set(horizons) == set(range(1, 17))
    assert horizon_tokens(np.array([3]), np.array([99])).tolist() == [[3, 63]]


def test_pairs_of_another_step_are_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    overrides = f"source.labels={world[0]}", f"out={tmp_path}", "workers=1", "pairs.step=2"
    preprocess.run(config("preprocess", *overrides))
    with pytest.raises(ValueError, match="clip 000. of train is not stored frame by frame; make the data with"):
        FutureFrames(TokenTable.open(tmp_path, "train"), "train")


def test_jitter_by_hand() -> None:
    poses = np.zeros((1, 2, 3, 13), np.int64)
    poses[0, :, :, 0] = 4000, 5000, 1  # head
    poses[0, :, :, 1] = 1000, 2000, 0  # left shoulder, unseen
    poses[0, :, :, 2] = 8000, 8000, 1  # right shoulder
    still = Jitter()(poses, SampleGenerator(0, "jitter", torch.tensor([3])))
    assert np.array_equal(still, poses)
    flipped = Jitter(flip=1)(poses, SampleGenerator(0, "jitter", torch.tensor([3])))[0, 1]
    assert flipped[:, 0].tolist() == [4191, 5000, 1]
    assert flipped[:, 1].tolist() == [191, 8000, 1] and flipped[:, 2].tolist() == [7191, 2000, 0]
    assert (flipped[:, 3:] == 0).all()
    uniform = SampleGenerator(0, "jitter", torch.tensor([3])).uniform(4)[0].tolist()
    factor = math.exp(0.2 * (2 * uniform[1] - 1))
    shift = [0.08 * (2 * u - 1) * 8191 for u in uniform[2:]]
    moved = Jitter(zoom=0.2, shift=0.08)(poses, SampleGenerator(0, "jitter", torch.tensor([3])))
    for pose in moved[0]:
        for joint, (x, y, seen) in enumerate([(4000, 5000, 1), (1000, 2000, 0), (8000, 8000, 1)]):
            place = [round((v - 4095.5) * factor + 4095.5 + s) for v, s in zip((x, y), shift)]
            is_inside = all(0 <= v <= 8191 for v in place)
            assert pose[:, joint].tolist() == ([*place, seen] if is_inside else [0, 0, 0])


def test_mirrored_tokens_are_those_of_mirrored_joints() -> None:
    rng = np.random.default_rng(0)
    codec, xy, is_visible = JointCodec(256), rng.uniform(1, 255, (20, 13, 2)), rng.random((20, 13)) < 0.5
    other = mirror_joints(Joints(xy, is_visible), 256)
    expected = codec.encode(other.xy, other.is_visible).astype(int)
    found = mirrored(codec.encode(xy, is_visible))
    assert np.abs(found - expected).max() <= 1 and np.array_equal(found[:, 2], expected[:, 2])
    assert np.array_equal(mirrored(found), codec.encode(xy, is_visible))


# ---- places


def worth_of(p: np.ndarray, place: np.ndarray, radius: float, fine: int = 4) -> float:
    """Mean mass of the discs around a place, by points: p is (V, V), x then y."""
    points = (np.arange(len(p) * fine) + 0.5) / fine
    distance = np.hypot(points[:, None] - place[0], points[None, :] - place[1])
    density = p.repeat(fine, 0).repeat(fine, 1) / fine**2
    return float(np.mean([density[distance < radius * ratio].sum() for ratio in EXTENT_RATIOS]))


def test_the_best_place_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    cells = np.arange(32)
    for trial in range(4):
        here, radius = rng.uniform(8, 24, 2), rng.uniform(2, 4)
        lines = []
        for axis in range(2):
            centre = here[axis] + rng.uniform(-6, 6, 2)[:, None]
            p = np.exp(-0.5 * ((cells + 0.5 - centre) / rng.uniform(1, 3)) ** 2) + 1e-3
            lines.append(p / p.sum(1, keepdims=True))
        p = np.mean([np.outer(x, y) for x, y in zip(*lines)], axis=0)
        tensors = [torch.from_numpy(line).float()[None] for line in lines]
        found = best_places(*tensors, torch.from_numpy(here).float()[None], torch.tensor([radius]).float(), 0.0)
        best = max(worth_of(p, np.array([x, y]), radius) for x in range(3, 30) for y in range(3, 30))
        assert worth_of(p, found[0].numpy(), radius) > 0.985 * best, trial


def test_of_equal_places_the_nearest_to_the_joint_is_taken() -> None:
    p = torch.zeros(3, 1, 256)
    p[0, 0, 101] = p[1, 0, 101] = p[2, 0, 140] = 1.0
    here = torch.tensor([[100.3, 99.7]] * 3)
    found = best_places(p, p, here, torch.tensor([6.0, 0.5, 6.0]), 0.01)
    assert torch.equal(found[0], here[0])  # all discs that hold the cell are worth the same
    assert (found[1] - 101.5).abs().max() < 0.5  # no disc around `here` reaches it
    away = (found[2] - 140.5).norm()
    assert 4 < away < 6.1 and (found[2] - here[2]).norm() < 57  # at the near edge of what still holds it
    far = torch.tensor([[-30.0, 300.0]])
    assert (best_places(p[:1], p[:1], far, torch.tensor([6.0]), 0.0)[0] - 101.5).abs().max() < 6


# ---- the model


def tiny_model(seed: int = 0, joints: str = "digits") -> EncoderDecoder:
    torch.manual_seed(seed)
    cfg = config("train", *TINY, f"model.joints={joints}", "data.root=DIR")
    model = train.instantiate(cfg.model).eval()
    with torch.no_grad():
        for parameter in model.to_logits.parameters():
            parameter.normal_(std=0.5)
    return model


def test_everything_of_a_pose_is_given_and_everything_of_the_next_told() -> None:
    model = tiny_model()
    tokens = torch.ones(5, 80, dtype=torch.int64)
    inputs, targets = choose_and_pack(tokens, model.table, SampleGenerator(0, "train", torch.arange(5)))
    assert inputs.lengths.tolist() == [41] * 5 and targets.lengths.tolist() == [39] * 5
    assert set(targets.modality.tolist()) == {2} and set(inputs.modality.tolist()) == {0, 1}


def test_digits_of_a_joint_are_a_coarse_place_and_a_fine_step() -> None:
    model = train.instantiate(config("train", *TINY, "data.root=DIR").model)
    ids = torch.arange(8192)
    fine, coarse = model.digits_of(ids, 2)
    assert torch.equal(coarse, ids // 32) and torch.equal(fine, ids % 32)
    assert torch.equal(model.ids_of((fine, coarse), 2), ids)
    hidden = torch.zeros(3, 32)
    assert [each.shape[1] for each in model.digit_logits(hidden, 2)] == [32, 256]
    assert [each.shape[1] for each in model.digit_logits(hidden, 2, 2)] == [2, 1]  # of visibility: 0 and 1
    assert [each.shape[1] for each in model.digit_logits(hidden, 2, 8192)] == [32, 256]
    inputs, targets = choose_and_pack(torch.ones(4, 80, dtype=torch.int64), model.table,
                                      SampleGenerator(0, "train", torch.arange(4)))  # fmt: skip
    loss = modality_scores(model, model(inputs, targets), targets)[0][2] / len(targets.ids)
    assert loss.item() == pytest.approx(math.log(8192), rel=1e-5)


def mirror_clip(clip: ForecastClip) -> ForecastClip:
    label = clip.label
    joints = mirror_joints(label.joints, label.size[1])
    marked = label.is_marked[:, MIRRORED]
    return ForecastClip(clip.id, Label(joints, label.size, label.action, False, label.num_frames, marked))


@pytest.mark.parametrize("joints", ["digits", "table"])
def test_the_mirrored_pose_has_the_mirrored_forecast(joints: str) -> None:
    clip, starts = random_clip(40), np.array([0, 7, 39])
    forecaster = Forecaster(tiny_model(joints=joints), 256, mirror=True, tolerance=0.01)
    places = forecaster.forecast(clip, starts)
    assert places.shape == (3, 16, 13, 2) and np.isfinite(places).all()
    other = forecaster.forecast(mirror_clip(clip), starts)[:, :, MIRRORED] * (-1, 1) + (clip.label.size[1], 0)
    is_same = np.abs(places - other).max(-1) < 0.05  # a rounded token, rarely another choice between near equals
    assert is_same.mean() > 0.95
    one_by_one = np.concatenate([forecaster.forecast(clip, starts[n : n + 1]) for n in range(3)])
    assert (np.abs(one_by_one - places).max(-1) < 1e-3).mean() > 0.99
    rough = Forecaster(forecaster.model, 256, tolerance=0.01, dtype="bf16").forecast(clip, starts)
    assert (np.abs(rough - places).max(-1) < 1).mean() > 0.5  # the likeliest of many random peaks often stays so
    alone = Forecaster(forecaster.model, 256, mirror=False, tolerance=0.01).forecast(clip, starts)
    assert (np.abs(alone - places).max(-1) > 1).mean() > 0.2


def test_forecasts_follow_the_distributions() -> None:
    """A head that is sure of one cell for all joints: forecasts lie there, in the label's own pixels."""
    model, clip = tiny_model(), random_clip(40)
    head = model.head_of(2)
    with torch.no_grad():
        head.weight.zero_()
    forecaster = Forecaster(model, 256, mirror=False)
    cell = 150
    logits = torch.full((256,), -20.0)
    logits[cell] = 20.0
    head.digit_logits = lambda hidden, num_ids: (torch.zeros(len(hidden), 32), logits.expand(len(hidden), 256))
    places = forecaster.forecast(clip, np.array([0, 5]))
    on_canvas = places * 256 / 200 + (0, (256 - 120 * 256 / 200) / 2)  # 120 x 200 px, padded above and below
    assert np.abs(on_canvas - (cell + 0.5)).max() < 12  # within the smallest disc
    assert forecaster.distributions(np.zeros((1, 3, 13), np.int64), 2)[0].shape == (1, 16, 13, 1, 256)


# ---- the whole way


def test_train_and_score(world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, data = world
    overrides = *TINY, f"data.root={data}", f"run_dir={tmp_path / 'run'}", "name=tiny"
    trained = train.run(config("train", *overrides))
    assert trained.trainer.global_step == 5 and math.isfinite(trained.last_eval_loss)
    settings = f"checkpoint={tmp_path / 'run'}", f"labels={labels}", "device=cpu"
    result = generate.run_forecast(config("generate", *settings, f"out={tmp_path / 'scores'}"))
    record = json.loads((tmp_path / "scores" / "forecast.json").read_text())
    assert record["num_sequences"] == 33 + 48 and record["num_clips"] == 2 and len(record["skipped"]) == 4
    assert len(record["pck"]) == len(record["nothing_moves"]) == 16
    assert record["nothing_moves"][0] > record["nothing_moves"][15] and record["pck"] == result.scores.model.pck
    assert sum(each["num_sequences"] for each in record["actions"].values()) == 81
    printed = capsys.readouterr().out
    assert "81 sequences of 2 clips" in printed and "4: train = 1" in printed and "+16" in printed

    other = generate.run_forecast(config("generate", *settings, "forecast.batch_size=5", f"out={tmp_path / 'b'}"))
    assert np.allclose(other.scores.model.pck, result.scores.model.pck, atol=0.5)
    few = generate.run_forecast(config("generate", *settings, "forecast.max_sequences=10", f"out={tmp_path / 'c'}"))
    assert few.scores.model.num_sequences == 10 and few.num_clips == 2
    loaded = load_model(tmp_path / "run")
    loaded.data.pop("canvas")
    with pytest.raises(ValueError, match="checkpoint: not trained on whole frames"):
        Benchmark(str(labels)).run(loaded, tmp_path / "d")


def test_wrong_settings_are_named(world: tuple[Path, Path]) -> None:
    with pytest.raises(InstantiationException, match="choose modalities=forecast"):
        train.assemble(config("train", *TINY, f"data.root={world[1]}", "modalities=coords"))
    for change, message in {
        "tolerance": "forecast.tolerance=0.9",
        "batch_size": "forecast.batch_size=0",
        "max_sequences": "forecast.max_sequences=0",
    }.items():
        with pytest.raises(ValueError, match=message):
            Benchmark("labels", **{change: float(message.split("=")[1]) if change == "tolerance" else 0})
    with pytest.raises(ValueError, match="forecast.dtype='int4': choose fp32 or bf16"):
        Forecaster(tiny_model(), 256, dtype="int4")
    with pytest.raises(ValueError, match="data.jitter.flip=2"):
        Jitter(flip=2)
