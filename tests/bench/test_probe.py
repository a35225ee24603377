"""The linear probe: its regression against autograd, its inputs by hand, and a run on poses that tell the action."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.random_world import write_checkpoint

from bench import probe
from m3.core.modalities import ModalityTable
from m3.core.types import FramePair, TokenizedPair
from m3.shards.manifest import Manifest, pair_modalities
from m3.shards.meta import pair_meta
from m3.shards.writer import write_shards

CANVAS = {"mode": "crop", "size": 32}
NUM_FRAMES = 5
CLIPS = {
    "train": ("rise", "fall", "fall", "rise", "fall"),
    "eval": ("fall", "rise"),
    "test": ("rise", "fall", "rise", "jump"),  # nobody learns jump
}
TABLE = {
    "_target_": "m3.core.modalities.ModalityTable",
    "modalities": ["coords", "motion_prev", "gap_prev", "action", "motion_next"],
    "vocab_sizes": [8192, 4226, 64, 8, 4226],
    "max_seq_lens": [39, 13, 1, 1, 13],
    "input_alphas": [1, 1, 1, 1, 0],
    "target_alphas": [0, 0, 0, 0, 1],
    "input_tokens_range": [8, 40],
    "target_tokens_range": [8, 13],
}
MODEL = {
    "_target_": "m3.model.encoder_decoder.EncoderDecoder",
    "table": TABLE,
    "width": 32,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "head_width": 16,
    "joints": "ordinal",
}


def poses(action: str, seed: int) -> np.ndarray:
    """(NUM_FRAMES, 3, 13) joint tokens: about the same person every time, who rises, falls or stays."""
    rng = np.random.default_rng(seed)
    xy = np.random.default_rng(99).integers(2000, 6000, (2, 13)) + rng.integers(0, 20, (2, 13))
    speed = np.array([[0], [{"rise": -300, "fall": 300, "jump": 0}[action]]])
    frames = [np.concatenate([xy + n * speed, rng.integers(0, 2, (1, 13))]) for n in range(NUM_FRAMES)]
    return np.stack(frames)


def write_data(root: Path) -> Manifest:
    """Each clip's pairs of consecutive frames; the first has no frame before it, one pair of test has no action."""
    shards, number = {}, 0
    for split, actions in CLIPS.items():
        pairs = []
        for action in actions:
            clip, coords = f"{split}{number}", poses(action, number)
            number += 1
            for n in range(NUM_FRAMES - 1):
                previous = n - 1 if n else None
                tokens = {"coords": coords[n], "coords_next": coords[n + 1]}
                if previous is not None:
                    tokens["coords_prev"] = coords[previous]
                is_labeled = (action, n) != ("jump", 2)
                meta = pair_meta(
                    FramePair(n, n + 1, None, previous), clip, action if is_labeled else None, CANVAS, 20.0, None
                )
                tokens = {name: ids.astype(np.uint16) for name, ids in tokens.items()}
                pairs.append(TokenizedPair(f"{clip}-{n:06d}", tokens, (), meta))
        shards[split] = write_shards(root, split, pairs, pairs_per_shard=10)
    manifest = Manifest(
        settings={"split": {"_target_": "m3.shards.split.OfficialSplit"}},
        source={"name": "random", "fingerprint": "0"},
        canvas=CANVAS,
        modalities=pair_modalities((2, 2), ("coords", "coords_next", "coords_prev")),
        has_joints=True,
        variants=(),
        captioner={"name": "none", "fingerprint": None, "settings": {}},
        text_tokenizer=None,
        tokenizer={"name": "none", "fingerprint": None, "settings": {}},
        num_clips={split: len(actions) for split, actions in CLIPS.items()},
        shards=shards,
        statistics={},
        rejected=(),
        notes=(),
        actions=("fall", "jump", "rise"),
    )
    manifest.save(root)
    return manifest


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("probe")
    manifest = write_data(root / "data")
    shards = [shard.sha256 for shard in manifest.shards["train"]]
    data = {
        "canvas_size": 32,
        "tokenizer": "none",
        "tokenizer_fingerprint": None,
        "train_shards": shards,
        "actions": list(manifest.actions),
    }
    write_checkpoint(root / "run", data, MODEL, scale=0.3)
    return root


def run(world: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict:
    file = world / "probe.json"
    monkeypatch.setattr(
        sys, "argv", ["probe.py", str(world / "run"), "--data", str(world / "data"), "--json", str(file), *options]
    )
    probe.main()
    return json.loads(file.read_text())


def test_the_probe_runs_and_its_counts_are_those_of_the_data(world: Path, monkeypatch, capsys) -> None:
    found = run(world, monkeypatch)
    assert found["inputs"] == ["coords", "motion_prev"]  # motion_next was never an input
    assert found["joints"] == ["coords_prev", "coords"] and found["num_features"] == {"encoder": 32, "joints": 78}
    assert found["actions"] == ["fall", "rise"] and found["chance"] == 0.5
    # Three of four pairs have a frame before the reference; one of test has no label.
    assert found["num_pairs"] == {"train": 15, "eval": 6, "test": 11}
    assert found["num_clips"] == {"train": 5, "eval": 2, "test": 4}
    assert found["is_training_data"] and found["has_learned_actions"]
    by_pair, by_clip = found["top1"]["pair"], found["top1"]["clip"]
    # 3 of 11 pairs and 1 of 4 clips are "fall", the most frequent action of train; "jump" is never right.
    assert by_pair["most frequent action"]["value"] == pytest.approx(3 / 11)
    assert by_clip["most frequent action"]["value"] == 0.25
    assert by_pair["joints"]["value"] == pytest.approx(9 / 11) and by_clip["joints"]["value"] == 0.75
    gain = by_pair["encoder"]["value"] - by_pair["joints"]["value"]
    assert by_pair["gain over joints"]["value"] == pytest.approx(gain)
    for name in ("encoder", "joints", "most frequent action"):
        assert 0 <= by_pair[name]["low"] <= by_pair[name]["value"] <= by_pair[name]["high"] <= 1
    assert "81.8" in capsys.readouterr().out  # 9 / 11


def test_fewer_pairs_other_inputs_and_one_strength(world: Path, monkeypatch) -> None:
    found = run(world, monkeypatch, "--inputs", "coords", "gap_prev", "--max-pairs", "4", "--c", "0.5")
    assert found["num_pairs"] == {"train": 4, "eval": 4, "test": 4} and found["joints"] == ["coords"]
    assert found["c"] == {"encoder": 0.5, "joints": 0.5} and found["num_features"]["joints"] == 39


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--inputs", "coords", "action"), "action tells the action"),
        (("--inputs", "gap_prev"), "gap_prev shows no frame"),
        (("--inputs", "coords", "tok_rgb"), "tok_rgb.* is not in the table"),
        (("--max-pairs", "0"), "--max-pairs=0"),
        (("--c", "-1"), "--c=-1"),
    ],
)
def test_impossible_arguments_end_in_one_line(world: Path, monkeypatch, options, message) -> None:
    with pytest.raises(SystemExit, match=message):
        run(world, monkeypatch, *options)


def test_features_are_those_of_each_pair_and_its_label(world: Path) -> None:
    """The third pair of each clip alone, with the tokens that it has by hand."""
    loaded = probe.load_model(world / "run")
    split = probe.TokenTable.open(world / "data", "test")
    pairs = probe.read_pairs(loaded, split, ("coords",), ("fall", "rise"), 100)
    assert pairs.action.tolist() == [1] * 4 + [0] * 4 + [1] * 4 + [-1] * 3
    assert pairs.clip[4] == "test8" and len(pairs.features) == 15
    tokens = torch.zeros(1, 67, dtype=torch.int64)
    tokens[0, :39] = torch.from_numpy(poses("fall", 8)[2].ravel())
    alone = loaded.encode(tokens, lengths=torch.tensor([[39, 0, 0, 0, 0]]))
    np.testing.assert_allclose(pairs.features[6], alone[0].double(), rtol=1e-5, atol=1e-6)


def test_the_regression_is_at_the_minimum_that_autograd_sees() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 4)) * [1, 20, 0.1, 1] + [0, 5, -3, 0]
    inputs = np.concatenate([inputs, np.full((60, 1), 7.0)], 1)  # a constant input
    action = (inputs[:, 0] + 0.3 * rng.normal(size=60) > 0).astype(int) + (inputs[:, 1] > 30)
    found = probe.fit(inputs, action, 3, c=0.7)
    rows = np.nan_to_num((inputs - inputs.mean(0)) / np.where(inputs.std(0) > 0, inputs.std(0), 1))
    weight = torch.tensor(found.weight, requires_grad=True)
    logits = torch.from_numpy(rows) @ weight[:-1] + weight[-1]
    loss = 0.7 * F.cross_entropy(logits, torch.from_numpy(action), reduction="sum") + (weight[:-1] ** 2).sum() / 2
    loss.backward()
    assert weight.grad.abs().max() < 0.01 and found.weight[:4].any() and not found.weight[4].any()
    np.testing.assert_allclose(found.log_probabilities(inputs), logits.log_softmax(1).detach(), atol=1e-9)
    started = probe.fit(inputs, action, 3, 0.7, start=probe.fit(inputs, action, 3, 0.01))
    np.testing.assert_allclose(started.weight, found.weight, atol=1e-2)


def test_the_strength_is_the_best_on_eval_and_the_smallest_of_equal_ones() -> None:
    rng = np.random.default_rng(0)
    action = np.arange(40) % 2
    inputs = rng.normal(size=(40, 30)) + 0.5 * action[:, None]
    held_out = rng.normal(size=(400, 30)) + 0.5 * (np.arange(400) % 2)[:, None]
    _, best, scores = probe.choose_probe((inputs, action), (held_out, np.arange(400) % 2), (100.0, 0.001, 0.01))
    assert list(scores) == [0.001, 0.01, 100.0]
    assert best == min(c for c in scores if scores[c] == max(scores.values())) != 100.0


def test_joints_are_relative_to_the_box_of_the_earlier_pose() -> None:
    """Box 1000 … 3000 along x, 2000 … 2400 along y; joint 2 has no place in the second pose."""
    earlier = np.tile([[1000], [2000], [1]], 13)
    earlier[:2, 1] = 3000, 2400
    later = earlier.copy()
    later[:2, 0] = 1500, 2300
    later[:, 2] = 0
    found = probe.joint_inputs(np.stack([earlier, later])[None]).reshape(2, 3, 13)
    np.testing.assert_allclose(found[0, :2, :2], [[-0.5, 0.5], [-0.1, 0.1]])
    np.testing.assert_allclose(found[1, :, 0], [-0.25, 0.05, 1])
    assert found[1, :, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("names", "alphas", "expected"),
    [
        (("coords", "coords_next"), (1, 1), ("coords", "coords_next")),
        (("coords", "coords_next", "motion_next"), (1, 0, 1), ("coords", "motion_next")),
        (("coords_prev", "coords", "motion_next"), (1, 1, 0), ("coords_prev", "coords")),
    ],
)
def test_a_pair_is_what_the_model_was_given(names, alphas, expected) -> None:
    lengths = [13 if name.startswith("motion") else 39 for name in names]
    table = ModalityTable(names, [8192] * len(names), lengths, alphas, [1] * len(names), [4, 5], [4, 5])
    assert probe.pair_inputs(table) == expected
    if alphas[-1] == 0:
        with pytest.raises(ValueError, match="given no pair of poses, but coords: name --inputs"):
            probe.pair_inputs(ModalityTable(("coords",), [8192], [39], [1], [1], [4, 5], [4, 5]))


def test_poses_of_the_frames_that_are_shown() -> None:
    assert probe.poses_of(("tok_rgb", "tok_rgb_next")) == ["coords", "coords_next"]
    assert probe.poses_of(("coords", "motion_prev", "motion_next")) == ["coords_prev", "coords", "coords_next"]
    assert probe.poses_of(("coords_prev", "gap_prev")) == ["coords_prev"]


def test_a_clip_has_the_mean_of_its_pairs() -> None:
    pairs = probe.Pairs(np.zeros((4, 1)), np.zeros((4, 1)), np.array([1, 0, 1, 0]), np.array(["b", "a", "b", "a"]))
    clips = probe.Clips.of(pairs)
    assert clips.id.tolist() == ["a", "b"] and clips.action.tolist() == [0, 1]
    assert clips.mean(np.array([[1.0, 2], [3, 4], [5, 6], [7, 8]])).tolist() == [[5, 6], [3, 4]]
