"""Pose forecasting: the protocol, the samples, the choice of places, and the whole way on made-up label files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from support.forecast_runs import TINY, config, tiny_model, write_labels
from support.tiny_world import write_label

import generate
import preprocess
import train
from m3.batches.datamodule import TrainBatches
from m3.batches.futures import FutureBatches, FutureFrames, clip_step, given_tokens, motion_tokens
from m3.batches.table import TokenTable
from m3.checkpoint import load_model
from m3.clips.penn_action import Label, read_label
from m3.core.joints import MIRRORED, Joints, mirror_joints
from m3.core.modalities import UNSEEN_MOTION
from m3.core.rng import SampleGenerator
from m3.forecast.benchmark import Benchmark, Scores
from m3.forecast.forecaster import Forecaster
from m3.forecast.places import EXTENT_RATIOS, best_places
from m3.forecast.protocol import ForecastClip, HitCounts, nothing_moves, read_clips, score_forecast
from m3.loss import training_loss
from m3.masking.select import choose, choose_and_pack
from m3.tokens.joints import JointCodec
from m3.tokens.motion import blurred_cells, cell_centers, encode_motion
from m3.tokens.pose_box import FILLED, PoseBox, mirrored

ROOT = Path(train.__file__).parent
NOTHING_MOVES = [80.61, 63.99, 54.77, 49.52, 46.26, 44.12, 42.44, 41.02, 39.84, 38.98, 38.48, 38.17, 38.01, 37.95,
                 37.97, 38.07]  # fmt: skip
"""Of the 1,861 real label files, computed by another program."""


def random_clip(num_frames: int, seed: int = 0, size: tuple[int, int] = (120, 200)) -> ForecastClip:
    rng = np.random.default_rng(seed)
    start = rng.uniform((30, 20), (150, 90), (13, 2))
    xy = start + rng.normal(0, 3, (num_frames, 13, 2)).cumsum(0)
    is_annotated = rng.random((num_frames, 13)) < 0.7
    is_inside = ((xy >= 0) & (xy <= size[::-1])).all(-1)
    return ForecastClip(
        "c", Label(Joints(xy, is_annotated & is_inside), size, "squat", False, num_frames, is_annotated)
    )


# ---- the protocol


def test_nothing_moves_scores_what_it_is_known_to(penn_labels: Path) -> None:
    clips, skipped = read_clips(penn_labels)
    parts = []
    for clip in clips:
        starts = np.arange(clip.label.num_frames)
        parts.append(score_forecast(clip, starts, nothing_moves(clip, starts)))
    total = HitCounts.total(parts)
    assert (len(clips), len(skipped), total.num_sequences) == (859, 1002, 60_618)
    assert np.round(total.pck, 2).tolist() == NOTHING_MOVES


@pytest.mark.parametrize("num_frames", [1, 9, 40])
def test_scores_against_a_naive_loop(num_frames: int) -> None:
    clip = random_clip(num_frames, seed=num_frames)
    starts = np.arange(0, num_frames, 2)
    predicted = nothing_moves(clip, starts) + np.random.default_rng(1).normal(0, 5, (len(starts), 16, 13, 2))
    tally = score_forecast(clip, starts, predicted)
    xy, flags = clip.label.joints.xy, clip.label.is_annotated
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
    assert label.is_annotated[0, :4].tolist() == [True, False, False, True]


def test_only_test_clips_are_scored_and_the_others_reported(tmp_path: Path) -> None:
    write_labels(tmp_path)
    (tmp_path / "bad.mat").write_bytes(b"no label")
    write_label(tmp_path / "silent.mat", train=None)
    clips, skipped = read_clips(tmp_path)
    assert [clip.id for clip in clips] == ["0003", "0006"]
    reasons = {each.clip: each.reason for each in skipped}
    assert reasons.pop("bad").startswith("bad.mat: not a readable .mat file")
    assert reasons.pop("silent") == "no train flag"
    assert reasons == dict.fromkeys(["0001", "0002", "0004", "0005"], "train = 1")
    with pytest.raises(FileNotFoundError, match=r"labels=.*nowhere: no \*.mat files there"):
        read_clips(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    write_label(tmp_path / "train" / "1.mat")
    with pytest.raises(ValueError, match=r"none of the 1 label files is a test clip \(train = -1\)"):
        read_clips(tmp_path / "train")


def test_nobody_is_seen() -> None:
    scores = Scores(*[HitCounts(np.zeros(16, np.int64), np.zeros(16, np.int64), 3)] * 2)
    assert math.isnan(scores.mean_pck) and scores.record()["pck"] == [None] * 16


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
            found = frames.futures(np.array([seen + t]))[0].astype(np.uint16)
            for horizon in (1, 7, 16):
                # 48 x 64 px: the canvas of 256 px is four times as large, with bars of 32 px above and below
                true = xy[min(t + horizon * step, num_frames - 1)] * 4 + (0, 32)
                assert np.abs(codec.decode(found[horizon - 1])[0] - true).max() < 0.016
        seen += num_frames
    assert seen == len(frames)


def test_a_batch_holds_pose_step_and_motion(world: tuple[Path, Path]) -> None:
    frames = FutureFrames(TokenTable.open(world[1], "train"), "train")
    num_flipped = 0
    for flip in (0.0, 0.5):
        batches = FutureBatches(TrainBatches(frames, 32, 10, 5, 0, 1), frames, 5, flip)
        for step in range(len(batches)):
            tokens, sample, *_ = batches[step]
            assert tokens.shape == (32, 248) and torch.equal(tokens, batches[step].tokens)
            n = sample.numpy()
            here, there = frames.here(n), frames.futures(n)
            plain = np.concatenate([given_tokens(here, frames.step[n]), motion_tokens(here, there)], axis=1)
            here, there = mirrored(here), mirrored(there)
            other = np.concatenate([given_tokens(here, frames.step[n]), motion_tokens(here, there)], axis=1)
            is_flipped = (tokens.numpy() != plain).any(1)
            assert np.array_equal(tokens.numpy(), np.where(is_flipped[:, None], other, plain))
            assert flip or not is_flipped.any()
            num_flipped += is_flipped.sum()
    assert 100 < num_flipped < 220  # of 320


def test_pairs_of_another_step_are_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    overrides = f"source.labels={world[0]}", f"out={tmp_path}", "workers=1", "pairs.step=2"
    preprocess.run(config("preprocess", *overrides))
    with pytest.raises(ValueError, match="clip 000. of train is not stored frame by frame; make the data with"):
        FutureFrames(TokenTable.open(tmp_path, "train"), "train")


def test_framing_by_hand() -> None:
    """A box of 100 × 50 px around (60, 115) fills nine tenths of the canvas, whatever its place and size were."""
    codec, xy = JointCodec(256), np.tile((60.0, 115.0), (13, 1))
    xy[:3] = (10, 90), (110, 140), (35, 102.5)
    is_visible = np.ones(13, bool)
    is_visible[3:] = False
    pose = codec.encode(xy, is_visible)
    pose[:, 12] = 0  # no place: neither in the box nor moved
    box = PoseBox.around(pose)
    assert np.allclose(box.center * 256 / 8191, (60, 115), atol=0.02)
    assert box.side * 256 / 8191 == pytest.approx(100, abs=0.04)
    framed = box.normalize(pose)
    expected = ((xy - (60, 115)) / 100 * FILLED + 0.5) * 8191
    assert np.abs(framed[:2, :12].T - expected[:12]).max() < 3 and framed[:, 12].tolist() == [0, 0, 0]
    assert np.array_equal(framed[2], pose[2])
    back = (framed[:2, :12].T / 8191 - 0.5) / FILLED * box.side + box.center
    assert np.abs(back - pose[:2, :12].T).max() < 0.5
    smaller = codec.encode(xy / 2 + 30, is_visible)
    smaller[:, 12] = 0
    assert np.abs(PoseBox.around(smaller).normalize(smaller) - framed).max() <= 4
    assert PoseBox.around(np.zeros((2, 3, 13), int)).side.tolist() == [8191, 8191]


def test_motion_by_hand() -> None:
    """The third joint goes from (35, 102.5) by (20, -10) px, which is (0.2, -0.1) of the box's side."""
    codec, xy = JointCodec(256), np.full((1, 13, 2), 60.0)
    xy[0, :3] = (10, 90), (110, 140), (35, 102.5)
    is_visible = np.ones((1, 13), bool)
    later = np.repeat(xy[:, None], 16, axis=1)
    later[0, 4, 2] += 20, -10
    seen_later = np.ones((1, 16, 13), bool)
    seen_later[0, 5, 3] = False
    ids = motion_tokens(codec.encode(xy, is_visible), codec.encode(later, seen_later)).reshape(16, 13)
    middle = 33 * 33 // 2
    assert ids[5, 3] == UNSEEN_MOTION and (np.delete(ids.ravel(), [4 * 13 + 2, 5 * 13 + 3]) == middle).all()
    assert np.abs(cell_centers()[ids[4, 2]] - (0.2, -0.1)).max() < 0.03


def test_motion_cells() -> None:
    centers = cell_centers()
    assert centers.shape == (UNSEEN_MOTION, 2) and (centers[UNSEEN_MOTION // 2] == 0).all()
    assert np.array_equal(encode_motion(centers, np.ones(len(centers), bool)), np.arange(UNSEEN_MOTION))
    rng = np.random.default_rng(0)
    moved = rng.uniform(-0.9, 0.9, (5000, 2)) * rng.random((5000, 1)) ** 2
    error = np.abs(centers[encode_motion(moved, np.ones(5000, bool))] - moved)
    sizes = 0.0185 * np.hypot(1, moved / 0.1)  # of the cells there: asinh's derivative, 2 asinh(10) / 33 apart
    assert (error < 0.55 * sizes).all() and error[np.abs(moved) < 0.05].max() < 0.011
    assert (encode_motion(np.array([[9.0, -9.0]]), np.array([True])) == 32).all()  # last column, first row
    table = blurred_cells(0.05)
    assert np.allclose(table.sum(1), 1, atol=1e-5) and table[-1, -1] == 1
    a, b, c = (int(encode_motion(np.array(xy), np.array(True))) for xy in ((0.0, 0.0), (0.05, 0.0), (0.3, 0.3)))
    distance = math.dist(centers[a], centers[b])
    assert table[a, b] / table[a, a] == pytest.approx(math.exp(-(distance**2) / (2 * 0.05**2)), rel=1e-4)
    assert table[c].argmax() == c


def test_mirrored_tokens_are_those_of_mirrored_joints() -> None:
    rng = np.random.default_rng(0)
    codec, xy, is_visible = JointCodec(256), rng.uniform(1, 255, (20, 13, 2)), rng.random((20, 13)) < 0.5
    other = mirror_joints(Joints(xy, is_visible), 256)
    expected = codec.encode(other.xy, other.is_visible).astype(int)
    found = mirrored(codec.encode(xy, is_visible))
    assert np.abs(found - expected).max() <= 1 and np.array_equal(found[:, 2], expected[:, 2])
    assert np.array_equal(mirrored(found), codec.encode(xy, is_visible))


# ---- places


def test_the_best_place_against_points() -> None:
    """The probability that points drawn from a distribution are hit, by counting them."""
    rng, centers = np.random.default_rng(0), cell_centers()
    for trial in range(4):
        middles, widths = rng.uniform(-0.2, 0.2, (2, 2)), rng.uniform(0.02, 0.06, 2)
        points = middles[rng.integers(2, size=20_000)] + rng.normal(0, widths[0], (20_000, 2))
        p = np.bincount(encode_motion(points, np.ones(len(points), bool)), minlength=len(centers)) / len(points)
        found = best_places(torch.from_numpy(p).float()[None], 0.05)[0].numpy()

        def num_hit(place: np.ndarray, points: np.ndarray = points) -> float:
            distance = np.linalg.norm(points - place, axis=1)
            return float(np.mean([(distance < 0.05 * ratio).sum() for ratio in EXTENT_RATIOS]))

        grid = np.stack(np.meshgrid(*[np.arange(-0.4, 0.4, 0.02)] * 2), axis=-1).reshape(-1, 2)
        assert num_hit(found) > 0.95 * max(map(num_hit, grid)), trial


def test_a_joint_moves_only_where_that_is_worth_it() -> None:
    p = torch.zeros(4, UNSEEN_MOTION)
    still, away = UNSEEN_MOTION // 2, int(encode_motion(np.array([0.3, -0.2]), np.array(True)))
    for row, share in enumerate((0.0, 0.49, 0.52, 1.0)):
        p[row, still], p[row, away] = 1 - share, share
    expected = torch.from_numpy(cell_centers()[away]).float()
    near = (best_places(p, 0.05) - expected).norm(dim=1) < 0.08  # a disc somewhat aside may hold as much
    assert near.tolist() == [False, False, True, True]
    assert (best_places(p, 0.05)[:2] == 0).all()


# ---- the model


def test_the_whole_pose_is_given_and_seen_motion_told() -> None:
    model = tiny_model()
    tokens = torch.ones(50, 248, dtype=torch.int64)
    tokens[:, 40 + 13 :] = UNSEEN_MOTION  # after the first horizon nobody is seen
    is_input, is_target = choose(tokens, model.table, SampleGenerator(0, "train", torch.arange(50)))
    assert is_input[:, :40].all() and not is_input[:, 40:].any()
    assert is_target[:, 40:53].any(0).all() and is_target.any(1).all() and not is_target[:, 53:].any()


def test_positions_of_motion_tell_horizon_and_joint() -> None:
    positions = tiny_model().pos_emb.embedding
    motion = positions[2, :208].view(16, 13, -1)
    assert torch.allclose(motion[3] - motion[9], (motion[3] - motion[9])[:1].expand(13, -1), atol=1e-5)
    assert torch.allclose(motion[:, 4] - motion[:, 7], (positions[0, 4] - positions[0, 7]).expand(16, -1), atol=1e-5)
    assert torch.cdist(motion.flatten(0, 1), motion.flatten(0, 1)).add(torch.eye(208) * 9).min() > 0.1


def test_blurred_targets_by_hand() -> None:
    model = tiny_model()
    tokens = torch.full((3, 248), UNSEEN_MOTION // 2)
    tokens[:, :40] = 1
    inputs, targets = choose_and_pack(tokens, model.table, SampleGenerator(0, "train", torch.arange(3)))
    hidden = model(inputs, targets)
    loss, sums = training_loss(model, hidden, targets, torch.ones(3), motion_blur=0.04)
    log_p = (hidden @ model.head_of(2).weight.T).double().log_softmax(-1).detach().numpy()
    centers = cell_centers()
    shares = np.exp(-((centers - centers[UNSEEN_MOTION // 2]) ** 2).sum(1) / (2 * 0.04**2))
    expected = -(log_p[:, :-1] @ (shares / shares.sum())).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5) and sums[2].item() == pytest.approx(expected, rel=1e-5)
    plain, _ = training_loss(model, hidden, targets, torch.ones(3))
    assert plain.item() == pytest.approx(-log_p[:, UNSEEN_MOTION // 2].sum(), rel=1e-5)


def mirror_clip(clip: ForecastClip) -> ForecastClip:
    label = clip.label
    joints = mirror_joints(label.joints, label.size[1])
    marked = label.is_annotated[:, MIRRORED]
    return ForecastClip(clip.id, Label(joints, label.size, label.action, False, label.num_frames, marked))


def test_the_mirrored_pose_has_the_mirrored_forecast() -> None:
    clip, starts = random_clip(40), np.array([0, 7, 39])
    forecaster = Forecaster(tiny_model(), 256, mirror=True)
    places = forecaster.forecast(clip, starts)
    assert places.shape == (3, 16, 13, 2) and np.isfinite(places).all()
    assert (np.abs(places - nothing_moves(clip, starts)).max(-1) > 1).mean() > 0.2
    other = forecaster.forecast(mirror_clip(clip), starts)[:, :, MIRRORED] * (-1, 1) + (clip.label.size[1], 0)
    is_same = np.abs(places - other).max(-1) < 0.05  # a rounded token, rarely another choice between near equals
    assert is_same.mean() > 0.95
    one_by_one = np.concatenate([forecaster.forecast(clip, starts[n : n + 1]) for n in range(3)])
    assert (np.abs(one_by_one - places).max(-1) < 1e-3).mean() > 0.99
    rough = Forecaster(forecaster.model, 256, dtype="bf16").forecast(clip, starts)
    assert (np.abs(rough - places).max(-1) < 1).mean() > 0.5  # the likeliest of many random peaks often stays so
    alone = Forecaster(forecaster.model, 256, mirror=False).forecast(clip, starts)
    assert (np.abs(alone - places).max(-1) > 1).mean() > 0.2


@pytest.mark.parametrize("num_frames", [1, 9, 20])
def test_short_clips_and_lost_people(num_frames: int) -> None:
    """Step 0 and 1, joints on one spot, and nobody on the canvas at all."""
    clip = random_clip(num_frames)
    xy, starts = clip.label.joints.xy, np.arange(num_frames)
    forecaster = Forecaster(tiny_model(), 256)
    for change in (xy, np.full_like(xy, 40.0), xy + 5000):
        is_inside = ((change >= 0) & (change <= (200, 120))).all(-1)
        joints = Joints(change, clip.label.joints.is_visible & is_inside)
        other = ForecastClip("o", Label(joints, clip.label.size, None, False, num_frames, clip.label.is_annotated))
        places = forecaster.forecast(other, starts)
        assert places.shape == (num_frames, 16, 13, 2) and np.isfinite(places).all()
        assert np.abs(places - change[:, None]).max() < 300
        assert other.step == num_frames // 18 and (other.step or np.array_equal(places, nothing_moves(other, starts)))


def test_forecasts_follow_the_probabilities() -> None:
    """A head that is sure of one cell for all joints: in the label's own pixels, in sides of each pose's box."""
    model, clip = tiny_model(), random_clip(40)
    cell = int(encode_motion(np.array([0.31, -0.12]), np.array(True)))
    logits = torch.full((UNSEEN_MOTION,), -20.0)
    logits[cell] = 20.0
    model.head_of(2).digit_logits = lambda hidden, num_ids: (logits.expand(len(hidden), num_ids),)
    starts = np.array([0, 5])
    moved = Forecaster(model, 256, mirror=False).forecast(clip, starts) - nothing_moves(clip, starts)
    xy = clip.label.joints.xy[starts]
    side = np.ptp(xy, axis=1).max(-1)  # px
    assert np.linalg.norm(moved / side[:, None, None, None] - (0.31, -0.12), axis=-1).max() < 0.1
    logits.fill_(0.0)
    logits[UNSEEN_MOTION // 2] = 20.0
    assert np.array_equal(Forecaster(model, 256).forecast(clip, starts), nothing_moves(clip, starts))


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
        Benchmark(str(labels)).run(loaded)


def test_learns_a_motion_that_a_pose_tells(tmp_path: Path) -> None:
    """Wrists and ankles cross the body at the same pace in every clip: where they are says where they will be."""
    for number in range(1, 13):
        x = np.tile(np.random.default_rng(number).uniform(5, 55, 13), (52, 1))
        x[:, [5, 6, 11, 12]] = np.linspace(20, 40, 52)[:, None]
        y, is_train = np.tile(np.arange(13) + 15.0, (52, 1)), np.array([[-1 if number > 9 else 1]], np.int32)
        write_label(tmp_path / "labels" / f"{number:04d}.mat", num_frames=52, x=x, y=y, train=is_train)
    data = f"source.labels={tmp_path / 'labels'}", f"out={tmp_path / 'data'}", "workers=1", "split.eval_ratio=0.2"
    preprocess.run(config("preprocess", *data))
    train.run(config("train", *TINY, f"data.root={tmp_path / 'data'}", f"run_dir={tmp_path / 'run'}", "data.flip=0",
                     "optim.batch_size=32", "optim.total_tokens=0.24", "optim.lr=0.01", "optim.ema_decay=0.9",
                     "trainer.eval_every_tokens=1", "trainer.checkpoint_every_tokens=1"))  # fmt: skip
    settings = f"checkpoint={tmp_path / 'run'}", f"labels={tmp_path / 'labels'}", "device=cpu", "forecast.mirror=false"
    scores = generate.run_forecast(config("generate", *settings, f"out={tmp_path / 'scores'}")).scores
    gains = np.array(scores.model.pck) - scores.nothing_moves.pck
    assert gains.min() > -1 and gains.mean() > 8


def test_wrong_settings_are_named(world: tuple[Path, Path]) -> None:
    with pytest.raises(InstantiationException, match="choose modalities=forecast"):
        train.assemble(config("train", *TINY, f"data.root={world[1]}", "modalities=coords", "loss.motion_blur=0"))
    for change, message in {
        "batch_size": "forecast.batch_size=0",
        "max_sequences": "forecast.max_sequences=0",
    }.items():
        with pytest.raises(ValueError, match=message):
            Benchmark("labels", **{change: 0})
    with pytest.raises(ValueError, match="forecast.dtype='int4': choose fp32 or bf16"):
        Forecaster(tiny_model(), 256, dtype="int4")
    for change, message in {"data.flip=2": "data.flip=2", "modalities=coords": "loss.motion_blur=0.03"}.items():
        with pytest.raises(InstantiationException, match=message):
            train.assemble(config("train", *TINY, f"data.root={world[1]}", change))
