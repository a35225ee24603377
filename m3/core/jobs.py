"""SLURM, directly or through submitit: jobs that are preempted or out of time go back into the queue.

And processes that end with the one that started them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

WARNING: signal.Signals = getattr(signal, "SIGUSR1", signal.SIGTERM)
"""Asks a training to save and stop, and may be repeated; Windows has SIGTERM alone."""

PREEMPTION: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""What a cluster sends before it takes a machine away: SLURM's own signal, the one that scripts ask for with
`#SBATCH --signal=USR1@120`, and submitit's. Of these Windows has the first alone."""

IN_TRIAL = "M3_TRIAL"
"""Environment variable of a trial's process: the sweep that started it requeues, not the trial itself."""


def job_id() -> str | None:
    """The cluster job that this process is part of; the same after it was requeued. None without a cluster."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")


def process_rank() -> int:
    """Of this process among those that the cluster started for the job, from 0."""
    return int(os.environ.get("SLURM_PROCID", 0))


def is_batch_job() -> bool:
    """True in a SLURM job that a script runs, False in a shell (salloc, srun --pty bash) and without SLURM."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def requeue() -> bool:
    """Puts the SLURM job of this process back into the queue, where it waits and then runs its script again.

    Only rank 0 of a batch job does so, and no trial of a sweep. The outcome is printed; True if it worked.
    """
    if not is_batch_job() or process_rank() or IN_TRIAL in os.environ:
        return False
    command = ["scontrol", "requeue", job_id()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        problem = done.stderr.strip() or f"it returned {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    came_of_it = f"{problem}; submit it again to continue" if problem else "it waits in the queue again"
    print(f"{' '.join(command)}: {came_of_it}", file=sys.stderr, flush=True)
    return not problem


def stop_with_sweep() -> None:
    """In a trial's process: it stops as at a cluster's warning when the process that started it is gone.

    The sweep holds the other end of its standard input, and writes nothing. Does nothing in other processes.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        _stop("the process that started this trial is gone")

    if IN_TRIAL in os.environ:
        threading.Thread(target=wait, daemon=True).start()


def stop_with_submitit() -> None:
    """In a job of submitit's local executor: it stops as at a cluster's warning when the executor's process is gone."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        _stop("submitit's process that started this job is gone")

    if "SUBMITIT_LOCAL_JOB_ID" in os.environ:
        threading.Thread(target=wait, daemon=True).start()


def _stop(reason: str) -> None:
    print(reason, file=sys.stderr, flush=True)
    if sys.platform == "win32":  # where os.kill ends a process without calling its handlers
        signal.raise_signal(WARNING)
    else:
        os.kill(os.getpid(), WARNING)


def requeue_submitit(handlers: dict[signal.Signals, Any]) -> None:
    """Lets submitit put its job back into the queue, which ends this process; does nothing outside such a job.

    handlers: those that submitit installed. Raises submitit's error where the job may not run again.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    number = signal.Signals["SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")]
    handlers[number](number, None)
