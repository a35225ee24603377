"""Checks every byte of a data set against its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from m3.core.progress import track
from m3.shards.manifest import Manifest, Shard
from m3.shards.meta import KEYS_OF_VERSION_2, META_TYPES, captions_of, pair_info, read_meta
from m3.shards.reader import read_shard, token_row
from m3.shards.split import SPLITS
from m3.shards.text import read_text_tokenizer


def verify_dataset(root: str | Path) -> tuple[Manifest, list[str]]:
    """Reads every shard of the data set `root` again; one fault does not hide the next.

    It checks each shard's sha256 and number of samples, each sample's key, members, shapes and ids, meta.json and
    captions.json, that no key occurs twice, the clips of each split, that no clip is in two splits where the split
    keeps clips together, the text tokenizer, and that the manifest lists every shard.

    Returns:
        The manifest, and a line for each fault.
    Raises:
        FileNotFoundError or ValueError where there is no manifest that this m3 reads.
    """
    root = Path(root)
    manifest = Manifest.load(root)
    faults: list[str] = []
    split_of_key: dict[str, str] = {}
    splits_of_clip: dict[str, set[str]] = {}
    shards = [(split, shard) for split in manifest.shards for shard in manifest.shards[split]]
    for split, shard in track(shards, len(shards), "shards checked"):
        try:
            for key, members in read_shard(root, shard):
                where = f"{root / shard.name}: {key}"
                if key in split_of_key:
                    faults.append(f"{where}: the same key is in {split_of_key[key]} already")
                split_of_key[key] = split
                faults += _faults_of_sample(members, manifest, key, where)
                splits_of_clip.setdefault(key.rpartition("-")[0], set()).add(split)
        except (OSError, ValueError) as error:
            faults.append(str(error))
    if not faults:  # counts of a data set with damaged shards would only repeat the fault
        faults += _faults_of_clips(manifest, splits_of_clip)
    faults += [f"{path}: a shard that the manifest does not list" for path in _unlisted(root, shards)]
    return manifest, [*faults, *_faults_of_text_tokenizer(root, manifest)]


def _faults_of_sample(members: dict[str, bytes], manifest: Manifest, key: str, where: str) -> Iterator[str]:
    try:
        token_row(members, manifest, where)
    except ValueError as error:
        yield str(error)
    try:
        captions_of(members, where)
        meta = read_meta(members, where)
        keys = KEYS_OF_VERSION_2 if manifest.schema_version == 2 else tuple(META_TYPES)
        if missing := [name for name in keys if name not in meta]:
            yield f"{where}: meta.json lacks {', '.join(missing)}"
            return
        info = pair_info(key, meta, where)
    except ValueError as error:
        yield str(error)
        return
    if manifest.schema_version == 2:
        return
    for name, expected in META_TYPES.items():
        if type(meta[name]) is not expected:
            yield f"{where}: meta.json has {name} of type {type(meta[name]).__name__}, need {expected.__name__}"
    if info.action is not None and info.action not in manifest.actions:
        yield f"{where}: action {info.action!r} is not among the manifest's"


def _faults_of_clips(manifest: Manifest, splits_of_clip: dict[str, set[str]]) -> Iterator[str]:
    for split in SPLITS:
        found = sum(split in splits for splits in splits_of_clip.values())
        if found != manifest.num_clips[split]:
            yield f"{split} holds pairs of {found} clips, but {manifest.num_clips[split]} in the manifest"
    if (manifest.settings.get("split") or {}).get("unit") != "pair":
        for clip, splits in splits_of_clip.items():
            if len(splits) > 1:
                yield f"clip {clip} is in {' and '.join(sorted(splits))}: test clips were trained on"


def _unlisted(root: Path, shards: list[tuple[str, Shard]]) -> list[Path]:
    listed = {root / shard.name for _, shard in shards}
    return sorted(path for split in SPLITS for path in (root / split).glob("*.tar") if path not in listed)


def _faults_of_text_tokenizer(root: Path, manifest: Manifest) -> Iterator[str]:
    try:
        read_text_tokenizer(root, manifest)
    except FileNotFoundError as error:
        yield f"{error}, though the manifest lists it"
    except (OSError, ValueError) as error:
        yield f"not the text tokenizer that the manifest lists: {error}"
