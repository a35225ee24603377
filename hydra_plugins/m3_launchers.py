"""Hydra's joblib and submitit launchers for trials that do not take each other along, whatever kills one.

Hydra looks for launchers in the package `hydra_plugins`, all of which it imports at every start.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from m3.sweep.outcomes import advice, record_lost, value_of
from m3.sweep.stopping import SweepStop
from m3.sweep.trial import ReadyTrial, later, trial_of

# Without the extra `sweep` those below stay abstract: Hydra does not know them.
try:
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher as HydraJoblibLauncher
except ImportError:
    HydraJoblibLauncher = Launcher
try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
except ImportError:
    BaseSubmititLauncher = Launcher


_log = logging.getLogger(__name__)


def gpus_per_node(hardware: DictConfig | None) -> int | None:
    """What a job asks its cluster for: as many as hardware.devices, none for hardware=cpu.

    One for an application without the group `hardware`.
    """
    if hardware is None:
        return 1
    return None if hardware.accelerator == "cpu" else hardware.devices


OmegaConf.register_new_resolver("m3.gpus_per_node", gpus_per_node, replace=True)  # conf/hydra/launcher/*.yaml


class JoblibLauncher(HydraJoblibLauncher):
    """Several trials at once, each of them waited for by a thread.

    Hydra's own has processes that wait, and one that is killed ends them all. Its state is global: jobs are prepared
    one after the other. Jobs that are no trials, those of preprocess.py, are left to it.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if _direction(self.config) is None:
            return super().launch(job_overrides, initial_job_idx)
        import joblib  # takes a while, at every start

        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        with later():
            jobs = [self._prepare(number, each) for number, each in enumerate(job_overrides, initial_job_idx)]
        prepared = [job for job in jobs if job.status == JobStatus.COMPLETED]
        ready = [job for job in prepared if isinstance(job.return_value, ReadyTrial)]  # the others are done already
        runs = [job.return_value for job in ready]
        with SweepStop() as request:
            parallel = joblib.Parallel(**{**self.joblib, "backend": "threading", "batch_size": 1})
            trials = parallel(joblib.delayed(run.run)(request) for run in runs)
        if request.number is not None and any(trial.status != "done" for trial in trials):
            request.leave(rank=0)
        for job, run, trial in zip(ready, runs, trials):
            job.return_value = value_of(trial, run.direction)
        return jobs

    def _prepare(self, number: int, overrides: Sequence[str]) -> JobReturn:
        _log.info(_job_line(number, overrides))
        returned = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=_config_of_job(self, number, overrides),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returned


class _SubmititLauncher(BaseSubmititLauncher):
    """A job whose process is killed, which Hydra's own takes for the end of the sweep, is a trial that was killed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        for number, overrides in zip(numbers, job_overrides):
            _log.info(_job_line(number, overrides))
        state = Singleton.get_state()
        jobs = self._executor().map_array(
            self,
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir"] * len(numbers),
            list(numbers),
            [f"job_id_for_{number}" for number in numbers],
            [state] * len(numbers),
        )
        return [self._returned(*each) for each in zip(jobs, numbers, job_overrides)]

    def _executor(self) -> Any:
        """submitit's, with the settings of the launcher's config."""
        import submitit  # takes a while, at every start

        settings, cluster = dict(self.params), self._EXECUTOR
        folder = settings.pop("submitit_folder")
        at_first = {f"{cluster}_{key}": settings.pop(key) for key in ("max_num_timeout",) if key in settings}
        executor = submitit.AutoExecutor(folder, cluster=cluster, **at_first)
        shared = {field.name for field in dataclasses.fields(BaseQueueConf)}
        executor.update_parameters(
            **{key if key in shared else f"{cluster}_{key}": value for key, value in settings.items()}
        )
        return executor

    def _returned(self, job: Any, number: int, overrides: Sequence[str]) -> JobReturn:
        """What a job of submitit came to, once it has ended."""
        try:
            return job.results()[0]
        except Exception as error:  # none of the many reasons is one to lose the other trials
            config = _config_of_job(self, number, overrides)
            returned = JobReturn(overrides=list(config.hydra.overrides.task))
            if (direction := _direction(config)) is None:
                returned.status, returned.return_value = JobStatus.FAILED, error
                return returned
            folder = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir))
            remedy = advice("resume" in config)
            reason = f"its job {job.job_id} ended without a result (state {job.state}); {remedy}"
            trial = record_lost(folder, dataclasses.replace(trial_of(config.hydra), job=job.job_id), reason)
            print(f"#{number}: {trial.status}: {trial.reason}", flush=True)
            returned.status, returned.return_value = JobStatus.COMPLETED, value_of(trial, direction)
            return returned


class LocalLauncher(_SubmititLauncher):
    """conf/hydra/launcher/submitit_local.yaml."""

    _EXECUTOR = "local"


class SlurmLauncher(_SubmititLauncher):
    """conf/hydra/launcher/submitit_slurm.yaml."""

    _EXECUTOR = "slurm"


def _job_line(number: int, overrides: Sequence[str]) -> str:
    return f"\t#{number} : {' '.join(filter_overrides(overrides))}"


def _direction(config: DictConfig) -> str | None:
    """Of a sweep of trials; None for an application without trials."""
    return OmegaConf.select(config, "hydra.callbacks.sweep.direction")


def _config_of_job(launcher: Launcher, number: int, overrides: Sequence[str]) -> DictConfig:
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    return config
