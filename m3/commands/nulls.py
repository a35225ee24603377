"""Keys of a configuration that are null, empty or lists although nothing can be made of that: named before any work."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf


def check_nulls(
    cfg: DictConfig, command: str, groups: Sequence[str], optional: Sequence[str] = (), lists: Sequence[str] = ()
) -> None:
    """Raises ValueError naming a key that is null, missing, empty or a list, and must not be.

    What a `_target_` constructs says so itself, by the types of its arguments; of the other keys those may be null that
    are in m3/conf/COMMAND.yaml.

    groups: options that have to be chosen.
    optional: further keys that may be null.
    lists: keys that may be lists, besides those that are lists in m3/conf/COMMAND.yaml.
    """
    for group in groups:
        if OmegaConf.is_missing(cfg, group) or OmegaConf.select(cfg, group, throw_on_missing=False) is None:
            remedy = f"{group}=none chooses nothing" if group in _CAN_BE_NONE else f"choose an option of {group}"
            raise ValueError(f"{group}=null: {remedy}")
    content: Any = OmegaConf.to_container(cfg, resolve=False)
    defaults = _defaults_of(command)
    optional = (*optional, *(key for key, value in defaults.items() if value is None))
    lists = (*lists, *(key for key, value in defaults.items() if isinstance(value, list)))
    for key, value, kind in _misfits(content, (), optional, lists):
        shown = "null" if value is None else repr(value)
        raise ValueError(f"{key}={shown}: need {kind}")


@functools.cache
def _defaults_of(command: str) -> dict[str, Any]:
    """Dotted key → value of the leaves of m3/conf/COMMAND.yaml, and the groups of its defaults list that are null."""
    content: Any = OmegaConf.to_container(OmegaConf.load(_CONF / f"{command}.yaml"), resolve=False)
    chosen = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
    leaves: dict[str, Any] = {name: None for entry in chosen for name, option in entry.items() if option is None}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, dict) and node:
            for name, value in node.items():
                walk(value, (*path, str(name)))
        else:
            leaves[".".join(path)] = node

    walk(content, ())
    return leaves


_CONF = Path(__file__).resolve().parents[1] / "conf"

_CAN_BE_NONE = ("logger", "callbacks")


def _misfits(
    node: dict[Any, Any], path: tuple[str, ...], optional: Sequence[str], lists: Sequence[str]
) -> Iterator[tuple[str, Any, str]]:
    """Dotted keys whose values cannot be, with these, and what they need."""
    kinds = _kinds(node["_target_"]) if isinstance(node.get("_target_"), str) else None
    for name, value in node.items():
        key = ".".join((*path, str(name)))
        if kinds is not None and name in kinds:
            if value is None and not kinds[name].takes_none or isinstance(value, list) and not kinds[name].takes_lists:
                yield key, value, kinds[name].words
        elif kinds is None:
            if value is None and key not in optional:
                yield key, value, "a value"
            elif value == "" or isinstance(value, list) and key not in lists:
                yield key, value, "a value" if value == "" else "one value, not a list"
        if isinstance(value, dict) and key not in optional and (kinds is None or "_target_" in value):
            yield from _misfits(value, (*path, str(name)), optional, lists)


class _Kind(NamedTuple):
    """What an argument takes; words: for people."""

    takes_none: bool
    takes_lists: bool
    words: str


def _kinds(target: str) -> dict[str, _Kind]:
    """Argument → what it takes. Empty where the types are not known."""
    try:
        function = get_object(target)
        hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
        parameters = inspect.signature(function).parameters
    except Exception:  # a target that does not exist is named when it is constructed
        return {}
    return {name: _kind_of(hints[name]) for name in parameters if name in hints}


def _kind_of(hint: Any) -> _Kind:
    alternatives = _alternatives(hint)
    takes_all = any(each is Any or isinstance(each, typing.TypeVar) for each in alternatives)
    plain = all(each in _WORDS or typing.get_origin(each) is typing.Literal for each in alternatives)
    return _Kind(takes_all or type(None) in alternatives, not plain, _words_of(alternatives))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Path: "a path",
    type(None): "null",
}


def _words_of(alternatives: Sequence[Any]) -> str:
    """Types in plain words where there are some."""
    found = []
    for each in alternatives:
        if typing.get_origin(each) is typing.Literal:
            found += map(str, typing.get_args(each))
        else:
            found.append(_WORDS.get(each, "keys or a list"))
    return " or ".join(dict.fromkeys(found))
