"""What a checkpoint or a shared model says chooses nothing outside it, and nothing larger than its weights is built."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.fuzz import checkpoint_of, make_data, small_run
from m3.checkpoint import LoadedModel, load_model
from m3.checkpoint.files import AtomicCheckpointIO
from m3.checkpoint.resume_check import resume_differences
from m3.generation.compatibility import preparation_of
from m3.generation.input_files import preparation


def saved(root: Path, change: dict[str, Any], section: str = "config") -> Path:
    """A checkpoint in which dotted keys of the configuration or of the data have other values."""
    torch.manual_seed(0)
    model, config, data = small_run()
    for key, value in change.items():
        node: Any = {"config": config, "data": data}[section]
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        node[last] = value
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(model, config, data), root / "step=00000003.ckpt")
    return root / "step=00000003.ckpt"


HUGE = (10**30, 1e30, 2**62, 10**9, float("inf"), float("nan"), -1, True, "6", None, [6], {"a": 1})


@pytest.mark.parametrize("key", ["encoder_depth", "decoder_depth", "width", "head_width", "mlp_ratio"])
@pytest.mark.parametrize("value", HUGE, ids=str)
def test_sizes_are_bounded_before_anything_is_built(tmp_path: Path, key: str, value: Any) -> None:
    file, start = saved(tmp_path, {f"model.{key}": value}), time.monotonic()
    with pytest.raises(ValueError, match=f"{file.name}: .*") as raised:
        load_model(file)
    assert "\n" not in str(raised.value) and time.monotonic() - start < 5


@pytest.mark.parametrize(("key", "value"), [
    ("max_seq_lens", [10**9] * 5), ("max_seq_lens", [39, 39, 13, 1, 10**30]), ("vocab_sizes", [10**12] * 5),
    ("max_seq_lens", [39, 39, 13, 1, 60_000]), ("modalities", ["coords"] * 10**5), ("modalities", "coords"),
    ("modalities", None), ("extra_vocabularies", {"x": {"name": "os", "num_ids": 10**30}}), ("mixture", [{}] * 3),
    ("mixture", [{"weight": 1}] * 10**5), ("extra_vocabularies", {f"x{n}": {} for n in range(10**4)}),
    ("input_tokens_range", [1, 10**30]), ("input_alphas", [1e400] * 5), ("input_alphas", ["1"] * 5),
])  # fmt: skip
def test_tables_are_bounded_too(tmp_path: Path, key: str, value: Any) -> None:
    file, start = saved(tmp_path, {f"model.table.{key}": value}), time.monotonic()
    with pytest.raises(ValueError, match=file.name):
        load_model(file)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("key", "value"), [
    ("canvas_size", 10**9), ("canvas_size", 33), ("canvas_size", "32"), ("canvas_size", None), ("tokenizer", 3),
    ("tokenizer", ["mini"]), ("tokenizer_fingerprint", 7), ("actions", "run"), ("actions", [1]),
    ("actions", ["x" * 201]),
    ("actions", [["x"]]), ("actions", ["\ud800"]), ("preparation", [1]), ("canvas", 1), ("text_tokenizer", 3),
    ("median_gap", 0), ("median_gap", True), ("median_gap", "4"), ("median_gap", 2.5), ("median_gap_s", 0.0),
    ("median_gap_s", float("nan")), ("median_gap_s", "1"), ("median_gap_s", None),
])  # fmt: skip
def test_facts_of_the_data_have_types(tmp_path: Path, key: str, value: Any) -> None:
    file = saved(tmp_path, {key: value}, "data")
    with pytest.raises(ValueError, match=f"{file.name}: its data: {key} is"):
        load_model(file)


def test_only_the_sections_of_the_model_and_its_training_are_read(tmp_path: Path) -> None:
    deep: Any = "end"
    for _ in range(100):
        deep = [deep]
    file = saved(tmp_path, {
        "data": {"root": "pipe:touch harmed {}"}, "callbacks": {"x": {"_target_": "os.system"}}, "hydra": deep,
        "logger": {"_target_": "m3.no.such"}, "run_dir": "../../../x",
    })  # fmt: skip
    assert set(load_model(file).config) == {"model", "optim", "loss", "seed", "name"}
    for key in ("optim", "model.head"):
        with pytest.raises(ValueError, match=file.name):
            load_model(saved(tmp_path, {key: deep}))


def test_a_path_in_a_checkpoint_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pipe:…` ran its command; a data set that a checkpoint names is not looked at either."""
    monkeypatch.chdir(tmp_path)
    command = "pipe:sh -c 'touch harmed; cat {}'"
    for name in (command, "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        make_data(tmp_path / name)
        loaded = load_model(saved(tmp_path, {"data": {"root": name}}))
        settings, origin = preparation_of(loaded, None)
        assert (settings, origin) == (loaded.data["preparation"], "the model's own data")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("steps, middle", [([3], 3), ([12, 2, 8, 4], 4), ([9, 1, 5], 5)])
def test_of_several_steps_a_video_takes_the_middle_one(steps: list[int], middle: int) -> None:
    pairs = {"_target_": "m3.pairs.Stride", "step": steps, "starts": "every"}
    miner = preparation(32, 3, {"canvas": "pad", "pairs": pairs}, "the model's own data").miner
    assert [pair.successor for pair in miner.pairs(range(99))] == [middle, 2 * middle, 3 * middle]


def test_how_clips_became_pairs_comes_with_the_model_or_with_data_root(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    own = {"canvas": "pad", "pairs": {"_target_": "m3.pairs.Stride", "step": "1/17"}, "fps": 12.5}
    loaded = load_model(saved(tmp_path, {"preparation": own, "tokenizer_fingerprint": "cd"}, "data"))
    assert preparation_of(loaded, str(tmp_path)) == (manifest.preparation, str(tmp_path))
    how = preparation(32, 2, *preparation_of(loaded, str(tmp_path / "nowhere")))
    assert (how.canvas.mode, how.miner.step, how.fps) == ("pad", "1/17", 12.5)
    assert how.summary.endswith("as in the model's own data")
    shared = LoadedModel.from_pretrained(loaded.save_pretrained(tmp_path / "shared"))
    assert shared.data["preparation"] == own
    other = load_model(saved(tmp_path, {"tokenizer_fingerprint": "other"}, "data"))
    assert preparation_of(other, str(tmp_path))[1] == "the model's own data"


@pytest.mark.parametrize("settings", [
    {"canvas": "pad", "pairs": {"_target_": "m3.pairs.Stride", "step": "1e999999999"}},
    {"canvas": "pad", "pairs": {"_target_": "m3.pairs.Stride", "step": []}}, {"canvas": "pad", "pairs": 3},
    {"canvas": "pad", "pairs": {"_target_": "m3.pairs.Stride", "step": [0, 4]}},
    {"canvas": "pad", "pairs": {"_target_": "m3.pairs.Stride", "step": ["1/17"]}},
    {"canvas": "pad", "pairs": {"_target_": "m3.pairs.Chain", "threshold": "x"}}, {"canvas": "pad"},
    {"canvas": ["pad"]},
    {"canvas": "pad", "pairs": {"_target_": "m3.pairs.Stride"}}, {"canvas": "pad", "pairs": {}, "fps": 1e30},
])  # fmt: skip
def test_odd_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the settings of the model"):
        preparation(32, 2, settings, "the model")


def test_runs_of_earlier_versions_go_on(tmp_path: Path) -> None:
    _, config, data = small_run()
    before = {key: value for key, value in data.items() if key != "preparation"}
    assert resume_differences({"config": config, "data": before}, {"config": config, "data": data}) == []


@pytest.mark.parametrize("content", [
    b"", b"[]", b"[" * 10**5, b'{"model_type": "m3"}', b'{"a": NaN}', b"\xff", b"null", b'{"training": []}',
])  # fmt: skip
def test_other_texts_are_no_configuration(tmp_path: Path, content: bytes) -> None:
    model, config, data = small_run()
    LoadedModel(model, model.table, config, data, 3).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(tmp_path)
