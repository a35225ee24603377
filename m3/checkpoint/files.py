"""Checkpoint files: atomic writes, validated reads, and the newest complete checkpoint of a run."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from m3.core.files import WriteError, atomic_file, atomic_path, make_folder
from m3.core.weights import content_fingerprint, not_finite

FOLDER = "checkpoints"
"""Folder of the checkpoints in a run folder."""

BEST = "best.ckpt"
"""The checkpoint of the lowest eval loss, beside the newest ones."""

FINGERPRINT = "m3_sha256"
"""Key of a checkpoint: `content_fingerprint` of its weights and of the optimizer's state."""

_NUMBERED = re.compile(r"step[_=]([0-9]+)\.ckpt")
"""The names of earlier versions have "=", which Hydra takes for an override of its own when it is pasted."""

_log = logging.getLogger(__name__)


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; those before it are intact."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; loads tensors and plain values only.

    failure: why the latest checkpoint could not be written, where other ranks wait for this one to say so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: CheckpointWriteError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises CheckpointWriteError if the file cannot be written; no partial file is left.

        With several ranks it is not raised, as the others would wait for this one, but kept as `failure`.
        """
        path = Path(path)
        try:
            make_folder(path.parent)
            with atomic_file(path, fsync=True) as file:
                torch.save({**checkpoint, FINGERPRINT: _fingerprint(checkpoint)}, file)
        except (OSError, RuntimeError) as error:  # torch's writer turns some failed writes into a RuntimeError
            failure = CheckpointWriteError(_what_failed(path, error))
            if not torch.distributed.is_initialized():
                raise failure from error
            self.failure = failure

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
    folder = next(each for each in path.resolve().parents if each.is_dir())  # the run folder may have been deleted
    free_mib = shutil.disk_usage(folder).free / 2**20
    kept = [str(p) for p in (newest_checkpoint(path.parent.parent), path.parent / BEST) if p and p.is_file()]
    return (
        f"{path} cannot be written ({str(cause).splitlines()[0]}); {free_mib:,.0f} MiB are free there. "
        f"Intact: {', '.join(kept) or 'no earlier checkpoint'}. Make room; resume=auto continues"
    )


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.ckpt"


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The files `step_….ckpt`, or `step=….ckpt`, in a folder of checkpoints, ascending by step."""
    return sorted((path for path in folder.glob("step*.ckpt") if _NUMBERED.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of a numbered checkpoint."""
    match = _NUMBERED.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def newest_checkpoint(run_folder: str | Path) -> Path | None:
    """The complete checkpoint of the largest step in `run_folder/checkpoints`, or None.

    What cannot be read as `read_checkpoint` reads it, for whatever reason, is passed over with a warning in the log.
    """
    for path in reversed(numbered_checkpoints(Path(run_folder) / FOLDER)):
        if is_complete(path):
            return path
    return None


def is_complete(path: Path) -> bool:
    """Whether `read_checkpoint` reads the file; if it does not, the log says why."""
    try:
        read_checkpoint(path)
    except (OSError, ValueError) as error:
        _log.warning("%s: it is passed over", error)
        return False
    return True


def set_aside(folder: Path, step: int) -> None:
    """Renames the checkpoints of later steps, which a run that goes on from `step` has passed over, to `….damaged`.

    Otherwise they would count as the newest ones.
    """
    for path in numbered_checkpoints(folder):
        if step_of(path) > step:
            path.rename(path.with_name(f"{path.name}.damaged"))


def read_checkpoint(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint of m3.

    Checked are the checksums of its archive, the types of what m3 reads, that all weights are finite, and the
    fingerprint of weights and optimizer state; a checkpoint of an earlier version has none, as the log says once.

    Returns:
        A dict with "m3", which holds the dicts "config" and "data", "state_dict", name → tensor, and "global_step".
    Raises:
        OSError where the file cannot be read. ValueError naming it where it is damaged, not from m3, or its weights
        are not finite.
    """
    checkpoint = load_plain(file, device)
    _check_archive(file)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("m3"), dict):
        raise ValueError(f"{file}: not a checkpoint of m3 (it lacks its configuration)")
    stored = checkpoint["m3"]
    weights, step = checkpoint.get("state_dict"), checkpoint.get("global_step")
    if not isinstance(stored.get("config"), dict) or not isinstance(stored.get("data"), dict):
        raise ValueError(f"{file}: not a checkpoint of m3 (it lacks its configuration)")
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"{file}: holds no weights, or is damaged")
    if type(step) is not int or step < 0:
        raise ValueError(f"{file}: damaged: its step is {step!r}")
    if bad := not_finite(weights):
        raise ValueError(f"{file}: weights that are not finite, in {len(bad)} tensors, the first is {bad[0]}")
    _check_fingerprint(file, checkpoint)
    return checkpoint


def load_plain(file: Path, device: torch.device | str = "cpu") -> Any:
    """What `torch.save` wrote, tensors and plain values only; memory-mapped on the CPU.

    Beside these only `argparse.Namespace` is read, which holds plain values: the options of the published run.

    Raises OSError where the file cannot be read, ValueError naming it where it holds something else or is damaged.
    """
    try:
        is_archive = zipfile.is_zipfile(file)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location=device, weights_only=True, mmap=is_archive and str(device) == "cpu")
    except OSError as error:
        if error.errno is None or error.filename is None:  # of a place in the file that is not there
            raise _damaged(file, error) from error
        raise
    except Exception as error:  # torch raises errors of many types for damaged archives and pickles
        raise _damaged(file, error) from error


def load_safetensors(file: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError naming it where it holds something else or is damaged."""
    try:
        return safetensors.torch.load_file(file, device=str(device))
    except Exception as error:  # headers of many kinds pass safetensors and fail in torch
        raise ValueError(f"{file}: holds no weights, or is damaged ({type(error).__name__}: {error})") from error


def _damaged(file: Path, error: Exception) -> ValueError:
    reason = type(error).__name__
    if isinstance(error, pickle.UnpicklingError):
        reason = "it holds more than tensors and plain values, and objects of other kinds could run code"
    beside = next(iter(sorted(Path(file).parent.glob("*.safetensors"))), None)
    advice = "" if beside is None else f"; {beside} beside it may hold the same weights"
    return ValueError(f"{file}: not a checkpoint, or a damaged one ({reason}){advice}")


def _check_archive(file: Path) -> None:
    """Raises ValueError where the checksum of a part is wrong: torch does not compare them."""
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile, too, raises errors of many types for damaged archives
        raise _damaged(file, error) from error
    if bad is not None:
        raise ValueError(f"{file}: damaged: the checksum of its part {bad} is wrong")


def _check_fingerprint(file: Path, checkpoint: dict[str, Any]) -> None:
    """Raises ValueError where weights or optimizer state are not those that were saved."""
    if FINGERPRINT not in checkpoint:
        _say_without_fingerprint(str(file))
    elif (found := _fingerprint(checkpoint)) != checkpoint[FINGERPRINT]:
        stored = str(checkpoint[FINGERPRINT])
        raise ValueError(f"{file}: damaged: its weights have the sha256 {found[:12]}…, not {stored[:12]}… as saved")


def _fingerprint(checkpoint: dict[str, Any]) -> str:
    return content_fingerprint([checkpoint.get(key) for key in ("state_dict", "optimizer_states")])


@functools.cache
def _say_without_fingerprint(file: str) -> None:
    _log.warning("%s: saved by an earlier version, without a fingerprint: only its checksums were compared", file)
