"""Objects in an S3 bucket."""

from __future__ import annotations

import fsspec

BUCKET = "m3-shards"


def stored(out: str) -> dict[str, bytes]:
    filesystem, path = fsspec.core.url_to_fs(out)
    filesystem.invalidate_cache()
    root = filesystem._strip_protocol(path)
    return {name.removeprefix(f"{root}/"): filesystem.cat_file(name) for name in filesystem.find(path)}
