"""Checkpoints: atomic writes, reading without pickles, checks that they fit a run or a model, and shared models."""

from m3.checkpoint.callback import Checkpoints
from m3.checkpoint.files import (
    BEST,
    FOLDER,
    AtomicCheckpointIO,
    CheckpointWriteError,
    newest_checkpoint,
    read_checkpoint,
)
from m3.checkpoint.loading import LoadedModel, initialize, load_model
from m3.checkpoint.pretrained import CARD, CONFIG, SHIPPED, WEIGHTS, upload
from m3.checkpoint.published import load_published, read_published
from m3.checkpoint.resume_check import BINDING, check_resumable

__all__ = [
    "BEST",
    "BINDING",
    "CARD",
    "CONFIG",
    "FOLDER",
    "SHIPPED",
    "WEIGHTS",
    "AtomicCheckpointIO",
    "CheckpointWriteError",
    "Checkpoints",
    "LoadedModel",
    "check_resumable",
    "initialize",
    "load_model",
    "load_published",
    "newest_checkpoint",
    "read_checkpoint",
    "read_published",
    "upload",
]
