"""How well and how fast annotators find joints.

    python bench/annotate.py [--clips 48] [--model full lite] [--video FILE …] [--pictures FOLDER]

On rendered people, whose joints are known: frames in which the person was found, PCK@0.05 and PCK@0.1 of the visible
joints (L as in the data sets: the larger side of the box around all joints of the clip), F1 of visibility, and jitter
(the mean length of the second difference of the error, pixels per frame²). The same for people of 60 px in frames of
640 × 480, and the number of people "found" in rendered places without any. Then frames/s on one core, decoding
included, for each video; with --pictures overlays of frames spread over it, to look at.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from m3.annotation.annotators import BlazePoseAnnotator
from m3.annotation.people import Person, chosen, person_of
from m3.annotation.survey import Surveyor
from m3.clips.demo import demo_clip
from m3.clips.video_files import VideoFiles
from m3.core.joints import NUM_JOINTS, Joints, pose_extent
from m3.core.types import Clip
from m3.rendering.render import render_frame
from m3.vocabularies.joints import draw_skeleton

SEED, NUM_FRAMES, SIZE = 30_000, 20, (224, 224)
SMALL, SMALL_FRAME = 60, (480, 640)


@dataclass
class Tally:
    """Sums over frames: see the module."""

    num_frames: int = 0
    num_found: int = 0
    num_joints: int = 0
    near: tuple[int, int] = (0, 0)  # within 0.05 and 0.1 of L
    agreed: int = 0  # joints visible in both
    claimed: int = 0  # visible in the estimate
    jitter: list[float] = field(default_factory=list)

    def add(self, truth: Joints, xy: np.ndarray, is_visible: np.ndarray) -> None:
        """xy: (T, 13, 2), NaN where nobody was found. is_visible: (T, 13)."""
        error = xy - truth.xy
        is_found = np.isfinite(error[:, 0, 0])
        distance = np.where(is_found[:, None], np.linalg.norm(error, axis=-1), np.inf)[truth.is_visible]
        extent = pose_extent(truth)
        self.num_frames, self.num_found = self.num_frames + len(xy), self.num_found + int(is_found.sum())
        self.num_joints += len(distance)
        near = [int((distance < share * extent).sum()) for share in (0.05, 0.1)]
        self.near = (self.near[0] + near[0], self.near[1] + near[1])
        self.agreed += int((is_visible & truth.is_visible).sum())
        self.claimed += int(is_visible.sum())
        bends = np.linalg.norm(np.diff(error, n=2, axis=0), axis=-1)
        self.jitter += bends[np.isfinite(bends)].tolist()

    def __str__(self) -> str:
        joints = max(self.num_joints, 1)
        return (
            f"found {100 * self.num_found / self.num_frames:.1f}%, "
            f"PCK@0.05 {100 * self.near[0] / joints:.1f}, PCK@0.1 {100 * self.near[1] / joints:.1f}, "
            f"visibility F1 {2 * self.agreed / max(self.claimed + self.num_joints, 1):.3f}, "
            f"jitter {np.mean(self.jitter or [np.nan]):.2f} px/frame²"
        )


def annotator_of(model: str, **changes: float | str | bool) -> BlazePoseAnnotator:
    """With the defaults of conf/annotator/blazepose.yaml."""
    usual = BlazePoseAnnotator(
        model=model, person="largest", max_people=4, tiles="auto", min_score=0.5, min_mean_score=0.85,
        min_confidence=0.5, min_seconds=0.4, max_jump=0.12, visibility=0.4, smoothing=1.0,
    )  # fmt: skip
    return replace(usual, **changes)


def estimate(annotator: BlazePoseAnnotator, frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """(T, 13, 2), (T, 13) of the largest person, NaN and False where there is none; and the number of people."""
    size = frames[0].shape[:2]
    session = annotator.begin(Clip("clip", frames, (size[0], size[1]), None))
    for number, frame in enumerate(frames):
        session.add(number, frame)
    found = [person_of(track, (size[0], size[1]), 30.0, annotator.belief) for track in session.tracks(())]
    people = [each for each in found if isinstance(each, Person)]
    xy, is_visible = np.full((len(frames), NUM_JOINTS, 2), np.nan), np.zeros((len(frames), NUM_JOINTS), bool)
    for person in chosen(people, "largest"):
        xy[person.first : person.end], is_visible[person.first : person.end] = person.xy, person.is_visible
    return xy, is_visible, len(people)


def rendered(num_clips: int) -> Iterator[tuple[Joints, list[np.ndarray]]]:
    for number in range(num_clips):
        clip = demo_clip(SEED, number, NUM_FRAMES, SIZE)
        yield clip.joints, [clip.render(t, SIZE) for t in range(NUM_FRAMES)]


def small(num_clips: int) -> Iterator[tuple[Joints, list[np.ndarray]]]:
    """People about 60 px tall in a larger picture of the same place: their clip, reduced and pasted into it."""
    for number in range(num_clips):
        clip = demo_clip(SEED + 1, number, NUM_FRAMES, SIZE)
        scale = SMALL / pose_extent(clip.joints)
        nobody = Joints(np.full((1, NUM_JOINTS, 2), -1e4), np.zeros((1, NUM_JOINTS), bool))
        place = Image.fromarray(render_frame(nobody.xy[0], nobody.is_visible[0], SMALL_FRAME, clip.scene))
        side = round(SIZE[0] * scale)
        left, top = 37 + 61 * number % (SMALL_FRAME[1] - side - 74), 41 + 53 * number % (SMALL_FRAME[0] - side - 82)
        frames = []
        for t in range(NUM_FRAMES):
            picture = place.copy()
            picture.paste(
                Image.fromarray(clip.render(t, SIZE)).resize((side, side), Image.Resampling.LANCZOS), (left, top)
            )
            frames.append(np.asarray(picture))
        xy = clip.joints.xy * (side / SIZE[0]) + (left, top)
        yield Joints(xy, clip.joints.is_visible), frames


def empty(num_clips: int) -> Iterator[list[np.ndarray]]:
    """Places without people."""
    for number in range(num_clips):
        clip = demo_clip(SEED + 2, number, 1, SIZE)
        nowhere, hidden = np.full((NUM_JOINTS, 2), -1e4), np.zeros(NUM_JOINTS, bool)
        yield [render_frame(nowhere, hidden, SIZE, clip.scene)] * NUM_FRAMES


def rate(annotator: BlazePoseAnnotator, video: Path, pictures: Path | None) -> None:
    """Prints frames/s and what was found in a video, and writes overlays."""
    source = VideoFiles(video, cuts=True)
    (clip_id,) = source.clip_ids()
    whole = source.whole(clip_id)
    start = time.perf_counter()
    survey = Surveyor(source, annotator).survey(whole)
    seconds = time.perf_counter() - start
    people = survey.people or ()
    spans = ", ".join(f"{person.first} … {person.end - 1}" for person in people) or "nobody"
    height, width = whole.clip.size
    print(f"{video.name} ({width} x {height}): {survey.num_frames / seconds:.1f} frames/s; people in frames {spans}; "
          f"cuts {list(survey.cuts)}; left out {list(survey.dropped)}")  # fmt: skip
    if pictures is None:
        return
    pictures.mkdir(parents=True, exist_ok=True)
    rows = [np.genfromtxt(person.joints.decode().splitlines(), delimiter=",", skip_header=1) for person in people]
    shots = []
    for t in np.linspace(0, survey.num_frames - 1, 12).round().astype(int).tolist():
        scale = 480 / max(height, width)
        shot = Image.fromarray(whole.clip.frames[t]).resize((round(width * scale), round(height * scale)))
        for table in rows:
            for row in np.atleast_2d(table)[np.atleast_2d(table)[:, 0] == t]:
                cells = row[1:].reshape(NUM_JOINTS, 3)
                shot = draw_skeleton(shot, np.nan_to_num(cells[:, :2]) * scale, cells[:, 2] == 1)
        shots.append(shot)
    sheet = Image.new("RGB", (4 * shots[0].width, 3 * shots[0].height))
    for n, shot in enumerate(shots):
        sheet.paste(shot, (n % 4 * shot.width, n // 4 * shot.height))
    sheet.save(pictures / f"{clip_id}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--model", nargs="+", default=["full", "lite"])
    parser.add_argument("--video", nargs="*", type=Path, default=[])
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    for model in args.model:
        for smoothing in (0.0, 1.0) if args.clips else ():
            tally = Tally()
            for truth, frames in rendered(args.clips):
                tally.add(truth, *estimate(annotator_of(model, smoothing=smoothing), frames)[:2])
            print(f"{model}, smoothing {smoothing:g}: {tally}", flush=True)
        if args.clips:
            tally = Tally()
            for truth, frames in small(max(1, args.clips // 4)):
                tally.add(truth, *estimate(annotator_of(model), frames)[:2])
            print(f"{model}, people of {SMALL} px: {tally}", flush=True)
            num_seen = [estimate(annotator_of(model), frames)[2] for frames in empty(max(1, args.clips // 4))]
            print(f"{model}, places without people: {sum(num_seen)} people in {len(num_seen)} clips", flush=True)
        for video in args.video:
            rate(annotator_of(model), video, args.pictures)


if __name__ == "__main__":
    main()
