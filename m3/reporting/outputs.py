"""The output folder of generate.py: pictures, films, tokens, scores, and a report of all of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from m3.core.files import make_folder
from m3.core.frames import PairChain
from m3.core.terminal import PlainConsole
from m3.core.validation import check
from m3.generation.completion import FRAMES, action_confusion, generated_frames
from m3.generation.generation import Generation
from m3.metrics import MetricSpec, Score
from m3.metrics.specs import NO_TRUTH
from m3.reporting.figures import (
    choose_samples,
    completion_panels,
    completion_sheet,
    rollout_animation,
    rollout_panels,
    rollout_sheet,
    stacked_cells,
)
from m3.reporting.files import write_json, write_npz, write_png
from m3.reporting.html import Exhibit, Report, write_report
from m3.reporting.metrics_file import SCHEMA_VERSION, confusion_record, metrics_record
from m3.reporting.plots import confusion_plot, plot_title, scores_plot
from m3.reporting.tables import print_confusion, print_in_words, print_scores
from m3.reporting.token_files import completion_arrays, rollout_arrays, sample_arrays
from m3.reporting.video import write_gif, write_mp4

Scores = Mapping[str, list[Score]]
"""Scores of roll-outs under "", those of completed pairs by frame, "reference" and "successor"."""

FOLDER = "samples"
_SHEET_SAMPLES = 3
"""Random samples of one reference in a sheet; the folders hold all."""
_REPORTED_CELL_PX = 128
_PARTLY_GIVEN = "parts of it were given"
_FILES = ("report.html", "rollout.png", "rollout.gif", "rollout.mp4", "generated.png", "metrics.json", "scores.png",
          "confusion.png", "tokens.npz", "samples.npz", FOLDER)  # fmt: skip


@dataclass(frozen=True)
class Amounts:
    """How much is shown: the section `pictures` of conf/generate.yaml, whose keys are these fields.

    num_samples: references in the pictures. num_folders: of samples/. num_reported: in report.html; 0 writes none.
    cell_px: side of a frame.

    Raises ValueError naming the key for an impossible value.
    """

    num_samples: int
    num_folders: int
    num_reported: int
    cell_px: int

    def __post_init__(self) -> None:
        for each in fields(self):
            low = 0 if each.name in ("num_folders", "num_reported") else 1
            check(f"pictures.{each.name}", getattr(self, each.name), int, low=low)

    @property
    def reported_cell_px(self) -> int:
        return min(self.cell_px, _REPORTED_CELL_PX)


@dataclass(frozen=True)
class About:
    """Facts of a run besides its results.

    facts: for metrics.json. origin: where the prompts come from; given: their given parts; asked: what was asked for
    in place of what the clips have; all as text for users.
    settings: name → text. command: that ran, or None.
    """

    facts: Mapping[str, Any]
    origin: str
    given: str
    asked: Sequence[str]
    settings: Mapping[str, str]
    command: str | None

    @property
    def all_asked(self) -> str:
        """A sentence for the report; empty where nothing was asked."""
        return f" Asked: {', '.join(self.asked)}." if self.asked else ""


def write_generation(
    out: Path, made: Generation, scores: Scores, metrics: Mapping[str, MetricSpec], amounts: Amounts, about: About
) -> None:
    """Writes all files of roll-outs or completed pairs, and prints the scores.

    scores: those of roll-outs under "", those of completed pairs by frame. metrics: those of the model.
    """
    _clear(out)
    console = PlainConsole()
    for name, reason in made.undecoded.items():
        console.print(f"{name}: {reason}", highlight=False, soft_wrap=True, markup=False)
    write = _write_roll_outs if made.is_rollout else _write_completion
    if any(scores.values()):
        write_npz(out / "samples.npz", sample_arrays(made, scores))
    report = write(out, made, scores, metrics, amounts, about, console)
    if amounts.num_reported:
        title = f"{report.title} of {Path(str(about.facts['checkpoint'])).name}"
        facts = {
            "Model": f"{about.facts['checkpoint']}, step {about.facts['step']:,}",
            "Data": about.origin,
            "Made": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, by m3 {version('m3-motion')}",
        }
        report = replace(report, title=title, facts=facts, settings=about.settings, command=about.command)
        write_report(out / "report.html", report)
    for path in sorted(path for path in out.iterdir() if path.name in _FILES):
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)


def _write_roll_outs(
    out: Path,
    made: Generation,
    scores: Scores,
    metrics: Mapping[str, MetricSpec],
    amounts: Amounts,
    about: About,
    console: Console,
) -> Report:
    chains, has_truth, found = made.prompts.chains, made.prompts.has_truth, scores[""]
    rows = choose_samples(chains, amounts.num_samples)
    titles, shown = [chains[n].title for n in rows], rollout_panels(made, rows, _SHEET_SAMPLES)
    write_png(out / "rollout.png", rollout_sheet(shown, titles, amounts.cell_px))
    animation = rollout_animation(shown, titles, amounts.cell_px)
    write_gif(out / "rollout.gif", animation)
    write_mp4(out / "rollout.mp4", animation)
    write_npz(out / "tokens.npz", rollout_arrays(made, range(len(chains))))
    write_sample_folders(out, made, choose_samples(chains, amounts.num_folders), amounts.cell_px)
    record = metrics_record(found, {**about.facts, "num_samples": len(chains)}, has_truth, metrics, made.undecoded)
    write_json(out / "metrics.json", record)
    if found:
        write_png(out / "scores.png", scores_plot(found, plot_title(len(chains), len(set(made.prompts.clip)))))
    exhibits = []
    for n in choose_samples(chains, amounts.num_reported):
        shown = rollout_panels(made, [n], _SHEET_SAMPLES)
        cells = stacked_cells(shown, 0, amounts.reported_cell_px)
        exhibits.append(Exhibit(chains[n].title, cells, [panel.name for panel in shown]))
    print_scores(console, found, f"{len(chains)} roll-outs")
    print_in_words(console, found)
    if not has_truth:
        console.print(f"no scores against a truth: {NO_TRUTH}", highlight=False)
    lead = f"{len(chains)} roll-outs of {made.prompts.num_frames} frames, from {about.origin}.{about.all_asked}"
    absent = {metrics[name].title if name in metrics else name: why for name, why in record["absent"].items()}
    return Report("Roll-outs", lead, out / "rollout.mp4", scores, absent, exhibits)


def _write_completion(
    out: Path,
    made: Generation,
    scores: Scores,
    metrics: Mapping[str, MetricSpec],
    amounts: Amounts,
    about: About,
    console: Console,
) -> Report:
    chains = made.prompts.chains
    rows = choose_samples(chains, amounts.num_samples)
    write_png(out / "generated.png", completion_sheet(made, rows, amounts.cell_px, _SHEET_SAMPLES))
    write_npz(out / "tokens.npz", completion_arrays(made))
    frames, absent = {}, dict(made.undecoded)
    for frame, generated in generated_frames(made).items():
        specs = {name: spec for name, spec in metrics.items() if spec.modality in generated and not spec.rollouts_only}
        undecoded = {name: reason for name, reason in made.undecoded.items() if name in generated}
        has_truth = bool(made.truth.is_present[:, frame].any())
        record = metrics_record(scores[FRAMES[frame]], {}, has_truth, specs, undecoded)
        for name in [name for name in specs if name in record["absent"]]:
            if specs[name].is_of_tokens and _is_partly_given(made, frame, specs[name].modality):
                record["absent"][name] = _PARTLY_GIVEN
            absent[f"{specs[name].title}, {FRAMES[frame]}"] = record["absent"][name]
        frames[FRAMES[frame]] = record
    record = {"schema_version": SCHEMA_VERSION, **about.facts, "num_samples": len(chains), "frames": frames}
    recognized = action_confusion(made)
    if recognized is not None:
        record["confusion"] = confusion_record(recognized)
        write_png(out / "confusion.png", confusion_plot(recognized, f"{recognized.num_samples} clips and moments"))
    write_json(out / "metrics.json", record)
    rows = choose_samples(chains, amounts.num_reported)
    shown, cell_px = completion_panels(made, rows, _SHEET_SAMPLES), amounts.reported_cell_px
    exhibits = [
        Exhibit(chains[n].title, [(panel.name, panel.cell(k, 0, cell_px)) for panel in shown])
        for k, n in enumerate(rows)
    ]
    for frame, found in scores.items():
        print_scores(console, found, f"{frame} of {len(chains)} pairs")
        if frame == FRAMES[1]:
            print_in_words(console, found)
    if recognized is not None:
        print_confusion(console, recognized, f"{recognized.num_samples} actions")
    lead = f"{', '.join(made.generated)} from {about.given}: {len(chains)} pairs of {about.origin}.{about.all_asked}"
    return Report("Completed pairs", lead, out / "generated.png", scores, absent, exhibits)


def _is_partly_given(made: Generation, frame: int, modality: str) -> bool:
    return made.given.tokens is not None and bool(made.given.tokens.is_known[modality][:, frame].any())


def write_sample_folders(out: Path, made: Generation, rows: Sequence[int], cell_px: int) -> list[Path]:
    """A folder OUT/samples/CLIP-FRAME for each of the rows: rollout.png, rollout.gif and tokens.npz."""
    folders = []
    for n in rows:
        chain = made.prompts.chains[n]
        folder = out / FOLDER / folder_name(chain)
        make_folder(folder)
        shown = rollout_panels(made, [n], len(made.samples))
        write_png(folder / "rollout.png", rollout_sheet(shown, [chain.title], cell_px))
        write_gif(folder / "rollout.gif", rollout_animation(shown, [chain.title], cell_px))
        write_npz(folder / "tokens.npz", rollout_arrays(made, [n]))
        folders.append(folder)
    return folders


def folder_name(chain: PairChain) -> str:
    """CLIP-FRAME, like the keys of shards."""
    return f"{chain.pairs[0].clip}-{chain.pairs[0].reference:06d}"


def _clear(out: Path) -> None:
    """Removes the files of an earlier run of generate.py, and no others."""
    for name in _FILES:
        if (out / name).is_file():
            (out / name).unlink()
    for tokens in (out / FOLDER).glob("*/tokens.npz"):
        shutil.rmtree(tokens.parent)
