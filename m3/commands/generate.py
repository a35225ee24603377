"""Generates with a trained model, scores and draws it: assembles what conf/generate.yaml names."""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from m3.annotation.annotators import Annotator
from m3.annotation.divided_source import DividedSource, has_foreign_joints
from m3.batches.table import TokenTable
from m3.checkpoint import BINDING, SHIPPED, LoadedModel, load_model
from m3.clips.base import ClipSource, VideoSource
from m3.clips.canvas import CANVASES
from m3.commands.application import plain, script, sweep_direction
from m3.commands.nulls import check_nulls
from m3.core.devices import torch_device
from m3.core.errors import naming, one_line_errors
from m3.core.files import make_folder
from m3.core.frames import rolled_modalities
from m3.core.jobs import stop_with_sweep
from m3.core.modalities import PICTURE, ModalityTable
from m3.core.signals import interruptible
from m3.core.terminal import PlainConsole
from m3.core.validation import check
from m3.forecast.benchmark import Benchmark, ForecastResult
from m3.generation.compatibility import check_compatible, check_tokenizer, preparation_of
from m3.generation.conditions import Conditions, lacks_gap, with_conditions
from m3.generation.generation import Generation
from m3.generation.generator import Generator
from m3.generation.inpainting import Inpainting, InpaintingResult
from m3.generation.input_files import Preparation, preparation, prompts_of_files
from m3.generation.prompts import Prompts, prompt_of_nothing, prompts_of_split
from m3.generation.real_frames import check_source, real_frames
from m3.generation.rollout import STARTS, Starts, find_chains
from m3.metrics import MetricSpec, Score
from m3.metrics.feature_networks import fid_spec, fvd_spec
from m3.reporting.forecast import write_forecast
from m3.reporting.inpainting import write_inpainting
from m3.reporting.outputs import About, Amounts, write_generation
from m3.sampling.given import GivenEntry, named_modality
from m3.sampling.settings import Sampling
from m3.shards.manifest import Manifest
from m3.sweep import ReadyTrial, run_trial, write_result
from m3.tokens.base import NoTokenizer


@dataclass(frozen=True)
class Result:
    """The result of `run`.

    made: the roll-outs or completed pairs, their prompts, and the ground truth.
    scores: of roll-outs under "", of completed pairs by frame. Without a ground truth only the diversity.
    out: the folder with the files that conf/generate.yaml lists.
    """

    made: Generation
    scores: Mapping[str, list[Score]]
    out: Path

    @property
    def metrics(self) -> Path:
        """The file with the scores."""
        return self.out / "metrics.json"

    @property
    def all_scores(self) -> list[Score]:
        return [score for scores in self.scores.values() for score in scores]


def run_inpainting(cfg: DictConfig) -> InpaintingResult:
    """Hides and generates joints as described by `cfg`, conf/generate.yaml with an `inpaint`. Raises as `run` does."""
    cfg = checked(cfg)
    inpainting: Inpainting = instantiate(cfg.inpaint)
    result = inpainting.run(_loaded(cfg))
    write_inpainting(Path(cfg.out), result, PlainConsole())
    return result


def run_forecast(cfg: DictConfig) -> ForecastResult:
    """Scores the forecasts described by `cfg`, conf/generate.yaml with a `forecast`. Raises as `run` does."""
    cfg = checked(cfg)
    benchmark: Benchmark = instantiate(cfg.forecast)
    result = benchmark.run(_loaded(cfg))
    write_forecast(Path(cfg.out), result, PlainConsole())
    return result


def run(cfg: DictConfig) -> Result:
    """Generates what `cfg` (conf/generate.yaml) describes: roll-outs, or else just what `sampling.generate` names.

    Raises:
        hydra's InstantiationException, FileNotFoundError or ValueError, before any work, for settings that cannot
        be and for a checkpoint, data and tokenizer that are not compatible; each names the key or the file.
    """
    cfg = checked(cfg)
    amounts, out = Amounts(**plain(cfg.pictures)), Path(cfg.out)
    generator = generator_of(cfg, _loaded(cfg))
    prompts = prompts_of(cfg, generator)
    make_folder(out)
    made = generator.generate(prompts)
    scores = generator.scores(made)
    command = None
    if HydraConfig.initialized():
        command = shlex.join(["python", "generate.py", *HydraConfig.get().overrides.task])
    write_generation(out, made, scores, generator.metrics, amounts, about(cfg, generator, command))
    return Result(made, scores, out)


def checked(cfg: DictConfig) -> DictConfig:
    """The configuration with its device chosen. Raises ValueError naming a key with an impossible value."""
    groups = ("sampling", "tokenizer", "data", "rollout", "pictures")
    check_nulls(cfg, "generate", groups, ("rollout.max_samples", "rollout.sample_schemes"), ("input",))
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_struct(cfg, False)
    check("seed", cfg.seed, int, low=0)
    check("rollout.frames", cfg.rollout.frames, int, low=1)
    if cfg.checkpoint is None and cfg.input is not None:
        cfg.checkpoint = SHIPPED
    cfg.device = str(torch_device("device", cfg.device))
    return cfg


def _loaded(cfg: DictConfig) -> LoadedModel:
    if cfg.checkpoint is None:
        raise ValueError(
            "checkpoint=null: train a model with `python train.py name=NAME`, then give checkpoint=outputs/train/NAME, "
            f"or continue a picture or video of your own with the model that comes with m3: checkpoint={SHIPPED} "
            "input=FILE"
        )
    return load_model(cfg.checkpoint, cfg.device)


def generator_of(cfg: DictConfig, loaded: LoadedModel) -> Generator:
    """The generator of a configuration that `checked` returned. loaded: the model that `cfg.checkpoint` names.

    Raises:
        hydra's InstantiationException or ValueError naming the key that does not fit, for generated modalities that
        were never a target of this run too.
    """
    sampling: Sampling = instantiate(cfg.sampling)
    sampling = sampling.for_model(loaded.table, has_references=cfg.input is None)
    sampling.for_table(loaded.table)
    tokenizer = instantiate(cfg.tokenizer) if PICTURE in loaded.table.vocabularies else NoTokenizer()
    if PICTURE in loaded.table.vocabularies and isinstance(tokenizer, NoTokenizer):
        known = loaded.data["tokenizer"]
        raise ValueError(f"tokenizer=none: {cfg.checkpoint} has pictures, which are decoded; give tokenizer={known}")
    samples = plain(cfg.rollout.sample_schemes)
    generator = Generator(
        loaded,
        tokenizer,
        sampling,
        seed=cfg.seed,
        batch_size=cfg.rollout.batch_size,
        num_samples=cfg.rollout.num_samples,
        damping=cfg.rollout.damping,
        sample_schemes=samples,
    )
    if generator.rolls_out:
        generator.check_roll_out()
    return replace(generator, more_metrics=_feature_metrics(cfg, generator))


def _feature_metrics(cfg: DictConfig, generator: Generator) -> list[MetricSpec]:
    """FID and FVD, where networks are named. Raises as `m3.metrics.feature_networks.fid_spec`."""
    size, device, named = generator.context.canvas_size, torch.device(cfg.device), cfg.metrics
    for key in ("fid", "fvd"):
        check(f"metrics.{key}", named[key], str | None)
        if named[key] is not None and PICTURE not in generator.table.vocabularies:
            raise ValueError(f"metrics.{key}={named[key]}: the model has no pictures; leave it out")
    if named.fvd is not None and not generator.rolls_out:
        raise ValueError(f"metrics.fvd={named.fvd}: is of roll-outs, and pairs are completed here; leave it out")
    specs = [] if named.fid is None else [fid_spec(named.fid, size, device)]
    return specs if named.fvd is None else [*specs, fvd_spec(named.fvd, size, cfg.rollout.frames, device)]


def prompts_of(cfg: DictConfig, generator: Generator, say: Callable[[str], object] = print) -> Prompts:
    """References, from files, a split or nothing, with what is asked of their roll-outs.

    say: takes the lines on how files are prepared.
    Raises FileNotFoundError or ValueError naming the key or the file that cannot be used.
    """
    prompts = _references(cfg, generator, cfg.rollout.frames if generator.rolls_out else 1, say)
    given = [named_modality(entry) for entry in generator.sampling.given]
    usual = {"gap_next": "median_gap", "seconds_next": "median_gap_s"}
    keys = [key for name, key in usual.items() if name in given]
    if cfg.input is not None and keys and cfg.rollout.gap is None and lacks_gap(prompts):
        say(_usual_gap(*(generator.loaded.data.get(key) if key in keys else None for key in usual.values())))
    return with_conditions(prompts, generator.loaded, _conditions(cfg), generator.text_tokenizer, given)


def _usual_gap(num_frames: int | None, seconds: float | None) -> str:
    """One line on inputs without a gap of their own, to be printed."""
    usual = [] if num_frames is None else [f"{num_frames} frames"]
    usual += [] if seconds is None else [f"{seconds:.2g} s"]
    if not usual:
        return "input: a photo has no gap, and the checkpoint names none of its data; rollout.gap=… asks for one"
    return f"input: a photo has no gap: {', '.join(usual)}, as usual in the model's data; rollout.gap=… asks otherwise"


def _conditions(cfg: DictConfig) -> Conditions:
    return Conditions(cfg.rollout.gap, cfg.action, cfg.captions)


def _references(cfg: DictConfig, generator: Generator, num_frames: int, say: Callable[[str], object]) -> Prompts:
    """From files, a split, or nothing."""
    loaded, tokenizer, is_given = generator.loaded, generator.tokenizer, bool(generator.sampling.given)
    if cfg.rollout["from"] != "start" and cfg.input is None:
        raise ValueError(f"rollout.from={cfg.rollout['from']}: needs the video that it is a place of, input=FILE")
    if cfg.joints is not None and cfg.input is None:
        raise ValueError(f"joints={cfg.joints}: needs the picture or video that it annotates, input=FILE")
    if cfg.input is None and is_given:
        return _prompts_of_split(cfg, generator, num_frames)
    check_tokenizer(loaded, cfg.checkpoint, tokenizer)
    if cfg.input is None:
        return prompt_of_nothing(loaded.table, num_frames)
    if not is_given:
        raise ValueError(f"input={cfg.input}: not used, because sampling.given=[] is empty")
    with_history = _starts(cfg.rollout.starts, loaded.table) == "history"
    how = preparation_for(cfg, loaded, num_frames + int(with_history))
    say(how.summary)
    joints = None if cfg.joints is None else Path(cfg.joints)
    return prompts_of_files(_paths(cfg), joints, num_frames, loaded.table, tokenizer, how, with_history)


def preparation_for(cfg: DictConfig, loaded: LoadedModel, num_successors: int) -> Preparation:
    """How the files of `input` become tokens. Raises ValueError naming a key with an impossible value."""
    how = preparation(loaded.data["canvas_size"], num_successors, *preparation_of(loaded, cfg.data.root))
    return replace(how, annotator=_annotator(cfg), annotations=Path(cfg.annotations), start=_start(cfg.rollout["from"]))


def _start(start: Any) -> Literal["start", "end"] | int:
    if start in ("start", "end"):
        return start
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise ValueError(f"rollout.from={start!r}: choose start, end, or the number of a frame from 0")
    return start


def _prompts_of_split(cfg: DictConfig, generator: Generator, num_frames: int) -> Prompts:
    split = TokenTable.open(cfg.data.root, cfg.data.split)
    check_compatible(generator.loaded, cfg.checkpoint, split.manifest, cfg.data.root, generator.tokenizer)
    source = _source(cfg, split)
    starts = _starts(cfg.rollout.starts, generator.table)
    chains = find_chains(split.pairs, num_frames, starts, cfg.rollout.max_samples)
    if not chains:
        remedy = "choose another split"
        if starts == "history":
            remedy = "none that has a frame before its reference: give rollout.starts=disjoint, or choose another split"
        raise ValueError(f"data.split={cfg.data.split}: {cfg.data.root} has no pairs there; {remedy}")
    prompts = prompts_of_split(split, generator.table, chains, num_frames)
    if source is None:
        return prompts
    manifest = split.manifest
    canvas = CANVASES[manifest.canvas["mode"]](manifest.canvas_size)
    has_joints = manifest.has_joints and "coords" in rolled_modalities(generator.table)
    return replace(prompts, real=real_frames(source, canvas, chains, prompts.tokens, has_joints))


def _starts(starts: str, table: ModalityTable) -> Starts:
    """ "auto": where there is a frame before the reference, for models that take it."""
    if starts == "auto":
        takes_history = any(name.endswith("_prev") for name in table.modalities)
        return "history" if takes_history else "disjoint"
    if starts not in STARTS:
        raise ValueError(f"rollout.starts={starts!r}: choose auto, {', '.join(STARTS)}")
    return cast(Starts, starts)


def _source(cfg: DictConfig, split: TokenTable) -> ClipSource | None:
    """The source of the real frames, if `source=…` names one. Raises ValueError unless it has the shards' clips."""
    if cfg.get("source") is None:
        return None
    if split.manifest.canvas["mode"] not in CANVASES:
        raise ValueError(f"source={cfg.source.name}: {cfg.data.root} does not record the canvas of its frames")
    source = _divided(instantiate(cfg.source), cfg, split.manifest)
    check_source(source, plain(cfg.source), split.manifest)
    return source


def _divided(source: ClipSource, cfg: DictConfig, manifest: Manifest) -> ClipSource:
    """The source with the clips of the shards: divided into scenes and people where these are."""
    annotator, found_by = _annotator(cfg), manifest.settings.get("annotator")
    found_here = None if annotator is None else {**annotator.settings(), "person": annotator.person}
    if plain(OmegaConf.create({"annotator": found_here}))["annotator"] != found_by:
        raise ValueError(
            f"annotator={None if annotator is None else annotator.name}: the joints of {cfg.data.root} were made with "
            f"other settings ({found_by})"
        )
    if not isinstance(source, VideoSource):
        return source
    source.finds_cuts = manifest.settings["source"].get("cuts", False)  # shards of older versions are not divided
    if annotator is None and not source.finds_cuts and not has_foreign_joints(source):
        return source
    divided = DividedSource(source, annotator, cfg.annotations)
    for clip_id in divided.not_surveyed():
        divided.survey(clip_id)
    return divided


def _annotator(cfg: DictConfig) -> Annotator | None:
    return None if cfg.get("annotator") is None else instantiate(cfg.annotator)


def about(cfg: DictConfig, generator: Generator, command: str | None) -> About:
    """What the output folder says of a run besides its results. command: that does the same, or None."""
    loaded, sampling = generator.loaded, generator.sampling
    binding = {key: loaded.data[key] for key in BINDING}
    is_of_split = cfg.input is None and len(sampling.given) > 0
    data = plain(cfg.data) if is_of_split else {"root": None, "split": None}
    paths = [str(path) for path in _paths(cfg)]
    facts = {
        "checkpoint": str(cfg.checkpoint),
        "step": loaded.step,
        "weights": loaded.fingerprint,
        "data": {**data, **binding},
        "input": paths or None,
        "seed": cfg.seed,
        "rollout": plain(cfg.rollout),
        "metrics": plain(cfg.metrics),
        "action": cfg.action,
        "captions": cfg.captions,
        "sampling": plain(cfg.sampling) | {"given": list(sampling.given), "generate": list(sampling.generate)},
    }
    origin = f"{cfg.data.root} ({cfg.data.split})" if is_of_split else ", ".join(paths) or "nothing"
    settings = {
        "Settings": OmegaConf.to_yaml(cfg),
        "Model": OmegaConf.to_yaml(OmegaConf.create({"step": loaded.step, **binding})),
    }
    return About(facts, origin, _given(generator.sampling.given), _conditions(cfg).texts, settings, command)


def _given(entries: Sequence[GivenEntry]) -> str:
    """`sampling.given` as text: "tok_rgb, 6 parts of coords"."""
    parts = [
        entry if isinstance(entry, str) else f"{len(chosen)} parts of {name}"
        for entry in entries
        for name, chosen in ({entry: ()} if isinstance(entry, str) else entry).items()
    ]
    return ", ".join(parts) or "nothing"


def _paths(cfg: DictConfig) -> list[Path]:
    """The files of `input`."""
    return [Path(path) for path in ([cfg.input] if isinstance(cfg.input, str) else cfg.input or [])]


def mean_pck(scores: Sequence[Score]) -> float:
    """PCK@0.1 of the model, averaged over the horizons that have truth; NaN without any joints."""
    values = [value for s in scores if s.name == "pck@0.1" for value in s.model if value is not None]
    return sum(values) / len(values) if values else math.nan


def task(cfg: DictConfig) -> float | ReadyTrial:
    """Returns the mean PCK@0.1, the number that a sweep maximizes.

    For forecasts it is the mean PCK@0.05, for in-painting minus the mean error in px.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_trial(script("generate"), "out", sweep_direction(), can_resume=False)
    with interruptible():
        stop_with_sweep()
        with one_line_errors(), naming(Path(cfg.out or ".")):
            value = _generate(cfg)
            write_result(Path(cfg.out), value)
    return value


def _generate(cfg: DictConfig) -> float:
    if cfg.forecast is not None:
        return run_forecast(cfg).scores.mean_pck
    if cfg.inpaint is not None:
        return -run_inpainting(cfg).record["guesses"]["model"]["mean_error_px"]
    return mean_pck(run(cfg).all_scores)


if __name__ == "__main__":  # as a trial of a sweep is started where there is no script
    from m3.commands.entry import generate

    generate()
