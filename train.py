"""Trains a model on the shards of preprocess.py: assembles the parts that conf/train.yaml names and runs them."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import TQDMProgressBar

from m3.checkpoint import AtomicCheckpointIO, StepCheckpoint, check_resumable, newest_checkpoint


@dataclass(frozen=True)
class TrainingRun:
    """What `run` assembled and did.

    first_eval_loss: before the first step, None for a run that was continued. last_eval_loss: after the last. In nats.
    checkpoint: of the last step.
    """

    trainer: pl.Trainer
    module: pl.LightningModule
    datamodule: pl.LightningDataModule
    first_eval_loss: float | None
    last_eval_loss: float
    checkpoint: Path


def run(cfg: DictConfig) -> TrainingRun:
    """Trains, or continues, the run that `cfg` (conf/train.yaml) describes.

    Raises:
        hydra's InstantiationException, FileNotFoundError or ValueError, before any work, for settings that cannot
        be; each names the key or the file.
    """
    run_dir = Path(cfg.run_dir)
    resume_from = _resume_from(cfg.resume, run_dir)
    pl.seed_everything(cfg.seed, verbose=False)
    module = instantiate(cfg.task)
    datamodule = instantiate(cfg.data)
    module.identity = {"config": OmegaConf.to_container(cfg, resolve=True), "data": datamodule.identity}
    if resume_from:
        check_resumable(resume_from, module.identity)
    trainer = _trainer(cfg, module, run_dir)

    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    first = _evaluate(trainer, module, datamodule) if resume_from is None else None
    print(f"{run_dir}: {module.plan(trainer.world_size)}, from {resume_from or 'new weights'}", flush=True)
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume_from, weights_only=True)
    last = _evaluate(trainer, module, datamodule)
    checkpoint = newest_checkpoint(run_dir)
    print(f"eval loss {'' if first is None else f'{first:.3f} → '}{last:.3f}; checkpoint {checkpoint}")
    return TrainingRun(trainer, module, datamodule, first, last, checkpoint)


def _resume_from(resume: str | None, run_dir: Path) -> Path | None:
    newest = newest_checkpoint(run_dir)
    if resume == "auto":
        return newest
    if resume is not None:
        raise ValueError(f"resume={resume}: choose auto or null")
    if newest is not None:
        raise ValueError(f"{newest} is there already: resume=auto continues it, another name=… starts a new run")
    return None


def _trainer(cfg: DictConfig, module: pl.LightningModule, run_dir: Path) -> pl.Trainer:
    hardware, settings = cfg.hardware, cfg.trainer
    for key, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"trainer.{key}={value}: need at least 1")
    num_steps = module.num_steps(hardware.devices * hardware.num_nodes)
    callbacks = [
        TQDMProgressBar(refresh_rate=settings.log_every_n_steps),
        StepCheckpoint(str(run_dir / "checkpoints"), settings.checkpoint_every_n_steps, settings.keep_checkpoints),
    ]
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        precision=hardware.precision or module.precision,
        max_steps=num_steps if settings.max_steps is None else min(settings.max_steps, num_steps),
        max_epochs=-1,
        gradient_clip_val=module.clip_grad,
        limit_train_batches=settings.limit_train_batches,
        val_check_interval=settings.eval_every_n_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_n_steps,
        use_distributed_sampler=False,
        enable_model_summary=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=instantiate(cfg.logger),
    )


def _evaluate(trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule) -> float:
    return trainer.validate(module, datamodule=datamodule, verbose=False)[0]["eval/loss"]


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Returns the last eval loss, the number that a sweep minimises."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        cfg.run_dir = HydraConfig.get().runtime.output_dir
    try:
        return run(cfg).last_eval_loss
    except (FileNotFoundError, ValueError, HydraException) as error:
        raise SystemExit(f"error: {error.__cause__ or error}") from None


if __name__ == "__main__":
    # What Lightning says of hardware, workers and its own internals at every start is not about the run.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(many workers|LeafSpec|exists and is not empty).*")
    main()
