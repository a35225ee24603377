"""Every key of generate.yaml and preprocess.yaml changes what is assembled from it, or is refused by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from support.configs import CONF, attributes_read, facts, override
from support.random_world import config, write_data, write_run
from support.tiny_videos import write_video
from support.tiny_world import write_world

from m3.annotation.divided_source import DividedSource
from m3.checkpoint import load_model
from m3.commands import generate, preprocess
from m3.generation.inpainting import Inpainting
from m3.preprocessing.build import BuildResult
from m3.reporting.outputs import Amounts
from m3.sampling.guidance import Guidance
from m3.sampling.settings import DecodingConfig

NULLS = {
    "top_k": 2, "weights": [2.0], "num_steps": 2, "max_pairs_per_clip": 1, "max_clips": 1, "max_side": 32,
    "max_sequences": 5, "workers": 2, "fps": 5,
}  # fmt: skip
"""Another value, by the key's last part, where the default is null; elsewhere it is a name that there is not."""

OTHERS = {"rollout.max_samples": 1, "source.root": "nowhere", "source.labels": "nowhere"}
"""Another value where the rule of `other` would change nothing in a small world."""

SEEN_ELSEWHERE = {
    "out": "test_generate.py", "device": "test_generate.py", "labels": "test_forecast.py",
    "verify": "test_verify.py", "scratch": "test_publish.py", "annotations": "test_divided_source.py",
    "previews": "test_annotated_videos.py",
}  # fmt: skip


def keys_of(cfg: DictConfig, section: str = "") -> list[str]:
    """Leaves that say something of their own, below a section or all: no target, no sections that are repeated."""

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            path, child = f"{prefix}{key}", node._get_node(key)
            if key.startswith("_") or path in ("hydra", "experiment", *SEEN_ELSEWHERE):
                continue
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
                yield from walk(child, f"{path}.")
            elif not OmegaConf.is_missing(node, key) and not (
                child._is_interpolation() and isinstance(node[key], DictConfig | ListConfig)
            ):
                yield path

    return [key for key in walk(cfg, "") if key.startswith(section)]


def other(key: str, value: Any) -> Any:
    """Another value, possible or not."""
    if key in OTHERS:
        return OTHERS[key]
    if value is None:
        return NULLS.get(key.split(".")[-1], "nothing_of_this_name")
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, ListConfig):
        return OmegaConf.to_container(value)[:-1] or ["nothing_of_this_name"]
    return "nothing_of_this_name"


def dead_keys(cfg: DictConfig, keys: list[str], assembled: Callable[[str], Any], before: Any) -> list[str]:
    """Keys of which another value changes nothing. One that cannot be must be named, or its value."""
    dead = []
    for key in keys:
        value = other(key, OmegaConf.select(cfg, key))
        after = assembled(f"{key}={override(value)}")
        if after == before:
            dead.append(key)
        elif isinstance(after, str):
            assert key.split(".")[-1] in after or str(value) in after, f"{key}={value}: {after}"
    return dead


def attempt(make: Callable[[], Any]) -> Any:
    """What is made, or the error that says why it cannot be."""
    try:
        return make()
    except InstantiationException as error:
        return f"{error} {error.__cause__}"
    except (ValueError, OSError) as error:
        return str(error)


# ── generate.yaml ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_data(root / "data")
    write_run(root / "run")
    return root


def generation(world: Path, *changes: str) -> Any:
    """All that a roll-out is assembled to before the model begins."""

    def make() -> Any:
        cfg = generate.checked(config(world, *changes))
        generator = generate.generator_of(cfg, load_model(cfg.checkpoint, cfg.device))
        prompts = generate.prompts_of(cfg, generator)
        sampling, num_frames = generator.sampling, prompts.num_frames
        schemes = [sampling.scheme(name) for name in sampling.schemes]
        of_samples = [sampling.scheme(name, changes) for name, changes in generator.sample_schemes.items()]
        given = sampling.is_given(generator.table).tolist()
        rest = {f.name: getattr(generator, f.name) for f in dataclasses.fields(generator)
                if f.name not in ("sampling", "sample_schemes")}  # fmt: skip
        amounts, chains = Amounts(**cfg.pictures), prompts.chains
        parts = [rest, schemes, of_samples, given, [*sampling.generate], amounts, chains, num_frames]
        return [facts(part, set()) for part in parts]

    return attempt(make)


@pytest.mark.parametrize("option", ["maskgit", "roar", "ar"])
def test_a_generation(world: Path, option: str) -> None:
    before = generation(world, f"sampling={option}")
    assert before == generation(world, f"sampling={option}") and not isinstance(before, str)
    cfg = config(world, f"sampling={option}")
    keys = keys_of(cfg) if option == "maskgit" else keys_of(cfg, "sampling.")
    assert len(keys) > 40 and {"sampling.schemes.coords.top_k"} <= {*keys}
    unread = {"source", "inpaint", "forecast"}  # nothing by default: options of their own
    assert dead_keys(cfg, [key for key in keys if key not in unread],
                     lambda change: generation(world, f"sampling={option}", change), before) == []  # fmt: skip


def experiment(name: str, *changes: str) -> Any:
    """What an experiment of generate.py is assembled to; its scheme is what in-painting takes of the sampling."""

    def make() -> Any:
        made = instantiate(experiment_config(name, *changes)[SECTIONS[name]])
        scheme = None
        if isinstance(made, Inpainting):
            scheme, made = made.scheme, dataclasses.replace(made)
        held = {f.name: facts(getattr(made, f.name), set()) for f in dataclasses.fields(made) if f.name != "sampling"}
        return [held, facts(scheme, set())]

    return attempt(make)


SECTIONS = {"inpaint": "inpaint", "penn_forecast": "forecast"}
"""Experiments of generate.py and what they instantiate."""


def experiment_config(name: str, *changes: str) -> DictConfig:
    base = ["labels=DIR"] if name == "penn_forecast" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("generate", [f"experiment={name}", *base, *changes])


@pytest.mark.parametrize("name", SECTIONS)
def test_an_experiment_of_generate(name: str) -> None:
    cfg, before = experiment_config(name), experiment(name)
    keys = keys_of(cfg, f"{SECTIONS[name]}.")
    if name == "inpaint":
        keys += keys_of(cfg, "sampling.schemes.coords.")
    assert len(keys) >= 5 and not isinstance(before, str)
    assert dead_keys(cfg, keys, lambda change: experiment(name, change), before) == []


def test_every_experiment_of_generate_is_looked_at() -> None:
    seen_elsewhere = {"pose_following"}  # test_sampling_settings.py
    names = {path.stem for path in (CONF / "generate/experiment").glob("*.yaml")}
    assert names == SECTIONS.keys() | seen_elsewhere


@pytest.mark.parametrize("record", [DecodingConfig, Guidance, Amounts])
def test_records_without_a_target_are_read(record: type) -> None:
    assert {field.name for field in dataclasses.fields(record)} <= attributes_read()


# ── preprocess.yaml ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    write_world(root, 4)
    for name in ("run", "jump"):
        write_video(root / f"videos/{name}.mp4", num_frames=12)
    return root


DEMO = ["source.root=clips", "source.num_clips=2", "source.num_frames=2", "source.height=32", "source.width=32"]
BASES = {
    "demo": DEMO,
    "penn_action": ["source=penn_action", "source.root=FILMS", "canvas=person", "pairs=dense", "split=official"],
    "poses": ["source=poses", "source.labels=FILMS/labels", "canvas=pad", "pairs=stride", "split=pair",
              "captioner=none"],
    "video_files": ["source=video_files", "source.root=FILMS/videos"],
    "frame_folders": ["source=frame_folders", "source.root=FILMS/frames"],
    "blazepose": ["source=frame_folders", "source.root=FILMS/frames", "annotator=blazepose"],
    "chain6": [*DEMO, "canvas=stretch", "pairs=chain6"],
}  # fmt: skip
"""Sources with options of the other groups; `DEMO` is made where the test stands."""


def preprocessing(base: str, films: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *changes: str) -> Any:
    """All that a preprocessing is assembled to before the first clip is read, and what is asked of it afterwards."""
    asked: dict[str, Any] = {}

    def build(folder: Path, spec: Any, executor: Any, overwrite: bool) -> BuildResult:
        # Its settings are the configuration itself, for the manifest: whoever reads a key has it elsewhere too.
        asked.update(folder=folder, executor=executor, overwrite=overwrite,
                     spec=dataclasses.replace(spec, settings={}))  # fmt: skip
        source = spec.preparer.source
        if isinstance(source, DividedSource):
            if source.annotator is not None:  # there is nobody in these films
                return BuildResult(None, True)
            for clip_id in source.not_surveyed():
                source.survey(clip_id)
        asked["clips"] = source.clip_ids()
        clip = source.read(asked["clips"][0])  # what a source draws shows in its pictures alone
        asked["clip"] = [len(clip.frames), *clip.size, int(clip.frames[0].sum())]
        return BuildResult(None, True)

    monkeypatch.setattr(preprocess, "build_dataset", build)
    monkeypatch.setattr(preprocess, "sheet_pairs", lambda *arguments: asked.update(sheet=arguments[-2:]))
    monkeypatch.setattr(preprocess, "contact_sheet", lambda pairs: None)
    monkeypatch.setattr(preprocess, "write_png", lambda path, picture: asked.update(png=path))
    monkeypatch.setattr(preprocess, "print_summary", lambda *arguments: asked.update(shown=arguments[3]))
    here = tmp_path / str(len([*tmp_path.iterdir()]))
    here.mkdir()
    monkeypatch.chdir(here)  # demo clips of other settings are never overwritten: each time a place of its own
    cfg = preprocess_config(base, films, *changes)
    return attempt(lambda: preprocess.run(cfg) or facts(asked, set()))


def preprocess_config(base: str, films: Path, *changes: str) -> DictConfig:
    settings = [each.replace("FILMS", str(films)) for each in BASES[base]]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("preprocess", [*settings, "canvas.size=32", "workers=1", "out=data", *changes])


@pytest.mark.parametrize("base", BASES)
def test_a_preprocessing(base: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def assembled(*changes: str) -> Any:
        return preprocessing(base, films, monkeypatch, tmp_path, *changes)

    cfg, before = preprocess_config(base, films), assembled()
    assert before == assembled() and not isinstance(before, str), before
    assert before["folder"] != assembled("out=elsewhere")["folder"]
    keys = [key for key in keys_of(cfg) if key != "modalities"]
    assert len(keys) > 20
    assert dead_keys(cfg, keys, assembled, before) == []


def test_a_key_that_nobody_reads_is_found(world: Path) -> None:
    cfg = OmegaConf.create({"used": 1, "idle": 2})
    assert dead_keys(cfg, keys_of(cfg), lambda change: change.startswith("used"), False) == ["idle"]
