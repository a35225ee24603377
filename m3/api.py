"""A trained model to call from Python: `m3.load` (docs/api.md).

Every call composes the configuration of generate.py and runs the functions that generate.py runs, so that the same
settings give the same tokens there and here. Arrays go through a lossless file, as files of one's own do.
"""

from __future__ import annotations

import base64
import copy
import functools
import html
import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from m3.checkpoint import SHIPPED, LoadedModel, load_model
from m3.clips.video_frames import MAX_FPS
from m3.commands.application import plain
from m3.commands.generate import about, checked, generator_of, preparation_for, prompts_of
from m3.commands.overrides import command_line, literal, written
from m3.core.files import make_folder
from m3.core.frames import Frames
from m3.core.joints import NUM_JOINTS
from m3.core.modalities import ModalityTable, frame_of
from m3.core.types import Clip
from m3.core.validation import check
from m3.generation.conditions import Conditions
from m3.generation.generation import Generation
from m3.generation.generator import Generator
from m3.generation.input_files import read_clip
from m3.generation.rollout import first_input
from m3.metrics import Score
from m3.reporting.figures import completion_sheet, rollout_animation, rollout_panels
from m3.reporting.files import write_npz
from m3.reporting.outputs import Amounts, write_generation
from m3.reporting.tables import in_words
from m3.reporting.video import write_gif
from m3.sampling.given import GivenEntry, given_mask
from m3.sampling.settings import AUTO, OTHERS

Input = str | Path | np.ndarray
"""A file, or (T, H, W, 3) uint8 frames of a video, or an (H, W, 3) uint8 picture; RGB."""

JointsInput = str | Path | np.ndarray
"""A joint file (`m3.clips.sidecar`), or (T, 13, 2) or (T, 13, 3) numbers: x and y in pixels of the input, in the order
of `m3.core.joints.JOINT_NAMES`, and whether the joint is visible, 0 or 1; NaN places are invisible. Of a picture also
(13, 2) or (13, 3)."""

_FPS = 30
"""Of arrays without a rate."""

_SHOWN_CELL_PX = 128


def load(
    checkpoint: str | Path = SHIPPED,
    device: str = "auto",
    options: Sequence[str] = (),
) -> Model:
    """A trained model.

    Args:
        checkpoint: a run folder of train.py, a `.ckpt` file, a folder of `Model.save`, "OWNER/NAME" of the hub, or
            "pretrained", the model that comes with m3.
        device: "auto", "cpu", "cuda" or another of PyTorch's.
        options: of generate.py as on its command line, for all calls: `["tokenizer=cosmos", "tokenizer.path=DIR"]`,
            `["sampling=roar"]`, `["data.root=outputs/data/demo_128px"]`.
    Raises:
        FileNotFoundError where there is no such model. ValueError for a file that holds none, an unknown device, and
        pictures without a tokenizer. Hydra's errors for options that generate.py does not have.
    """
    own = () if device == "auto" else (f"device={written(device)}",)
    cfg = checked(_composed((f"checkpoint={written(literal(str(checkpoint)))}", *own, *options)))
    loaded = load_model(str(checkpoint), cfg.device)
    generator_of(cfg, loaded)  # says at once which option does not fit the model
    return Model(loaded, str(checkpoint), (*own, *options))


@dataclass(frozen=True)
class Film:
    """A reference frame (index 0) and the T frames after it, on the model's canvas.

    pictures: (T + 1, H, W, 3) uint8 RGB, H = W = canvas size; None for a model without pictures.
    joints: (T + 1, 13, 2) float64 x, y in canvas pixels, in the order of `m3.core.joints.JOINT_NAMES`; None for a model
        without joints.
    is_visible: (T + 1, 13) bool; None likewise.
    is_present: (T + 1,) bool, False where there is no such frame, as after the end of a video.
    tokens: modality → (T + 1, L) int64 ids, 0 where unknown.
    is_known: modality → (T + 1, L) bool.
    values: all decoded modalities by name, those above and others, such as "captions": (T + 1,) texts.
    """

    pictures: np.ndarray | None
    joints: np.ndarray | None
    is_visible: np.ndarray | None
    is_present: np.ndarray
    tokens: Mapping[str, np.ndarray]
    is_known: Mapping[str, np.ndarray]
    values: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, frames: Frames, row: int) -> Film:
        values = {name: each[row] for name, each in frames.values.items()}
        poses, tokens, pictures = values.get("coords"), frames.tokens, values.get("tok_rgb")
        return cls(
            None if pictures is None else np.asarray(pictures),
            None if poses is None else poses.xy,
            None if poses is None else poses.is_visible,
            frames.is_present[row],
            {} if tokens is None else {name: ids[row] for name, ids in tokens.ids.items()},
            {} if tokens is None else {name: known[row] for name, known in tokens.is_known.items()},
            values,
        )


@dataclass(frozen=True)
class Generated:
    """What a call generated; shows itself in a notebook.

    made: all of it, as generate.py has it. scores: of roll-outs under "", of completed pairs under "reference" and
    "successor"; beside them there is "nothing moves" (`Score.nothing_moves`).
    notes: how the input was prepared, one line each.
    command: the command line of generate.py that generates the same; None for arrays.
    """

    made: Generation
    scores: Mapping[str, Sequence[Score]]
    notes: tuple[str, ...]
    command: str | None
    _generator: Generator = field(repr=False)
    _cfg: DictConfig = field(repr=False)

    @property
    def predicted(self) -> Film:
        """The prediction: the same every time. Of a completed pair frame 0 is the reference, frame 1 the successor."""
        return Film.of(self.made.predicted, 0)

    @property
    def samples(self) -> list[Film]:
        """The random samples, as many as were asked for; none for samples=1."""
        return [Film.of(each, 0) for each in self.made.samples]

    @property
    def truth(self) -> Film | None:
        """The input's own frames through the tokenizer, present as far as it reaches; None where nothing follows."""
        return Film.of(self.made.truth, 0) if self.made.prompts.has_truth else None

    @property
    def verdict(self) -> list[str]:
        """Sentences on where the prediction is better and where worse than a copy of the reference."""
        return [sentence for scores in self.scores.values() for sentence in in_words(scores)]

    def write(self, folder: str | Path) -> Path:
        """Writes the files of generate.py into a folder: report.html, pictures, films, metrics.json, tokens.npz."""
        out = Path(folder)
        make_folder(out)
        amounts = Amounts(**plain(self._cfg.pictures))
        described = about(self._cfg, self._generator, self.command)
        scores = {name: list(each) for name, each in self.scores.items()}
        write_generation(out, self.made, scores, self._generator.metrics, amounts, described)
        return out

    def _repr_html_(self) -> str:
        if self.made.is_rollout:
            panels = rollout_panels(self.made, [0], len(self.made.samples))
            content = _gif_bytes(rollout_animation(panels, [""], _SHOWN_CELL_PX))
        else:
            buffer = io.BytesIO()
            completion_sheet(self.made, [0], _SHOWN_CELL_PX, len(self.made.samples)).save(buffer, "PNG")
            content = buffer.getvalue()
        kind = "gif" if self.made.is_rollout else "png"
        what = ", ".join(self.made.generated)
        sentences = "".join(f"<p>{html.escape(each)}</p>" for each in self.verdict)
        picture = base64.b64encode(content).decode()
        return f'<img alt="generated: {html.escape(what)}" src="data:image/{kind};base64,{picture}">{sentences}'


@dataclass(frozen=True)
class Model:
    """A trained model; `m3.load` makes it. All arguments named like an option of generate.py mean the same.

    loaded: the weights and facts about the training. checkpoint: as given. options: of generate.py, for all calls.
    """

    loaded: LoadedModel
    checkpoint: str
    options: tuple[str, ...] = ()

    @property
    def table(self) -> ModalityTable:
        """The modalities."""
        return self.loaded.table

    @property
    def canvas_size(self) -> int:
        """Side of the pictures, pixels; joints of results are in these pixels."""
        return self.loaded.data["canvas_size"]

    @property
    def learned(self) -> list[str]:
        """The modalities that can be generated: those that training had as a target."""
        return [name for name in self.table.modalities if self.table.is_ever_target(name)]

    @property
    def actions(self) -> list[str]:
        """Labels of the training data; empty for a model that does not take actions."""
        return list(self.loaded.data.get("actions", ())) if "action" in self.table.modalities else []

    def continue_video(
        self,
        video: Input,
        frames: int = 6,
        samples: int = 1,
        *,
        start: Literal["start", "end"] | int = "start",
        joints: JointsInput | None = None,
        annotator: str | None = None,
        gap: int | None = None,
        action: str | None = None,
        captions: str | None = None,
        temperature: float | None = None,
        seed: int = 0,
        fps: float | None = None,
    ) -> Generated:
        """Continues a video, frame by frame.

        Args:
            video: a file, or (T, H, W, 3) uint8 RGB.
            frames: T, how many to generate.
            samples: random futures besides the prediction; 1: none.
            start: the frame to continue: the first one ("start"), the last one ("end"), or its number from 0.
            joints: of the video; None: those of the file beside it, if there is one, else none, or the annotator's.
            annotator: "blazepose" finds joints where there are none; it needs `pip install 'm3-motion[pose]'`.
            gap: frames of the video from one generated frame to the next, for a model with the modality gap_next; None:
                the video's own.
            action: a label of the training data. captions: a sentence. For models that take them.
            temperature: of the random samples, above 0 (0 is the likeliest); None: as generate.py, 1.
            seed: of the random samples.
            fps: of an array; None: 30.
        Raises:
            FileNotFoundError, or ValueError naming the option or the file that cannot be used.
        """
        asked = Conditions(gap, action, captions)
        return self._continued(frames, _Call(video, start, joints, annotator, fps, samples, temperature, seed, asked))

    def continue_picture(
        self,
        picture: Input,
        frames: int = 6,
        samples: int = 1,
        *,
        joints: JointsInput | None = None,
        annotator: str | None = None,
        gap: int | None = None,
        action: str | None = None,
        captions: str | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> Generated:
        """Continues a picture: a file, or (H, W, 3) uint8 RGB. The rest is as for `continue_video`.

        Without joints, they are generated from the picture by a model that learned to; gap None is the usual one of the
        model's data.
        """
        asked = Conditions(gap, action, captions)
        call = _Call(picture, "start", joints, annotator, None, samples, temperature, seed, asked)
        return self._continued(frames, call)

    def complete(
        self,
        given: Sequence[GivenEntry] | Literal["auto", "others"],
        generate: Sequence[str],
        input: Input | None = None,
        *,
        samples: int = 1,
        start: Literal["start", "end"] | int = "start",
        joints: JointsInput | None = None,
        annotator: str | None = None,
        gap: int | None = None,
        action: str | None = None,
        captions: str | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> Generated:
        """Generates some modalities of a pair of frames from others.

        Args:
            given: names of modalities, or {name: some of its joints or token positions}; [] for nothing.
            generate: names of modalities, in the order in which they are generated; each sees those before it.
            input: what is given comes from here: a video (its reference and successor), or a picture (the reference).
                None for given=[].
        Raises:
            ValueError for a modality that was never a target of the run, naming the key of its configuration. The rest
            is as for `continue_video`.
        """
        values = {"sampling.given": _entries(given), "sampling.generate": list(generate)}
        asked = Conditions(gap, action, captions)
        return self._generated(values, _Call(input, start, joints, annotator, None, samples, temperature, seed, asked))

    def encode(
        self,
        inputs: Input | Sequence[Input],
        *,
        given: Sequence[GivenEntry] | Literal["auto"] = "auto",
        pool: Literal["mean"] | None = "mean",
        start: Literal["start", "end"] | int = "start",
        joints: JointsInput | None = None,
        annotator: str | None = None,
    ) -> np.ndarray:
        """Features of pictures or of frames of videos: the encoder's output for what is given of them.

        Args:
            inputs: one, or N of them.
            given: the tokens that are encoded, as in `complete`; "auto": all of the reference and what was before it.
            pool: "mean": a vector for each input; None: a vector for each known token.
            joints: of the one input; of several they are in the files beside each.
        Returns:
            float32 (N, D), or for pool=None (sum of the known tokens, D), one input after the other.
        """
        several = cast(list[Input], list(inputs) if isinstance(inputs, list | tuple) else [inputs])
        if not several:
            raise ValueError("inputs: empty, need one at least")
        if given == AUTO:
            given = [name for name in self.table.modalities if frame_of(name)[1] < 1]
        is_given = given_mask(self.table, given)
        # Nothing is generated, but prompts belong to a generator.
        values = {"sampling.given": OTHERS, "sampling.generate": self.learned[-1:], "rollout.frames": 1}
        with ExitStack() as stack:
            cfg, generator = self._prepared(stack, values, _Call(several, start, joints, annotator))
            prompts = prompts_of(cfg, generator, lambda line: None)
        tokens, is_known = first_input(prompts.given(is_given, self.table), self.table)
        return self.loaded.encode(tokens, is_known, pool=pool).cpu().numpy()

    def clip(
        self,
        shown: Input,
        *,
        start: Literal["start", "end"] | int = "start",
        joints: JointsInput | None = None,
        annotator: str | None = None,
    ) -> tuple[Clip, int]:
        """What is read of a video or picture: the scene that holds the start, all of its frames, and its joints in
        pixels of the input; and the index of the start in it. The arguments are those of `continue_video`.

        Raises FileNotFoundError, or ValueError naming the file that cannot be used.
        """
        with ExitStack() as stack:
            cfg, _ = self._prepared(stack, {}, _Call(shown, start, joints, annotator))
            path = Path(cfg.input)
            how = replace(preparation_for(cfg, self.loaded, 1), fps=None)
            clip, first = read_clip(path, path.stem, None if cfg.joints is None else Path(cfg.joints), how)
            if isinstance(shown, np.ndarray):  # its file is about to be removed
                clip = replace(clip, frames=list(clip.frames))
        return clip, first

    def save(self, folder: str | Path, scores: Sequence[str | Path] = (), license: str | None = None) -> Path:
        """Writes the model as a folder that `m3.load`, generate.py and train.py read, and that can be shared.

        scores: metrics.json files of generate.py for this model, for the card. See `LoadedModel.save_pretrained`.
        """
        return self.loaded.save_pretrained(folder, scores, license)

    def _repr_html_(self) -> str:
        rows = {
            "checkpoint": self.checkpoint,
            "given": ", ".join(self.table.modalities),
            "generated": ", ".join(self.learned),
            "canvas": f"{self.canvas_size} × {self.canvas_size} px",
            "actions": ", ".join(self.actions) or "none",
            "parameters": f"{sum(each.numel() for each in self.loaded.model.parameters()):,}",
            "steps": f"{self.loaded.step:,}",
            "weights": self.loaded.fingerprint[:12],
        }
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items())
        return f"<table><caption>m3 model</caption>{cells}</table>"

    def _continued(self, frames: int, call: _Call) -> Generated:
        return self._generated({"rollout.frames": frames}, call, is_rollout=True)

    def _generated(self, values: Mapping[str, Any], call: _Call, is_rollout: bool = False) -> Generated:
        notes: list[str] = []
        with ExitStack() as stack:
            values = {**values, **call.values, **self._temperatures(call)}
            cfg, generator = self._prepared(stack, values, call)
            if is_rollout:
                generator.check_roll_out()
            made = generator.generate(prompts_of(cfg, generator, notes.append))
        command = None if call.has_arrays else self._command({**values, **_places(call, call.input, call.joints)}, call)
        return Generated(made, generator.scores(made), tuple(notes), command, generator, cfg)

    def _prepared(self, stack: ExitStack, values: Mapping[str, Any], call: _Call) -> tuple[DictConfig, Generator]:
        """The configuration and the generator of a call. Files of arrays are there until the stack is closed."""
        shown, joints = call.input, call.joints
        cfg = self._composed(call.annotator)
        if call.has_arrays:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3-")))
            shown, joints = _as_files(shown, joints, folder, call.fps)
            values = {**values, "annotations": str(folder / "annotations")}
        elif call.fps is not None:
            raise ValueError(f"fps={call.fps}: is for arrays; a file has its own")
        for key, value in {**values, **_places(call, shown, joints)}.items():
            OmegaConf.update(cfg, key, literal(value))
        cfg = checked(cfg)
        return cfg, generator_of(cfg, self.loaded)

    def _temperatures(self, call: _Call) -> dict[str, float]:
        """The keys of the temperatures of random samples."""
        if call.temperature is None:
            return {}
        if call.samples == 1:
            raise ValueError(f"temperature={call.temperature}: is that of random samples; give samples=2 or more")
        schemes = self._composed(call.annotator).rollout.sample_schemes
        names = [name for name in schemes if name in (*self.learned, "default")]
        return {f"rollout.sample_schemes.{name}.temperature": call.temperature for name in names}

    def _composed(self, annotator: str | None) -> DictConfig:
        return _composed((f"checkpoint={written(literal(self.checkpoint))}", *self._group(annotator), *self.options))

    @staticmethod
    def _group(annotator: str | None) -> list[str]:
        return [] if annotator is None else [f"annotator={written(annotator)}"]

    def _command(self, values: Mapping[str, Any], call: _Call) -> str:
        options = [f"checkpoint={written(literal(self.checkpoint))}", *self._group(call.annotator), *self.options]
        return command_line(["m3-generate"], options, values)


@dataclass(frozen=True)
class _Call:
    """The arguments of a call that are neither what is given nor what is generated. input: one, or several."""

    input: Input | Sequence[Input] | None
    start: Literal["start", "end"] | int = "start"
    joints: JointsInput | None = None
    annotator: str | None = None
    fps: float | None = None
    samples: int = 1
    temperature: float | None = None
    seed: int = 0
    conditions: Conditions = Conditions()

    @property
    def has_arrays(self) -> bool:
        several = self.input if isinstance(self.input, list) else [self.input]
        return any(isinstance(each, np.ndarray) for each in (*several, self.joints))

    @property
    def values(self) -> dict[str, Any]:
        """Key → value, of those that are not the configuration's own."""
        check("samples", self.samples, int, low=1)
        asked = self.conditions
        values = {"rollout.num_samples": (self.samples, 1), "rollout.gap": (asked.gap, None), "seed": (self.seed, 0),
                  "action": (asked.action, None), "captions": (asked.captions, None)}  # fmt: skip
        return {key: value for key, (value, usual) in values.items() if value != usual}


@functools.lru_cache(maxsize=32)
def _base(options: tuple[str, ...]) -> DictConfig:
    with initialize_config_module("m3.conf", version_base="1.3"):
        return compose("generate", list(options))


def _composed(options: tuple[str, ...]) -> DictConfig:
    """The configuration of generate.py, of one's own to change."""
    return copy.deepcopy(_base(options))


def _entries(given: Sequence[GivenEntry] | str) -> Any:
    if isinstance(given, str):
        return given
    return [
        entry if isinstance(entry, str) else {name: list(parts) for name, parts in entry.items()} for entry in given
    ]


def _places(call: _Call, shown: Any, joints: Any) -> dict[str, Any]:
    """The keys that say what is read."""
    several = shown if isinstance(shown, list) else [shown]
    paths = [str(each) for each in several if each is not None]
    values = {"input": paths[0] if len(paths) == 1 else paths or None, "joints": joints and str(joints)}
    values["rollout.from"] = call.start if call.start != "start" else None
    return {key: value for key, value in values.items() if value is not None}


def _as_files(
    shown: Input | Sequence[Input] | None, joints: JointsInput | None, folder: Path, fps: float | None
) -> tuple[Any, str | Path | None]:
    """The same with a file in the folder in place of each array."""
    several = shown if isinstance(shown, list) else [shown]
    files = [_file_of(each, folder / f"input{n}", fps) if isinstance(each, np.ndarray) else each
             for n, each in enumerate(several)]  # fmt: skip
    if isinstance(joints, np.ndarray):
        joints = _joint_file(joints, folder / "joints.npz")
    return files if isinstance(shown, list) else files[0], joints


def _file_of(values: np.ndarray, path: Path, fps: float | None) -> Path:
    """A PNG, or a video that loses nothing. Raises ValueError for anything but pictures."""
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or values.shape[-1] != 3 or 0 in values.shape:
        raise ValueError(
            f"an array of {values.dtype} {values.shape}: need uint8 RGB, (T, H, W, 3) of a video or (H, W, 3) of a "
            "picture"
        )
    if values.ndim == 3:
        Image.fromarray(values).save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    fps = _FPS if fps is None else fps
    check("fps", fps, float, low=0.001, high=MAX_FPS)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path.with_suffix(".mkv")), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = values.shape[1:3]
        stream.pix_fmt = "bgr0"  # RGB without loss
        for frame in values:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path.with_suffix(".mkv")


def _joint_file(joints: np.ndarray, path: Path) -> Path:
    """Joints as a joint file, to the last bit. Raises ValueError for another shape."""
    values = joints[None] if joints.ndim == 2 else joints
    if values.ndim != 3 or values.shape[1] != NUM_JOINTS or values.shape[2] not in (2, 3) or not len(values):
        raise ValueError(
            f"joints: an array of shape {joints.shape}, need (T, {NUM_JOINTS}, 2) or (T, {NUM_JOINTS}, 3): x, y and "
            "perhaps visibility"
        )
    columns = {"x": values[..., 0], "y": values[..., 1]}
    if values.shape[2] == 3:
        columns["visibility"] = values[..., 2]
    write_npz(path, {name: column.astype(np.float64) for name, column in columns.items()})
    return path


def _gif_bytes(pictures: Sequence[Image.Image]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="m3-") as folder:
        path = Path(folder) / "film.gif"
        write_gif(path, pictures)
        return path.read_bytes()
