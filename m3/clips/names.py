"""Clip ids from paths."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

_MAX_BYTES = 100
_DIGITS_OF_HASH = 8


def ids_from_paths(names: Mapping[str, str]) -> dict[str, str]:
    """Clip id → path, sorted by id, for paths with the names that their clips should have ("walks/tom").

    An id is the name with "/" as "__" and everything but letters, digits and "+=,@-" as "_". Where that gives two
    paths one id, or a very long one, 8 digits of the path's sha256 are added: no id depends on the order of the files.
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
