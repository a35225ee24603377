"""Values as overrides of a configuration: for `OmegaConf.update`, and on a command line that can be pasted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"(?!\.\d)[A-Za-z_./][A-Za-z0-9_./+-]*")
"""Texts that Hydra reads as they are, without quotes."""

_WORDS = ("null", "true", "false", "inf", "nan")
"""Texts that Hydra reads as something else, in any case."""


def literal(value: Any) -> Any:
    """The value for `OmegaConf.update` that is read again as it is: "${" in a text begins no interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {key: literal(each) for key, each in value.items()}
    return [literal(each) for each in value] if isinstance(value, list | tuple) else value


def command_line(program: Sequence[str], options: Sequence[str], values: Mapping[str, Any]) -> str:
    """A line for a shell. options: overrides as they are. values: key → value, written as overrides."""
    return shlex.join([*program, *options, *(f"{key}={written(literal(value))}" for key, value in values.items())])


def written(value: Any) -> str:
    """A value in Hydra's grammar of overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) and value.lower() not in _WORDS else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{written(key)}:{written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    return repr(value)


def _quoted(text: str) -> str:
    """In double quotes: backslashes that stand before a quote or at the end are doubled, quotes get one."""
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text) + '"'
