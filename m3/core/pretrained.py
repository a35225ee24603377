"""Published weights: the files of a folder or of a Hugging Face repository, and their fingerprint."""

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
    """Whether a path could be the id of a repository, "OWNER/NAME"; one that is there on the disk goes before it."""
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

    Of a repository only the named files are downloaded, once; later they come from the Hugging Face cache, for which
    no network is needed.

    Args:
        key: the setting that gives `path`, for messages.
        path: a folder, or the id of a repository ("OWNER/NAME").
        required, optional: file names.
        advice: where the files come from and where to put them.
        revision: of a repository: a branch, a tag or a commit; None for its main branch.

    Raises FileNotFoundError naming the setting and the file, with the advice.
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
            wanted = "none of this name" if revision is None else f"no revision {revision} of this name"
            raise FileNotFoundError(
                f"{key}={path}: no such folder here, and {wanted} could be had from the Hugging Face hub "
                f"({type(error).__name__}: {reason}). {advice}"
            ) from error
    for name in required:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{key}={path}: {folder} holds no {name}. {advice}")
    return folder


def fingerprint(paths: Iterable[Path]) -> str:
    """sha256, hexadecimal, over the bytes of all files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
