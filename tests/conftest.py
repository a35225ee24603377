"""Fixtures that several packages' tests need. Helpers that are no fixtures are modules of tests/support."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from support import inpainting_world as inpainting
from support import random_world as random_tokens
from support.object_store import BUCKET
from support.shared_data import LABELS, VIDEO, needed, shared_folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that is no part of the project."""
    return shared_folder()


@pytest.fixture(scope="session")
def penn_labels(shared_data: Path) -> Path:
    """The folder of Penn Action's label files, 1,861 of them."""
    return needed(shared_data, LABELS, "the folder of Penn Action's label files (0001.mat …)")


@pytest.fixture(scope="session")
def real_video(shared_data: Path) -> Path:
    """A filmed clip: 568 × 320 px, 299 frames at 30 per second."""
    return needed(shared_data, VIDEO, "a filmed clip")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an empty bucket on an S3 server of its own, to which the environment points."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # buckets of an earlier server of this process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()  # clients of another module's server
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture(scope="module")
def random_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of random tokens (data), a random model that fits them (run), and one that does not (other_run)."""
    root = tmp_path_factory.mktemp("random_world")
    random_tokens.write_world(root)
    return root


@pytest.fixture(scope="module")
def inpainting_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of random poses (data), a random model that fits them (run), and one that does not (other_run)."""
    root = tmp_path_factory.mktemp("inpainting_world")
    inpainting.write_world(root)
    return root
