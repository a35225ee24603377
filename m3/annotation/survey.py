"""The look at a whole video before its pairs are made: where scenes begin, and who is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from m3.annotation.annotators import USUAL_FPS, Annotator
from m3.annotation.cuts import change, find_cuts, may_be_cut, thumbnail
from m3.annotation.joint_files import joint_csv
from m3.annotation.people import Person, person_of
from m3.clips.base import ClipError, DamagedFrame, VideoSource, WholeClip
from m3.core.types import Rejection


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
    people: in all scenes, by their first frames; None for a clip with joints of its own.
    dropped: why tracks are no people.
    """

    clip: str
    num_frames: int
    cuts: tuple[int, ...]
    people: tuple[SurveyedPerson, ...] | None
    dropped: tuple[str, ...]


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
        annotator = self.annotator if clip.joints is None else None
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
        if annotator is None or session is None:
            return Survey(clip.id, num_frames, tuple(cuts), None, ())
        found = [person_of(track, clip.size, clip.fps or USUAL_FPS, annotator.belief) for track in session.tracks(cuts)]
        people = [_found(each, whole.first) for each in found if isinstance(each, Person)]
        return Survey(
            clip.id, num_frames, tuple(cuts), tuple(people), tuple(each for each in found if isinstance(each, str))
        )


def _found(person: Person, first: int) -> SurveyedPerson:
    content = joint_csv(person.xy, person.is_visible, person.first + first)
    return SurveyedPerson(person.first, person.end, round(person.score, 4), round(person.extent, 2), content)
