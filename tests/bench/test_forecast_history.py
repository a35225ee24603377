"""Forecasts from two poses: sequences, baselines and the model's input, against the data set and sums by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from support.random_world import CONF, MODALITIES, MODEL, write_run
from support.tiny_world import write_label

import preprocess
from bench import forecast_history
from m3.batches.table import TokenTable
from m3.checkpoint import LoadedModel, load_model
from m3.forecast.protocol import read_clips
from m3.generation.prompts import prompts_of_split
from m3.generation.rollout import find_chains
from m3.tokens.joints import JointCodec

NAMES = ("coords", "motion_prev", "gap_prev", "gap_next", "motion_next")
TABLE = {**MODALITIES, "modalities": list(NAMES), "vocab_sizes": [8192, 4226, 64, 64, 4226],
         "max_seq_lens": [39, 13, 1, 1, 13], "input_alphas": [1, 1, 1, 1, 0], "target_alphas": [0, 0, 0, 0, 1],
         "input_tokens_range": [1, 54], "target_tokens_range": [1, 13]}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 40 and 10 frames, at 64 × 48 px; the person of the first walks 0.5 px a frame and waves. And a model."""
    root = tmp_path_factory.mktemp("history")
    time, joints = np.arange(40.0)[:, None], np.linspace(-8, 8, 13)[None]
    x, y = 20 + 0.5 * time + joints, 24 + joints * np.cos(time / 9)
    for name, length in (("0001", 40), ("0002", 10)):
        write_label(root / "labels" / f"{name}.mat", num_frames=length, train=np.array([[-1]], np.int32),
                    x=x[:length], y=y[:length])  # fmt: skip
    write_run(root / "run", {**MODEL, "table": TABLE}, scale=1.0, tokenizer="none", tokenizer_fingerprint=None)
    return root


@pytest.fixture(scope="module")
def model(world: Path) -> LoadedModel:
    return load_model(world / "run")


def test_sequences_start_where_there_is_a_frame_one_step_before(world: Path) -> None:
    clips = read_clips(world / "labels")[0]  # steps of 2 frames and of none
    assert [(clip.id, starts.tolist()) for clip, starts in forecast_history.sequences(clips, 1)] == [
        ("0001", list(range(2, 40)))
    ]
    assert forecast_history.sequences(clips, 10)[0][1].tolist() == [2, 12, 22, 32]


def test_velocities_by_hand(world: Path) -> None:
    clip, starts = read_clips(world / "labels")[0][0], np.array([2, 7])
    xy = clip.label.joints.xy
    last = xy[starts] - xy[starts - 2]
    constant = forecast_history.moved_on(np.arange(1.0, 17))(clip, starts)
    assert np.allclose(constant[:, 2], xy[starts] + 3 * last) and constant.shape == (2, 16, 13, 2)


def test_the_model_is_given_what_the_data_set_holds(world: Path, model: LoadedModel, tmp_path: Path) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        preprocess.run(compose("preprocess", [
            "source=poses", f"source.labels={world / 'labels'}", f"out={tmp_path / 'data'}", "canvas=pad",
            "canvas.size=32", "pairs=stride", "pairs.step=2", "split.ratios=[0,0,1]", "tokenizer=none", "workers=1",
            "contact_sheet.num_pairs=0",
        ]))  # fmt: skip
    split = TokenTable.open(tmp_path / "data", "test")
    chain = next(chain for chain in find_chains(split.pairs, 16, "history") if chain.pairs[0].clip == "0001")
    stored = prompts_of_split(split, model.table, [chain], 16).tokens
    assert chain.pairs[0].reference == 2
    clip = read_clips(world / "labels")[0][0]
    on_canvas = forecast_history.PadCanvas(32).window(clip.label.size).joints(clip.label.joints)
    poses = JointCodec(32).encode(on_canvas.xy, on_canvas.is_visible).astype(np.int64)
    given = forecast_history.given_frames(model.table, poses[2:3], poses[0:1], 2)
    for name, frames in (("coords", 1), ("motion", 1), ("gap", 17)):
        assert given.is_known[name][:, :frames].all() and not given.is_known[name][:, frames:].any()
        assert (given.ids[name][:, :frames] == stored.ids[name][:, :frames]).all(), name


def test_all_rows_are_of_the_same_sequences_and_history_counts(world: Path, model: LoadedModel, capsys) -> None:
    counts = forecast_history.measure(world / "labels", model, 4)
    forecast_history.show(counts)
    assert [each.num_sequences for each in counts.values()] == [10] * 5
    assert counts["model, one pose"].hits.tolist() != counts["model, two poses"].hits.tolist()
    assert "10 sequences" in capsys.readouterr().out
    clip, starts = read_clips(world / "labels")[0][0], np.array([2])
    made = forecast_history.model_forecast(model, with_history=True)(clip, starts)
    assert made.shape == (1, 16, 13, 2) and np.isfinite(made).all()


def test_a_model_without_displacements_is_refused(tmp_path: Path, world: Path) -> None:
    write_run(tmp_path / "run")
    with pytest.raises(ValueError, match="--checkpoint: it lacks gap_next, gap_prev, motion_next, motion_prev"):
        forecast_history.measure(world / "labels", load_model(tmp_path / "run"), 1)
