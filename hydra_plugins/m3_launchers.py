"""Hydra's joblib and submitit launchers, changed so that a killed trial does not end the other trials.

Hydra finds launchers in the package `hydra_plugins`, and imports all of its modules at every start.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from m3.sweep.outcomes import advice, record_lost, value_of
from m3.sweep.stopping import SweepStop
from m3.sweep.trial import ReadyTrial, later, trial_of

# Without the extra `sweep` the classes below stay abstract, and Hydra ignores them.
HydraJoblibLauncher: Any = Launcher
BaseSubmititLauncher: Any = Launcher
BaseQueueConf: Any = None
with suppress(ImportError):
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher as HydraJoblibLauncher
with suppress(ImportError):
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher


_log = logging.getLogger(__name__)


def gpus_per_node(hardware: DictConfig | None) -> int | None:
    """Number of GPUs per node that a cluster job requests: hardware.devices, None for hardware=cpu.

    1 for an application without the group `hardware`.
    """
    if hardware is None:
        return 1
    return None if hardware.accelerator == "cpu" else hardware.devices


OmegaConf.register_new_resolver("m3.gpus_per_node", gpus_per_node, replace=True)  # conf/hydra/launcher/*.yaml


class JoblibLauncher(HydraJoblibLauncher):
    """Runs several trials at a time; a thread waits for the process of each.

    Hydra's launcher uses worker processes, and a killed one ends all. Hydra's state is global, so jobs are prepared one
    after the other. Jobs that are not trials, as those of preprocess.py, are run by Hydra's launcher.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if _direction(self.config) is None:
            return super().launch(job_overrides, initial_job_idx)
        import joblib  # slow, and this module is imported at every start

        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        with later():
            jobs = [self._prepare(number, each) for number, each in enumerate(job_overrides, initial_job_idx)]
        prepared = [job for job in jobs if job.status == JobStatus.COMPLETED]
        ready = [job for job in prepared if isinstance(job.return_value, ReadyTrial)]  # the others are done already
        runs = [job.return_value for job in ready]
        with SweepStop() as request:
            parallel = joblib.Parallel(**{**self.joblib, "backend": "threading", "batch_size": 1})
            trials: Any = parallel(joblib.delayed(run.run)(request) for run in runs)
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
    """Records a job whose process is killed as a killed trial; Hydra's launcher would end the sweep."""

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
        """submitit's executor with the settings of the launcher's config."""
        import submitit  # slow, and this module is imported at every start

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
        """The result of a submitit job; waits for its end."""
        try:
            return job.results()[0]
        except Exception as error:  # whatever the reason, the other trials must go on
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


def _direction(config: DictConfig) -> Literal["minimize", "maximize"] | None:
    """Direction of a sweep of trials; None for an application without trials."""
    return OmegaConf.select(config, "hydra.callbacks.sweep.direction")


def _config_of_job(launcher: Any, number: int, overrides: Sequence[str]) -> DictConfig:
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    return config
