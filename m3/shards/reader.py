"""Reads shards and checks each against the manifest."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from m3.clips.names import is_sample_key
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import JOINTS, NUM_VISIBILITY_IDS, frame_of
from m3.core.reading import npy_of, shown
from m3.shards.manifest import SCHEMA_VERSION, Manifest, Shard, ShardError, StoredModality, max_pairs
from m3.shards.meta import META_NAME, previous_frame, read_meta
from m3.shards.transport import address, read_stored

_REMEDY = "copy it again from where it was made, or make the data again with `python preprocess.py … overwrite=true`"
_MAX_BYTES_IN_MEMORY = 2**28
_CHUNK_BYTES = 2**20

_JOINTS, _PREVIOUS = "coords", -1
"""The modality that clips may lack, and the frame; see `m3.core.modalities.frame_of`."""


def open_shard(root: str | Path, shard: Shard) -> IO[bytes]:
    """A shard's bytes, whose sha256 was compared to the manifest's.

    WebDataset alone would not notice a tar that is cut off between two members. The bytes are in memory, those of a
    shard of more than 256 MiB in a temporary file.
    Raises FileNotFoundError, OSError where it cannot be read, ShardError where its sha256 is not the manifest's, and
    where it has more bytes than the manifest says.
    """
    try:
        content, found = read_stored(root, shard.name, _copy_and_hash, shard.max_bytes)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{address(root, shard.name)}: no such shard, though the manifest lists it; {_REMEDY}"
        ) from error
    except ValueError as error:
        raise ShardError(f"{error}; {_REMEDY}") from error
    if found != shard.sha256:
        size = content.seek(0, io.SEEK_END)
        raise ShardError(
            f"{address(root, shard.name)}: sha256 {found[:12]}…, but {shard.sha256[:12]}… in the manifest: the file is "
            f"damaged or was replaced (expected {shard.num_pairs} samples, found {_num_whole(content)} whole ones in "
            f"{size:,} bytes); {_REMEDY}"
        )
    return content


def check_size(root: Path, shard: Shard) -> None:
    """Raises ShardError where a shard in a folder is too small for its samples: then the manifest's number is wrong.

    What is made for that number of samples would be too large.
    """
    path = root / shard.name
    if path.is_file() and max_pairs(size := path.stat().st_size) < shard.num_pairs:
        raise ShardError(f"{path}: {size:,} bytes, too few for {shard.num_pairs:,} samples of the manifest; {_REMEDY}")


def _copy_and_hash(file: IO[bytes]) -> tuple[IO[bytes], str]:
    content, sha256 = tempfile.SpooledTemporaryFile(_MAX_BYTES_IN_MEMORY), hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        sha256.update(chunk)
        content.write(chunk)
    return content, sha256.hexdigest()


def _num_whole(content: IO[bytes]) -> int:
    """Number of samples with as many members as the first."""
    num_members = []
    try:
        num_members.extend(len(members) for _, members in _samples(content, ""))
    except ShardError:
        pass  # cut off: the sample that it stops in is not counted
    return num_members.count(num_members[0]) if num_members else 0


def read_shard(
    root: str | Path, shard: Shard, members: Container[str] | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members (extension → content) of each sample of a shard, in order.

    members: extensions to read; None for all.
    Raises what `open_shard` raises, and at the end ShardError where the number of samples is not the manifest's.
    """
    return samples_of(open_shard(root, shard), address(root, shard.name), shard, members)


def samples_of(
    content: IO[bytes], where: str, shard: Shard, members: Container[str] | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """As `read_shard`, for a shard that `open_shard` opened; closes it."""
    num_samples = 0
    with content:
        for sample in _samples(content, where, members):
            num_samples += 1
            if num_samples <= shard.num_pairs:
                yield sample
    if num_samples != shard.num_pairs:
        raise ShardError(f"{where}: {num_samples} samples, but {shard.num_pairs} in the manifest; {_REMEDY}")


def _samples(
    content: IO[bytes], where: str, wanted: Container[str] | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Raises ShardError for anything but regular members of the length that their headers say, each once."""
    num_bytes = content.seek(0, io.SEEK_END)
    content.seek(0)
    key, members = None, {}
    for member in _members(content, where):
        stem, _, extension = member.name.partition(".")
        if stem != key:
            if key is not None:
                yield key, members
            if not is_sample_key(stem):
                raise ShardError(f"{where}: {shown(member.name)}: no key of a sample")
            key, members = stem, {}
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse() or extension in members:
            raise ShardError(f"{where}: {shown(member.name)}: a link, a folder, or twice in its sample; {_REMEDY}")
        if not 0 <= member.size <= num_bytes - member.offset_data:
            raise ShardError(f"{where}: {shown(member.name)} is cut off; {_REMEDY}")
        if wanted is None or extension in wanted:
            content.seek(member.offset_data)  # four times as fast as tar.extractfile
            members[extension] = content.read(member.size)
    if key is not None:
        yield key, members


def _members(content: IO[bytes], where: str) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar."""
    try:
        with tarfile.open(fileobj=content, mode="r:") as tar:
            yield from tar
    # tarfile raises these for damaged headers too
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ShardError(f"{where}: no tar archive, or a damaged one ({error}); {_REMEDY}") from error


def token_row(members: dict[str, bytes], manifest: Manifest, where: str) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of a sample side by side: the manifest's modalities in order, then those of each variant.

    where: names file and sample in an error.
    Returns:
        (S · (1 + number of variants),) uint16 tokens, zeros where the sample lacks the modality.
        (K,) uint16 number of tokens of each modality, 0 where the sample lacks it; the same in each variant.
    Raises:
        ShardError naming the member that is missing, should not be there, or does not match the manifest.
    """
    is_present = _is_present(members, manifest.modalities, "", manifest.schema_version, where)
    parts = []
    for version in ("", *(f".{variant}" for variant in manifest.variants)):
        for modality, is_there in zip(manifest.modalities, is_present):
            member = f"{modality.name}{version}.npy"
            parts.append(
                _tokens(members, member, modality, where) if is_there else _absent(members, member, modality, where)
            )
    return np.concatenate(parts), _lengths(manifest.modalities, is_present)


def _is_present(
    members: dict[str, bytes], modalities: Sequence[StoredModality], version: str, schema_version: int, where: str
) -> list[bool]:
    """For each modality, whether the sample has it: joints of all its frames or of none, the previous frame where
    meta.json names one, and everything else.

    version: "" or ".flip".
    """
    if schema_version == 2:
        return [True] * len(modalities)
    frames = [frame_of(modality.name) for modality in modalities]
    has_joints = any(
        f"{modality.name}{version}.npy" in members for modality, (kind, _) in zip(modalities, frames) if kind == _JOINTS
    )
    has_previous = True
    if any(frame == _PREVIOUS for _, frame in frames):
        has_previous = previous_frame(read_meta(members, where), where) is not None
    return [(has_joints or kind != _JOINTS) and (has_previous or frame != _PREVIOUS) for kind, frame in frames]


def _lengths(modalities: Sequence[StoredModality], is_present: Sequence[bool]) -> np.ndarray:
    return np.array([modality.length * is_there for modality, is_there in zip(modalities, is_present)], np.uint16)


def _absent(members: dict[str, bytes], member: str, modality: StoredModality, where: str) -> np.ndarray:
    if member in members:
        raise ShardError(f"{where}: a member {member}, though the sample has no such frame or no joints")
    return np.zeros(modality.length, np.uint16)


def _tokens(members: dict[str, bytes], member: str, modality: StoredModality, where: str) -> np.ndarray:
    if member not in members:
        raise ShardError(f"{where}: no member {member}")
    try:
        ids = npy_of(members[member], 2 * modality.length)
    except ValueError as error:
        raise ShardError(f"{where}: {member} is no array ({error})") from error
    if ids.dtype != np.uint16 or ids.shape != modality.shape:
        raise ShardError(f"{where}: {member} is {ids.dtype} {ids.shape}, need uint16 {modality.shape}")
    if ids.max() >= modality.num_ids:
        raise ShardError(f"{where}: {member} has id {ids.max()}, legal are 0 … {modality.num_ids - 1}")
    if modality.vocabulary == JOINTS.name and (highest := ids[-1].max()) >= NUM_VISIBILITY_IDS:
        raise ShardError(f"{where}: {member} has visibility {highest}, legal are 0 and 1")
    return ids.ravel()


def last_ids_of(manifest: Manifest) -> np.ndarray:
    """(S · (1 + number of variants),) uint16: the largest legal id of each column of a row of stored tokens."""
    ids = []
    for modality in manifest.modalities:
        last = np.full(modality.length, modality.num_ids - 1, np.uint16)
        if modality.vocabulary == JOINTS.name:
            last[2 * NUM_JOINTS :] = NUM_VISIBILITY_IDS - 1
        ids.append(last)
    return np.tile(np.concatenate(ids), 1 + len(manifest.variants))


class RowReader:
    """Reads the tokens of some modalities from a sample's members; headers that are as expected are not parsed.

    Args:
        modalities: to read, in this order.
        variant: None, or the name of a stored variant.
        schema_version: of the manifest.
    """

    def __init__(
        self,
        modalities: Sequence[StoredModality],
        variant: str | None = None,
        schema_version: int = SCHEMA_VERSION,
    ) -> None:
        self._modalities, self._schema_version = tuple(modalities), schema_version
        self._version = "" if variant is None else f".{variant}"
        self._headers = []
        for modality in modalities:
            empty = io.BytesIO()
            np.lib.format.write_array(empty, np.zeros(modality.shape, np.uint16), allow_pickle=False)
            self._headers.append(empty.getvalue()[: -2 * modality.length])

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members that `read` needs."""
        names = tuple(f"{modality.name}{self._version}.npy" for modality in self._modalities)
        needs_meta = any(frame_of(modality.name)[1] == _PREVIOUS for modality in self._modalities)
        return (*names, META_NAME) if needs_meta else names

    def read(self, members: dict[str, bytes], where: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Returns:
            (S,) uint16 tokens, zeros where the sample lacks the modality; callers check the ids.
            (K,) uint16 number of tokens of each modality, 0 where the sample lacks it.
        Raises:
            ShardError for a member that is missing or should not be there, another shape or dtype.
        """
        is_present = _is_present(members, self._modalities, self._version, self._schema_version, where)
        parts = []
        for modality, header, is_there in zip(self._modalities, self._headers, is_present):
            name = f"{modality.name}{self._version}.npy"
            content = members.get(name, b"")
            if not is_there:
                parts.append(_absent(members, name, modality, where))
            elif len(content) == len(header) + 2 * modality.length and content.startswith(header):
                parts.append(np.frombuffer(content, np.uint16, offset=len(header)))
            else:
                parts.append(_tokens(members, name, modality, where))
        return np.concatenate(parts), _lengths(self._modalities, is_present)
