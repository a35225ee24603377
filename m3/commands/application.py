"""What the commands share: the Hydra application around each, and how its process is started again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from m3.commands.arguments import check_command_line, parse_arguments, version_line
from m3.commands.help import help_text
from m3.core.errors import one_line_errors
from m3.core.renames import current_config, current_overrides
from m3.sweep import ignore_sweep_warnings

_ROOT = Path(__file__).resolve().parents[2]
"""A checkout, or the folder of installed packages."""


def script(name: str) -> Path:
    """The file that `python` runs as this command: the script of a checkout, or the installed module."""
    if (_ROOT / "pyproject.toml").is_file():
        return _ROOT / f"{name}.py"
    return _ROOT / "m3" / "commands" / f"{name}.py"


def plain(section: DictConfig) -> dict[str, Any]:
    """A section of a configuration as plain values, with interpolations resolved."""
    content: Any = OmegaConf.to_container(section, resolve=True)
    return content


def sweep_direction() -> Literal["minimize", "maximize"]:
    """The direction of the sweep that this job is part of, for the number that the command returns."""
    return OmegaConf.select(DictConfig(HydraConfig.get().callbacks), "sweep.direction")


def application(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Makes a task the main function of a command, with the options of m3/conf/NAME.yaml.

    The task gets the composed configuration, and returns the number that a sweep optimizes, if any. The command line
    and the user's own files may have old names of keys (`m3.core.renames`). Before the task is called, keys, groups and
    options are checked (`m3.commands.arguments`); `--help` and `--version` are answered here.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @functools.wraps(task)
        def run(cfg: DictConfig) -> Any:
            if HydraConfig.get().job.chdir:
                raise SystemExit("error: hydra.job.chdir=true: paths are relative to your folder; leave it out")
            return task(current_config(cfg, HydraConfig.get().overrides.task))

        compose_and_run = hydra.main(version_base="1.3", config_path="pkg://m3.conf", config_name=name)(run)

        @functools.wraps(task)
        def main() -> Any:
            ignore_sweep_warnings()
            if "--version" in sys.argv[1:]:
                print(version_line())
                return None
            sys.argv[1:] = current_overrides(sys.argv[1:])
            args = parse_arguments(sys.argv[1:])
            if args.help or not (args.hydra_help or args.info or args.shell_completion or args.experimental_rerun):
                with one_line_errors():
                    check_command_line(name, args)
                if args.help:
                    print(help_text(name, args))
                    return None
            return compose_and_run()

        return main

    return decorate
