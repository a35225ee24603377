"""Old names of keys and targets: on the command line, in users' files, in stored configurations."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from m3.core import renames
from m3.core.renames import (
    RENAMED_KEYS,
    RENAMED_TARGETS,
    current_config,
    current_key,
    current_overrides,
    current_target,
    rename_swept_keys,
)


@pytest.fixture(autouse=True)
def nothing_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renames, "_warned", set())


def test_targets() -> None:
    assert current_target("m3.modalities.ModalityTable") == "m3.core.modalities.ModalityTable"
    assert current_target("m3.tokens.mini.MiniTokenizer") == "m3.tokens.mini.MiniTokenizer"
    assert not RENAMED_TARGETS.keys() & {*RENAMED_TARGETS.values()}


def test_only_last_parts_of_keys_are_renamed() -> None:
    for old, new in RENAMED_KEYS.items():
        assert old.rpartition(".")[0] == new.rpartition(".")[0] and old != new


@pytest.mark.parametrize(("old", "new"), [
    ("loss.average", "loss.reduction"),
    ("loss.average.more", "loss.reduction.more"),
    ("my.loss.average", "my.loss.average"),
    ("loss.averages", "loss.averages"),
    ("loss", "loss"),
    ("sampling.schemes.coords.kind", "sampling.schemes.coords.order"),
    ("sampling.schemes.kind", "sampling.schemes.kind"),
    ("callbacks.preview.sampling.schemes.tok_rgb.refresh_every",
     "callbacks.preview.sampling.schemes.tok_rgb.encoder_interval"),
    ("rollout.draws", "rollout.sample_schemes"),
    ("rollout.draws.coords.kind", "rollout.sample_schemes.coords.order"),
])  # fmt: skip
def test_keys(old: str, new: str) -> None:
    assert current_key(old) == new and current_key(new) == new


@pytest.mark.parametrize(("given", "current"), [
    ("loss.average=all", "++loss.reduction=all"),
    ("+loss.average=all", "+loss.reduction=all"),
    ("++loss.average=all", "++loss.reduction=all"),
    ("~loss.average", "~loss.reduction"),
    ("~loss.average=all", "~loss.reduction=all"),
    ("loss.average=all,token", "++loss.reduction=all,token"),
    ("loss.average=choice(all,token)", "++loss.reduction=choice(all,token)"),
    ("loss={average: all, motion_blur: 0.1}", "loss={reduction: all, motion_blur: 0.1}"),
    ("loss={average:all},{average:token}", "loss={reduction:all},{reduction:token}"),
    ("rollout.draws={coords: {kind: ar, top_p: 0.5}}", "++rollout.sample_schemes={coords: {order: ar, top_p: 0.5}}"),
    ("sampling.schemes={coords: {conditions: [kind, {kind: ar}], kind: roar}, b: {kind: ar}}",
     "sampling.schemes={coords: {conditions: [kind, {kind: ar}], order: roar}, b: {order: ar}}"),
    ("loss={label: 'average: 1, average: 2', average: all}", "loss={label: 'average: 1, average: 2', reduction: all}"),
    ("name=run_${loss.average}_${seed}", "name=run_${loss.reduction}_${seed}"),
    ("name='${oc.select:loss.average,all}'", "name='${oc.select:loss.reduction,all}'"),
    ("task={loss_average: '${loss.average}'}", "task={reduction: '${loss.reduction}'}"),
    ("name=${oc.env:${my.key}}_a.${b}", "name=${oc.env:${my.key}}_a.${b}"),
    ("seed=1", "seed=1"),
    ("data@other=table", "data@other=table"),
    ("hydra/launcher=joblib", "hydra/launcher=joblib"),
    ("source.root=/data/{a,b}/average: x", "source.root=/data/{a,b}/average: x"),
    ("-m", "-m"),
    ("--config-name=train", "--config-name=train"),
    ("train", "train"),
    ("", ""),
])  # fmt: skip
def test_overrides(given: str, current: str) -> None:
    assert current_overrides([given]) == [current]
    assert current_overrides([current]) == [current]


def test_hydra_reads_an_override_with_current_names_as_it_reads_the_old_one() -> None:
    old = "sampling.schemes={a: {kind: ar, top_p: 0.5, weights: [1, 'x,y', {z: null}]}, b: {num_steps: 3}}"
    parser = OverridesParser.create()
    given, current = (parser.parse_override(text).value() for text in (old, *current_overrides([old])))
    given["a"]["order"] = given["a"].pop("kind")
    assert current == given


def test_the_log_warns_once_of_each_old_key_with_the_new_one(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        current_overrides(["sampling.schemes.coords.kind=ar", "sampling.schemes.tok_rgb.kind=ar", "seed=1"])
        current_config({"loss": {"average": "all"}})
        current_config({"loss": {"average": "all"}})
    assert caplog.messages == [
        "sampling.schemes.coords.kind is now sampling.schemes.coords.order; the old name works for this release",
        "loss.average is now loss.reduction; the old name works for this release",
    ]


def test_stored_configurations_are_renamed_without_a_warning(caplog) -> None:
    stored = {
        "optim": {"_target_": "m3.training.optim.Recipe", "lr": 0.1},
        "loss": {"average": "all", "motion_blur": 0.0},
        "callbacks": {"preview": {"sampling": {"schemes": {"coords": {"kind": "ar", "num_steps": None}}}}},
        "modalities": {"mixture": [{"weight": 1, "kind": "x"}], 3: "number"},
    }
    with caplog.at_level(logging.WARNING):
        current = current_config(stored, is_stored=True)
    assert not caplog.messages and stored["loss"] == {"average": "all", "motion_blur": 0.0}
    assert current == {
        "optim": {"_target_": "m3.training.optim.OptimConfig", "lr": 0.1},
        "loss": {"reduction": "all", "motion_blur": 0.0},
        "callbacks": {"preview": {"sampling": {"schemes": {"coords": {"order": "ar", "num_steps": None}}}}},
        "modalities": {"mixture": [{"weight": 1, "kind": "x"}], 3: "number"},
    }
    assert [*current["loss"]] == ["reduction", "motion_blur"]


def test_a_users_file_with_old_names(tmp_path: Path) -> None:
    """It is merged into the defaults, which have the new ones."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "main.yaml").write_text(
        "defaults: [_self_, {experiment: null}]\n"
        "loss: {reduction: present, motion_blur: 0.0}\n"
        "rollout: {sample_schemes: {coords: {pick: sample, top_p: 0.9}, tok_rgb: {pick: sample}}}\n"
        "seed: ???\n"
        "same: ${loss}\n"
    )
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\n"
        "loss: {average: all, again: '${.average}', more: '${..loss.average}'}\n"
        "rollout: {draws: {coords: {top_p: 0.5, kind: roar}}}\n"
        "task: {loss_average: '${loss.average}'}\n"
    )

    def composed(*overrides: str):
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return current_config(compose("main", ["experiment=mine", *overrides]), overrides)

    cfg = composed()
    assert OmegaConf.is_struct(cfg) and OmegaConf.is_missing(cfg, "seed")
    cfg.seed = 1
    assert OmegaConf.to_container(cfg, resolve=True) == {
        "loss": {"reduction": "all", "motion_blur": 0.0, "again": "all", "more": "all"},
        "rollout": {
            "sample_schemes": {
                "coords": {"pick": "sample", "top_p": 0.5, "order": "roar"},
                "tok_rgb": {"pick": "sample"},
            }
        },
        "seed": 1,
        "same": {"reduction": "all", "motion_blur": 0.0, "again": "all", "more": "all"},
        "task": {"reduction": "all"},
    }
    cfg = composed("loss.reduction=token", "++rollout.sample_schemes={coords: {top_p: 0.7}}", "experiment=mine")
    assert cfg.task.reduction == cfg.loss.reduction == "token"  # the command line goes before the file
    assert cfg.rollout.sample_schemes.coords == {"pick": "sample", "top_p": 0.7, "order": "roar"}
    assert composed("loss.motion_blur=0.5").loss.reduction == "all"


def test_the_search_space_of_a_sweep() -> None:
    cfg = OmegaConf.create({"params": {"optim.lr": "interval(1,2)", "loss.average": "choice(all,token)"}})
    OmegaConf.set_struct(cfg, True)
    rename_swept_keys(cfg.params)
    assert cfg.params == {"optim.lr": "interval(1,2)", "loss.reduction": "choice(all,token)"}
    assert OmegaConf.is_struct(cfg.params)


def test_a_configuration_with_current_names_stays_the_same_object() -> None:
    cfg = OmegaConf.create({"loss": {"reduction": "all"}, "n": "${loss.reduction}"})
    assert current_config(cfg) is cfg


def test_keys_with_dots_are_no_paths():
    config = {"logger": {"wandb": {"config": {"data.version": 1, "model.version": 2, "loss.average": "all"}}}}
    assert current_config(config) == config


def test_an_old_target_is_named_in_a_warning(caplog):
    renames._warned.clear()
    config = {"callbacks": {"preview": {"_target_": "m3.preview.Preview"}}}
    assert current_config(config)["callbacks"]["preview"]["_target_"] == "m3.reporting.preview.Preview"
    assert "m3.preview.Preview" in caplog.text and "m3.reporting.preview.Preview" in caplog.text
    caplog.clear()
    renames._warned.clear()
    current_config(config, is_stored=True)
    assert not caplog.text


def test_a_copied_default_under_its_old_name_does_not_undo_a_later_option():
    """A user's copy of the old conf/train.yaml, and experiment=m3 after it, which sets the new name."""
    copied = {"loss": {"average": "present", "reduction": "all"}}
    assert current_config(copied) == {"loss": {"reduction": "all"}}
    chosen = {"loss": {"average": "token", "reduction": "all"}}
    assert current_config(chosen) == {"loss": {"reduction": "token"}}
