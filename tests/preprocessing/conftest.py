from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_world import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Penn Action folder of five clips, one of which has a damaged label file."""
    root = tmp_path_factory.mktemp("world")
    write_world(root, 5)
    (root / "labels/0004.mat").write_bytes(b"damaged")
    return root
