"""Checkpoint files: atomic writes, validated reads, and the newest complete checkpoint of a run."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from m3.core.files import WriteError, atomic_file, atomic_path

FOLDER = "checkpoints"
"""Folder of the checkpoints in a run folder."""

BEST = "best.ckpt"
"""The checkpoint of the lowest eval loss, beside the newest ones."""

_log = logging.getLogger(__name__)


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; those before it are intact."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; loads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises CheckpointWriteError if the file cannot be written; no partial file is left."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_file(path, fsync=True) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer turns some failed writes into a RuntimeError
            raise CheckpointWriteError(_what_failed(path, error)) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def copy_checkpoint(path: Path, copy: Path) -> None:
    """Replaces `copy` by a hard link to `path`, or by a copy where the file system has no hard links.

    Raises CheckpointWriteError as `AtomicCheckpointIO` does.
    """
    try:
        with atomic_path(copy) as temporary:
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)
    except OSError as error:
        raise CheckpointWriteError(_what_failed(copy, error)) from error


def _what_failed(path: Path, error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, WriteError) else error
    free_mib = shutil.disk_usage(path.parent).free / 2**20
    kept = [str(p) for p in (newest_checkpoint(path.parent.parent), path.parent / BEST) if p and p.is_file()]
    return (
        f"{path} cannot be written ({str(cause).splitlines()[0]}); {free_mib:,.0f} MiB are free there. "
        f"Intact: {', '.join(kept) or 'no earlier checkpoint'}. Make room; resume=auto continues"
    )


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step={step:08d}.ckpt"


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The files `step=….ckpt` in a folder of checkpoints, ascending by step."""
    found = {}
    for path in folder.glob("step=*.ckpt"):
        if match := re.fullmatch(r"step=(\d+)\.ckpt", path.name):
            found[int(match[1])] = path
    return [found[step] for step in sorted(found)]


def newest_checkpoint(run_folder: str | Path) -> Path | None:
    """The complete checkpoint of the largest step in `run_folder/checkpoints`, or None.

    Damaged files are skipped with a warning in the log.
    """
    for path in reversed(numbered_checkpoints(Path(run_folder) / FOLDER)):
        if is_complete(path):
            return path
        _log.warning("%s is damaged or incomplete: the checkpoint before it is used", path)
    return None


def is_complete(path: Path) -> bool:
    """Whether a checkpoint is a complete zip archive whose checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False


def read_checkpoint(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint. Raises ValueError naming the file if it is damaged or not from m3."""
    try:
        checkpoint = torch.load(file, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{file}: not a checkpoint, or a damaged one ({type(error).__name__}: {error})") from error
    if not isinstance(checkpoint, dict) or not {"config", "data"} <= checkpoint.get("m3", {}).keys():
        raise ValueError(f"{file}: not a checkpoint of m3 (it lacks its configuration)")
    return checkpoint
