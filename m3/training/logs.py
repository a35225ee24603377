"""The loggers of a run: how they are opened and closed, where they write, and at which steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger, WandbLogger

from m3.core.files import write_text_atomic

RUN_ID = "wandb/run_id"
"""File in a run's folder with the id of its Weights & Biases run, so that resume=auto continues that run."""


def is_log_step(trainer: pl.Trainer, step: int) -> bool:
    """Whether metrics are logged at an optimizer step, counted from 1: every `log_every_n_steps`, and at the last."""
    every_n_steps = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] (set by a connector)
    return step % every_n_steps == 0 or step == trainer.max_steps


def wandb_logger(save_dir: str, project: str, name: str, offline: bool | Literal["auto"]) -> WandbLogger:
    """A Weights & Biases logger with its files in `save_dir`/wandb.

    offline: "auto" is False where an API key is configured, else True.

    Raises ValueError naming the key for another value.
    """
    if offline not in (True, False, "auto"):
        raise ValueError(f"logger.wandb.offline={offline!r}: choose auto, true or false")
    if offline == "auto":
        import wandb  # takes 0.4 s, which other runs should not wait for

        offline = not wandb.login(prompt=False)
    return WandbLogger(
        save_dir=save_dir,
        project=project,
        name=name,
        id=_known_run(Path(save_dir)),
        # Not WandbLogger(offline=…): it sets an environment variable, which wandb may have read before.
        mode="offline" if offline else None,
    )


def _known_run(folder: Path) -> str | None:
    """The id of the Weights & Biases run that logged into this folder before; None for a new folder."""
    path = folder / RUN_ID
    return path.read_text().strip() or None if path.exists() else None


@contextmanager
def open_loggers(loggers: Sequence[Logger], config: dict[str, Any]) -> Iterator[None]:
    """Logs the run's configuration, and prints where the loggers write before and after the block.

    At the end of the block Weights & Biases runs are closed, so that the next run of this process gets its own.
    Ranks other than the first do nothing.
    """
    if rank_zero_only.rank != 0:  # pyright: ignore[reportFunctionMemberAccess]
        yield
        return
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            path = Path(logger.save_dir or ".") / RUN_ID
            path.parent.mkdir(parents=True, exist_ok=True)  # where it is missing wandb writes to a temporary folder
            write_text_atomic(path, f"{logger.experiment.id}\n")
        logger.log_hyperparams(config)
    places = "logs: " + (", ".join(_place(logger) for logger in loggers) or "none are kept")
    print(places, flush=True)
    try:
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
        print(places, flush=True)


def _place(logger: Logger) -> str:
    """The url of an online run, or the folder that the logger writes to."""
    if not isinstance(logger, WandbLogger):
        return str(logger.log_dir)
    run = logger.experiment
    return run.url or f"{Path(run.dir).parent} (`wandb sync` uploads it)"
