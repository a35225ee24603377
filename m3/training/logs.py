"""Where a run logs: its loggers, what a person needs to find them, and their proper end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only


def wandb_logger(save_dir: str, project: str, name: str, offline: bool | Literal["auto"]) -> WandbLogger:
    """Weights & Biases; offline "auto" means: online only where a key is known. Its files lie in `save_dir`/wandb.

    Raises ValueError naming the key for an impossible value.
    """
    if offline not in (True, False, "auto"):
        raise ValueError(f"logger.wandb.offline={offline!r}: choose auto, true or false")
    if offline == "auto":
        offline = not wandb.login(prompt=False)
    # By `mode`: the logger's own `offline` is an environment variable, which wandb may have read before.
    return WandbLogger(save_dir=save_dir, project=project, name=name, mode="offline" if offline else None)


@contextmanager
def open_loggers(loggers: Sequence[Logger], config: dict[str, Any]) -> Iterator[None]:
    """Gives the loggers the run's configuration and says where they write, before the block and after it.

    The block's end closes a Weights & Biases run, so that another run of the same process gets its own.
    Only the first rank has anything to do.
    """
    if rank_zero_only.rank != 0:
        yield
        return
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            Path(logger.save_dir).mkdir(parents=True, exist_ok=True)  # else wandb takes the temporary folder
        logger.log_hyperparams(config)
    places = "logs: " + ", ".join(_place(logger) for logger in loggers)
    print(places, flush=True)
    try:
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
        print(places, flush=True)


def _place(logger: Logger) -> str:
    """A run's url, or the folder it writes to."""
    if not isinstance(logger, WandbLogger):
        return str(logger.log_dir)
    run = logger.experiment
    return run.url or f"{Path(run.dir).parent} (`wandb sync` uploads it)"
