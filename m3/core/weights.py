"""Published weights: found in a folder or a Hugging Face repository. Fingerprints of files, weights, checkpoints."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor

_MANY_BYTES = 2**24
"""More than this are read by several threads."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_repository(path: str) -> bool:
    """Whether a path has the form of a repository's id, "OWNER/NAME"; an existing folder takes precedence."""
    return _REPOSITORY.fullmatch(path) is not None


def find_weights(
    key: str,
    path: str,
    required: Sequence[str],
    optional: Sequence[str],
    advice: str,
    revision: str | None = None,
) -> Path:
    """The folder that holds the required files.

    From a repository only the named files are downloaded, once; later calls read the Hugging Face cache and need no
    network.

    Args:
        key: the config key of `path`, for messages.
        path: a folder, or the id of a repository ("OWNER/NAME").
        required, optional: file names.
        advice: end of the error messages: where to get the files and where to put them.
        revision: branch, tag or commit of a repository; None for its main branch.

    Raises FileNotFoundError naming the key and the missing file, with the advice.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        raise FileNotFoundError(f"{key}={path} is a file; give the folder that holds {' and '.join(required)}")
    if not folder.is_dir():
        if not is_repository(path):
            raise FileNotFoundError(f"{key}={path}: no such folder. {advice}")
        print(f"{key}={path}: no such folder here, looking for it on the Hugging Face hub", file=sys.stderr, flush=True)
        try:
            folder = Path(snapshot_download(path, revision=revision, allow_patterns=[*required, *optional]))
        except (OSError, HFValidationError) as error:  # no network, no such repository, no permission
            reason = str(error).strip().splitlines()[0]
            wanted = "it" if revision is None else f"its revision {revision}"
            raise FileNotFoundError(
                f"{key}={path}: no such folder here, and {wanted} could not be downloaded from the Hugging Face hub "
                f"({type(error).__name__}: {reason}). {advice}"
            ) from error
    for name in required:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{key}={path}: {folder} holds no {name}. {advice}")
    return folder


def fingerprint(paths: Iterable[Path]) -> str:
    """Hexadecimal sha256 over the concatenated bytes of the files."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hexadecimal sha256 over the names, dtypes, shapes and bytes of tensors, whatever their order and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def content_fingerprint(content: Any) -> str:
    """Hexadecimal sha256 over nested mappings and sequences of tensors and plain values, in their order.

    The tensors are read by several threads.
    """
    digest, tensors = hashlib.sha256(), list[Tensor]()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
            tensors.append(value)
        elif isinstance(value, Mapping):
            digest.update(f"{len(value)} entries ".encode())
            for key, entry in value.items():
                add(key)
                add(entry)
        elif isinstance(value, list | tuple):
            digest.update(f"{len(value)} items ".encode())
            for entry in value:
                add(entry)
        else:
            digest.update(f"{type(value).__name__} {value!r} ".encode("utf-8", "backslashreplace"))

    add(content)
    num_threads = min(8, os.cpu_count() or 1) if sum(tensor.nbytes for tensor in tensors) > _MANY_BYTES else 1
    with ThreadPoolExecutor(num_threads) as pool:
        for each in pool.map(lambda tensor: hashlib.sha256(_bytes_of(tensor)).digest(), tensors):
            digest.update(each)
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity."""
    return [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
