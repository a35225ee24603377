"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes `path` at the end of the block; nothing of it stays where that fails.

    Raises OSError naming the file and the remedy where it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path} ({error.strerror or error}): make room there, or choose another disk with out=…, "
            "and run the same command again; finished clips are kept"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """`content` as the file `path`, whole or not at all."""
    with whole_file(path) as file:
        file.write(content)
