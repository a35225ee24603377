"""Every shipped option, composed; what is assembled from a configuration, as plain values."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).parents[2] / "conf"


def app_of(group: str) -> str:
    """The application whose defaults list names the group, or in whose folder it lies."""
    if "/" in group:
        return group.split("/")[0]
    for app in ("train", "preprocess", "generate"):
        defaults = yaml.safe_load((CONF / f"{app}.yaml").read_text())["defaults"]
        if any(group in entry for entry in defaults if isinstance(entry, dict)):
            return app
    raise AssertionError(f"no application has the group {group}")


OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in (*CONF.glob("*/*.yaml"), *CONF.glob("*/experiment/*.yaml"))
)
"""Group ("model", or "train/experiment" for what only one application has) and option."""

COMPANIONS = {("data", "futures"): ["experiment=penn_forecast"],
              ("generate/experiment", "penn_forecast"): ["labels=DIR"],
              ("task", "tokenizer"): ["data=rendered_frames"],
              ("data", "rendered_frames"): ["experiment=mini_tokenizer", "data.labels=null"],
              ("train/experiment", "mini_tokenizer"): ["data.labels=null"]}  # fmt: skip
"""What an option makes no sense without."""


def composed(group: str, option: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        name = group.split("/")[-1]
        return compose(app_of(group), [f"{name}={option}", *COMPANIONS.get((group, option), [])])


@cache
def attributes_read() -> set[str]:
    """Names of attributes that m3 or an entry point reads, not counting checks of a record's own values."""
    names = set()
    for path in (*CONF.parent.glob("*.py"), *CONF.parent.glob("m3/**/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checks = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name == "__post_init__"
            for node in ast.walk(function)
        }
        names |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in checks
        }
    return names


def facts(value: Any, seen: set[int]) -> Any:
    """What an assembled part holds, as plain values: m3's own objects and records to the last field."""
    if value is None or isinstance(value, bool | int | float | str | Path):
        return value
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), str(value.dtype), float(value.detach().double().sum()) if value.numel() else 0.0
    if id(value) in seen:
        return "…"
    seen = seen | {id(value)}
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, dict):
        return {str(key): facts(item, seen) for key, item in value.items() if key not in ("config", "data")}
    if isinstance(value, list | tuple):
        return [facts(item, seen) for item in value]
    held = {}
    if isinstance(value, torch.nn.Module):
        tensors = [*value.named_parameters(), *value.named_buffers()]
        held = {name: facts(tensor, seen) for name, tensor in tensors}
        held["compiled"] = any(part._compiled_call_impl is not None for part in value.modules())
        for key in ("kernel", "head_width"):
            held[key] = [getattr(part, key) for part in value.modules() if hasattr(part, key)]
    if type(value).__module__.split(".")[0] in ("m3", "train"):
        own = vars(value) if hasattr(value, "__dict__") else {}
        held |= {k: facts(v, seen) for k, v in own.items() if k not in ("_modules", "_parameters", "_buffers")}
    return type(value).__qualname__, held


def override(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{override(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(map(override, value)) + "]" if isinstance(value, list) else str(value).lower() \
        if isinstance(value, bool) else str(value)  # fmt: skip
