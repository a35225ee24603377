"""Checks that a model, a data set and a picture tokenizer are compatible."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from m3.checkpoint import BINDING, LoadedModel
from m3.shards.manifest import MANIFEST_NAME, Manifest
from m3.tokens.base import NoTokenizer, PictureTokenizer
from m3.tokens.mini import FIRST_FINGERPRINT


def check_compatible(
    loaded: LoadedModel, checkpoint: str, manifest: Manifest, root: str, tokenizer: PictureTokenizer
) -> None:
    """Raises ValueError unless model, data and tokenizer have the same picture tokens and canvas.

    Where the model takes actions or captions, its labels and text tokens have to be those of the data, too.

    checkpoint, root: paths of model and data, for the message.
    """
    stored = manifest.tokenizer
    is_another = (tokenizer.name, tokenizer.fingerprint) != (stored["name"], stored["fingerprint"])
    if is_another and not isinstance(tokenizer, NoTokenizer):
        raise ValueError(
            f"tokenizer: {tokenizer.name} {tokenizer.fingerprint[:12]}… is not the one that made {root}, "
            f"{stored['name']} {(stored['fingerprint'] or '')[:12]}…: choose it with {_choice(stored['fingerprint'])}, "
            "or make data and model again"
        )
    if differing := [*differences_to(loaded, manifest), *_differing_words(loaded, manifest)]:
        raise ValueError(
            f"{checkpoint} was trained on data other than {root}: {'; '.join(differing)}; "
            "give the data.root it was trained on, or data made with the same canvas and tokenizer"
        )


def check_tokenizer(loaded: LoadedModel, checkpoint: str, tokenizer: PictureTokenizer) -> None:
    """Raises ValueError unless the tokenizer is the one on whose tokens the model was trained."""
    theirs = loaded.data["tokenizer"], loaded.data["tokenizer_fingerprint"]
    if not isinstance(tokenizer, NoTokenizer) and (tokenizer.name, tokenizer.fingerprint) != theirs:
        raise ValueError(
            f"tokenizer: {tokenizer.name} {tokenizer.fingerprint[:12]}… is not the one of {checkpoint}, "
            f"{theirs[0]} {(theirs[1] or '')[:12]}…: choose it with {_choice(theirs[1])}"
        )


def _choice(fingerprint: str | None) -> str:
    """The options that choose a tokenizer."""
    is_first = fingerprint == FIRST_FINGERPRINT
    return "tokenizer=mini tokenizer.version=1" if is_first else "tokenizer=… and tokenizer.path=…"


def differences_to(loaded: LoadedModel, manifest: Manifest) -> list[str]:
    """The properties of the data that differ from those the model was trained on, a line each."""
    of_data = dict(zip(BINDING, (manifest.canvas_size, manifest.tokenizer["name"], manifest.tokenizer["fingerprint"])))
    return [
        f"{key} is {loaded.data[key]} there and {value} here"
        for key, value in of_data.items()
        if loaded.data[key] != value
    ]


def _differing_words(loaded: LoadedModel, manifest: Manifest) -> list[str]:
    """Labels and text tokenizer, if the model takes them and the data have others, a line each."""
    lines = []
    if "action" in loaded.table.modalities and manifest.actions and [*manifest.actions] != [*loaded.data["actions"]]:
        lines.append(f"actions are {', '.join(loaded.data['actions'])} there and {', '.join(manifest.actions)} here")
    if "captions" in loaded.table.modalities and manifest.text_tokenizer is not None:
        theirs = hashlib.sha256(loaded.data["text_tokenizer"].encode()).hexdigest()
        if theirs != manifest.text_tokenizer["sha256"]:
            lines.append(f"text tokens of captions are {theirs[:12]}… there and "
                         f"{manifest.text_tokenizer['sha256'][:12]}… here")  # fmt: skip
    return lines


def preparation_of(loaded: LoadedModel, root: str | None) -> tuple[dict[str, Any] | None, str]:
    """`Manifest.preparation` of the data set `root`, else of the data that the model was trained on, and whose it is.

    None where `root` is no data set that is compatible with the model, and the model was saved by an earlier version. A
    path in the model's file is not followed.
    """
    if root is not None and (Path(root) / MANIFEST_NAME).is_file():
        manifest = Manifest.load(Path(root))
        if not differences_to(loaded, manifest):
            return manifest.preparation, str(root)
    return loaded.data.get("preparation"), "the model's own data"
