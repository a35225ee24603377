"""What preprocessing on Ray costs on one machine, beside the local run, and what a lost machine costs.

    python bench/cluster.py [--clips 72] [--json FILE]

The clips are generated people (`source=demo`), 20 frames of 224 × 224 px each, made before, on a canvas of 256 px. Each
way is a `preprocess.py` of its own that ends with a data set; its seconds include the start of processes and of Ray.

local           executor=local workers=2
ray             executor=ray workers=2, a tokenizer actor; Ray starts and ends with the run
two machines    the same on a cluster of two machines with 2 CPUs each that is there already, both on this machine
a machine lost  the same; the second machine is killed when a third of the clips is staged

Memory is the peak of the proportional set sizes of all processes together, those of Ray included, so that pages that
are shared count once; looked at five times a second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from m3.clips.demo import Demo

ROOT = Path(__file__).parent.parent
NUM_FRAMES = 20


class PeakMemory(threading.Thread):
    """Bytes of all descendants of this process, as long as the block lasts: `peak_bytes` is the most seen at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes, self._is_over = 0, threading.Event()

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        while not self._is_over.wait(0.2):
            self.peak_bytes = max(self.peak_bytes, sum(map(proportional_bytes, descendants(os.getpid()))))


def descendants(root: int) -> list[int]:
    """Ids of the processes that `root` started, directly or not."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, to_do = [], [root]
    while to_do:
        to_do += (more := children.get(to_do.pop(), []))
        found += more
    return found


def proportional_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def preprocess(clips: Path, num_clips: int, out: Path, *overrides: str) -> None:
    source = [f"source.root={clips}", f"source.num_clips={num_clips}", f"source.num_frames={NUM_FRAMES}"]
    command = [sys.executable, str(ROOT / "preprocess.py"), *source, f"out={out}", "workers=2",
               f"hydra.run.dir={out.parent}/hydra", *overrides]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def two_machines() -> Iterator[tuple[str, Callable[[], None]]]:
    """Address of a cluster, and what takes its second machine away."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 2**30}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(num_cpus=2, object_store_memory=2**30)
        cluster.wait_for_nodes()
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def when_staged(staging: Path, num_clips: int, action: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while len(list((staging / "clips").glob("*"))) < num_clips:
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def contents(out: Path) -> str:
    """One hash of all files."""
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(out)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def measure(folder: Path, num_clips: int) -> dict:
    """Seconds, peak bytes and hash of each way."""
    clips, figures = folder / "clips", {}
    Demo(clips, num_clips=num_clips, num_frames=NUM_FRAMES, height=224, width=224, seed=0)

    def take(name: str, *overrides: str) -> None:
        out, start = folder / name.replace(" ", "_"), time.perf_counter()
        with PeakMemory() as memory:
            preprocess(clips, num_clips, out, *overrides)
        seconds = time.perf_counter() - start
        figures[name] = {"seconds": seconds, "peak_bytes": memory.peak_bytes, "sha256": contents(out)}
        print(f"{name:15} {seconds:6.1f} s  {memory.peak_bytes / 1e9:.2f} GB", flush=True)

    take("local", "executor=local")
    take("ray", "executor=ray")
    for name in ("two machines", "a machine lost"):
        with two_machines() as (address, lose):
            if name == "a machine lost":
                when_staged(folder / "a_machine_lost.tmp", num_clips // 3, lose)
            take(name, "executor=ray", f"executor.address={address}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=72)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    os.environ.setdefault(
        "RAY_AUTH_TOKEN", secrets.token_hex()
    )  # of the clusters; Ray would write it into the home folder
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.clips)
    are_same = len({way["sha256"] for way in figures.values()}) == 1
    print("all data sets are the same, byte for byte" if are_same else "the data sets DIFFER")
    if arguments.json:
        record = {"ways": figures, "num_clips": arguments.clips, "cpu_count": os.cpu_count(),
                  "python": platform.python_version(), "ray": version("ray")}  # fmt: skip
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if not are_same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
