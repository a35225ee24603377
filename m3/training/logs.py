"""Where a run logs: its loggers, what a person needs to find them, and their proper end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from m3.core.files import write_text_atomic

RUN_ID = "wandb/run_id"
"""File in a run's folder: by it a continued run continues its Weights & Biases run."""


def wandb_logger(save_dir: str, project: str, name: str, offline: bool | Literal["auto"]) -> WandbLogger:
    """Weights & Biases; offline "auto" means: online only where a key is known. Its files lie in `save_dir`/wandb.

    Raises ValueError naming the key for an impossible value.
    """
    if offline not in (True, False, "auto"):
        raise ValueError(f"logger.wandb.offline={offline!r}: choose auto, true or false")
    if offline == "auto":
        import wandb  # 0.4 s, which a run without it need not wait for

        offline = not wandb.login(prompt=False)
    return WandbLogger(
        save_dir=save_dir,
        project=project,
        name=name,
        id=_known_run(Path(save_dir)),
        # The logger's own `offline` is an environment variable, which wandb may have read before.
        mode="offline" if offline else None,
    )


def _known_run(folder: Path) -> str | None:
    """The id of the Weights & Biases run that logged from a folder before; None for the first."""
    path = folder / RUN_ID
    return path.read_text().strip() or None if path.exists() else None


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
            path = Path(logger.save_dir) / RUN_ID
            path.parent.mkdir(parents=True, exist_ok=True)  # else wandb takes the temporary folder
            write_text_atomic(path, f"{logger.experiment.id}\n")
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
