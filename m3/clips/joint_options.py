"""How the joint files of other programs are understood: the options of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m3.core.keypoints import layout_named
from m3.core.validation import check

PERSONS = ("largest", "track", "every")
"""Who becomes a clip, see `m3.annotation.people.chosen`."""


@dataclass(frozen=True, kw_only=True)
class JointFileOptions:
    """How the joint files of other programs are understood. None leaves it to the file.

    person: who becomes a clip where a file has several people, see `m3.annotation.people.chosen`.
    visibility: confidence from which on a joint is visible, 0 … 1.
    layout: of the keypoints: a name of `m3.core.keypoints.LAYOUTS`, or for each of the 13 joints a keypoint's
        number or several.
    fps: frames per second of the joints.
    first_frame: number of the video's first frame in the file.
    size: width and height of the pictures that the coordinates are of, pixels.
    exchange_xy: take x for y and y for x. False: never ask.
    exchange_sides: take left for right and right for left. False: never ask.

    Raises ValueError naming the key of an impossible value.
    """

    person: str = "largest"
    visibility: float = 0.3
    layout: str | Sequence[int | Sequence[int]] | None = None
    fps: float | None = None
    first_frame: int | None = None
    size: Sequence[int] | None = None
    exchange_xy: bool | None = None
    exchange_sides: bool | None = None

    def __post_init__(self) -> None:
        if self.person not in PERSONS:
            raise ValueError(f"source.joint_files.person={self.person!r}: choose {', '.join(PERSONS)}")
        check("source.joint_files.visibility", self.visibility, float, low=0, high=1)
        if self.layout is not None:
            listed = self.layout if isinstance(self.layout, str) else [
                entry if isinstance(entry, int) else list(entry) for entry in self.layout
            ]  # fmt: skip
            object.__setattr__(self, "layout", listed)  # plain values: a configuration's own lists cannot be pickled
            layout_named("source.joint_files.layout", listed)
        if self.fps is not None:
            check("source.joint_files.fps", self.fps, float, low=0.001, high=1000)
        if self.first_frame is not None:
            check("source.joint_files.first_frame", self.first_frame, int, low=0)
        if self.size is not None:
            object.__setattr__(self, "size", tuple(self.size))
            if len(self.size) != 2:
                raise ValueError(f"source.joint_files.size={list(self.size)}: need two numbers: width, height")
            for side in self.size:
                check("source.joint_files.size", side, int, low=2, high=2**16)
        for key in ("exchange_xy", "exchange_sides"):
            if getattr(self, key) not in (None, True, False):
                raise ValueError(f"source.joint_files.{key}={getattr(self, key)!r}: choose true, false or null")


USUAL_OPTIONS = JointFileOptions()
