"""Clip ids from file paths."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

_MAX_BYTES = 100
_DIGITS_OF_HASH = 8


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


def _plain(name: str) -> str:
    return re.sub(r"[^\w+=,@-]", "_", unicodedata.normalize("NFC", name).replace("/", "__"))
