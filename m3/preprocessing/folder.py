"""The folder of a data set: what it may contain already, and how a new data set replaces it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m3.core.files import final_name, write_atomic, write_text_atomic
from m3.core.renames import current_target
from m3.shards.manifest import CONTACT_SHEET_NAME, MANIFEST_NAME, TABLES_FOLDER, TEXT_TOKENIZER_NAME, Manifest
from m3.shards.split import SPLITS
from m3.shards.transport import is_stored
from m3.tokens.text import TextTokenizer, train_text_tokenizer

REJECTED_NAME = "rejected.jsonl"


def existing_manifest(out: str | Path, identity: dict[str, Any]) -> Manifest | None:
    """The manifest of the complete data set at `out`, a folder or an address; None where there is none.

    Raises ValueError where its settings or data are not those of `identity`, or one of its files is missing.
    """
    try:
        manifest = Manifest.load(out)
    except FileNotFoundError:
        return None
    found, wanted = _flat({key: getattr(manifest, key) for key in identity}), _flat(identity)
    differing = [
        f"{key} is {found.get(key, 'unset')}, asked for {wanted.get(key, 'unset')}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key, "unset") != wanted.get(key, "unset")
    ]
    if differing:
        raise ValueError(
            f"out={out} holds a data set of other settings or data ({'; '.join(differing[:4])}). "
            "Choose another folder with out=…, or replace it with overwrite=true"
        )
    names = [shard.name for shards in manifest.shards.values() for shard in shards]
    names += [] if manifest.text_tokenizer is None else [manifest.text_tokenizer["file"]]
    if missing := [name for name in names if not is_stored(out, name)]:
        raise ValueError(f"out={out} lacks {missing[0]}, which its manifest lists; make it again with overwrite=true")
    return manifest


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value; targets of the configuration under their current names."""
    if not isinstance(value, dict):
        return {prefix: current_target(value) if prefix.endswith("._target_") else value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else key).items()}


def check_replaceable(out: Path, also: Sequence[str] = ()) -> None:
    """Raises ValueError where `out` holds files that are no part of a data set: a mistyped path must not delete them.

    also: further names that are allowed.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; choose a folder")
    known = {MANIFEST_NAME, REJECTED_NAME, TEXT_TOKENIZER_NAME, CONTACT_SHEET_NAME, TABLES_FOLDER, *SPLITS, *also}
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if foreign := [name for name in names if final_name(name) not in known]:
        raise ValueError(f"out={out} holds {foreign[0]!r}, which is not part of a data set; choose another folder")


def write_text_tokenizer(root: Path, captions: Sequence[str], vocab_size: int) -> dict[str, Any] | None:
    """Train a tokenizer on captions and write it; returns its entry in the manifest, None without captions."""
    if not captions:
        return None
    text = train_text_tokenizer(captions, vocab_size)
    content = text.encode("utf-8")
    write_atomic(root / TEXT_TOKENIZER_NAME, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return {"file": TEXT_TOKENIZER_NAME, "sha256": sha256, "num_ids": TextTokenizer(text).num_ids}


def move_into_place(out: Path, staged: Path, manifest: Manifest) -> None:
    """Replace the data set in `out`, if any, by the staged one.

    The old manifest is removed first, the new one is moved last. Everything is written before the first move, so
    that a full disk cannot stop it half-way.
    """
    lines = "".join(json.dumps(asdict(rejection), ensure_ascii=False) + "\n" for rejection in manifest.rejected)
    write_text_atomic(staged / REJECTED_NAME, lines)
    manifest.save(staged)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for name in (TEXT_TOKENIZER_NAME, CONTACT_SHEET_NAME):
        (out / name).unlink(missing_ok=True)
    for folder in (*SPLITS, TABLES_FOLDER):
        shutil.rmtree(out / folder, ignore_errors=True)
    text_tokenizer = () if manifest.text_tokenizer is None else (TEXT_TOKENIZER_NAME,)
    for name in (*SPLITS, REJECTED_NAME, *text_tokenizer, MANIFEST_NAME):
        os.replace(staged / name, out / name)
