"""Trains a model on the shards of `preprocess`: assembles the parts that conf/train.yaml names and runs them."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.strategies import Strategy

from m3.checkpoint import (
    BEST,
    FOLDER,
    AtomicCheckpointIO,
    Checkpoints,
    check_resumable,
    initialize,
    newest_checkpoint,
)
from m3.checkpoint.files import step_of
from m3.commands.application import plain, script, sweep_direction
from m3.commands.nulls import check_nulls
from m3.core.devices import lightning_accelerator
from m3.core.errors import naming, one_line_errors
from m3.core.files import write_text_atomic
from m3.core.jobs import PREEMPTION, requeue, stop_with_sweep
from m3.core.locks import locked
from m3.core.signals import Interrupted, interruptible
from m3.core.validation import SettingError, check
from m3.shards.reader import ShardError
from m3.sweep import ReadyTrial, run_trial, write_result
from m3.training.guards import NonFiniteError
from m3.training.logs import open_loggers
from m3.training.memory import return_freed_memory
from m3.training.module import MaskedTraining
from m3.training.optim import steps_in
from m3.training.profile import DataWait
from m3.training.progress import ProgressLines
from m3.training.ranks import is_first_process
from m3.training.run_log import open_log, recorded_session, say
from m3.training.sharding import fsdp_strategy
from m3.training.tokenizer import TokenizerTraining

_log = logging.getLogger(__name__)

_IN_USE = "another train.py trains in this folder; wait for it or stop it, or give this run another name=…"

_GROUPS = ("task", "data", "hardware", "trainer", "loss", "logger", "callbacks")

Task = MaskedTraining | TokenizerTraining
"""The modules that conf/task constructs."""


@dataclass(frozen=True)
class Assembled:
    """The parts of a run, ready to start.

    checkpoints: also one of the trainer's callbacks; resume_from: the checkpoint that the run continues, or None.
    """

    run_dir: Path
    trainer: pl.Trainer
    checkpoints: Checkpoints
    module: Task
    datamodule: pl.LightningDataModule
    resume_from: Path | None


@dataclass(frozen=True)
class TrainingRun:
    """The result of a run.

    first_eval_loss: before the first step, None for a run that was continued. last_eval_loss: after the last.
    checkpoint: of the last step. checkpoints: which one is the best.
    """

    trainer: pl.Trainer
    module: Task
    datamodule: pl.LightningDataModule
    first_eval_loss: float | None
    last_eval_loss: float
    checkpoint: Path
    checkpoints: Checkpoints


def run(cfg: DictConfig) -> TrainingRun:
    """Trains, or continues, the run that `cfg` (conf/train.yaml) describes; raises what `assemble` and `fit` raise."""
    with locked_run(cfg):
        return fit(cfg, assemble(cfg))


@contextmanager
def locked_run(cfg: DictConfig) -> Iterator[None]:
    """Keeps other runs out of the run folder; the processes of one run share it.

    Raises ValueError where another run trains in it.
    """
    if not is_first_process():
        yield
        return
    with locked(Path(cfg.run_dir), _IN_USE):
        yield


def assemble(cfg: DictConfig) -> Assembled:
    """Builds the parts of a run.

    Raises:
        hydra's InstantiationException, FileNotFoundError or ValueError for settings that cannot be; each names the
        key or the file.
    """
    check_nulls(cfg, "train", _GROUPS, ("hardware.precision",))
    run_dir = Path(cfg.run_dir)
    resume_from = _resume_from(cfg.resume, run_dir)
    check("seed", cfg.seed, int, low=0)
    if cfg.init_modalities not in ("all", "common"):
        raise ValueError(f"init_modalities={cfg.init_modalities}: choose all or common")
    pl.seed_everything(cfg.seed, verbose=False)
    _choose_arithmetic(cfg.hardware)
    module = instantiate(cfg.task)
    datamodule = instantiate(cfg.data)
    module.identity = {"config": plain(cfg), "data": datamodule.identity}
    if resume_from:
        check_resumable(resume_from, module.identity)
    elif cfg.init_from is not None:
        initialize(module.model, cfg.init_from, datamodule.identity, cfg.init_modalities)
        if module.ema_model is not None:
            module.ema_model.load_state_dict(module.model.state_dict())
    checkpoints = _checkpoints(cfg, module, run_dir)
    callbacks = [*instantiate(cfg.callbacks).values(), checkpoints]
    trainer = _trainer(cfg, module, checkpoints, callbacks)
    return Assembled(run_dir, trainer, checkpoints, module, datamodule, resume_from)


def fit(cfg: DictConfig, parts: Assembled) -> TrainingRun:
    """Evaluates, trains, evaluates again.

    Raises:
        Interrupted at SIGTERM or SIGINT, after a checkpoint.
        CheckpointWriteError where a checkpoint cannot be written, as on a full disk; those before it are intact.
        NonFiniteError where a loss or a gradient is not finite, after the batch was saved.
        ShardError where a streamed shard differs from the manifest, SettingError where there are more loader processes
        than samples.
    """
    trainer, module, datamodule, checkpoints = parts.trainer, parts.module, parts.datamodule, parts.checkpoints
    return_freed_memory()
    with _recorded(cfg, parts):
        with open_loggers(trainer.loggers, module.identity["config"]):
            first = _evaluate(trainer, module, datamodule) if parts.resume_from is None else None
            _say(_plan(cfg, parts))
            trainer.fit(module, datamodule=datamodule, ckpt_path=parts.resume_from, weights_only=True)
            last = checkpoints.last_eval_loss
            last = _evaluate(trainer, module, datamodule) if last is None else last  # there was nothing left to do
        checkpoint = newest_checkpoint(parts.run_dir)
        if checkpoint is None:
            raise FileNotFoundError(f"{parts.run_dir}: the checkpoint of the last step was removed while the run ended")
        losses = f"{'' if first is None else f'{first:.3f} → '}{last:.3f}"
        _say(f"eval loss {losses}; checkpoint {checkpoint}{_best(checkpoints)}")
    return TrainingRun(trainer, module, datamodule, first, last, checkpoint, checkpoints)


def _plan(cfg: DictConfig, parts: Assembled) -> str:
    """One line on what the run is going to do."""
    trainer, checkpoints = parts.trainer, parts.checkpoints
    cut = "" if cfg.trainer.max_steps is None else f", cut to {trainer.max_steps:,} by trainer.max_steps"
    start = f"from {parts.resume_from or _first_weights(cfg)}"
    rhythm = f"evaluated every {checkpoints.eval_every_n_steps:,}, saved every {checkpoints.every_n_steps:,} steps"
    return f"{parts.run_dir}: {parts.module.plan(trainer.world_size)}{cut}, {start}; {rhythm}"


@contextmanager
def _recorded(cfg: DictConfig, parts: Assembled) -> Iterator[None]:
    """Keeps config.yaml, train.log and run.json in the run folder; the first process does."""
    trainer = parts.trainer
    if not trainer.is_global_zero:
        yield
        return
    parts.run_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomic(parts.run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    device = trainer.strategy.root_device
    facts = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "num_devices": trainer.world_size,
        "precision": trainer.precision,
        "first_step": 0 if parts.resume_from is None else step_of(parts.resume_from),
    }
    with open_log(parts.run_dir), recorded_session(parts.run_dir, facts, lambda: trainer.global_step):
        yield


def _first_weights(cfg: DictConfig) -> str:
    return "new weights" if cfg.init_from is None else f"the weights of init_from={cfg.init_from}"


@rank_zero_only
def _say(line: str) -> None:
    say(line)


def _best(checkpoints: Checkpoints) -> str:
    if checkpoints.best_step is None:
        return ""
    return f"; lowest {checkpoints.best_loss:.3f} after step {checkpoints.best_step:,}: {checkpoints.folder / BEST}"


def _resume_from(resume: str | None, run_dir: Path) -> Path | None:
    newest = newest_checkpoint(run_dir)
    if resume == "auto":
        return newest
    if resume is not None:
        raise ValueError(f"resume={resume}: choose auto or null")
    if newest is not None:
        raise ValueError(f"{newest} is there already: resume=auto continues it, another name=… starts a new run")
    return None


def _checkpoints(cfg: DictConfig, module: Task, run_dir: Path) -> Checkpoints:
    """Converts the trainer's durations to steps."""
    settings, hardware = cfg.trainer, cfg.hardware
    for key in ("devices", "num_nodes"):
        check(f"hardware.{key}", hardware[key], int, low=1)
    if hardware.strategy == "fsdp" and not isinstance(module, MaskedTraining):
        raise ValueError("hardware.strategy=fsdp: only task=masked divides its weights")
    check("trainer.keep_checkpoints", settings.keep_checkpoints, int, low=1)

    def every_n_steps(key: str) -> int:
        check(f"trainer.{key}", settings[key], float, low=0)
        if not settings[key] > 0:
            raise ValueError(f"trainer.{key}={settings[key]}: need more than 0 millions of tokens")
        return steps_in(settings[key], module.tokens_per_step(hardware.devices * hardware.num_nodes))

    return Checkpoints(
        run_dir / FOLDER,
        every_n_steps("checkpoint_every_tokens"),
        every_n_steps("eval_every_tokens"),
        settings.keep_checkpoints,
    )


def _trainer(cfg: DictConfig, module: Task, checkpoints: Checkpoints, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    hardware, settings = cfg.hardware, cfg.trainer
    check("trainer.log_every_n_steps", settings.log_every_n_steps, int, low=1)
    check("trainer.max_steps", settings.max_steps, int | None, low=0)
    accelerator = lightning_accelerator(hardware.accelerator)
    _check_cores(hardware, accelerator)
    num_steps = module.num_steps(hardware.devices * hardware.num_nodes)
    precision = hardware.precision or module.precision
    if accelerator == "cpu" and str(precision).startswith("16"):  # which Lightning would replace by bfloat16
        key = f"hardware.precision={precision}" if hardware.precision else "optim.dtype=fp16"
        raise ValueError(f"{key}: float16 needs a GPU; fp32 or bf16 (32-true or bf16-mixed) runs on the processor")
    try:
        return _lightning_trainer(cfg, module, checkpoints, callbacks, accelerator, precision, num_steps)
    except (MisconfigurationException, ValueError, TypeError) as error:
        chosen = ", ".join(f"hardware.{key}={value}" for key, value in hardware.items())
        raise ValueError(f"{chosen}: {error} (hardware=auto takes what this machine has)") from error


def _check_cores(hardware: DictConfig, accelerator: str) -> None:
    """Raises ValueError where the GPUs that were counted on are not there; warns of more processes than cores."""
    num_cores = os.cpu_count() or 1
    if accelerator != "cpu" or hardware.devices <= num_cores:
        return
    machine = f"hardware.devices={hardware.devices}: this machine has {num_cores} processor cores"
    if hardware.accelerator == "auto":
        raise ValueError(f"{machine} and no GPU; give hardware.devices=1, or hardware=cpu with as many as you want")
    _log.warning("%s, which as many processes share", machine)


def _lightning_trainer(
    cfg: DictConfig,
    module: Task,
    checkpoints: Checkpoints,
    callbacks: Sequence[pl.Callback],
    accelerator: str,
    precision: Any,
    num_steps: int,
) -> pl.Trainer:
    hardware, settings = cfg.hardware, cfg.trainer
    has_bar = sys.stdout.isatty()
    bar = [TQDMProgressBar(refresh_rate=settings.log_every_n_steps)] if has_bar else []
    return pl.Trainer(
        default_root_dir=cfg.run_dir,
        accelerator=accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=_strategy(hardware),
        precision=precision,
        max_steps=num_steps if settings.max_steps is None else min(settings.max_steps, num_steps),
        max_epochs=-1,
        gradient_clip_val=module.clip_grad,
        val_check_interval=checkpoints.eval_every_n_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_n_steps,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=has_bar,
        callbacks=[*bar, ProgressLines(is_printed=not has_bar), *callbacks],
        plugins=[AtomicCheckpointIO(), *_slurm()],
        logger=list(instantiate(cfg.logger).values()),
        profiler=instantiate(settings.profiler) or DataWait(),
    )


def _choose_arithmetic(hardware: DictConfig) -> None:
    """How float32 matrices are multiplied, in the whole process."""
    choices = ("highest", "high", "medium")
    if hardware.matmul_precision not in choices:
        chosen = f"hardware.matmul_precision={hardware.matmul_precision!r}"
        raise ValueError(f"{chosen}: choose {', '.join(choices)}")
    torch.set_float32_matmul_precision(hardware.matmul_precision)


def _strategy(hardware: DictConfig) -> str | Strategy:
    if hardware.strategy == "fsdp":
        return fsdp_strategy(hardware.devices * hardware.num_nodes)
    return hardware.strategy


def _slurm() -> list[SLURMEnvironment]:
    """Where srun started this process. Lightning's own requeueing would go on training after its checkpoint."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _evaluate(trainer: pl.Trainer, module: Task, datamodule: pl.LightningDataModule) -> float:
    return trainer.validate(module, datamodule=datamodule, verbose=False)[0]["eval/loss"]


def task(cfg: DictConfig) -> float | ReadyTrial:
    """Returns the last eval loss, the number that a sweep minimizes."""
    _silence_start()
    with one_line_errors():
        check_nulls(cfg, "train", _GROUPS, ("hardware.precision",))
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_trial(script("train"), "run_dir", sweep_direction(), can_resume=True)
    os.environ["M3_RUN_DIR"] = cfg.run_dir  # other ranks would name the run by their own clocks
    try:
        with interruptible():  # before training there is nothing to save
            stop_with_sweep()
            return _assemble_and_fit(cfg)
    except Interrupted as stop:
        # Without resume=auto a job that is started again would refuse to go on in its folder.
        if cfg.resume == "auto" and stop.signal in PREEMPTION:
            requeue()
        raise


def _assemble_and_fit(cfg: DictConfig) -> float:
    with ExitStack() as stack:
        with one_line_errors():
            stack.enter_context(locked_run(cfg))
            parts = assemble(cfg)
        # CheckpointWriteError is an OSError.
        kinds = (OSError, NonFiniteError, ShardError, SettingError)
        with one_line_errors(*kinds), naming(parts.run_dir), _lost_connections():
            done = fit(cfg, parts)
            if done.trainer.is_global_zero:
                write_result(parts.run_dir, done.last_eval_loss)
    return done.last_eval_loss


@contextmanager
def _lost_connections() -> Iterator[None]:
    """In a process that is not the first: when another one ends, this one ends in one line that points to it."""
    try:
        yield
    except RuntimeError as error:
        if is_first_process() or not re.search(r"closed by peer|[Gg]loo|NCCL|Connection reset", str(error)):
            raise
        raise OSError("another process of this training has ended; what it says is the reason") from error


def _silence_start() -> None:
    """Lightning's messages at every start about hardware, loader workers and its own internals are not shown."""
    for part in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{part}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(many workers|LeafSpec|exists and is not empty).*")


if __name__ == "__main__":  # as a trial of a sweep is started where there is no script
    from m3.commands.entry import train

    train()
