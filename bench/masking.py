"""How fast samples are read and masked.

    python bench/masking.py [--json FILE]

Masking: budgets and positions together at the m3 recipe, in both modes of `modalities.clamped`, beside two per-sample
implementations of the published budgets (`drop`): one with `torch.distributions`, as masked-modeling code in data
loaders is usually written, and one with NumPy alone. First all of them must give the same mean budgets. The target is
30,000 samples/s on two cores.

Token table: whole batches of (590,) ids, read at random from a memory-mapped file of 20,000 rows in the page
cache. The target is 50,000 samples/s.

Speed: the median of rounds of about half a second each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.distributions import Dirichlet

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from m3.batches.datamodule import SampleRows, TrainBatches  # noqa: E402
from m3.batches.table import TokenTable  # noqa: E402
from m3.core.modalities import ModalityTable  # noqa: E402
from m3.core.rng import SampleGenerator  # noqa: E402
from m3.core.types import PairInfo  # noqa: E402
from m3.masking.select import choose  # noqa: E402
from m3.shards.manifest import Manifest, pair_modalities  # noqa: E402

BATCH_SIZES = (128, 512)
GRID = (16, 16)
NUM_ROWS = 20_000
NUM_ROUNDS = 7
ROUND_S = 0.5
NUM_COMPARED = 4_000

Columns = list[tuple[np.ndarray | torch.Tensor, np.ndarray | torch.Tensor]]
"""Input and target positions of a sample, for each modality."""


def recipe(clamped: str) -> ModalityTable:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return instantiate(compose("train", ["modalities=m3", f"modalities.clamped={clamped}"]).modalities)


# ── per-sample implementations ─────────────────────────────────────────────────────────────────────────────────────


def torch_sample(table: ModalityTable) -> Columns:
    lengths = torch.tensor(table.max_seq_lens)
    inputs = _torch_budget(Dirichlet(torch.tensor(table.input_alphas).float()), table.input_tokens_range, lengths)
    targets = _torch_budget(
        Dirichlet(torch.tensor(table.target_alphas).float()), table.target_tokens_range, lengths - inputs
    )
    columns = []
    for length, first, count in zip(table.max_seq_lens, inputs.tolist(), targets.tolist()):
        order = torch.rand(length).argsort()
        columns.append((order[:first].sort().values, order[first : first + count].sort().values))
    return columns


def _torch_budget(dirichlet: Dirichlet, bounds: tuple[int, int], room: torch.Tensor) -> torch.Tensor:
    total = int(torch.randint(bounds[0], bounds[1] + 1, ()))
    budget = (dirichlet.sample() * total).floor().long()
    left_over = total - int(budget.sum())
    if left_over > 0:
        budget += torch.bincount(dirichlet.sample((left_over,)).argmax(1), minlength=len(room))
    return torch.minimum(budget, room)


def numpy_sample(table: ModalityTable, rng: np.random.Generator) -> Columns:
    lengths = np.array(table.max_seq_lens)
    inputs = _numpy_budget(rng, table.input_alphas, table.input_tokens_range, lengths)
    targets = _numpy_budget(rng, table.target_alphas, table.target_tokens_range, lengths - inputs)
    columns = []
    for length, first, count in zip(table.max_seq_lens, inputs, targets):
        order = rng.permutation(length)
        columns.append((np.sort(order[:first]), np.sort(order[first : first + count])))
    return columns


def _numpy_budget(
    rng: np.random.Generator, alphas: tuple[float, ...], bounds: tuple[int, int], room: np.ndarray
) -> np.ndarray:
    total = rng.integers(bounds[0], bounds[1] + 1)
    budget = np.floor(rng.dirichlet(alphas) * total).astype(np.int64)
    if left_over := total - budget.sum():
        budget += np.bincount(rng.dirichlet(alphas, size=left_over).argmax(1), minlength=len(room))
    return np.minimum(budget, room)


# ── measuring ──────────────────────────────────────────────────────────────────────────────────────────────────────


def samples_per_s(run: Callable[[], object], num_samples: int) -> float:
    """Median over rounds; `run` handles `num_samples` samples."""
    run()
    speeds = []
    for _ in range(NUM_ROUNDS):
        start, num_runs = time.perf_counter(), 0
        while (elapsed_s := time.perf_counter() - start) < ROUND_S:
            run()
            num_runs += 1
        speeds.append(num_runs * num_samples / elapsed_s)
    return statistics.median(speeds)


def check_same_law(table: ModalityTable, tokens: torch.Tensor, rng: np.random.Generator) -> None:
    """Ends the program unless all implementations have the same mean budgets, within 4.5 standard errors."""
    masks = choose(tokens, table, generator(len(tokens), 0))
    found = {
        "m3": torch.cat([torch.stack([part.sum(1) for part in m.split(table.max_seq_lens, 1)], 1) for m in masks], 1),
        "torch": np.array([budgets(torch_sample(table)) for _ in tokens]),
        "NumPy": np.array([budgets(numpy_sample(table, rng)) for _ in tokens]),
    }
    found = {name: np.asarray(numbers, dtype=np.float64) for name, numbers in found.items()}  # (B, 2K) each
    for name in ("torch", "NumPy"):
        error = np.sqrt((found["m3"].var(0) + found[name].var(0)) / len(tokens))
        if (np.abs(difference := found["m3"].mean(0) - found[name].mean(0)) > 4.5 * error).any():
            raise SystemExit(f"error: mean budgets of m3 and {name} differ by {difference / error} standard errors")


def budgets(columns: Columns) -> list[int]:
    """Input budgets of all modalities, then target budgets."""
    return [len(positions) for side in zip(*columns) for positions in side]


def generator(num_samples: int, epoch: int) -> SampleGenerator:
    return SampleGenerator(0, "bench", torch.arange(num_samples), epoch)


def random_rows(num_rows: int) -> np.ndarray:
    """(num_rows, 590) uint16, every joint visible."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 64_000, (2, num_rows, 256), dtype=np.uint16)
    places = rng.integers(0, 8_192, (2, num_rows, 26), dtype=np.uint16)
    visibility = np.ones((2, num_rows, 13), dtype=np.uint16)
    return np.concatenate([part[k] for k in range(2) for part in (pictures, places, visibility)], axis=1)


def mapped_rows(folder: str, table: ModalityTable) -> SampleRows:
    path = Path(folder) / "rows.npy"
    np.save(path, random_rows(NUM_ROWS))
    manifest = Manifest(
        settings={}, source={"name": "random", "fingerprint": "0"}, canvas={"mode": "crop", "size": 256},
        modalities=pair_modalities(GRID), has_joints=True, variants=(),
        tokenizer={"name": "random", "fingerprint": "0", "settings": {}},
        captioner={"name": "none", "fingerprint": None, "settings": {}}, text_tokenizer=None,
        num_clips={"train": 1}, shards={}, rejected=(), notes=(), statistics={},
    )  # fmt: skip
    pairs = [PairInfo(str(number), "0", number, number + 1, None, None) for number in range(NUM_ROWS)]
    lengths = np.tile(np.array(table.max_seq_lens, dtype=np.uint16), (NUM_ROWS, 1))
    return SampleRows(TokenTable(manifest, np.load(path, mmap_mode="r"), lengths, pairs, [""] * NUM_ROWS, None), table)


def measure() -> dict[str, float]:
    """What was measured → samples per second."""
    table = recipe("drop")
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(random_rows(NUM_COMPARED).astype(np.int64))
    torch.manual_seed(0)
    check_same_law(table, tokens, rng)
    found = {
        "masks, per sample, torch": samples_per_s(lambda: torch_sample(table), 1),
        "masks, per sample, NumPy": samples_per_s(lambda: numpy_sample(table, rng), 1),
    }
    for clamped in ("drop", "redistribute"):
        mode = replace(table, clamped=clamped)
        for size in BATCH_SIZES:
            run = partial(mask_batch, tokens[:size], mode)
            found[f"masks, m3, {clamped}, batch {size}"] = samples_per_s(run, size)
    with tempfile.TemporaryDirectory() as folder:
        rows = mapped_rows(folder, table)
        for size in BATCH_SIZES:
            batches = map(TrainBatches(rows, size, 10**9, 0, 0, 1).__getitem__, range(10**9))
            found[f"token table, batch {size}"] = samples_per_s(partial(next, batches), size)
    return found


def mask_batch(tokens: torch.Tensor, table: ModalityTable) -> None:
    choose(tokens, table, generator(len(tokens), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    arguments = parser.parse_args()
    found = measure()
    for name, speed in found.items():
        print(f"{name:40} {speed:>10,.0f} samples/s")
    if arguments.json:
        facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "samples_per_s": found}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
