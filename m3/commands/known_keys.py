"""The keys, groups and options that a command has, and what is said of others: before anything large is imported."""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[1] / "conf"
_PACKAGE = Path(__file__).resolve().parents[1]

_OPEN = ("callbacks", "logger")
"""Sections to which objects of one's own can be added, under any name."""

_FREE = ("rollout.sample_schemes", "modalities.mixture")
"""Sections whose keys are names of modalities, or checked by their reader."""

_INTERPOLATION = re.compile(r"\$\{(?:oc\.select:)?\.*([A-Za-z_][\w.]*)")

try:
    _Loader: Any = yaml.CSafeLoader
except AttributeError:  # PyYAML without libyaml
    _Loader = yaml.SafeLoader

Tree = dict[str, "Tree"]
"""Nested keys; those of a value that is not a mapping are {}."""


@functools.cache
def groups_of(command: str) -> dict[str, str | None]:
    """The groups of a command, in the order of its defaults list → the default option, or None."""
    entries = [entry for entry in _read(CONF / f"{command}.yaml")["defaults"] if isinstance(entry, dict)]
    return {group: option for entry in entries for group, option in entry.items() if not group.startswith("override ")}


def group_folder(command: str, group: str) -> Path:
    """The folder of a group's shipped options."""
    own = CONF / command / group
    return own if own.is_dir() else CONF / group


@functools.cache
def options_of(command: str, group: str) -> tuple[str, ...]:
    """The shipped options of a group, sorted."""
    return tuple(sorted(path.stem for path in group_folder(command, group).glob("*.yaml")))


@functools.cache
def known_keys(command: str) -> Tree:
    """All keys of m3/conf/COMMAND.yaml and of all options of its groups."""
    tree: Tree = {}
    content = _read(CONF / f"{command}.yaml")
    _add(tree, {key: value for key, value in content.items() if key not in ("defaults", "hydra")})
    for group in groups_of(command):
        _add_group(tree, group_folder(command, group), group.split("/"))
    tree.pop("hydra", None)
    return tree


def _add_group(tree: Tree, folder: Path, package: Sequence[str]) -> None:
    for path in sorted(folder.glob("*.yaml")):
        text, content = path.read_text(encoding="utf-8"), _read(path)
        place = [] if "@package _global_" in text else list(package)
        _add(_at(tree, place), {key: value for key, value in content.items() if key != "defaults"})
        for entry in content.get("defaults", []):
            for name in entry if isinstance(entry, dict) else ():
                group, _, inner = name.partition("@")
                if name.startswith("/") and inner:  # another group's options, put into this one
                    _add_group(tree, CONF / group.removeprefix("/"), [*place, *inner.split(".")])


def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}


def _at(tree: Tree, path: Iterable[str]) -> Tree:
    for part in path:
        tree = tree.setdefault(part, {})
    return tree


def _add(tree: Tree, content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        below = tree.setdefault(str(key), {})
        if isinstance(value, Mapping):
            _add(below, value)


def dotted(tree: Tree, prefix: str = "") -> Iterator[str]:
    """All keys of a tree, in dotted form."""
    for key, below in tree.items():
        if not key.startswith("_"):
            yield prefix + key
            yield from dotted(below, f"{prefix}{key}.")


def check_keys(command: str, content: Mapping[str, Any], origin: str = "") -> None:
    """Raises ValueError naming a key that nothing reads, with the one that was probably meant.

    A key is read if the shipped options have it, if it is an argument of the `_target_` beside it, or if an
    interpolation names it. Sections with a `_target_` outside m3 are not checked.

    Args:
        command: "train", "preprocess" or "generate".
        content: of the composed configuration, interpolations unresolved, without `hydra`.
        origin: where unknown keys may come from, for the message.
    """
    read = {match[1] for text in _texts(content) for match in _INTERPOLATION.finditer(text)}
    for key, allowed in _unknown(content, known_keys(command), (), read):
        raise ValueError(f"{key}: no such key{origin}; {suggestion(key, _siblings(key, allowed), command)}")


def _siblings(key: str, allowed: Collection[str]) -> list[str]:
    prefix = key.rpartition(".")[0]
    return [f"{prefix}.{name}" if prefix else name for name in sorted(allowed) if not name.startswith("_")]


def _unknown(
    node: Mapping[str, Any], tree: Tree, path: tuple[str, ...], read: set[str]
) -> Iterator[tuple[str, Collection[str]]]:
    """Dotted unknown keys, each with the names that are known in its place."""
    section, target = ".".join(path), node.get("_target_")
    allowed: Collection[str] = tree
    if isinstance(target, str):
        if not target.startswith("m3."):
            return
        allowed = _arguments(target) or tree
    for name, value in node.items():
        name = str(name)
        key = ".".join((*path, name))
        is_own_object = section in _OPEN and isinstance(value, Mapping) and "_target_" in value
        if name.startswith("_") or is_own_object or key == "hydra":
            continue
        if name not in allowed and not _is_read(key, read):
            yield key, allowed
        elif isinstance(value, Mapping) and key not in _FREE and (target is None or "_target_" in value):
            below = tree.get(name, {})
            if below or "_target_" in value:
                yield from _unknown(value, below, (*path, name), read)


def _is_read(key: str, read: set[str]) -> bool:
    """Whether an interpolation names the key or one below it; a relative one names the key's last parts."""
    return any(f"{name}.".startswith(f"{key}.") or f".{key}".endswith(f".{name}") for name in read)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for item in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(item)


@functools.cache
def _arguments(target: str) -> frozenset[str] | None:
    """The arguments that a class or function of m3 takes, read from its source without importing it.

    None where they cannot be told: it is not defined there, takes any (`**options`), or inherits its constructor.
    """
    module, _, name = target.rpartition(".")
    file = _PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        file = file.with_suffix("") / "__init__.py"
    if not file.is_file():
        return None
    body = ast.parse(file.read_text(encoding="utf-8")).body
    defined = {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    made = defined.get(name)
    if isinstance(made, ast.ClassDef):
        constructor = next((n for n in made.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if constructor is None:
            is_record = any("dataclass" in ast.unparse(each) for each in made.decorator_list)
            fields = [n.target.id for n in made.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
            return frozenset(fields) if is_record and not made.bases else None
        made = constructor
    if made is None or made.args.kwarg is not None:
        return None
    arguments = [*made.args.posonlyargs, *made.args.args, *made.args.kwonlyargs]
    return frozenset(argument.arg for argument in arguments if argument.arg != "self")


def suggestion(wrong: str, choices: Sequence[str], command: str = "") -> str:
    """The end of a message: the choice that was probably meant, else all of them.

    command: whose keys in other sections are looked at too, by their last part: `lr` → `optim.lr`.
    """
    found = closest(wrong, choices)
    if found is None and command:
        last = wrong.rpartition(".")[2]
        everywhere: dict[str, str] = {}
        for key in dotted(known_keys(command)):
            everywhere.setdefault(key.rpartition(".")[2], key)
        name = closest(last, list(everywhere))
        found = None if name is None else everywhere[name]
    if found is not None:
        return f"did you mean {found}?"
    return f"choose from {', '.join(choices)}" if choices else "--help lists all keys"


def closest(wrong: str, choices: Sequence[str]) -> str | None:
    """The choice most like a misspelt one; None where none is like it."""
    found = difflib.get_close_matches(wrong, choices, n=1, cutoff=0.75)
    return found[0] if found else None
