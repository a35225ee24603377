"""How long the commands take to answer where there is nothing to compute: help, completion, misspelt options.

    python bench/startup.py                      this checkout
    python bench/startup.py --root OTHER         another one, for comparison

Medians of `--rounds` runs of each command, after one that fills the file cache: seconds, and seconds of CPU, which
depend less on what else runs. The processes start in an empty folder, and what they leave there is counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = (
    ("train", "--help"),
    ("generate", "--help"),
    ("preprocess", "--help"),
    ("train", "-sc query=bash"),
    ("train", "optim.lrr=1"),
    ("generate", "sampling=maskgid"),
)
"""Command and arguments, divided by blanks."""


def measured(root: Path, command: str, arguments: str) -> tuple[float, float, int, str]:
    """Of one run: its seconds, its seconds of CPU, the number of paths that it left, the last line that it printed."""
    environment = {**os.environ, "PYTHONPATH": str(root), "COMP_LINE": f"{command}.py optim.warm"}
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, str(root / f"{command}.py"), *arguments.split(" ")],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        elapsed, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        last = (done.stderr or done.stdout).strip().splitlines()[-1]
        return elapsed, cpu, len(list(Path(folder).rglob("*"))), last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to measure")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| command | s | s of CPU | left behind | last line |\n|---|---:|---:|---:|---|")
    for command, arguments in COMMANDS:
        measured(options.root, command, arguments)
        runs = [measured(options.root, command, arguments) for _ in range(options.rounds)]
        elapsed, cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
        left, last = runs[-1][2:]
        print(f"| `{command}.py {arguments}` | {elapsed:.2f} | {cpu:.2f} | {left} | {last[:100]} |", flush=True)


if __name__ == "__main__":
    main()
