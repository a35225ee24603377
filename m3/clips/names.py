"""Clip ids: made from file paths, and recognized when they are read."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

_MAX_BYTES = 100
_DIGITS_OF_HASH = 8
_MAX_BYTES_OF_ID = 128
"""Ids of `ids_from_paths` have 109 at most; tokenized folders put the split before theirs."""

_OTHER = r"[^\w+=,@-]"
"""What no id contains, as a pattern."""


def ids_from_paths(names: Mapping[str, str]) -> dict[str, str]:
    """A mapping from clip id to path, sorted by id.

    An id is the clip's name with "/" replaced by "__" and everything but letters, digits and "+=,@-" by "_". Ids that
    would be equal or longer than 100 bytes are shortened and get 8 digits of the path's sha256: no id depends on the
    order of the files.

    Args:
        names: path → name of its clip ("walks/tom").
    """
    plain = {path: _plain(name) for path, name in names.items()}
    count = Counter(plain.values())
    ids = {}
    for path, wanted in plain.items():
        short = wanted.encode()[:_MAX_BYTES].decode(errors="ignore")
        if count[wanted] > 1 or short != wanted:
            digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()
            short = f"{short}-{digest[:_DIGITS_OF_HASH]}"
        ids[short] = path
    return dict(sorted(ids.items()))


def is_clip_id(text: str) -> bool:
    """Whether a text can be the id of a clip, and part of a file name: as `ids_from_paths` makes them.

    Every id that comes out of a file has to pass: it becomes part of paths.
    """
    return bool(text) and not re.search(_OTHER, text) and len(text.encode(errors="replace")) <= _MAX_BYTES_OF_ID


def is_sample_key(text: str) -> bool:
    """Whether a text can be the key of a sample: "{clip}-{reference frame:06d}"."""
    clip, _, frame = text.rpartition("-")
    return is_clip_id(clip) and re.fullmatch("[0-9]{6,10}", frame) is not None


def _plain(name: str) -> str:
    return re.sub(_OTHER, "_", unicodedata.normalize("NFC", name).replace("/", "__"))
