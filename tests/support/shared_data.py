"""Where the real data lies that is no part of the project; tests that need it are skipped without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
VARIABLE = "M3_SHARED_DATA"
LABELS, VIDEO = "penn_action/labels", "videos/axe.mp4"


def shared_folder() -> Path:
    """The folder that the environment variable names, which must then exist, else `shared` beside the checkout."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else CHECKOUT.parent / "shared"
    if named and not folder.is_dir():
        pytest.fail(f"{VARIABLE}={named}: no such folder")
    return folder


def needed(folder: Path, name: str, what: str) -> Path:
    """A file or folder of the shared data; without it the test is skipped, with a reason that says where to put it."""
    path = folder / name
    if not path.exists():
        pytest.skip(f"needs {what}: put it at {path}, or at {name} of a folder that {VARIABLE} names")
    return path
