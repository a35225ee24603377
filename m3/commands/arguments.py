"""The command line of a command, checked before anything large is imported."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from m3.commands.known_keys import (
    CONF,
    check_keys,
    closest,
    groups_of,
    known_keys,
    options_of,
    suggestion,
)
from m3.core.renames import current_config

_NAMED_FREELY = ("schemes", "sample_schemes", "callbacks", "logger")
"""Sections whose keys are names: of modalities, of objects of one's own."""


def version_line() -> str:
    """The versions of m3, torch and Python, without importing torch."""
    own, torch = (_version(name) for name in ("m3-motion", "torch"))
    return f"m3 {own} (torch {torch}, Python {platform.python_version()})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return "unknown"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's own flags and the overrides."""
    return get_args_parser().parse_args(list(arguments))


def check_command_line(command: str, args: argparse.Namespace) -> None:
    """Composes the configuration and checks its keys.

    Raises ValueError naming an option or key that does not exist, and what was probably meant, and Hydra's exceptions
    for what else cannot be composed.
    """
    if args.config_dir is not None and not Path(args.config_dir).is_dir():
        raise ValueError(f"--config-dir={args.config_dir}: no such folder")
    try:
        overrides = OverridesParser.create().parse_overrides(list(args.overrides))
    except HydraException as error:
        raise ValueError(" ".join(line.strip() for line in str(error).splitlines() if line.strip("- ^\t"))) from error
    if all(each.key_or_group != "hydra.searchpath" for each in overrides):
        _check_options(command, overrides, args.config_dir)
    cfg = composed(command, args, [_first_choice(each) for each in overrides if not isinstance(each.value(), Glob)])
    content: Any = OmegaConf.to_container(cfg, resolve=False)
    choices = content.pop("hydra")["runtime"]["choices"]
    own = [f"{group}={option}" for group, option in choices.items() if _is_own(command, group, option)]
    plus = [_text(each) for each in overrides if each.is_add() or each.is_force_add()]
    origin = ", ".join([*own, *plus, *([] if args.config_name is None else [f"--config-name={args.config_name}"])])
    check_keys(command, current_config(content), f" (from {origin})" if origin else "")


def composed(command: str, args: argparse.Namespace, overrides: Sequence[str]) -> DictConfig:
    """The configuration with its section `hydra`. Raises ValueError for an override of a key that does not exist."""
    search = [] if args.config_dir is None else [f"file://{Path(args.config_dir).resolve()}"]
    given = any("hydra.searchpath" in override for override in overrides)
    if search and not given:
        overrides = [*overrides, f"hydra.searchpath=[{','.join(map(_quoted, (*search, f'pkg://m3.conf.{command}')))}]"]
    with warnings.catch_warnings(), initialize_config_module("m3.conf", version_base="1.3"):
        warnings.simplefilter("ignore")  # Hydra says it again when it composes the run
        try:
            return compose(args.config_name or command, list(overrides), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise _explained(command, overrides, error) from error


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _is_own(command: str, group: str, option: Any) -> bool:
    return group in groups_of(command) and isinstance(option, str) and option not in options_of(command, group)


def _check_options(command: str, overrides: Sequence[Override], config_dir: str | None) -> None:
    """Raises ValueError for `GROUP=OPTION` without such an option, here and in the folder of --config-dir."""
    for override in overrides:
        group = override.key_or_group
        if group not in groups_of(command) or override.is_delete():
            continue
        folder = None if config_dir is None else Path(config_dir, group)
        own = [] if folder is None else sorted(path.stem for path in folder.glob("*.yaml"))
        options = [*options_of(command, group), *own]
        for value in _values(override):
            if isinstance(value, str) and value not in options and not (CONF / group / f"{value}.yaml").is_file():
                raise ValueError(f"{group}={value}: no such option; {_meant(group, value, options)}")


def _meant(group: str, value: str, options: Sequence[str]) -> str:
    found = closest(value, options)
    return f"choose from {', '.join(options)}" if found is None else f"did you mean {group}={found}?"


def _text(override: Override) -> str:
    """As it was written."""
    return override.input_line or override.key_or_group


def _values(override: Override) -> list[Any]:
    """The values of an override: all those of a sweep over choices, none of another sweep."""
    if not override.is_sweep_override():
        return [override.value()]
    is_list = override.is_choice_sweep() and not isinstance(override.value(), Glob)
    return list(override.sweep_string_iterator()) if is_list else []


def _first_choice(override: Override) -> str:
    """The override, of a sweep with its first value."""
    if not override.is_sweep_override() or override.is_hydra_override():
        return _text(override)
    values = override.value()
    first = getattr(values, "start", None)
    if override.is_discrete_sweep():
        first = next(iter(override.sweep_string_iterator()))
    key = _text(override).partition("=")[0]
    return f"{key}={first}"


def _explained(command: str, overrides: Sequence[str], error: Exception) -> ValueError:
    """The error in one line; of a key that does not exist, with what was probably meant."""
    parsed = [
        override
        for override in OverridesParser.create().parse_overrides(list(overrides))
        if not (override.is_hydra_override() or override.is_add() or override.is_force_add())
    ]
    for override in parsed:
        if override.key_or_group not in groups_of(command) and (words := _misspelt(command, override.key_or_group)):
            return ValueError(f"{_text(override)}: {words}")
    for override in parsed:  # known, but not of the options that were chosen
        if f"Could not override '{override.key_or_group}'" in str(error):
            group = override.key_or_group.partition(".")[0]
            chosen = next((each for each in overrides if each.startswith(f"{group}=")), f"the option of {group}")
            return ValueError(f"{_text(override)}: {chosen} has no such key")
    text = str(error).partition("Config search path")[0]
    lines = [line.strip() for line in f"{text}\n{error.__cause__ or ''}".splitlines()]
    noise = ("full_key", "object_type", "reference_type", "To ")
    return ValueError(" ".join(line for line in lines if line and not line.startswith(noise)))


def _misspelt(command: str, key: str) -> str | None:
    """What to say of a key without "+" that no option has; None of a known one."""
    parts, tree, section = key.split("."), known_keys(command), []
    for part in parts:
        if part not in tree:
            break
        tree, section = tree[part], [*section, part]
    if len(section) == len(parts):
        return None
    if section and section[-1] in _NAMED_FREELY:
        return f"{'.'.join(section)} has no such key; +{key}=… adds it"
    siblings = [".".join((*section, name)) for name in tree if not name.startswith("_")]
    return f"no such key; {suggestion('.'.join(parts[: len(section) + 1]), siblings, command)}"
