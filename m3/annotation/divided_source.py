"""A source of videos as a source of clips: one for each scene, and for each person whose joints were found in it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from m3.annotation.annotators import Annotator
from m3.annotation.people import chosen
from m3.annotation.survey import Survey, SurveyedPerson, Surveyor
from m3.clips.base import ClipError, ClipSource, VideoSource
from m3.clips.joint_paths import joint_identity
from m3.core.files import make_folder, write_atomic, write_text_atomic
from m3.core.progress import progress_callback
from m3.core.reading import Record, parse_json, read_file
from m3.core.types import Clip, Rejection

_VERSION = 1
_DIGITS = 8
_MAX_BYTES = 2**28
"""Of a stored survey."""


def has_foreign_joints(source: ClipSource) -> bool:
    """Whether joints of another program are beside any clip of a source, or of the source that it divides."""
    source = source.source if isinstance(source, DividedSource) else source
    return isinstance(source, VideoSource) and any(map(source.has_foreign_joints, source.clip_ids()))


@dataclass(frozen=True)
class Part:
    """A clip of the divided source.

    clip: id of the clip that it is a part of.
    first, end: numbers of its first frame and of the one after its last.
    joints: its joint file; None for those beside the clip, if there are any.
    """

    clip: str
    first: int
    end: int
    joints: Path | None = None


@dataclass(frozen=True)
class FoundPerson:
    """A person in a stored survey: see `SurveyedPerson`. file: name of the joint file; sha256: of its first content."""

    first: int
    end: int
    score: float
    extent: float
    file: str
    sha256: str


class DividedSource:
    """The parts of a source's clips. All clips must be surveyed (`add`) before the parts are listed and read.

    Surveys and joint files are kept in FOLDER/KEY/, where KEY names the settings, as `CLIP-HASH.json` and
    `CLIP-HASH-N.csv`; HASH changes with the video. A joint file that a person has mended is used as it is, and never
    written over.

    Args:
        source: of the clips.
        annotator: finds people in clips without joints; None: only cuts are found.
        folder: of the surveys.
    """

    def __init__(self, source: VideoSource, annotator: Annotator | None, folder: str | Path) -> None:
        self.source, self.annotator = source, annotator
        self.surveyor = Surveyor(source, annotator)
        key = "cuts" if annotator is None else annotator.key() + "-cuts" * source.finds_cuts
        self.folder = Path(folder) / key
        self.name = source.name
        self._records: dict[str, dict[str, Any] | Rejection] = {}

    def __len__(self) -> int:
        return len(self.source)

    def clip_ids(self) -> list[str]:
        """Of the parts, and of the clips that have none. Raises RuntimeError where surveys are missing."""
        return list(self._parts)

    def fingerprint(self) -> str:
        """That of the source, and of the joint files that a person has mended."""
        digest, num_mended = hashlib.sha256(self.source.fingerprint().encode()), 0
        for clip_id in self.source.clip_ids():
            if self.annotator is None and not self.source.has_foreign_joints(clip_id):
                continue
            for person in (self._stored(clip_id) or {}).get("people") or []:
                path = self.folder / person["file"]
                if (content := path.read_bytes()) and hashlib.sha256(content).hexdigest() != person["sha256"]:
                    num_mended += 1
                    digest.update(f"{clip_id} {path.name}\n".encode() + content)
        return digest.hexdigest() if num_mended else self.source.fingerprint()

    def not_surveyed(self) -> list[str]:
        """Ids of the source's clips whose survey is not there yet."""
        missing = []
        for clip_id in self.source.clip_ids():
            if clip_id in self._records:
                continue
            if (record := self._stored(clip_id)) is None:
                missing.append(clip_id)
            else:
                self._records[clip_id] = record
        return missing

    def survey(self, clip_id: str) -> None:
        """Survey a clip here, and show the progress of its frames."""
        what = "cuts" if self.annotator is None else "people"
        try:
            whole = self.source.whole(clip_id)
            with progress_callback(len(whole.clip.frames), f"{clip_id}: frames → {what}") as on_frame:
                self.add(self.surveyor.survey(whole, on_frame))
        except ClipError as error:
            self.add(Rejection(clip_id, str(error)))

    def add(self, survey: Survey | Rejection) -> None:
        """Keep a survey. A rejection is not written: the cause may be repaired before the next run."""
        if isinstance(survey, Rejection):
            self._records[survey.clip] = survey
            return
        path = self._path(survey.clip)
        make_folder(self.folder)
        people = None if survey.people is None else [self._keep(path, n, p) for n, p in enumerate(survey.people, 1)]
        record = {
            "version": _VERSION,
            "num_frames": survey.num_frames,
            "cuts": list(survey.cuts),
            "people": people,
            "dropped": list(survey.dropped),
            "format": survey.format,
            "notes": list(survey.notes),
        }
        write_text_atomic(path, json.dumps(record, indent=1) + "\n")
        self._records[survey.clip] = record

    def read(self, clip_id: str) -> Clip:
        """One part. Raises ClipError where it, or the clip without parts, cannot be used."""
        if (part := self._parts[clip_id]) is None:
            raise ClipError(self._reason(clip_id))
        clip = self.read_part(part)
        record = self._record(part.clip)
        dropped = record["dropped"]
        more = f" (and {len(dropped) - 1} more)" if len(dropped) > 1 else ""
        notes = (f"left out {dropped[0]}{more}",) if dropped else ()
        return replace(clip, id=clip_id, video=clip.video or part.clip, notes=(*clip.notes, *record["notes"], *notes))

    def parts_in_order(self) -> list[Part]:
        """All parts, by their clips and first frames."""
        parts = [part for part in self._parts.values() if part is not None]
        return sorted(parts, key=lambda part: (part.clip, part.first, part.end))

    def read_part(self, part: Part, joints: Path | None = None) -> Clip:
        """The frames of a part. joints: a joint file instead of the one that was found."""
        return self.source.read(part.clip, joints or part.joints, (part.first, part.end))

    @cached_property
    def _parts(self) -> dict[str, Part | None]:
        """Id → part, or None of a clip of the source that has none; sorted by id."""
        if missing := self.not_surveyed():
            raise RuntimeError(f"{len(missing)} clips are not surveyed yet, the first is {missing[0]}")
        parts: dict[str, Part | None] = {}
        for clip_id in self.source.clip_ids():
            named = self._parts_of(clip_id)
            for name, part in named.items() if named else ((clip_id, None),):
                while name in parts:  # a video may be called like a part of another one
                    name += "_"
                parts[name] = part
        return dict(sorted(parts.items()))

    def _parts_of(self, clip_id: str) -> dict[str, Part]:
        record = self._records[clip_id]
        if isinstance(record, Rejection):
            return {}
        starts = [0, *record["cuts"]]
        scenes = list(zip(starts, [*record["cuts"], record["num_frames"]]))
        parts: dict[str, Part] = {}
        for number, (first, end) in enumerate(scenes, start=1):
            scene = f"{clip_id}-s{number}" if len(scenes) > 1 else clip_id
            person = (
                self.source.joint_files.person if record["format"] or self.annotator is None else self.annotator.person
            )
            if record["people"] is None:
                parts[scene] = Part(clip_id, first, end)
                continue
            here = [FoundPerson(**person) for person in record["people"] if first <= person["first"] < end]
            kept = chosen(here, person)
            for n, person in enumerate(kept, start=1):
                name = f"{scene}-p{n}" if len(kept) > 1 else scene
                parts[name] = Part(clip_id, person.first, person.end, self.folder / person.file)
        return parts

    def _reason(self, clip_id: str) -> str:
        """Why a clip of the source has no parts."""
        record = self._records[clip_id]
        if isinstance(record, Rejection):
            return record.reason
        reasons = "".join(f"; {reason}" for reason in record["dropped"][:3])
        return f"nobody found in its {record['num_frames']} frames{reasons}"

    def _record(self, clip_id: str) -> dict[str, Any]:
        record = self._records[clip_id]
        assert not isinstance(record, Rejection)
        return record

    def _keep(self, survey: Path, number: int, person: SurveyedPerson) -> dict[str, Any]:
        """Writes a joint file, unless it is there, and returns the person's record."""
        path = survey.with_name(f"{survey.stem}-{number}.csv")
        if not path.exists():
            write_atomic(path, person.joints)
        facts = {key: value for key, value in asdict(person).items() if key != "joints"}
        return {**facts, "file": path.name, "sha256": hashlib.sha256(person.joints).hexdigest()}

    def _path(self, clip_id: str) -> Path:
        identity = self.source.identity(clip_id)
        for file in self.source.files_beside(clip_id):
            identity += b"joints\n"
            if self.source.has_foreign_joints(clip_id):
                settings = {key: value for key, value in asdict(self.source.joint_files).items() if key != "person"}
                identity += joint_identity(file) + json.dumps(settings, sort_keys=True).encode()
        digest = hashlib.sha256(identity).hexdigest()
        return self.folder / f"{clip_id}-{digest[:_DIGITS]}.json"

    def _stored(self, clip_id: str) -> dict[str, Any] | None:
        """The stored survey, or None where it or a joint file is missing, damaged, or of another version of m3."""
        path = self._path(clip_id)
        try:
            record = Record(parse_json(read_file(path, _MAX_BYTES), path.name), path.name)
            people = (
                None if record.is_null("people") else [self._person(each, path) for each in record.records("people")]
            )
            found = {
                "version": record.count("version"),
                "num_frames": record.count("num_frames"),
                "cuts": record.counts("cuts", 1, 2**31 - 1, 2**20),
                "people": people,
                "dropped": record.texts("dropped"),
                "format": record.text("format", "[A-Za-z0-9. ]{0,20}") if "format" in record else "",
                "notes": record.texts("notes") if "notes" in record else [],  # surveys of older versions have none
            }
        except (OSError, ValueError):
            return None
        is_whole = all((self.folder / person["file"]).is_file() for person in people or ())
        return found if is_whole and found["version"] == _VERSION else None

    @staticmethod
    def _person(record: Record, survey: Path) -> dict[str, Any]:
        return {
            **{key: record.count(key) for key in ("first", "end")},
            **{key: record.number(key, 0) for key in ("score", "extent")},
            "file": record.text("file", re.escape(survey.stem) + "-[0-9]{1,6}[.]csv"),
            "sha256": record.text("sha256", "[0-9a-f]{64}"),
        }
