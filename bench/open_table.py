"""What it costs to build a token table, to open it again, and to compare its files with their digests.

python bench/open_table.py [--pairs 20000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m3.batches.table import TokenTable
from m3.core.types import FramePair, TokenizedPair
from m3.core.weights import fingerprint
from m3.shards.manifest import TABLES_FOLDER, Manifest, pair_modalities
from m3.shards.meta import pair_meta
from m3.shards.writer import write_shards

GRID = (16, 16)


def random_pairs(num_pairs: int) -> Iterator[TokenizedPair]:
    rng = np.random.default_rng(0)
    for number in range(num_pairs):
        tokens = {}
        for frame in ("", "_next"):
            joints = np.concatenate([rng.integers(0, 8_192, (2, 13)), np.ones((1, 13), np.int64)])
            tokens[f"tok_rgb{frame}"] = rng.integers(0, 64_000, GRID).astype(np.uint16)
            tokens[f"coords{frame}"] = joints.astype(np.uint16)
        canvas = {"mode": "crop", "size": 256, "window": [0.0] * 4}
        meta = pair_meta(FramePair(0, 1, None), f"clip{number}", "walk", canvas, 100.0, 25.0)
        yield TokenizedPair(f"clip{number}-000000", tokens, (), meta)


def write_data(root: Path, num_pairs: int) -> None:
    """A data set of random pairs, all in train."""
    shards = {"train": write_shards(root, "train", random_pairs(num_pairs), 1000), "eval": (), "test": ()}
    Manifest(
        settings={}, source={"name": "random", "fingerprint": "0"}, canvas={"mode": "crop", "size": 256},
        modalities=pair_modalities(GRID), has_joints=True, variants=(),
        tokenizer={"name": "random", "fingerprint": "0", "settings": {}},
        captioner={"name": "none", "fingerprint": None, "settings": {}}, text_tokenizer=None,
        num_clips={"train": num_pairs, "eval": 0, "test": 0}, shards=shards, rejected=(), notes=(), statistics={},
        actions=("walk",),
    ).save(root)  # fmt: skip


def measure(num_pairs: int) -> dict[str, float]:
    """What was measured → seconds of one processor, and MB of the table's files."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root, num_pairs)
        found = {}
        for name in ("build", "open"):
            start = time.process_time()
            TokenTable.open(root, "train")
            found[name] = time.process_time() - start
        files = [path for path in (root / TABLES_FOLDER).iterdir() if not path.name.endswith(".sha256.json")]
        start = time.process_time()
        fingerprint(files)
        found["digests alone"] = time.process_time() - start
        return found | {"MB": sum(path.stat().st_size for path in files) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    found = measure(parser.parse_args().pairs)
    size = found.pop("MB")
    for name, seconds in found.items():
        print(f"{name:16} {seconds:8.3f} s  {size / seconds:8,.0f} MB/s")


if __name__ == "__main__":
    main()
