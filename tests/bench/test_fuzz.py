"""Files of all kinds, damaged and hostile: a few of each here, 24,500 in the slow test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench import fuzz

LINES: list[str] = []


def run(kind: fuzz.Kind, num_inputs: int, seed: int = 0) -> Counter[str]:
    LINES.clear()
    return fuzz.run_kind(kind, num_inputs, seed, LINES.append)


@pytest.mark.parametrize("kind", fuzz.KINDS, ids=lambda kind: kind.name)
def test_some_inputs_of_each_kind_are_read_or_refused(kind: fuzz.Kind) -> None:
    num_inputs = max(6, kind.num_inputs // 250)
    counts = run(kind, num_inputs, seed=1)
    assert not any(counts[name] for name in fuzz.BAD), LINES
    assert counts["read"] + counts["refused"] == num_inputs


@pytest.mark.slow
def test_many_inputs_are_read_or_refused(tmp_path: Path) -> None:
    assert sum(kind.num_inputs for kind in fuzz.KINDS) >= 20_000
    done = subprocess.run([sys.executable, "bench/fuzz.py"], cwd=Path(fuzz.__file__).parents[1], capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# ── the harness notices what it is made for ────────────────────────────────────────────────────────────────────────


def start_a_process(root: Path) -> None:
    subprocess.run(["true"])


def write_outside(root: Path) -> None:
    (root.parents[1] / "harmed").write_text("")


def delete_outside(root: Path) -> None:
    os.remove(root.parents[1] / "whole" / "absent")


def wait(root: Path) -> None:
    time.sleep(60)


def die(root: Path) -> None:
    os._exit(3)


def take_memory(root: Path) -> None:
    np.ones(2**33, np.uint8)


def raise_without_name(root: Path) -> None:
    raise ValueError("something is wrong")


def raise_in_two_lines(root: Path) -> None:
    raise ValueError("file: something\nis wrong")


def raise_raw(root: Path) -> None:
    raise KeyError("file")


def refuse(root: Path) -> None:
    raise ValueError(f"{root / 'file'}: damaged")


@pytest.mark.parametrize(("read", "expected"), [
    (start_a_process, "escaped"), (write_outside, "escaped"), (delete_outside, "escaped"), (wait, "hung"),
    (die, "killed"), (take_memory, "raw"), (raise_without_name, "unnamed"), (raise_in_two_lines, "unnamed"),
    (raise_raw, "raw"), (refuse, "refused"),
])  # fmt: skip
def test_every_outcome_is_noticed(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], expected: str
) -> None:
    monkeypatch.setattr(fuzz, "LIMIT_S", 1.0)
    is_whole = True

    def read_whole_first(root: Path) -> None:
        nonlocal is_whole
        if not is_whole:
            read(root)
        is_whole = False

    def change(root: Path, rng: np.random.Generator) -> str:
        return fuzz.change_file(root, "file", fuzz.damaged, rng)

    kind = fuzz.Kind("file", 0, lambda root: (root / "file").write_text("content"), change, read_whole_first)
    assert run(kind, 2) == {expected: 2}


def test_inputs_depend_on_the_seed_alone() -> None:
    content = bytes(range(256)) * 4
    made = [[fuzz.damaged(content, np.random.default_rng([seed, n])) for n in range(50)] for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2] and sum(each != content for each in made[0]) > 45
