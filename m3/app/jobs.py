"""What the page computes: every job takes and gives values of JSON, and files where those would be large."""

from __future__ import annotations

import csv
import html
import importlib.util
import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m3.annotation.joint_files import joint_csv
from m3.api import Generated, load
from m3.app import browse
from m3.app.film import frame_pictures, panels_of, write_film
from m3.app.limits import MAX_FRAMES, MAX_FUTURES, MAX_ROLLED, MAX_SECONDS, MAX_SIDE_PX, MAX_TEXT
from m3.clips.base import ClipError
from m3.clips.demo import demo_clip
from m3.clips.picture_files import PICTURE_SUFFIXES, picture_size
from m3.clips.video_files import VIDEO_SUFFIXES
from m3.clips.video_frames import VideoFrames, scan
from m3.core.frames import rolled_modalities
from m3.core.joints import JOINT_NAMES
from m3.core.modalities import frame_of
from m3.core.terminal import printable
from m3.core.validation import check
from m3.reporting.figures import completion_sheet
from m3.reporting.tables import first_scores, heading
from m3.vocabularies.joints import draw_skeleton

_MAX_RESULTS = 8
"""Results that are kept in memory for their downloads and their films."""

_REFERENCE_PX = 640
"""Larger side of the shown reference."""

_EXAMPLE = 2, 12
"""Seed and number of the rendered clip that serves as an example: jumping jacks, seen from the front."""

JOINT_SUFFIXES = (".csv", ".npz", ".mat")


class Desk:
    """The model, and the last results.

    root: folder of the data sets and runs that the page shows.
    """

    def __init__(self, checkpoint: str, device: str, options: Sequence[str], root: str, folder: str) -> None:
        self.root, self.folder = Path(root), Path(folder)
        self.annotations = self.folder / "annotations"
        self.option = f"annotations={self.annotations}"
        self.model = load(checkpoint, device, [*options, self.option])
        self.results: OrderedDict[str, tuple[Generated, Path]] = OrderedDict()
        self.has_blazepose = importlib.util.find_spec("ai_edge_litert") is not None

    @property
    def annotator(self) -> str | None:
        return "blazepose" if self.has_blazepose else None

    def keep(self, made: Generated, folder: Path) -> str:
        """Keeps a result under the name of its folder."""
        self.results[folder.name] = made, folder
        while len(self.results) > _MAX_RESULTS:
            self.results.popitem(last=False)
        return folder.name

    def result(self, name: str) -> tuple[Generated, Path]:
        if name not in self.results or not self.results[name][1].is_dir():
            raise ValueError("this result is no longer kept: make it again")
        return self.results[name]

    def shown_command(self, made: Generated, folder: Path) -> str:
        """The command line with file names in place of the page's own paths."""
        return (made.command or "").replace(f" {self.option}", "").replace(f"{folder}/", "")


def facts(desk: Desk) -> dict[str, Any]:
    """What the model takes and makes, for the layout of the page."""
    table, model = desk.model.table, desk.model
    rolled = rolled_modalities(table)
    return {
        "checkpoint": model.checkpoint,
        "step": model.loaded.step,
        "weights": model.loaded.fingerprint[:12],
        "canvas_size": model.canvas_size,
        "modalities": list(table.modalities),
        "labels": {name: label_of(name) for name in table.modalities},
        "learned": [name for name in model.learned if frame_of(name)[1] >= 0],
        "givable": list(table.modalities),
        "has_gap": "gap_next" in table.modalities,
        "usual_gap": model.loaded.data.get("median_gap"),
        "actions": model.actions,
        "has_captions": "captions" in table.modalities,
        "has_joints": "coords" in table.modalities,
        "rolls_out": bool(rolled) and all(table.is_ever_target(name) for name in rolled.values()),
        "has_blazepose": desk.has_blazepose,
        "version": _version(),
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("m3-motion")
    except PackageNotFoundError:
        return "not installed"


_LABELS = {
    "tok_rgb": "picture",
    "coords": "joints",
    "motion": "motion",
    "gap": "gap",
    "seconds": "seconds",
    "action": "action",
    "captions": "caption",
}


def label_of(modality: str) -> str:
    """A modality in words: "next picture (tok_rgb_next)"."""
    name, _ = frame_of(modality)
    when = "next " if modality.endswith("_next") else "previous " if modality.endswith("_prev") else ""
    return f"{when}{_LABELS.get(name, name)} ({modality})"


def warm_up(desk: Desk, folder: str) -> dict[str, Any]:
    """Runs everything once, so that the first visitor does not wait for it: an example is rendered and continued."""
    made = example(desk, folder)
    if facts(desk)["rolls_out"]:
        desk.model.continue_video(made["path"], frames=1, joints=made["joint_file"], start=made["start"])
    return made


def example(desk: Desk, folder: str) -> dict[str, Any]:
    """A rendered clip of a person who moves, with its joints, as a video file."""
    video, joints = Path(folder) / "example.mp4", Path(folder) / "example.csv"
    if not video.exists():
        size, num_frames = (256, 256), 24
        clip = demo_clip(*_EXAMPLE, num_frames, size)
        pictures = [clip.render(frame, size) for frame in range(num_frames)]
        _write_video(video, pictures)
        joints.write_bytes(joint_csv(clip.joints.xy, clip.joints.is_visible, 0))
    return look(desk, str(video), folder, joints=str(joints))


def _write_video(path: Path, pictures: Sequence[np.ndarray]) -> None:
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "12", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def look(desk: Desk, path: str, folder: str, start: int | None = None, joints: str | None = None) -> dict[str, Any]:
    """Reads a video or picture: the frame to continue, and the joints.

    path: in `folder`, where the joint file is written. start: number of the frame; None chooses one.
    joints: a joint file; None: those that BlazePose finds, where it is installed and somebody is there.
    """
    file, out = Path(path), Path(folder)
    num_frames, notes = _checked_file(file), []
    is_video = num_frames is not None
    clip = None
    annotator = desk.annotator if joints is None and "coords" in desk.model.table.modalities else None
    place: Any = "start" if start is None else start
    if annotator is not None:
        try:
            clip, index = desk.model.clip(file, start=place if is_video else "start", annotator=annotator)
        except (ValueError, ClipError) as error:
            notes.append(f"no joints found: {printable(str(error)).removeprefix(f'{file.name}: ')}")
    if clip is None:
        clip, index = desk.model.clip(file, start=place if is_video else "start", joints=joints)
    numbers = clip.frames.numbers if isinstance(clip.frames, VideoFrames) else np.arange(len(clip.frames))
    if start is None and is_video:
        index = len(numbers) // 3  # there is motion before it, and a truth after it
    frame = clip.frames[index]
    factor = min(1.0, _REFERENCE_PX / max(frame.shape[:2]))
    shown = Image.fromarray(frame).resize([max(1, round(side * factor)) for side in frame.shape[1::-1]])
    reference = out / f"reference-{int(numbers[index])}.png"
    shown.save(reference)
    found, joint_file = None, None
    if clip.joints is not None:
        joint_file = out / f"{file.stem}-joints.csv"
        if joints is None or Path(joints) != joint_file:
            joint_file.write_bytes(joint_csv(clip.joints.xy, clip.joints.is_visible, int(numbers[0])))
        xy, is_visible = clip.joints.xy[index], clip.joints.is_visible[index]
        found = [[float(x), float(y), bool(seen)] for (x, y), seen in zip(xy, is_visible)]
    return {
        "path": str(file),
        "folder": str(out),
        "is_video": is_video,
        "start": int(numbers[index]) if is_video else None,
        "num_frames": num_frames,
        "reference": str(reference),
        "factor": factor,
        "joints": found,
        "joint_file": None if joint_file is None else str(joint_file),
        "notes": [*notes, *map(printable, clip.notes)],
        "size": list(frame.shape[1::-1]),
    }


def _checked_file(file: Path) -> int | None:
    """Number of frames of a video; None for a picture. Raises ValueError for others, and too long or large ones."""
    suffix = file.suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        _check_size(picture_size(file, is_upright=True))
        return None
    if suffix not in VIDEO_SUFFIXES:
        raise ValueError(f"{suffix or 'a file without a suffix'}: neither a video nor a picture by its name")
    index = scan(file, file.name)
    _check_size(index.size)
    if len(index.ticks) > MAX_FRAMES or index.seconds[-1] - index.seconds[0] > MAX_SECONDS:
        length = f"{len(index.ticks):,} frames, {index.seconds[-1] - index.seconds[0]:.0f} s"
        raise ValueError(
            f"a video of {length}: the page takes {MAX_FRAMES} frames and {MAX_SECONDS:.0f} s; cut it first"
        )
    return len(index.ticks)


def _check_size(size: tuple[int, int]) -> None:
    if max(size) > MAX_SIDE_PX:
        raise ValueError(f"{size[1]} × {size[0]} px: the page takes {MAX_SIDE_PX} px a side; make it smaller first")


def draw(desk: Desk, seen: dict[str, Any], folder: str, number: int, chosen: int | None) -> str:
    """The reference with its joints, as a PNG; a ring around the chosen one."""
    from PIL import ImageDraw

    with Image.open(seen["reference"]) as file:
        picture = file.convert("RGB")
    if seen["joints"] is not None:
        xy = np.array([[x, y] for x, y, _ in seen["joints"]]) * seen["factor"]
        is_visible = np.array([each[2] for each in seen["joints"]])
        side = max(picture.size)  # the skeleton's width follows the shorter side: draw it on a square
        square = Image.new("RGB", (side, side))
        square.paste(picture)
        picture = draw_skeleton(square, xy, is_visible).crop((0, 0, *picture.size))
        if chosen is not None:
            x, y = xy[chosen]
            radius = max(7.0, side / 40)
            ImageDraw.Draw(picture).ellipse(
                (x - radius, y - radius, x + radius, y + radius), outline=(255, 60, 60), width=3
            )
    path = Path(folder) / f"joints-{number}.png"
    picture.save(path, compress_level=1)
    return str(path)


def move(desk: Desk, seen: dict[str, Any], folder: str) -> str:
    """Writes the joints of the reference, moved by hand, into a joint file; the other frames keep theirs."""
    source, file = seen["joint_file"], Path(folder) / f"{Path(seen['path']).stem}-joints.csv"
    rows = list(csv.DictReader(io.StringIO(Path(source).read_text("utf-8")))) if source else []
    start = seen["start"] or 0
    own = {"frame": str(start)}
    for name, (x, y, is_seen) in zip(JOINT_NAMES, seen["joints"], strict=True):
        own |= {f"{name}_x": f"{float(x):.2f}", f"{name}_y": f"{float(y):.2f}", f"{name}_visibility": str(int(is_seen))}
    rows = [*(row for row in rows if row["frame"] != own["frame"]), own]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(own), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: int(row["frame"])))
    file.write_text(text.getvalue(), "utf-8")
    return str(file)


def roll_out(
    desk: Desk,
    path: str,
    folder: str,
    joints: str | None,
    start: int | None,
    frames: int,
    futures: int,
    gap: int | None,
    action: str | None,
    captions: str | None,
    temperature: float | None,
    seed: int,
) -> dict[str, Any]:
    """Continues a video from a frame, or a picture (start None). futures: random ones; 1: the prediction alone."""
    check("frames", frames, int, low=1, high=MAX_ROLLED)
    check("futures", futures, int, low=1, high=MAX_FUTURES)
    check("caption", captions, str | None)
    if captions is not None and len(captions) > MAX_TEXT:
        raise ValueError(f"a caption of {len(captions)} characters: the page takes {MAX_TEXT}")
    out = Path(folder)
    shared = {
        "frames": frames,
        "samples": futures,
        "joints": joints,
        "gap": gap,
        "action": action,
        "captions": captions,
        "seed": seed,
        "temperature": temperature if futures > 1 and temperature != 1 else None,
    }
    if start is None:
        made = desk.model.continue_picture(path, **shared)
    else:
        made = desk.model.continue_video(path, start=start, **shared)
    name = desk.keep(made, out)
    return {
        **film(desk, name, True, True),
        "result": name,
        "num_frames": frames,
        "verdict": _verdict(made),
        "scores": _score_table(made),
        "notes": list(made.notes),
        "command": desk.shown_command(made, out),
        "has_truth": made.truth is not None,
    }


def film(desk: Desk, result: str, has_skeleton: bool, has_truth: bool) -> dict[str, Any]:
    """The frames and the film of a result, "frames" and "film"."""
    made, folder = desk.result(result)
    name = f"film-{int(has_skeleton)}{int(has_truth)}"
    found = sorted(folder.glob(f"{name}-*.png"))
    if found and (folder / f"{name}.mp4").exists():
        return {"frames": [str(path) for path in found], "film": str(folder / f"{name}.mp4")}
    return write_film(folder, frame_pictures(panels_of(made.made, has_skeleton, has_truth)), name)


def _verdict(made: Generated) -> str:
    if made.verdict:
        return "\n\n".join(f"**{sentence[0].upper()}{sentence[1:]}.**" for sentence in made.verdict)
    if made.truth is None:
        return "Nothing follows this frame in the file, so there is no truth to compare the prediction with."
    return "Nothing was scored: no joints are known, and the model generates no pictures."


def _score_table(made: Generated) -> str:
    """A table of the model beside "nothing moves", as HTML; empty without scores."""
    parts = []
    for frame, scores in made.scores.items():
        found = first_scores(scores)
        if not found:
            continue
        caption = f"{frame}: " if frame else ""
        head = "".join(f"<th>{html.escape(heading(score.spec))}</th>" for score in found)
        rows = []
        for k in range(len(found[0].num_samples)):
            if not any(score.num_samples[k] for score in found):
                continue
            cells = "".join(f"<td>{_cell(score, k)}</td>" for score in found)
            rows.append(f"<tr><th>+{k + 1}</th>{cells}</tr>")
        parts.append(
            f'<div class="m3-scroll"><table class="m3-table"><caption>{caption}the model | nothing moves; ▲ better, '
            f"▼ worse</caption><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
    return "".join(parts)


def _cell(score: Any, k: int) -> str:
    model, copy = score.model[k], score.nothing_moves[k] if "nothing_moves" in score.series else None
    if model is None:
        return "–"
    if copy is None:
        return html.escape(score.spec.text(model))
    gain = (model - copy) * {"higher": 1, "lower": -1}.get(score.spec.is_better, 0)
    mark = " ▲" if gain > 1e-6 else " ▼" if gain < -1e-6 else ""
    return f"<b>{html.escape(score.spec.text(model))}</b> | {html.escape(score.spec.text(copy))}{mark}"


def downloads(desk: Desk, result: str) -> list[str]:
    """The files of generate.py for a result, and its joint file."""
    made, folder = desk.result(result)
    out = folder / "files"
    if not out.is_dir():
        made.write(out)
    files = [path for path in sorted(out.iterdir()) if path.is_file()]
    return [str(path) for path in (*files, *sorted(folder.glob("*-joints.csv")))]


def complete(
    desk: Desk,
    path: str | None,
    folder: str,
    joints: str | None,
    start: int | None,
    given: list[str],
    made: list[str],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Generates modalities from others; from nothing without a file."""
    check("futures", samples, int, low=1, high=MAX_FUTURES)
    if not made:
        raise ValueError("choose what is to be made")
    if not given and path is not None:
        path = joints = start = None
    if given and path is None:
        raise ValueError("drop a video or photo, or take the example: what is given comes from it. Or give nothing")
    place: Any = "start" if start is None else start
    out = Path(folder)
    result = desk.model.complete(given, made, path, start=place, joints=joints, samples=samples, seed=seed)
    sheet = out / "generated.png"
    completion_sheet(result.made, [0], 200, samples).save(sheet)
    name = desk.keep(result, out)
    return {
        "sheet": str(sheet),
        "result": name,
        "verdict": _verdict(result) if given else "Made from nothing: there is no truth to compare with.",
        "scores": _score_table(result),
        "command": desk.shown_command(result, out),
        "notes": list(result.notes),
    }


def data_set(desk: Desk, path: str, folder: str, seed: int) -> dict[str, Any]:
    """Facts, random pairs and rejected clips of a data set below the root."""
    return browse.data_set(desk.root, path, Path(folder), seed)


def runs(desk: Desk, paths: list[str]) -> dict[str, Any]:
    """Scores and training logs of runs below the root."""
    return browse.runs(desk.root, paths)


def places(desk: Desk) -> dict[str, list[str]]:
    """The data sets and runs below the root."""
    return browse.places(desk.root)


JOBS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (facts, warm_up, example, look, draw, move, roll_out, film, downloads, complete, data_set, runs, places)
}
