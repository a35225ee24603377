"""Whether a checkpoint can be continued: comparison of its configuration and data with those of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from m3.checkpoint.files import read_checkpoint
from m3.core.renames import current_config

_MAY_CHANGE = {
    "name", "run_dir", "resume", "init_from", "init_modalities", "trainer", "callbacks", "logger", "debug",
    "experiment",
}  # fmt: skip
"""Sections of the configuration that may differ in a continued run, because they do not change weights."""

_DATA_MAY_CHANGE = {"root", "num_workers", "eval_batch_size", "backend", "table", "labels", "shuffle_buffer"}

_FOLLOWS_FROM_SHARDS = {"preparation", "median_gap", "median_gap_s"}
"""Properties of the data that equal shards imply, and that checkpoints of earlier versions lack."""

BINDING = ("canvas_size", "tokenizer", "tokenizer_fingerprint")
"""Properties of the data that a model depends on: the size of pictures and the meaning of their tokens."""


def missing(content: Any, keys: Iterable[str]) -> list[str]:
    """The dotted keys ("data.tokenizer") that nested mappings lack."""
    found = []
    for key in keys:
        node = content
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                found.append(key)
                break
            node = node[part]
    return found


def check_resumable(path: Path, identity: dict[str, Any]) -> None:
    """Raises ValueError listing the differences between a checkpoint and the run that is to continue it."""
    saved = read_checkpoint(path)["m3"]
    if differences := resume_differences(saved, identity):
        raise ValueError(
            f"{path} cannot be continued (init_from={path.parent.parent} and another name=… start from its weights), "
            f"it was made with other settings: {'; '.join(differences)}"
        )


def resume_differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """One line for each differing setting or property of the data that the training depends on.

    Args:
        saved, current: identities: `config`, the composed configuration, and `data`. `saved` may use the names of an
            earlier version.
    """
    then, now = current_config(saved["config"], is_stored=True), dict(current["config"])
    for config in (then, now):
        config["data"] = {k: v for k, v in (config.get("data") or {}).items() if k not in _DATA_MAY_CHANGE}
        # `task` repeats other sections; only its plain values are its own.
        config["task"] = {k: v for k, v in (config.get("task") or {}).items() if not isinstance(v, dict)}
    sections = sorted((then.keys() | now.keys()) - _MAY_CHANGE - {"task"})
    lines = [line for section in sections for line in differences(section, then.get(section), now.get(section))]
    data = ({k: v for k, v in each["data"].items() if k not in _FOLLOWS_FROM_SHARDS} for each in (saved, current))
    lines += differences("data", *data)
    lines += [line for line in differences("task", then["task"], now["task"]) if not lines]
    return list(dict.fromkeys(lines))


def differences(name: str, saved: Any, current: Any) -> list[str]:
    """ "key was … and is …" for each leaf of two nested dicts that differs."""
    if isinstance(saved, dict) and isinstance(current, dict):
        keys = sorted(saved.keys() | current.keys())
        return [line for key in keys for line in differences(f"{name}.{key}", saved.get(key), current.get(key))]
    if saved == current:
        return []
    if isinstance(saved, list) and isinstance(current, list) and name.endswith("_shards"):
        first = next((n for n, pair in enumerate(zip(saved, current)) if pair[0] != pair[1]), len(saved))
        return [f"{name} were {len(saved)} and are {len(current)} shards, the first that differs is {first:06d}.tar"]
    return [f"{name} was {saved!r} and is {current!r}"]
