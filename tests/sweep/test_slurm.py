"""hydra/launcher=submitit_slurm: what it asks the cluster for, and a sweep on a stand-in for SLURM's commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from support.sweeps import ROOT, assert_only_the_first_was_killed, has_ended, pids, start, starts, wait_for

from m3.sweep.records import read_sweep

STAND_INS = {
    # Starts each job of an array at once, and again where it was requeued.
    "sbatch": """
import os, re, subprocess, sys
folder, script = os.path.dirname(__file__), open(sys.argv[1]).read()
open(f"{folder}/script", "w").write(script)
for job in range(int(re.search("--array=0-([0-9]+)", script)[1]) + 1):
    state = f"{folder}/77_{job}.state"
    open(state, "w").write("RUNNING")
    again = f"{folder}/77_{job}.again"
    runs = f"while bash {sys.argv[1]}; code=$?; test -e {again}; do rm {again}; done"
    command = f"{runs}; test $code = 0 && echo COMPLETED > {state} || echo OUT_OF_MEMORY > {state}"
    ids = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(job), "SLURM_JOB_ID": str(77 + job)}
    null = subprocess.DEVNULL  # sbatch's own output ends with it
    subprocess.Popen(["bash", "-c", command], env={**os.environ, **ids}, stdout=null, stderr=null)
print("Submitted batch job 77")
""",
    "srun": """
import os, sys
output = sys.argv[sys.argv.index("--output") + 1]
ids = {"%A": os.environ["SLURM_ARRAY_JOB_ID"], "%a": os.environ["SLURM_ARRAY_TASK_ID"], "%t": "0"}
for sign, value in ids.items():
    output = output.replace(sign, value)
os.makedirs(os.path.dirname(output), exist_ok=True)
file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(file, 1), os.dup2(file, 2)
command = sys.argv[sys.argv.index("--output") + 2 :]
os.execvp(command[0], command)
""",
    "scontrol": """
import os, sys
assert sys.argv[1] == "requeue"
open(os.path.dirname(__file__) + f"/{sys.argv[2]}.again", "w").close()
""",
    "sacct": """
import glob, os
print("JobID|State|NodeList")
for path in glob.glob(os.path.dirname(__file__) + "/*.state"):
    print(os.path.basename(path).removesuffix(".state"), open(path).read().strip(), "here", sep="|")
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Folder of the stand-ins, the first on the path."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, code in STAND_INS.items():
        (folder / name).write_text(f"#!{sys.executable}{code}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.filterwarnings("ignore:(?s).*is validated against ConfigStore")
@pytest.mark.parametrize(
    ("overrides", "nodes", "tasks", "gpus"),
    [
        ([], 1, 1, 1),
        (["hardware=bf16_a100", "hardware.devices=8", "hardware.num_nodes=4"], 4, 8, 8),
        (["hardware=cpu"], 1, 1, None),
        (["hardware.accelerator=cpu", "hardware.devices=2", "hardware.num_nodes=3"], 3, 2, None),
        (["hardware=bf16_h100", "hydra.launcher.gpus_per_node=4"], 1, 1, 4),
    ],
)
def test_a_job_asks_for_the_hardware_that_it_trains_on(slurm, tmp_path, overrides, nodes, tasks, gpus) -> None:
    """Down to the script that sbatch gets."""
    overrides = ["hydra/launcher=submitit_slurm", f"run_dir={tmp_path}", "hydra.job.name=train", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides, return_hydra_config=True)
        OmegaConf.set_readonly(cfg.hydra, False)
        launcher = Plugins.instance().instantiate_launcher(None, None, cfg)
    script = launcher._executor()._executor._make_submission_file_text("true", "id")
    asked = dict(re.findall("^#SBATCH --([a-z-]+)=(.*)$", script, re.MULTILINE))
    assert (asked["nodes"], asked["ntasks-per-node"]) == (str(nodes), str(tasks))
    assert asked.get("gpus-per-node") == (None if gpus is None else str(gpus))
    assert "requeue" in script and asked["signal"] == "USR2@180"


@pytest.mark.filterwarnings("ignore:(?s).*is validated against ConfigStore")
@pytest.mark.parametrize(("overrides", "gpus"), [([], "1"), (["hardware=cpu"], "None")])
def test_a_trial_on_this_machine_sees_the_gpus_that_it_trains_on(overrides, gpus) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["hydra/launcher=submitit_local", *overrides], return_hydra_config=True)
    assert str(cfg.hydra.launcher.gpus_per_node) == gpus


@pytest.mark.slow
def test_a_killed_job_of_slurm_is_one_killed_trial(slurm, tmp_path) -> None:
    process = start(tmp_path / "app", "hydra/launcher=submitit_slurm", "x=sleep,1,5", "+hardware.accelerator=cpu",
                    "+hardware.devices=1", "+hardware.num_nodes=1")  # fmt: skip
    wait_for(tmp_path / "app/sweep/0/is_asleep", process)
    job, trial = pids(tmp_path / "app", 0)
    os.kill(job, signal.SIGKILL)
    assert has_ended(trial)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert_only_the_first_was_killed(tmp_path / "app", said, [None, 4.0, 4.0])
    assert "its job 77_0 ended without a result (state OUT_OF_MEMORY)" in said
    script = (slurm / "script").read_text()
    assert "#SBATCH --array=0-2%3" in script and "gpus" not in script and "#SBATCH --partition" not in script
    assert subprocess.run(["sacct"], capture_output=True, text=True).stdout.count("COMPLETED") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_preempted_job_of_slurm_goes_on(slurm, tmp_path, number) -> None:
    process = start(tmp_path / "app", "hydra/launcher=submitit_slurm", "x=sleep,1")
    wait_for(tmp_path / "app/sweep/0/is_asleep", process)
    os.kill(pids(tmp_path / "app", 0)[0], number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert [line.split()[2] for line in starts(tmp_path / "app", 0)] == ["None", "auto"]
    trials = read_sweep(tmp_path / "app/sweep")
    assert [(trial.value, trial.job) for trial in trials] == [(0.5, "77_0"), (4.0, "77_1")]
