"""Keys of a configuration that are null although nothing can be made of null: named before any work."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf


def check_nulls(cfg: DictConfig, groups: Sequence[str], optional: Sequence[str]) -> None:
    """Raises ValueError naming a key that is null or missing, and must not be.

    What a `_target_` constructs says so itself, by the types of its arguments.

    groups: options that have to be chosen.
    optional: the other keys that may be null, with all that is in them.
    """
    for group in groups:
        if OmegaConf.is_missing(cfg, group) or OmegaConf.select(cfg, group, throw_on_missing=False) is None:
            remedy = f"{group}=none chooses nothing" if group in _CAN_BE_NONE else f"choose an option of {group}"
            raise ValueError(f"{group}=null: {remedy}")
    content = OmegaConf.to_container(cfg, resolve=False)
    for key, kind in _nulls(content, (), optional):
        raise ValueError(f"{key}=null: need {kind}")


_CAN_BE_NONE = ("logger", "callbacks")


def _nulls(node: Any, path: tuple[str, ...], optional: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Dotted keys that are null, and what they need."""
    if not isinstance(node, dict) or ".".join(path) in optional:
        return
    kinds = _kinds(node["_target_"]) if isinstance(node.get("_target_"), str) else None
    for name, value in node.items():
        key = ".".join((*path, str(name)))
        if key in optional or (kinds is not None and name not in kinds):
            continue
        if value is None:
            kind = "a value" if kinds is None else kinds[name]
            if kind is not None:
                yield key, kind
        elif kinds is None or isinstance(value, dict) and "_target_" in value:
            yield from _nulls(value, (*path, str(name)), optional)


def _kinds(target: str) -> dict[str, str | None]:
    """Argument → what it needs, as text; None where it may be null. Empty where the types are not known."""
    try:
        function = get_object(target)
        hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
        parameters = inspect.signature(function).parameters
    except Exception:  # a target that does not exist is named when it is constructed
        return {}
    return {
        name: None if _takes_none(hints[name]) else _name_of(hints[name])
        for name, parameter in parameters.items()
        if name in hints and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def _takes_none(hint: Any) -> bool:
    return hint in (None, type(None), Any) or type(None) in _alternatives(hint)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _name_of(hint: Any) -> str:
    """A type in plain words where there are some."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return " or ".join(words.get(each, _plain_name(each)) for each in _alternatives(hint))


def _plain_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    name = getattr(typing.get_origin(hint) or hint, "__name__", str(hint))
    return {"Path": "a path", "Sequence": "a list", "list": "a list", "tuple": "a list", "Mapping": "keys"}.get(
        name, name
    )
