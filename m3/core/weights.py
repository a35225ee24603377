"""Finding published weights in a folder or a Hugging Face repository, and their fingerprint."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

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
