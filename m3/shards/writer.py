"""Writes samples into WebDataset tars whose bytes depend only on the samples."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.writer import TarWriter

from m3.core.files import Hashing, atomic_file
from m3.core.types import TokenizedPair
from m3.shards.manifest import Shard
from m3.shards.meta import CAPTIONS_NAME, META_NAME, stored_captions


def write_shards(root: Path, split: str, pairs: Iterable[TokenizedPair], pairs_per_shard: int) -> tuple[Shard, ...]:
    """Write `root/{split}/000000.tar …`, each atomically; the folder is made even without pairs."""
    (root / split).mkdir(parents=True, exist_ok=True)
    remaining = iter(pairs)
    shards = []
    while chunk := list(islice(remaining, pairs_per_shard)):
        name = f"{split}/{len(shards):06d}.tar"
        sha256 = _write_tar(root / name, chunk)
        shards.append(Shard(name, len(chunk), sha256, (root / name).stat().st_size))
    return tuple(shards)


def _write_tar(path: Path, pairs: Iterable[TokenizedPair]) -> str:
    """Write one tar and return its sha256."""
    with atomic_file(path) as file:
        hashing = Hashing(file)
        stream: Any = hashing  # TarWriter calls only its `write`
        with TarWriter(stream, user="m3", group="m3", mode=0o644, mtime=0, encoder=False) as tar:
            for pair in pairs:
                tar.write(_members(pair))
    return hashing.sha256.hexdigest()


def _members(pair: TokenizedPair) -> dict[str, Any]:
    tokens = {f"{name}.npy": _npy(ids) for name, ids in pair.tokens.items()}
    captions, meta = _json(stored_captions(pair.captions)), _json(pair.meta)
    return {"__key__": pair.key, **tokens, CAPTIONS_NAME: captions, META_NAME: meta}


def _npy(ids: np.ndarray) -> bytes:
    if ids.dtype != np.uint16:
        raise ValueError(f"tokens are stored as uint16, got {ids.dtype}")
    buffer = BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(ids), allow_pickle=False)
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8")
