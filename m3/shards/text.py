"""The text tokenizer that a data set stores beside its shards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from m3.shards.manifest import TEXT_TOKENIZER_NAME, Manifest
from m3.shards.transport import address, read_stored


def read_text_tokenizer(root: str | Path, manifest: Manifest) -> str | None:
    """The JSON of the tokenizer of the captions; None where the data set has none.

    Raises ValueError where the file is not the one that the manifest lists, FileNotFoundError, OSError.
    """
    if manifest.text_tokenizer is None:
        return None
    content = read_stored(root, TEXT_TOKENIZER_NAME, lambda file: file.read())
    if (found := hashlib.sha256(content).hexdigest()) != manifest.text_tokenizer["sha256"]:
        raise ValueError(
            f"{address(root, TEXT_TOKENIZER_NAME)}: sha256 {found[:12]}…, but "
            f"{manifest.text_tokenizer['sha256'][:12]}… in the manifest; copy it again from where it was made"
        )
    return content.decode("utf-8")
