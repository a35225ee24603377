"""Preprocessing on Ray: whatever happens to the cluster, the bytes are those of the local run."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from ray.cluster_utils import Cluster
from support.clip_sources import Deadly, EveryFrame
from support.object_store import stored
from support.preprocess_runs import contents
from support.tiny_world import write_world

import preprocess
from m3.captions import NoCaptioner
from m3.clips.canvas import CropCanvas
from m3.clips.penn_action import PennAction
from m3.preprocessing import ray_actors, ray_executor, workers
from m3.preprocessing.prepare import ClipPreparer
from m3.preprocessing.publish import working_folder
from m3.preprocessing.ray_actors import EncoderMaker, EncodingActor, Outcome, PreparingActor
from m3.preprocessing.staging import Unreadable
from m3.preprocessing.workers import prepare_clips
from m3.tokens.base import NoTokenizer

ROOT = Path(preprocess.__file__).parent
NUM_CLIPS = 16


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of Ray's goes into the home folder, nor out of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield
        assert not list(Path(tmp_path_factory.getbasetemp()).glob("home*/*"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, NUM_CLIPS)
    (root / "labels/0004.mat").write_bytes(b"damaged")
    return root


def config(world: Path, out: Path | str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        source = ["source=penn_action", f"source.root={world}", f"out={out}", "contact_sheet.num_pairs=0"]
        return compose("preprocess", [*source, "canvas.size=256", "pairs_per_shard=20", "workers=1", *overrides])


@pytest.fixture(scope="module")
def expected(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "data"
    preprocess.run(config(world, out))
    return contents(out)


QUICK_TO_NOTICE = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""Of a machine that is gone; by default it takes Ray 15 s."""


@contextmanager
def two_nodes() -> Iterator[tuple[Cluster, object]]:
    """A cluster of two machines with one CPU each; the second one may be taken away."""
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster, cluster.add_node(num_cpus=1)
    finally:
        cluster.shutdown()


class Meanwhile(threading.Thread):
    """Does something once so many clips are staged; `num_staged` is how many there were when it had been done."""

    def __init__(self, staging: Path, num_clips: int, action: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._clips, self._num_clips, self._action = staging / "clips", num_clips, action
        self.num_staged: int | None = None
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if len(list(self._clips.glob("*"))) >= self._num_clips:
                self._action()
                self.num_staged = len(list(self._clips.glob("*")))
                return
            time.sleep(0.01)


def processes(*words: str) -> list[int]:
    """Ids of this user's processes that have all of these words in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if all(word in line for word in words):
            found.append(int(path.parent.name))
    return found


# ── clusters ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_node_changes_no_byte(world, expected, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with two_nodes() as (cluster, node):
        loss = Meanwhile(tmp_path / "data.tmp", 3, lambda: cluster.remove_node(node, allow_graceful=False))
        preprocess.run(config(world, tmp_path / "data", "executor=ray", f"executor.address={cluster.address}"))
    said = capfd.readouterr().err
    assert 3 <= loss.num_staged < NUM_CLIPS, said
    left = re.search(r"Ray: 1 of 2 machines lost; (\d+) clips to go", said)
    assert left and 0 < int(left[1]) <= NUM_CLIPS - 3, said
    assert contents(tmp_path / "data") == expected


@pytest.mark.slow
def test_killed_actors_change_no_byte_on_the_way_to_s3(world, expected, s3: str, tmp_path: Path) -> None:
    out, scratch, killed = f"{s3}/ray", tmp_path / "scratch", []

    def kill() -> None:
        for kind in ("PreparingActor", "EncodingActor"):
            killed.append(processes("ray::", kind)[0])
            os.kill(killed[-1], signal.SIGKILL)

    meanwhile = Meanwhile(
        working_folder(f"{out}", f"{scratch}").with_name(f"{working_folder(out, '').name}.tmp"), 3, kill
    )
    preprocess.run(config(world, out, "executor=ray", "workers=2", f"scratch={scratch}"))
    assert 3 <= meanwhile.num_staged < NUM_CLIPS and len(killed) == 2
    assert stored(out) == expected


@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_behind_and_goes_on(world, expected, tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", Path(tempfile.mkdtemp())  # a short path: Ray has sockets in it
    home.mkdir()
    overrides = ["source=penn_action", f"source.root={world}", f"out={tmp_path / 'data'}", "contact_sheet.num_pairs=0",
                 "canvas.size=256", "pairs_per_shard=20", "workers=1"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "preprocess.py", *overrides, "executor=ray", f"hydra.run.dir={tmp_path}/hydra"],
        cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment, "HOME": str(home), "TMPDIR": str(temporary)},
    )  # fmt: skip
    stop = Meanwhile(tmp_path / "data.tmp", 3, lambda: os.killpg(process.pid, signal.SIGINT))  # as Ctrl-C does
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "run the same command again to continue" in said and "Traceback" not in said
    assert 3 <= stop.num_staged < NUM_CLIPS and not (tmp_path / "data").exists()
    deadline = time.monotonic() + 10
    while processes(str(temporary)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes(str(temporary)) and not list(temporary.glob("m3-ray*")) and not list(home.iterdir()), said
    preprocess.run(config(world, tmp_path / "data"))
    assert contents(tmp_path / "data") == expected
    shutil.rmtree(temporary)


# ── actors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def through_actors(preparer: ClipPreparer, clip_ids: list[str], make_encoder: EncoderMaker) -> list[Outcome]:
    prepare, encode = PreparingActor(preparer, os.getcwd()), EncodingActor(make_encoder, os.getcwd())
    return [pickle.loads(encode(prepare({"clip": clip_id}))["outcome"]) for clip_id in clip_ids]


def maker(preparer: ClipPreparer, **changes) -> EncoderMaker:
    parts = {"make_tokenizer": NoTokenizer, "make_captioner": NoCaptioner, "fingerprints": ("", None)}
    return EncoderMaker(preparer, **{**parts, "batch_size": 8, "num_threads": 1, **changes})


def deadly(root: Path) -> ClipPreparer:
    return ClipPreparer(Deadly(root, always=("02",)), CropCanvas(32), EveryFrame(), ("coords", "coords_next"))


@pytest.mark.slow
def test_a_clip_that_kills_its_process_is_rejected_as_it_is_here(tmp_path: Path) -> None:
    preparer, ids = deadly(tmp_path), ["02", "03"]
    here = {item.clip: item for item in prepare_clips(preparer, ids, 1)}
    assert "worker process died" in here["02"].reason and "no joints" in here["03"].reason
    outcomes = through_actors(preparer, ids, maker(preparer))
    assert [outcome.clip_id for outcome in outcomes] == ids
    assert [outcome.result.clip for outcome in outcomes] == [here[clip_id] for clip_id in ids]


def test_processes_that_always_die_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors, "ClipWorker", lambda _: lambda clip_id: Unreadable(clip_id, workers._DIED))
    preparer = deadly(tmp_path)
    outcomes = through_actors(preparer, ["01", "02", "03", "04"], maker(preparer))
    assert all(isinstance(outcome.result.clip, Unreadable) for outcome in outcomes[:3])
    with pytest.raises(ChildProcessError, match="the last one on clip 04"):
        ray_executor._checked(outcomes[3], preparer)


def test_a_network_that_a_machine_lacks_is_named_with_the_machine(world: Path) -> None:
    preparer = ClipPreparer(PennAction(world), CropCanvas(32), EveryFrame(), ("coords", "coords_next"))
    no_file = partial(instantiate, {"_target_": "m3.tokens.mini.MiniTokenizer", "path": "/nowhere"})
    for changes, message in (
        ({"make_tokenizer": no_file}, "tokenizer.path=/nowhere"),
        ({"fingerprints": ("another", None)}, "weights of tokenizer or captioner are other"),
    ):
        (outcome,) = through_actors(preparer, ["0001"], maker(preparer, **changes))
        with pytest.raises(ValueError, match=f"{socket.gethostname()}: .*{message}"):
            ray_executor._checked(outcome, preparer)


def test_a_machine_that_does_not_see_the_clips_ends_the_run(world: Path, tmp_path: Path) -> None:
    here = ClipPreparer(PennAction(world), CropCanvas(32), EveryFrame(), ("coords", "coords_next"))
    shutil.copytree(world, tmp_path / "there")
    elsewhere = ClipPreparer(PennAction(tmp_path / "there"), CropCanvas(32), EveryFrame(), ("coords", "coords_next"))
    shutil.rmtree(tmp_path / "there/labels")
    outcomes = through_actors(elsewhere, ["0001", "0004"], maker(elsewhere))
    with pytest.raises(OSError, match=f"clip 0001: {socket.gethostname()} cannot read it.*though this machine can"):
        ray_executor._checked(outcomes[0], here)
    assert "0004.mat" in ray_executor._checked(outcomes[1], here).clip.reason  # damaged: here, too


# ── settings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def executor_of(**changes) -> ray_executor.RayExecutor:
    settings = {"num_workers": None, "address": None, "num_tokenizers": None, "gpus_per_tokenizer": None,
                "object_store_gb": None, "tokenizer": {}, "captioner": {}}  # fmt: skip
    return ray_executor.RayExecutor(**{**settings, **changes})


@pytest.mark.parametrize(
    ("settings", "cpus", "gpus", "fleet"),
    [
        ({}, [4, 4], [0, 0], (7, 1, 1, 0)),
        ({"num_workers": 3}, [4, 4], [0, 0], (3, 1, 1, 0)),
        ({"num_workers": 3, "num_tokenizers": 4}, [4, 4], [0, 0], (3, 4, 1, 0)),
        ({"num_workers": 9, "num_tokenizers": 4}, [4, 1], [0, 0], (1, 4, 1, 0)),  # what fits
        ({"num_workers": 9, "num_tokenizers": 9}, [4], [0], (1, 3, 1, 0)),
        ({}, [1, 1], [0, 0], (1, 1, 1, 0)),
        ({}, [1], [0], (1, 1, 0.5, 0)),
        ({"tokenizer": {"device": "auto"}}, [8, 8], [2, 0], (16, 2, 1, 1)),
        ({"captioner": {"device": "cuda"}, "num_tokenizers": 1}, [8], [2], (8, 1, 1, 1)),
        ({"tokenizer": {"device": "auto"}}, [8, 8], [0, 0], (15, 1, 1, 0)),
        ({"tokenizer": {"device": "cpu"}}, [8], [2], (7, 1, 1, 0)),
        ({"tokenizer": {"device": "auto"}, "gpus_per_tokenizer": 0.5}, [8], [2], (8, 4, 1, 0.5)),
        ({"tokenizer": {"device": "auto"}, "gpus_per_tokenizer": 0}, [8], [2], (7, 1, 1, 0)),
    ],
)
def test_actors_fit_into_the_cluster(settings, cpus: list[float], gpus: list[float], fleet: tuple) -> None:
    executor = executor_of(**settings)
    nodes = {str(n): {"CPU": float(cpu), "GPU": float(gpu)} for n, (cpu, gpu) in enumerate(zip(cpus, gpus))}
    assert executor._fleet(nodes, executor._gpus_per_tokenizer(nodes)) == fleet


def test_a_cluster_without_the_gpus_that_are_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="gpus_per_tokenizer=1: the cluster has 1 machines, 4 CPUs, 0 GPUs"):
        executor_of()._fleet({"a": {"CPU": 4.0}}, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workers=0"], "workers=0: need at least 1"),
        (["executor.num_tokenizers=0"], "executor.num_tokenizers=0: need at least 1"),
        (["executor.gpus_per_tokenizer=-1"], "executor.gpus_per_tokenizer=-1"),
        (["executor.object_store_gb=0"], "executor.object_store_gb=0"),
        (["executor.address=auto", "executor.object_store_gb=1"], "the cluster at executor.address=auto has its own"),
    ],
)
def test_impossible_settings_stop_before_any_work(world, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InstantiationException, match=message):
        preprocess.run(config(world, tmp_path / "data", "executor=ray", *overrides))
    assert not list(tmp_path.iterdir())


def test_without_ray_the_command_says_what_to_install(world, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/__init__.py").write_text("raise ImportError('as if it were not there')")
    done = from_shell(world, tmp_path, "executor=ray", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and done.stderr.strip().splitlines() == [
        "error: executor=ray: Ray is not installed here; pip install 'm3-motion[ray]'"]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "message"), [("127.0.0.1:9", "nothing answers there"), ("ray://127.0.0.1:9", "nothing answers there"),
                             ("auto", "no connection to a Ray cluster")])  # fmt: skip
def test_a_cluster_that_does_not_answer_is_named(world, tmp_path: Path, address: str, message: str) -> None:
    done = from_shell(world, tmp_path, "executor=ray", f"executor.address={address}")
    said = [line for line in done.stderr.strip().splitlines() if "Set ray log level" not in line]
    assert done.returncode == 1 and len(said) == 1, done.stderr
    assert said[0].startswith(f"error: executor.address={address}: {message}")


def from_shell(world: Path, tmp_path: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "preprocess.py", "source=penn_action", f"source.root={world}", f"out={tmp_path}/data",
               f"hydra.run.dir={tmp_path}/hydra", *overrides]  # fmt: skip
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
