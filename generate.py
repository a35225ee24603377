"""Rolls a trained model out over a split, scores it and draws it: assembles what conf/generate.yaml names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from m3.batches.table import TokenTable
from m3.checkpoint import BINDING, LoadedModel, load_model
from m3.clips.base import ClipSource
from m3.clips.canvas import CANVASES
from m3.forecast.benchmark import Benchmark, ForecastResult
from m3.inpainting import Inpainting, Result
from m3.metrics import (
    Context,
    PoseFrames,
    RolloutTokens,
    Score,
    check_source,
    constant_velocity,
    metrics_record,
    plot_title,
    previous_rows,
    real_frames,
    score,
    scores_plot,
    write_metrics,
)
from m3.pictures import choose_samples, rollout_animation, rollout_sheet, write_gif, write_png
from m3.progress import counted
from m3.rollout import (
    SUCCESSOR_OF,
    Chain,
    Frames,
    TokenFrames,
    check_schemes,
    decode,
    find_chains,
    num_steps,
    roll_out,
    true_frames,
)
from m3.sampling.settings import Sampling, SchemeSettings
from m3.sweep import ignore_sweep_warnings, run_trial, write_result
from m3.tokens.base import PictureTokenizer
from m3.tokens.joints import JointCodec

SCRIPT = Path(__file__).resolve()


@dataclass(frozen=True)
class Generation:
    """What `run` made.

    chains: of the split, one for each sample.
    predicted, truth: (N, T + 1) frames.
    scores: per horizon.
    sheet, animation, metrics, plot: paths of rollout.png, rollout.gif, metrics.json and scores.png.
    """

    chains: list[Chain]
    predicted: Frames
    truth: Frames
    scores: list[Score]
    sheet: Path
    animation: Path
    metrics: Path
    plot: Path


def run_inpainting(cfg: DictConfig) -> Result:
    """Hides and generates joints as `cfg` (conf/generate.yaml with an `inpaint`) says; raises what `run` raises."""
    cfg = _checked(cfg)
    inpainting: Inpainting = instantiate(cfg.inpaint)
    result = inpainting.run(_loaded(cfg), Path(cfg.out))
    _report_inpainting(result.record, Path(cfg.out))
    return result


def run_forecast(cfg: DictConfig) -> ForecastResult:
    """Scores the forecasts that `cfg` (conf/generate.yaml with a `forecast`) describes; raises what `run` raises."""
    cfg = _checked(cfg)
    benchmark: Benchmark = instantiate(cfg.forecast)
    return benchmark.run(_loaded(cfg), Path(cfg.out))


def run(cfg: DictConfig) -> Generation:
    """Generates what `cfg` (conf/generate.yaml) describes.

    Raises:
        hydra's InstantiationException, FileNotFoundError or ValueError, before any work, for settings that cannot
        be and for a checkpoint, data and tokenizer that do not belong together; each names the key or the file.
    """
    cfg = _checked(cfg)
    sampling: Sampling = instantiate(cfg.sampling)
    loaded = _loaded(cfg)
    schemes = sampling.for_table(loaded.table)
    check_schemes(schemes, loaded.table)
    split = TokenTable.open(cfg.data.root, cfg.data.split)
    tokenizer: PictureTokenizer = instantiate(cfg.tokenizer)
    _check_identities(cfg, loaded, split, tokenizer)
    source = _source(cfg, split)
    tokens = split.columns(loaded.table)
    chains = find_chains(split.pairs, cfg.rollout.frames, cfg.rollout.starts, cfg.rollout.max_samples)
    if not chains:
        raise ValueError(f"data.split={cfg.data.split}: {cfg.data.root} has no pairs there; choose another split")

    true_tokens = true_frames(tokens, loaded.table, chains, cfg.rollout.frames)
    new_tokens = _roll_out(cfg, loaded, schemes, chains, true_tokens)
    codec, canvas_size = JointCodec(split.manifest.canvas_size), split.manifest.canvas_size
    predicted = decode(new_tokens, tokenizer, codec, canvas_size)
    truth = decode(true_tokens, tokenizer, codec, canvas_size)
    extent = np.array([chain.pairs[0].pose_extent_px or math.nan for chain in chains])
    rows = previous_rows(split.pairs, chains)
    previous = codec.decode(tokens[rows][:, loaded.table.columns("coords")].reshape(len(rows), 3, -1))
    moving = constant_velocity(truth, *previous, rows >= 0)
    context = _context(split, chains, source, moving, RolloutTokens(new_tokens, true_tokens, codec))
    with counted(cfg.rollout.frames, "scores") as on_horizon:
        scores = score(predicted, truth, extent, on_horizon, context)
    return _write(cfg, loaded, chains, predicted, truth, scores)


def _loaded(cfg: DictConfig) -> LoadedModel:
    if cfg.checkpoint is None:
        raise ValueError(
            "checkpoint=null: train a model with `python train.py name=NAME`, then give checkpoint=outputs/train/NAME"
        )
    return load_model(cfg.checkpoint, cfg.device)


def _checked(cfg: DictConfig) -> DictConfig:
    """The configuration with its device chosen. Raises ValueError naming a key with an impossible value."""
    cfg = OmegaConf.create(OmegaConf.to_container(cfg))
    for key in ("rollout.batch_size", "pictures.num_samples", "pictures.cell_px"):
        if OmegaConf.select(cfg, key) < 1:
            raise ValueError(f"{key}={OmegaConf.select(cfg, key)}: need at least 1")
    if cfg.device == "auto":
        cfg.device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=cfg.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={cfg.device}: {str(error).splitlines()[0]}") from error
    return cfg


def _check_identities(cfg: DictConfig, loaded: LoadedModel, split: TokenTable, tokenizer: PictureTokenizer) -> None:
    """Raises ValueError unless model, data and tokenizer speak of the same picture tokens and canvas."""
    stored = split.manifest.tokenizer
    if (tokenizer.name, tokenizer.fingerprint) != (stored["name"], stored["fingerprint"]):
        raise ValueError(
            f"tokenizer: {tokenizer.name} {tokenizer.fingerprint[:12]}… is not the one that made {cfg.data.root}, "
            f"{stored['name']} {stored['fingerprint'][:12]}…: choose it with tokenizer=… and tokenizer.path=…, "
            "or make data and model again"
        )
    values = split.manifest.canvas_size, stored["name"], stored["fingerprint"]
    of_data = dict(zip(BINDING, values))
    differing = [
        f"{key} is {loaded.data[key]} there and {value} here"
        for key, value in of_data.items()
        if loaded.data[key] != value
    ]
    if differing:
        raise ValueError(
            f"{cfg.checkpoint} was trained on data other than {cfg.data.root}: {'; '.join(differing)}; "
            "give the data.root it was trained on, or data made with the same canvas and tokenizer"
        )


def _source(cfg: DictConfig, split: TokenTable) -> ClipSource | None:
    """Where the real frames are, if `source=…` says so. Raises ValueError where these are not the shards' clips."""
    if cfg.get("source") is None:
        return None
    if split.manifest.canvas["mode"] not in CANVASES:
        raise ValueError(f"source={cfg.source.name}: {cfg.data.root} does not say which canvas its frames had")
    source: ClipSource = instantiate(cfg.source)
    check_source(source, OmegaConf.to_container(cfg.source, resolve=True), split.manifest)
    return source


def _context(
    split: TokenTable, chains: Sequence[Chain], source: ClipSource | None, moving: PoseFrames, tokens: RolloutTokens
) -> Context:
    """What the scores need besides pictures and joints of roll-outs and truth."""
    clip = np.array([chain.pairs[0].clip for chain in chains])
    action = [chain.pairs[0].action for chain in chains]
    if source is None:
        return Context(clip, action, moving, tokens)
    manifest = split.manifest
    canvas = CANVASES[manifest.canvas["mode"]](manifest.canvas_size)
    real = real_frames(source, canvas, chains, tokens.truth, manifest.has_joints)
    return Context(clip, action, moving, tokens, *real)


def _roll_out(
    cfg: DictConfig, loaded: LoadedModel, schemes: Sequence[SchemeSettings], chains: Sequence[Chain], truth: TokenFrames
) -> TokenFrames:
    sample = torch.tensor([chain.rows[0] for chain in chains], device=cfg.device)
    reference = {name: torch.as_tensor(getattr(truth, name)[:, 0], device=cfg.device) for name in SUCCESSOR_OF}
    num_frames, batch_size = cfg.rollout.frames, cfg.rollout.batch_size
    total = num_steps(schemes, num_frames, len(chains), batch_size)
    with counted(total, f"roll-out of {len(chains)} samples") as on_step:
        return roll_out(loaded.model, reference, schemes, num_frames, cfg.seed, sample, batch_size, on_step)


def _write(
    cfg: DictConfig, loaded: LoadedModel, chains: list[Chain], predicted: Frames, truth: Frames, scores: list[Score]
) -> Generation:
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    shown = choose_samples(chains, cfg.pictures.num_samples)
    titles = [chains[n].title for n in shown]
    some_predicted, some_truth = predicted.samples(shown), truth.samples(shown)
    made = Generation(chains, predicted, truth, scores, out / "rollout.png", out / "rollout.gif", out / "metrics.json",
                      out / "scores.png")  # fmt: skip
    write_png(made.sheet, rollout_sheet(some_predicted, some_truth, titles, cfg.pictures.cell_px))
    write_gif(made.animation, rollout_animation(some_predicted, some_truth, titles, cfg.pictures.cell_px))
    write_metrics(made.metrics, metrics_record(scores, _facts(cfg, loaded, len(chains))))
    num_clips = len({chain.pairs[0].clip for chain in chains})
    write_png(made.plot, scores_plot(scores, plot_title(len(chains), num_clips)))
    _report(made)
    return made


def _facts(cfg: DictConfig, loaded: LoadedModel, num_samples: int) -> dict[str, Any]:
    return {
        "checkpoint": str(cfg.checkpoint),
        "step": loaded.step,
        "data": {**OmegaConf.to_container(cfg.data), **{key: loaded.data[key] for key in BINDING}},
        "num_samples": num_samples,
        "seed": cfg.seed,
        "rollout": OmegaConf.to_container(cfg.rollout),
        "sampling": OmegaConf.to_container(cfg.sampling),
    }


_SHOWN = {"pck@0.1": (100, "PCK@0.1 %"), "pck@0.05": (100, "PCK@0.05 %"), "joint_error": (1, "error px"),
          "psnr": (1, "PSNR dB"), "ssim": (1, "SSIM")}  # fmt: skip
"""Columns of the printed table: the factor and unit in which people read a score."""


def _report(made: Generation) -> None:
    scores = {s.name: s for s in made.scores}
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("n", justify="right")
    for _, header in _SHOWN.values():
        table.add_column(header, justify="right", no_wrap=True)
    for k, num_samples in enumerate(scores["psnr"].num_samples):
        cells = [_cell(scores[name], k, factor) for name, (factor, _) in _SHOWN.items()]
        table.add_row(f"+{k + 1}", str(num_samples), *cells)
    console = Console()
    says = "model | nothing moves, n samples with truth; green: better beyond the 95% interval over clips"
    console.print(f"{len(made.chains)} roll-outs; {says}:", highlight=False)
    console.print(table)
    for name, path in (("pictures", made.sheet), ("", made.animation), ("scores", made.metrics), ("", made.plot)):
        console.print(f"{name:9} {path}", highlight=False, soft_wrap=True)


def _report_inpainting(record: dict[str, Any], out: Path) -> None:
    console = Console()
    hidden = f"{record['num_hidden']} of 13 joints hidden in {record['num_poses']} poses of {record['num_clips']} clips"
    console.print(f"{hidden}; mean error over {record['num_scored_joints']} hidden joints:", highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False)
    for name, entry in record["guesses"].items():
        within = "" if entry["ci95"] is None else "95% interval {:.2f} … {:.2f}".format(*entry["ci95"])
        table.add_row(name.replace("_", " "), f"[bold]{entry['mean_error_px']:.2f} px[/]", within)
    console.print(table)
    for name in ("inpainting.png", "inpainting.json"):
        console.print(str(out / name), highlight=False, soft_wrap=True)


def _cell(score: Score, k: int, factor: float) -> str:
    model, still = score.model[k], score.nothing_moves[k]
    if model is None or still is None:
        return "–"
    digits = 3 if score.name == "ssim" else 1
    least_gain = score.gains["nothing_moves"].low[k]
    style = "bold green" if least_gain is not None and least_gain > 0 else "bold"
    return f"[{style}]{model * factor:.{digits}f}[/] | {still * factor:.{digits}f}"


def mean_pck(scores: Sequence[Score]) -> float:
    """PCK@0.1 of the model, averaged over the horizons that have truth; NaN without any joints."""
    values = [value for s in scores if s.name == "pck@0.1" for value in s.model if value is not None]
    return sum(values) / len(values) if values else math.nan


@hydra.main(version_base="1.3", config_path="conf", config_name="generate")
def main(cfg: DictConfig) -> float:
    """Returns the mean PCK@0.1, the number that a sweep maximises.

    Of forecasts it is the mean PCK@0.05, of in-painting minus the mean error in px.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_trial(SCRIPT, "out", HydraConfig.get().callbacks.sweep.direction)
    try:
        value = _generate(cfg)
    except MissingMandatoryValue as error:
        raise SystemExit(f"error: {error.full_key} has no default: give {error.full_key}=…") from None
    except (OSError, ValueError, HydraException) as error:
        is_wrapped = isinstance(error, InstantiationException) and isinstance(error.__cause__, OSError | ValueError)
        raise SystemExit(f"error: {error.__cause__ if is_wrapped else error}") from None
    write_result(Path(cfg.out), value)
    return value


def _generate(cfg: DictConfig) -> float:
    if cfg.forecast is not None:
        return run_forecast(cfg).scores.mean_pck
    if cfg.inpaint is not None:
        return -run_inpainting(cfg).record["guesses"]["model"]["mean_error_px"]
    return mean_pck(run(cfg).scores)


if __name__ == "__main__":
    ignore_sweep_warnings()
    main()
