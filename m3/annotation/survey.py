"""The look at a whole video before its pairs are made: where scenes begin, and who is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from m3.annotation.annotators import USUAL_FPS, Annotator
from m3.annotation.cuts import change, find_cuts, may_be_cut, thumbnail
from m3.annotation.formats.detections import Detections
from m3.annotation.formats.reader import BELIEF, read_poses, tracks_of
from m3.annotation.formats.understanding import Poses, part_of
from m3.annotation.joint_files import joint_csv
from m3.annotation.people import Person, chosen, person_of
from m3.clips.base import ClipError, DamagedFrame, JointFile, VideoSource, WholeClip
from m3.clips.joint_options import USUAL_OPTIONS, JointFileOptions
from m3.core.types import Clip, Rejection


@dataclass(frozen=True)
class SurveyedPerson:
    """A person, and the joint file.

    first, end: numbers of the first frame and of the one after the last one, from 0 at the clip's first frame.
    score, extent: see `Person`.
    joints: content of the joint file.
    """

    first: int
    end: int
    score: float
    extent: float
    joints: bytes


@dataclass(frozen=True)
class Survey:
    """What was found in a clip.

    clip: its id.
    num_frames: those that decode.
    cuts: numbers of the first frames of scenes, without 0.
    people: in all scenes, by their first frames; None for a clip with joints in m3's own formats, or without any.
    dropped: why tracks are no people.
    format: whose joint file the people are from, "OpenPose"; "" where the annotator found them.
    notes: how the joint file was understood.
    """

    clip: str
    num_frames: int
    cuts: tuple[int, ...]
    people: tuple[SurveyedPerson, ...] | None
    dropped: tuple[str, ...]
    format: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Surveyor:
    """Clip id → what is in the clip. Picklable, for worker processes.

    source: of the clips.
    annotator: finds people in clips without joints; None: only cuts are found.
    """

    source: VideoSource
    annotator: Annotator | None

    @property
    def modules(self) -> list[str]:
        """Names of the modules of its parts."""
        return sorted({type(part).__module__ for part in (self.source, self.annotator or self)})

    def __call__(self, clip_id: str) -> Survey | Rejection:
        """The survey, or why the clip cannot be used."""
        try:
            return self.survey(self.source.whole(clip_id))
        except ClipError as error:
            return Rejection(clip_id, str(error))

    def survey(self, whole: WholeClip, on_frame: Callable[[], object] = lambda: None) -> Survey:
        """The survey of a clip. on_frame: called after each frame. Raises ClipError."""
        clip, changes, before, finds_cuts = whole.clip, [], None, self.source.finds_cuts
        annotator = self.annotator if clip.joints is None and whole.joint_file is None else None
        session = None if annotator is None else annotator.begin(clip)
        num_frames = 0
        for number in range(len(clip.frames)):
            try:
                frame = clip.frames[number]
            except DamagedFrame:
                break
            if finds_cuts:
                seen = thumbnail(frame)
                changes += [] if before is None else [change(before, seen)]
                before = seen
                if session is not None and changes and may_be_cut(changes):
                    session.restart()
            if session is not None:
                session.add(number, frame)
            num_frames += 1
            on_frame()
        cuts = find_cuts(changes) if finds_cuts else []
        if whole.joint_file is not None:
            return self._from_file(whole, whole.joint_file, num_frames, cuts)
        if annotator is None or session is None:
            return Survey(clip.id, num_frames, tuple(cuts), None, ())
        found = [person_of(track, clip.size, clip.fps or USUAL_FPS, annotator.belief) for track in session.tracks(cuts)]
        people = [_found(each, whole.first) for each in found if isinstance(each, Person)]
        return Survey(
            clip.id, num_frames, tuple(cuts), tuple(people), tuple(each for each in found if isinstance(each, str))
        )

    def _from_file(self, whole: WholeClip, file: JointFile, num_frames: int, cuts: Sequence[int]) -> Survey:
        """The people of another program's joint file."""
        clip = whole.clip
        num_video_frames = whole.num_video_frames or len(clip.frames)
        found, poses, people = people_of_file(
            file, clip, self.source.joint_files, num_video_frames, (whole.first, whole.first + num_frames), cuts
        )
        return Survey(
            clip.id, num_frames, tuple(cuts), tuple(_found(each, whole.first) for each in people), (), found.format,
            (f"joints of {file.name}, which is {found.format}'s", *(f"{file.name}: {note}" for note in poses.notes)),
        )  # fmt: skip


def people_of_file(
    file: JointFile,
    clip: Clip,
    options: JointFileOptions,
    num_video_frames: int,
    span: tuple[int, int],
    cuts: Sequence[int] = (),
) -> tuple[Detections, Poses, list[Person]]:
    """What another program's joint file holds, the poses in the frames of a clip, and the people.

    clip: with all of its frames. num_video_frames: of the video, which the file speaks of.
    span: numbers of the clip's first frame in the video, and of the one after its last that decodes.
    cuts: see `Survey`.
    Raises ClipError where the file cannot be used, or nobody is in it.
    """
    fps, num_frames = clip.fps or USUAL_FPS, span[1] - span[0]
    found, poses = read_poses(file, clip.id, options, num_video_frames, clip.size, fps)
    tracks = tracks_of(part_of(poses, *span), cuts, fps, options.visibility)
    people = [person_of(track, clip.size, fps, BELIEF) for track in tracks]
    kept = [each for each in people if isinstance(each, Person) and each.end - each.first >= min(2, num_frames)]
    if not kept:
        reason = next((each for each in people if isinstance(each, str)), "nobody in two frames of a scene")
        raise ClipError(f"{file.name}: {reason}")
    return found, poses, kept


def largest_as_csv(file: JointFile, clip: Clip) -> bytes:
    """Another program's joint file as one of m3's own, for a clip with all of its frames. Raises ClipError."""
    *_, people = people_of_file(file, clip, USUAL_OPTIONS, len(clip.frames), (0, len(clip.frames)))
    tables = [joint_csv(each.xy, each.is_visible, each.first) for each in chosen(people, "largest")]
    return tables[0] + b"".join(table.partition(b"\n")[2] for table in tables[1:])


def _found(person: Person, first: int) -> SurveyedPerson:
    content = joint_csv(person.xy, person.is_visible, person.first + first)
    return SurveyedPerson(person.first, person.end, round(person.score, 4), round(person.extent, 2), content)
