"""The main functions of the three commands: they check the configuration first, and load torch only after that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from m3.commands.application import application
from m3.core.errors import one_line_errors
from m3.core.files import check_writable
from m3.core.threads import wait_politely_when_busy


@application("train")
def train(cfg: DictConfig) -> Any:
    """Returns the last eval loss, the number that a sweep minimizes."""
    _prepare("run_dir", cfg.run_dir)
    from m3.commands.train import task

    wait_politely_when_busy()
    return task(cfg)


@application("preprocess")
def preprocess(cfg: DictConfig) -> Any:
    _prepare("out", cfg.out)
    from m3.commands.preprocess import task

    wait_politely_when_busy()
    return task(cfg)


@application("generate")
def generate(cfg: DictConfig) -> Any:
    """Returns the score that a sweep maximizes: the mean PCK, or for in-painting minus the mean error in px."""
    _prepare("out", cfg.out)
    from m3.commands.generate import task

    wait_politely_when_busy()
    return task(cfg)


def _prepare(key: str, folder: Any) -> None:
    """What has to be done before torch is imported. `folder`: of the results, the value of `key`."""
    is_local = isinstance(folder, str) and "://" not in folder
    is_first = all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if is_local and is_first and HydraConfig.get().mode != RunMode.MULTIRUN:
        with one_line_errors():
            check_writable(key, Path(folder))
