"""Shards read back, each checked against its manifest."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m3.modalities import JOINTS, NUM_VISIBILITY_IDS
from m3.shards.manifest import Manifest, Shard, StoredModality

_REMEDY = "make the data again with `python preprocess.py … overwrite=true`"


def read_shard(root: Path, shard: Shard) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members (extension → content) of each sample of a shard.

    Raises FileNotFoundError, or ValueError where the file's sha256 or its number of samples is not the manifest's:
    WebDataset itself says nothing of a tar cut off between two members.
    """
    path = root / shard.name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such shard, though the manifest lists it; {_REMEDY}")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != shard.sha256:
        raise ValueError(
            f"{path}: sha256 {found[:12]}…, the manifest says {shard.sha256[:12]}…: the file is damaged or was "
            f"replaced; {_REMEDY}"
        )
    samples = list(_samples(content))
    if len(samples) != shard.num_pairs:
        raise ValueError(f"{path}: {len(samples)} samples, the manifest says {shard.num_pairs}; {_REMEDY}")
    yield from samples


def _samples(content: bytes) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, members = "", {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            stem, _, extension = member.name.partition(".")
            if stem != key and members:
                yield key, members
                members = {}
            key = stem
            file = tar.extractfile(member)
            members[extension] = file.read() if file else b""
    if members:
        yield key, members


def token_row(members: dict[str, bytes], manifest: Manifest, where: str) -> np.ndarray:
    """All tokens of a sample side by side: the manifest's modalities in order, then those of each variant.

    where: names file and sample in an error.
    Returns:
        (S · (1 + number of variants),) uint16.
    Raises:
        ValueError naming the member that is missing or holds something else than the manifest says.
    """
    versions = ["", *(f".{variant}" for variant in manifest.variants)]
    parts = [
        _tokens(members, f"{modality.name}{version}.npy", modality, where)
        for version in versions
        for modality in manifest.modalities
    ]
    return np.concatenate(parts)


def _tokens(members: dict[str, bytes], member: str, modality: StoredModality, where: str) -> np.ndarray:
    if member not in members:
        raise ValueError(f"{where}: no member {member}")
    try:
        ids = np.load(io.BytesIO(members[member]), allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{where}: {member} is no array ({error})") from error
    if ids.dtype != np.uint16 or ids.shape != modality.shape:
        raise ValueError(f"{where}: {member} is {ids.dtype} {ids.shape}, need uint16 {modality.shape}")
    if ids.max() >= modality.num_ids:
        raise ValueError(f"{where}: {member} has id {ids.max()}, legal are 0 … {modality.num_ids - 1}")
    if modality.vocabulary == JOINTS.name and (highest := ids[-1].max()) >= NUM_VISIBILITY_IDS:
        raise ValueError(f"{where}: {member} has visibility {highest}, legal are 0 and 1")
    return ids.ravel()
