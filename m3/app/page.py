"""The page: its tabs, and what their buttons do. Gradio draws it; all that computes is a job of the worker."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from gradio import themes

from m3.app.folders import OwnFolder
from m3.app.limits import (
    FUTURES,
    MAX_FRAMES,
    MAX_FUTURES,
    MAX_ROLLED,
    MAX_RUNS,
    MAX_SECONDS,
    MAX_TEXT,
    MAX_UPLOAD_MB,
)
from m3.app.worker import JobError, Worker

JOINTS = (
    "head",
    "left shoulder",
    "right shoulder",
    "left elbow",
    "right elbow",
    "left wrist",
    "right wrist",
    "left hip",
    "right hip",
    "left knee",
    "right knee",
    "left ankle",
    "right ankle",
)
"""As in `m3.core.joints`, which this process does not import: it would take NumPy alone, but m3's own take PyTorch."""

VIDEOS_AND_PICTURES = ["image", "video", ".mkv", ".avi", ".wmv", ".flv", ".ts", ".mts"]

THEME = themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
"""Fonts of the system: nothing is fetched."""

CSS = """
.gradio-container {width: 100% !important; max-width: 1180px !important; margin: 0 auto !important;}
.m3-scroll {overflow-x: auto;}
.m3-table {border-collapse: collapse; border: none !important; font-size: 0.92em; width: max-content;}
.m3-table caption {text-align: left; opacity: 0.75; padding: 0 0 0.4em 0;}
.m3-table th, .m3-table td {padding: 0.3em 0.7em; text-align: right; white-space: nowrap;
  border: none !important; border-bottom: 1px solid var(--border-color-primary) !important;}
.m3-table th:first-child {text-align: left;}
.m3-facts .m3-table {width: 100%;}
.m3-facts td {text-align: left; white-space: normal;}
.m3-film img, .m3-film video {width: 100%; height: auto;}
.m3-head p {margin: 0; font-weight: 600;}
.m3-table *, .m3-table {border-left: none !important; border-right: none !important; border-top: none !important;}
#m3-title p {opacity: 0.75;}
#m3-pairs .grid-wrap {max-height: none; overflow: visible;}
#m3-pairs .thumbnail-lg {aspect-ratio: auto;}
@media (max-width: 480px) {
  #m3-pairs .grid-container {grid-template-columns: 1fr !important;}
  .m3-facts th {white-space: normal;}
  .tab-container button {padding: 0 7px !important; font-size: 0.9em;}
}
#m3-untrained label {opacity: 0.5;}
"""

_NO_FILE = "Drop a video or photo first, or take the example."


def build(worker: Worker, own: OwnFolder, facts: dict[str, Any]) -> gr.Blocks:
    """The page of a model. facts: the answer of the job of that name."""
    return _Page(worker, own, facts).blocks()


def _shown(error: JobError) -> gr.Error:
    """What the page shows, as HTML: a message may hold names from files."""
    return gr.Error(html.escape(str(error)), duration=15, title="That did not work", print_exception=False)


class _Page:
    def __init__(self, worker: Worker, own: OwnFolder, facts: dict[str, Any]) -> None:
        self.worker, self.own, self.facts = worker, own, facts

    def ask(self, job: str, **arguments: Any) -> Any:
        """A job's answer. Raises gr.Error, which the page shows."""
        try:
            return self.worker.call(job, **arguments)
        except JobError as error:
            raise _shown(error) from None

    def blocks(self) -> gr.Blocks:
        facts = self.facts
        with gr.Blocks(title="m3", analytics_enabled=False, delete_cache=(600, 7200)) as page:
            gr.Markdown(
                f"# m3\n{_plain(facts['checkpoint'])} · {facts['canvas_size']} px · {facts['step']:,} steps · "
                f"{facts['weights']}",
                elem_id="m3-title",
            )
            with gr.Tab("Continue", id="continue"):
                self._continue()
            with gr.Tab("Any from any", id="any"):
                self._any()
            with gr.Tab("Data", id="data") as data:
                choice = self._data()
            data.select(lambda: self._choices("data"), None, choice, **_work(None))
            with gr.Tab("Runs", id="runs") as runs:
                choice = self._runs()
            runs.select(lambda: self._choices("runs"), None, choice, **_work(None))
        return page

    # -- Continue

    def _continue(self) -> None:
        facts = self.facts
        seen, chosen, result = gr.State(None), gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(min_width=300):
                upload = gr.File(
                    label="A video or photo",
                    file_types=VIDEOS_AND_PICTURES,
                    height=160,
                    elem_id="m3-upload",
                )
                gr.Markdown(
                    f"At most {MAX_UPLOAD_MB} MB, {MAX_SECONDS:.0f} s and {MAX_FRAMES} frames. It stays here, and "
                    "is removed when the page is closed down."
                )
                example = gr.Button("Take the example", elem_id="m3-example")
                own_joints = gr.File(
                    label="Its joint file, if any",
                    file_types=[".csv", ".npz", ".mat"],
                    height=130,
                    visible=facts["has_joints"],
                )
                notes = gr.Markdown(elem_id="m3-notes")
            with gr.Column(min_width=300):
                gr.Markdown("The frame to continue. Click a joint, then its new place.", elem_classes="m3-head")
                reference = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    type="filepath",
                    format="png",
                    elem_id="m3-reference",
                    alt_text="the frame to continue, with its joints",
                )
                start = gr.Slider(0, 1, value=0, step=1, label="Frame to continue", visible=False, elem_id="m3-start")
                with gr.Row(visible=facts["has_joints"]):
                    joint = gr.Dropdown(
                        [(name, number) for number, name in enumerate(JOINTS)],
                        value=None,
                        label="Joint to move",
                        elem_id="m3-joint",
                    )
                    is_seen = gr.Checkbox(True, label="It is visible", elem_id="m3-visible")
        with gr.Row():
            frames = gr.Slider(1, MAX_ROLLED, value=6, step=1, label="Frames to make", elem_id="m3-frames")
            futures = gr.Radio(
                [("none", 1), *((str(number), number) for number in FUTURES)],
                value=1,
                label="Random futures besides the prediction",
                elem_id="m3-futures",
            )
            temperature = gr.Slider(0.1, 1.5, value=1.0, step=0.1, label="Temperature of the random futures")
        with gr.Row():
            usual = f" ({facts['usual_gap']} is usual)" if facts["usual_gap"] else ""
            gap = gr.Number(
                0,
                label=f"Gap: frames of the file per step{usual}; 0: the file's own",
                precision=0,
                minimum=0,
                maximum=64,
                visible=facts["has_gap"],
                elem_id="m3-gap",
            )
            action = gr.Dropdown(
                [("the file's own", ""), *facts["actions"]], value="", label="Action", visible=bool(facts["actions"])
            )
            words = gr.Textbox("", label="In words", max_length=MAX_TEXT, visible=facts["has_captions"])
            seed = gr.Number(0, label="Seed of the random futures", precision=0, minimum=0, maximum=2**31 - 1)
        go = gr.Button("Continue it", variant="primary", interactive=facts["rolls_out"], elem_id="m3-go")
        if not facts["rolls_out"]:
            gr.Markdown("This model was not trained to make a whole next frame: see the tab *Any from any*.")
        with gr.Column(visible=False, elem_id="m3-result") as shown:
            with gr.Row():
                skeleton = gr.Checkbox(True, label="Skeleton", elem_id="m3-skeleton")
                truth = gr.Checkbox(True, label="Truth", elem_id="m3-truth")
            with gr.Row():
                film = gr.Video(
                    show_label=False,
                    autoplay=True,
                    loop=True,
                    interactive=False,
                    buttons=["download"],
                    elem_id="m3-film",
                    elem_classes="m3-film",
                )
                with gr.Column(min_width=300):
                    frame = gr.Image(
                        show_label=False,
                        interactive=False,
                        type="filepath",
                        format="png",
                        buttons=["fullscreen"],
                        elem_id="m3-frame",
                        elem_classes="m3-film",
                        alt_text="one frame of the film",
                    )
                    place = gr.Slider(0, 6, value=0, step=1, label="Frame (0: the reference)", elem_id="m3-place")
            verdict = gr.Markdown(elem_id="m3-verdict")
            scores = gr.HTML(elem_id="m3-scores")
            command = gr.Code(
                language="shell",
                label="The command line that does the same",
                interactive=False,
                wrap_lines=True,
                lines=1,
                max_lines=5,
                show_line_numbers=False,
                elem_id="m3-command",
            )
            get = gr.Button("Make the files to download", elem_id="m3-get")
            files = gr.File(label="Files", file_count="multiple", interactive=False, visible=False, elem_id="m3-files")

        looked = [seen, chosen, joint, reference, start, notes]
        upload.upload(self.look, [upload, own_joints], looked, **_work("look"))
        own_joints.upload(self.look, [upload, own_joints], looked, **_work(None))
        upload.clear(
            lambda: (None, None, None, None, gr.update(visible=False), ""), None, looked, api_visibility="private"
        )
        example.click(self.example, None, looked, **_work("example"))
        start.release(self.start, [seen, start], looked, **_work(None))
        joint.input(self.choose, [seen, joint], [chosen, is_seen, reference], **_work(None))
        is_seen.input(self.hide, [seen, chosen, is_seen], [seen, reference], **_work(None))
        reference.select(self.click, [seen, chosen], [seen, chosen, joint, is_seen, reference], **_work(None))
        go.click(
            self.roll_out,
            [seen, frames, futures, gap, action, words, temperature, seed],
            [result, shown, film, place, frame, verdict, scores, command, files, skeleton, truth],
            **_work("roll_out"),
        )
        for toggle in (skeleton, truth):
            toggle.input(self.film, [result, skeleton, truth, place], [result, film, frame], **_work(None))
        place.change(_frame_at, [result, place], frame, queue=False, show_progress="hidden", api_visibility="private")
        get.click(self.downloads, result, files, **_work(None))

    def _taken(self, upload: str | None, joints: str | None) -> tuple[Path, str, str | None]:
        """A new folder for a result, and copies of the uploaded files in it, under harmless names."""
        if not upload:
            raise gr.Error(_NO_FILE, print_exception=False)
        folder = self.own.new_result()
        file = folder / harmless_name(upload, "clip")
        shutil.copyfile(upload, file)
        if not joints:
            return folder, str(file), None
        beside = folder / f"{file.stem}-joints{Path(joints).suffix.lower()[:5]}"
        shutil.copyfile(joints, beside)
        return folder, str(file), str(beside)

    def look(self, upload: str | None, joints: str | None = None) -> Sequence[Any]:
        if not upload:
            return None, None, None, None, gr.update(visible=False), ""
        folder, file, beside = self._taken(upload, joints)
        found = self.ask("look", path=file, folder=str(folder), joints=beside)
        return self._looked(found, has_own_joints=beside is not None)

    def example(self) -> Sequence[Any]:
        return self._looked(self.ask("example", folder=str(self.own.new_result())), has_own_joints=True)

    def start(self, seen: dict[str, Any] | None, start: int) -> Sequence[Any]:
        """Another frame. Joints of the user's own stay, others are found again, for this person and scene."""
        if seen is None or not seen["is_video"]:
            return [gr.skip()] * 6
        own = seen["joint_file"] if seen["has_own_joints"] else None
        found = self.ask("look", path=seen["path"], folder=seen["folder"], start=int(start), joints=own)
        return self._looked(found, seen["has_own_joints"])

    def _looked(self, seen: dict[str, Any], has_own_joints: bool) -> Sequence[Any]:
        seen["has_own_joints"] = has_own_joints
        last = (seen["num_frames"] or 1) - 1
        slider = gr.update(visible=seen["is_video"], maximum=max(last, 1), value=seen["start"] or 0)
        return seen, None, None, self._drawn(seen, None), slider, "\n\n".join(map(_plain, seen["notes"]))

    def _drawn(self, seen: dict[str, Any], chosen: int | None) -> str:
        seen["version"] = seen.get("version", 0) + 1
        return self.ask("draw", seen=seen, folder=seen["folder"], number=seen["version"], chosen=chosen)

    def choose(self, seen: dict[str, Any] | None, joint: int | None) -> Sequence[Any]:
        if seen is None or joint is None or seen["joints"] is None:
            return joint, True, gr.skip()
        return joint, seen["joints"][joint][2], self._drawn(seen, joint)

    def hide(self, seen: dict[str, Any] | None, chosen: int | None, is_seen: bool) -> Sequence[Any]:
        if seen is None or chosen is None or seen["joints"] is None:
            return gr.skip(), gr.skip()
        seen["joints"][chosen][2] = bool(is_seen)
        return self._moved(seen), self._drawn(seen, chosen)

    def click(self, seen: dict[str, Any] | None, chosen: int | None, place: gr.SelectData) -> Sequence[Any]:
        """The first click chooses the nearest joint, the second one moves it."""
        if seen is None or not self.facts["has_joints"]:
            return [gr.skip()] * 5
        x, y = (each / seen["factor"] for each in place.index)
        if seen["joints"] is None:  # a pose to begin with, in the middle of the picture
            seen["joints"] = _standing(*seen["size"])
            return self._moved(seen), None, None, True, self._drawn(seen, None)
        if chosen is None:
            distances = [(px - x) ** 2 + (py - y) ** 2 for px, py, _ in seen["joints"]]
            nearest = distances.index(min(distances))
            return seen, nearest, nearest, seen["joints"][nearest][2], self._drawn(seen, nearest)
        seen["joints"][chosen] = [x, y, True]
        return self._moved(seen), None, None, True, self._drawn(seen, None)

    def _moved(self, seen: dict[str, Any]) -> dict[str, Any]:
        seen["has_own_joints"] = True
        seen["joint_file"] = self.ask("move", seen=seen, folder=seen["folder"])
        return seen

    def roll_out(
        self,
        seen: dict[str, Any] | None,
        frames: int,
        futures: int,
        gap: int | None,
        action: str | None,
        words: str | None,
        temperature: float,
        seed: int,
    ) -> Sequence[Any]:
        if seen is None:
            raise gr.Error(_NO_FILE, print_exception=False)
        folder = self.own.new_result()
        file, joints = _copied(seen, folder)
        made = self.ask(
            "roll_out",
            path=file,
            folder=str(folder),
            joints=joints,
            start=seen["start"],
            frames=int(frames),
            futures=int(futures),
            gap=int(gap) if gap else None,
            action=action or None,
            captions=(words or "").strip() or None,
            temperature=float(temperature),
            seed=int(seed or 0),
        )
        notes = "\n\n".join(f"*{_plain(note)}*" for note in made["notes"])
        result = {"name": made["result"], "frames": made["frames"]}
        last = min(1, made["num_frames"])
        return (
            result,
            gr.update(visible=True),
            made["film"],
            gr.update(maximum=made["num_frames"], value=last),
            made["frames"][last],
            f"{made['verdict']}\n\n{notes}",
            made["scores"],
            made["command"],
            gr.update(visible=False, value=None),
            True,
            gr.update(value=made["has_truth"], interactive=made["has_truth"]),
        )

    def film(self, result: dict[str, Any] | None, skeleton: bool, truth: bool, place: int) -> Sequence[Any]:
        if result is None:
            return [gr.skip()] * 3
        made = self.ask("film", result=result["name"], has_skeleton=bool(skeleton), has_truth=bool(truth))
        result = {**result, "frames": made["frames"]}
        return result, made["film"], _frame_at(result, place)

    def downloads(self, result: dict[str, Any] | None) -> Any:
        if result is None:
            return gr.skip()
        return gr.update(value=self.ask("downloads", result=result["name"]), visible=True)

    # -- Any from any

    def _any(self) -> None:
        facts = self.facts
        labels = facts["labels"]
        named = [(labels[name], name) for name in facts["givable"]]
        untrained = [labels[name] for name in facts["modalities"] if name not in facts["learned"]]
        seen = gr.State(None)
        gr.Markdown("What is given of a pair of frames, and what is made from it. Nothing given: made from nothing.")
        with gr.Row():
            with gr.Column(min_width=300):
                upload = gr.File(
                    label="A video or photo",
                    file_types=VIDEOS_AND_PICTURES,
                    height=160,
                    elem_id="m3-any-upload",
                )
                example = gr.Button("Take the example", elem_id="m3-any-example")
                picture = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    type="filepath",
                    format="png",
                    height=220,
                    alt_text="the reference frame with its joints",
                )
            with gr.Column(min_width=300):
                given = gr.CheckboxGroup(
                    named, label="Given", value=[n for n in ("tok_rgb",) if n in facts["givable"]], elem_id="m3-given"
                )
                first = [name for name in ("coords", "coords_next", "tok_rgb_next") if name in facts["learned"]][:1]
                made = gr.CheckboxGroup(
                    [(labels[name], name) for name in facts["learned"]],
                    label="Made, in the order of the clicks",
                    value=first,
                    elem_id="m3-made",
                )
                if untrained:
                    gr.CheckboxGroup(
                        untrained,
                        label="Never a target of this model (its target_alphas are 0)",
                        interactive=False,
                        elem_id="m3-untrained",
                    )
                samples = gr.Slider(1, MAX_FUTURES, value=1, step=1, label="Samples")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
                go = gr.Button("Make it", variant="primary", elem_id="m3-any-go")
        sheet = gr.Image(
            show_label=False,
            interactive=False,
            type="filepath",
            format="png",
            buttons=["fullscreen"],
            elem_id="m3-sheet",
            alt_text="given, generated and true parts",
        )
        verdict, scores = gr.Markdown(elem_id="m3-any-verdict"), gr.HTML()
        command = gr.Code(
            language="shell",
            label="The command line that does the same",
            interactive=False,
            wrap_lines=True,
            lines=1,
            max_lines=5,
            show_line_numbers=False,
        )

        upload.upload(self.look_at_pair, upload, [seen, picture], **_work(None))
        upload.clear(lambda: (None, None), None, [seen, picture], api_visibility="private")
        example.click(lambda: self.look_at_pair(None), None, [seen, picture], **_work(None))
        go.click(
            self.complete, [seen, given, made, samples, seed], [sheet, verdict, scores, command], **_work("complete")
        )

    def look_at_pair(self, upload: str | None) -> Sequence[Any]:
        found = self.example() if upload is None else self.look(upload)
        return found[0], found[3]

    def complete(
        self, seen: dict[str, Any] | None, given: list[str], made: list[str], samples: int, seed: int
    ) -> Sequence[Any]:
        folder = self.own.new_result()
        file, joints = (None, None) if seen is None else _copied(seen, folder)
        found = self.ask(
            "complete",
            path=file,
            folder=str(folder),
            joints=joints,
            start=None if seen is None else seen["start"],
            given=list(given),
            made=list(made),
            samples=int(samples),
            seed=int(seed or 0),
        )
        return found["sheet"], found["verdict"], found["scores"], found["command"]

    # -- Data

    def _choices(self, kind: str) -> Any:
        return gr.update(choices=self.ask("places")[kind])

    def _data(self) -> gr.Dropdown:
        gr.Markdown("What a data set holds: random pairs with their joints, and the clips that were not used.")
        choice = gr.Dropdown([], label="Data set", allow_custom_value=True, elem_id="m3-data")
        with gr.Row():
            go = gr.Button("Show it", variant="primary", elem_id="m3-data-go")
            others = gr.Button("Other pairs", elem_id="m3-data-others")
        seed = gr.State(0)
        about = gr.HTML(elem_id="m3-data-facts", elem_classes="m3-facts")
        pairs = gr.Gallery(
            label="Pairs",
            show_label=False,
            columns=2,
            height="auto",
            object_fit="contain",
            interactive=False,
            visible=False,
            buttons=["fullscreen"],
            format="png",
            elem_id="m3-pairs",
        )
        rejected = gr.Dataframe(
            headers=["clip", "reason"],
            label="Clips that were not used",
            interactive=False,
            wrap=True,
            visible=False,
            column_widths=["30%", "70%"],
            elem_id="m3-rejected",
        )
        outputs = [seed, about, pairs, rejected]
        go.click(lambda path: self.data_set(path, 0), choice, outputs, **_work("data_set"))
        others.click(lambda path, seed: self.data_set(path, seed + 1), [choice, seed], outputs, **_work(None))
        return choice

    def data_set(self, path: str | None, seed: int) -> Sequence[Any]:
        if not path:
            raise gr.Error("Choose a data set first.", print_exception=False)
        found = self.ask("data_set", path=path, folder=str(self.own.new_result()), seed=seed)
        pairs, rejected = found["pairs"], found["rejected"]
        return (
            seed,
            found["facts"],
            gr.update(value=[path for path, _ in pairs], visible=bool(pairs)),
            gr.update(value=rejected, visible=bool(rejected)),
        )

    # -- Runs

    def _runs(self) -> gr.Dropdown:
        gr.Markdown("Scores of `metrics.json` and losses of training logs, side by side.")
        choice = gr.Dropdown(
            [],
            label=f"Runs, up to {MAX_RUNS}",
            multiselect=True,
            max_choices=MAX_RUNS,
            allow_custom_value=True,
            elem_id="m3-runs",
        )
        go = gr.Button("Compare them", variant="primary", elem_id="m3-runs-go")
        scores, training = gr.HTML(elem_id="m3-runs-scores"), gr.HTML(elem_id="m3-runs-training")
        notes = gr.Markdown()
        curves = _plot("step", "curve", "m3-curves")
        horizons = _plot("horizon", "run", "m3-horizons")
        go.click(self.runs, choice, [scores, training, notes, curves, horizons], **_work("runs"))
        return choice

    def runs(self, paths: list[str] | None) -> Sequence[Any]:
        if not paths:
            raise gr.Error("Choose one run at least.", print_exception=False)
        found = self.ask("runs", paths=list(paths))
        curves = pd.DataFrame(
            [
                {"step": row["step"], "value": row["value"], "curve": f"{row['run']}, {row['name']}"}
                for row in found["curves"]
            ],
            columns=["step", "value", "curve"],
        )
        first = next((row["metric"] for row in found["horizons"] if row["metric"] == "pck@0.1"), None)
        first = first or next((row["metric"] for row in found["horizons"]), None)
        horizons = pd.DataFrame(
            [
                {key: row[key] for key in ("horizon", "value", "run")}
                for row in found["horizons"]
                if row["metric"] == first
            ],
            columns=["horizon", "value", "run"],
        )
        return (
            found["scores"],
            found["training"],
            "\n\n".join(map(_plain, found["notes"])),
            gr.update(value=curves, visible=len(curves) > 0),
            gr.update(value=horizons, visible=len(horizons) > 0, title=f"{first} by horizon"),
        )


def _plot(x: str, color: str, name: str) -> gr.LinePlot:
    empty = pd.DataFrame({x: [], "value": [], color: []})
    return gr.LinePlot(
        empty,
        x=x,
        y="value",
        color=color,
        title="Losses",
        x_axis_format="~s",
        y_axis_format=".3~r",
        height=320,
        visible=False,
        buttons=[],
        elem_id=name,
    )


def _work(name: str | None) -> dict[str, Any]:
    """Options of an event that asks the worker: one at a time, in one queue. name: in the API; None: not there."""
    shared: dict[str, Any] = {"concurrency_id": "worker", "concurrency_limit": 1, "show_progress": "minimal"}
    return {**shared, "api_name": name} if name else {**shared, "api_visibility": "private"}


def _frame_at(result: dict[str, Any] | None, place: int) -> Any:
    if result is None:
        return None
    return result["frames"][min(max(0, int(place)), len(result["frames"]) - 1)]


def _copied(seen: dict[str, Any], folder: Path) -> tuple[str, str | None]:
    """The file and its joint file, copied into the folder of a result."""
    try:
        names = [seen["path"], seen["joint_file"]]
        copies = [None if name is None else shutil.copy(name, folder / Path(name).name) for name in names]
    except OSError:
        raise gr.Error("This file is no longer kept: drop it again.", print_exception=False) from None
    return str(copies[0]), None if copies[1] is None else str(copies[1])


def harmless_name(path: str, otherwise: str) -> str:
    """A file name of letters, digits, - and _ that stands for an uploaded one."""
    name = Path(path).name
    stem, suffix = Path(name).stem, Path(name).suffix.lower()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:40]
    return f"{stem or otherwise}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else ''}"


def _plain(text: str) -> str:
    """A text for Markdown, in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&-])", r"\\\1", text)


def _standing(width: int, height: int) -> list[list[Any]]:
    """A standing pose in the middle of a picture, to be moved: (x, y, is visible) of the 13 joints."""
    places = (
        (0, -0.40),
        (-0.10, -0.26),
        (0.10, -0.26),
        (-0.14, -0.10),
        (0.14, -0.10),
        (-0.15, 0.04),
        (0.15, 0.04),
        (-0.06, 0.02),
        (0.06, 0.02),
        (-0.06, 0.22),
        (0.06, 0.22),
        (-0.06, 0.42),
        (0.06, 0.42),
    )
    side = min(width, height) * 0.9
    return [[width / 2 + x * side, height / 2 + y * side, True] for x, y in places]
