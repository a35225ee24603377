"""Old names of configuration keys and `_target_`s, which keep working for one release.

Renaming a key: add it to `RENAMED_KEYS`. Renaming or moving what a `_target_` names: add it to `RENAMED_TARGETS`. Code,
conf/ and docs use the new names only.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

RENAMED_TARGETS: dict[str, str] = {
    "m3.inpainting.Inpainting": "m3.generation.inpainting.Inpainting",
    "m3.modalities.ModalityTable": "m3.core.modalities.ModalityTable",
    "m3.preview.Preview": "m3.reporting.preview.Preview",
    "m3.shards.executor.LocalExecutor": "m3.preprocessing.executors.LocalExecutor",
    "m3.shards.ray_executor.RayExecutor": "m3.preprocessing.ray_executor.RayExecutor",
    "m3.shards.tokenized_folders.TokenizedFolders": "m3.preprocessing.tokenized_folders.TokenizedFolders",
    "m3.training.optim.Recipe": "m3.training.optim.OptimConfig",
}
"""Old dotted path of a class or function → new."""

RENAMED_KEYS: dict[str, str] = {
    "loss.average": "loss.reduction",
    "task.loss_average": "task.reduction",
    "rollout.draws": "rollout.sample_schemes",
    "rollout.sample_schemes.*.kind": "rollout.sample_schemes.*.order",
    "rollout.sample_schemes.*.refresh_every": "rollout.sample_schemes.*.encoder_interval",
    "**.sampling.schemes.*.kind": "**.sampling.schemes.*.order",
    "**.sampling.schemes.*.refresh_every": "**.sampling.schemes.*.encoder_interval",
}
"""Old dotted key → new. Both differ in their last part only; the parts before it are current names.

"*" stands for one part, a leading "**" for any number of parts, also none.
"""

_DEFAULTS: dict[str, Any] = {
    "loss.reduction": "present",
    "**.sampling.schemes.*.order": "maskgit",
    "**.sampling.schemes.*.encoder_interval": 1,
}
"""Values of the renamed keys in conf/ when they were renamed."""

Config = TypeVar("Config", DictConfig, dict[str, Any])

_OVERRIDE = re.compile(r"(?P<sign>~|\+\+|\+|)(?P<key>[^-=@/~+][^=@/]*)(?:=(?P<value>.*))?", re.DOTALL)
_INTERPOLATION = re.compile(r"(?P<start>\$\{(?:oc\.select:)?)(?P<dots>\.*)(?P<key>[A-Za-z_][\w.]*)")
_VALUE_TOKEN = re.compile(
    r"""\$\{[^{}]*\} | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | [^\s{}\[\](),:'"]+ | .""", re.DOTALL | re.VERBOSE
)

_log = logging.getLogger(__name__)


def current_target(path: str) -> str:
    """The dotted path under which a class or function is found now; unchanged where it was not renamed."""
    return RENAMED_TARGETS.get(path, path)


def current_key(key: str, is_stored: bool = False) -> str:
    """The current name of a dotted configuration key, each of its parts renamed where necessary.

    is_stored: the key was read from a file that the user did not write; there is no warning then.
    """
    parts: list[str] = []
    for part in key.split("."):
        path = ".".join([*parts, part])
        old = next((old for old in RENAMED_KEYS if _pattern(old).fullmatch(path)), None)
        if old is not None:
            part = RENAMED_KEYS[old].rpartition(".")[2]
            if not is_stored:
                _warn(old, path, ".".join([*parts, part]))
        parts.append(part)
    return ".".join(parts)


def current_config(config: Config, overrides: Sequence[str] = (), is_stored: bool = False) -> Config:
    """A configuration with the current names of keys, of `_target_`s, and of keys in interpolations.

    Where a key is present under both names, as when a user's file with the old name was merged into the defaults, the
    value of the old name is taken, unless `overrides` set the new one. An old name with the default value, as in a
    user's copy of conf/train.yaml, changes nothing: options chosen after it may have set the new one.

    Args:
        config: composed, or read from a checkpoint or a file; it is not changed.
        overrides: of the command line, with current names (`current_overrides`).
        is_stored: the configuration is part of a file that m3 wrote (a checkpoint, a shared model). Otherwise the log
            warns of each old key once per process.
    """
    if not isinstance(config, DictConfig):
        return _current(config, (), _keys_set(overrides), is_stored)
    content: Any = OmegaConf.to_container(config, resolve=False)
    renamed = _current(content, (), _keys_set(overrides), is_stored)
    if renamed == content:
        return config
    made = DictConfig(renamed)
    OmegaConf.set_struct(made, OmegaConf.is_struct(config))
    return made


def current_overrides(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command with the current names in Hydra's overrides; flags and other arguments are unchanged.

    `KEY=VALUE` becomes `++NEW=VALUE`, which also works with a user's file that has nothing but the old key.
    """
    return [argument if argument.startswith("-") else _current_override(argument) for argument in arguments]


def rename_swept_keys(params: DictConfig) -> None:
    """Gives the keys of a sweep's search space (`hydra.sweeper.params`) their current names, in place."""
    spaces = {current_key(str(key)): params._get_node(key) for key in params}
    if spaces.keys() != params.keys():
        with open_dict(params):
            params.clear()
            params.update(spaces)


def _current_override(argument: str) -> str:
    if (match := _OVERRIDE.fullmatch(argument)) is None:
        return argument
    key, value = current_key(match["key"]), match["value"]
    if value is None:
        return match["sign"] + key
    sign = "++" if key != match["key"] and not match["sign"] else match["sign"]
    value = _with_current_keys(_with_current_interpolations(value, key.split("."), is_stored=False), key)
    return f"{sign}{key}={value}"


def _with_current_keys(value: str, parent: str) -> str:
    """The value of an override, as text, with the keys of its mappings renamed; `parent`: the override's own key."""
    made: list[str] = []
    opened: list[tuple[str, str]] = []  # brackets around the token, each with the key that it is a value of
    key, is_key_next = parent, False
    for token in _VALUE_TOKEN.findall(value):
        if token in ("{", "[", "("):
            opened.append((token, key))
            is_key_next = token == "{"
        elif token in ("}", "]", ")"):
            key = opened.pop()[1] if opened else parent
        elif token == ",":
            key = opened[-1][1] if opened else parent
            is_key_next = bool(opened) and opened[-1][0] == "{"
        elif is_key_next and not token.isspace():
            old = f"{opened[-1][1]}.{token}"
            key, is_key_next = current_key(old), False
            token = token if key == old else key.rpartition(".")[2]
        made.append(token)
    return "".join(made)


def _current(node: Any, path: tuple[str, ...], keys_set: set[str], is_stored: bool) -> Any:
    """A node of a configuration with current names; `path`: its own, in current names."""
    if isinstance(node, str):
        return _with_current_interpolations(node, path, is_stored)
    if isinstance(node, list | tuple):
        return [_current(item, (*path, str(i)), keys_set, is_stored) for i, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    names = {key: _renamed(path, key, is_stored) for key in node}
    made = {key: _current(node[key], (*path, str(key)), keys_set, is_stored) for key in node if names[key] == key}
    for key, name in names.items():
        if name != key:
            value = _current(node[key], (*path, name), keys_set, is_stored)
            made[name] = _merged(made[name], value, (*path, name), keys_set) if name in made else value
    if isinstance(made.get("_target_"), str):
        old = made["_target_"]
        made["_target_"] = current_target(old)
        if made["_target_"] != old and not is_stored:
            _warn(old, old, made["_target_"])
    return {name: made[name] for name in dict.fromkeys(names.values())}


def _renamed(path: tuple[str, ...], key: Any, is_stored: bool) -> Any:
    if not isinstance(key, str) or "." in key:  # one key with a dot in it, not a path
        return key
    return current_key(".".join([*path, key]), is_stored).rpartition(".")[2]


def _merged(value: Any, of_old_name: Any, path: tuple[str, ...], keys_set: set[str]) -> Any:
    if ".".join(path) in keys_set:
        return value
    if isinstance(value, dict) and isinstance(of_old_name, dict):
        both = {k: _merged(value[k], v, (*path, str(k)), keys_set) if k in value else v for k, v in of_old_name.items()}
        return {**value, **both}
    is_default = any(_pattern(key).fullmatch(".".join(path)) and of_old_name == _DEFAULTS[key] for key in _DEFAULTS)
    return value if is_default else of_old_name


def _with_current_interpolations(text: str, path: Sequence[str], is_stored: bool) -> str:
    """`${loss.average}` → `${loss.reduction}`; relative ones that have to change become absolute."""

    def rename(match: re.Match[str]) -> str:
        above = path[: max(len(path) - len(match["dots"]), 0)] if match["dots"] else ()
        key = ".".join([*above, match["key"]])
        name = current_key(key, is_stored)
        return match[0] if name == key else match["start"] + name

    return _INTERPOLATION.sub(rename, text) if "${" in text else text


def _keys_set(overrides: Sequence[str]) -> set[str]:
    """The keys that overrides give values to; of mappings those of their leaves."""

    def leaves(key: str, value: Any) -> list[str]:
        if isinstance(value, dict):
            return [leaf for name, item in value.items() for leaf in leaves(f"{key}.{name}", item)]
        return [key]

    parsed = OverridesParser.create().parse_overrides(list(overrides)) if overrides else []
    return {leaf for each in parsed if not each.is_delete() for leaf in leaves(each.key_or_group, each.value())}


@functools.cache
def _pattern(key: str) -> re.Pattern[str]:
    text = re.escape(key).replace(r"\*\*\.", r"(?:[^.]+\.)*").replace(r"\*", r"[^.]+")
    return re.compile(text)


_warned: set[str] = set()


def _warn(old: str, path: str, name: str) -> None:
    if old not in _warned:
        _warned.add(old)
        _log.warning("%s is now %s; the old name works for this release", path, name)
