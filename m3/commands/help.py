"""The text of `--help`: the command's groups and keys, with the comments of their files."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from m3.commands.arguments import composed
from m3.commands.known_keys import CONF, group_folder, groups_of, options_of

_FLAGS = """\
Flags
  --help                 this text; with options, their keys: model=tiny --help
  --version              versions of m3, torch and Python
  --cfg job              the composed configuration, without running it
  --config-dir=DIR       options of your own: DIR/GROUP/NAME.yaml, chosen by GROUP=NAME
  -m, --multirun         KEY=A,B runs once for each value
  -sc install=bash       completion in the shell: eval "$(python {command}.py -sc install=bash)"
  --hydra-help           Hydra's own flags"""


def help_text(command: str, args: argparse.Namespace) -> str:
    """Groups with their options, then the keys of the command's file and of the options that `args` choose."""
    choices = composed(command, args, args.overrides).hydra.runtime.choices
    text = (CONF / f"{command}.yaml").read_text(encoding="utf-8")
    head = [line.removeprefix("#").strip() for line in text.split("defaults:")[0].splitlines()]
    parts = ["\n".join(line for line in head if line), _groups(command, text)]
    parts.append(f"Keys (KEY=VALUE)\n{_indented(_keys_of(text))}")
    for group in groups_of(command):
        option = choices.get(group)
        path = None if option is None else _file(command, group, str(option), args.config_dir)
        if path is not None:
            parts.append(f"{group}={option}\n{_indented(path.read_text(encoding='utf-8'))}")
    return "\n\n".join([*parts, _FLAGS.format(command=command)])


def _file(command: str, group: str, option: str, config_dir: str | None) -> Path | None:
    folders = [group_folder(command, group), CONF / group]
    if config_dir is not None:
        folders.insert(0, Path(config_dir, group))
    return next((path for folder in folders if (path := folder / f"{option}.yaml").is_file()), None)


def _groups(command: str, text: str) -> str:
    """A line for each group: its comment in the defaults list, its options with the default marked."""
    lines = ["Groups (GROUP=OPTION), the default marked with *"]
    for group, default in groups_of(command).items():
        found = re.search(rf"^ *- {re.escape(group)}: *\S+ +# *(.*)$", text, re.MULTILINE)
        options = ", ".join(f"{option}*" if option == default else option for option in options_of(command, group))
        lines.append(f"  {group:<12} {options}" + (f"\n{'':15}{found[1]}" if found else ""))
    return "\n".join(lines)


def _keys_of(text: str) -> str:
    """The file without its head, its defaults list and its section `hydra`."""
    body = re.split(r"^defaults:\n(?: .*\n)*", text, maxsplit=1, flags=re.MULTILINE)[-1]
    return re.split(r"^hydra:\n", body, maxsplit=1, flags=re.MULTILINE)[0].strip("\n")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.strip("\n").splitlines())
