"""The folder that generate.py leaves: pictures, films, tokens, scores, and a report of it all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from m3.core.validation import check
from m3.generation.completion import Completion, completion_arrays, completion_sheet
from m3.generation.generator import Generator, RollOuts
from m3.metrics import Score
from m3.reporting.figures import choose_samples, rollout_sheet, write_png
from m3.reporting.html import Report, write_report
from m3.reporting.metrics_file import NO_TRUTH, SCHEMA_VERSION, metrics_record, write_metrics
from m3.reporting.plots import plot_title, scores_plot
from m3.reporting.rollout_files import FOLDER, write_folders, write_npz, write_pictures, write_tokens
from m3.reporting.tables import print_scores

_REPORTED_DRAWS, _REPORTED_CELL_PX = 3, 128
_FILES = ("report.html", "rollout.png", "rollout.gif", "rollout.mp4", "generated.png", "metrics.json", "scores.png",
          "tokens.npz", FOLDER)  # fmt: skip


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
    """What is said of a run besides its results.

    facts: for metrics.json. origin: where the starts come from, for people.
    settings: name → text. command: that ran, or None.
    """

    facts: Mapping[str, Any]
    origin: str
    settings: Mapping[str, str]
    command: str | None


def write_roll_outs(out: Path, made: RollOuts, scores: list[Score], amounts: Amounts, about: About) -> None:
    """Writes all files of roll-outs and prints the scores."""
    _clear(out)
    chains, has_truth = made.starts.chains, made.starts.has_truth
    write_pictures(out, made, amounts.num_samples, amounts.cell_px)
    write_tokens(out / "tokens.npz", made, range(len(chains)))
    write_folders(out, made, choose_samples(chains, amounts.num_folders), amounts.cell_px)
    record = metrics_record(scores, {**about.facts, "num_samples": len(chains)}, has_truth)
    write_metrics(out / "metrics.json", record)
    if scores:
        write_png(out / "scores.png", scores_plot(scores, plot_title(len(chains), len(set(made.starts.clip)))))
    strips = [
        (chains[n].title, rollout_sheet(made.panels_of([n], _REPORTED_DRAWS), [""], amounts.reported_cell_px))
        for n in choose_samples(chains, amounts.num_reported)
    ]
    lead = f"{len(chains)} roll-outs of {made.truth.is_present.shape[1] - 1} frames, from {about.origin}."
    report = Report("Roll-outs", lead, out / "rollout.mp4", out / "scores.png" if scores else None, {"": scores},
                    record["absent"], strips)  # fmt: skip
    console = Console()
    print_scores(console, scores, f"{len(chains)} roll-outs")
    if not has_truth:
        console.print(f"no scores against a truth: {NO_TRUTH}", highlight=False)
    _finish(out, report, amounts, about, console)


def write_completion(
    out: Path,
    generator: Generator,
    made: Completion,
    scores: dict[str, list[Score]],
    amounts: Amounts,
    about: About,
) -> None:
    """Writes all files of completed pairs and prints the scores."""
    _clear(out)
    chains, truth = made.starts.chains, generator.decoded(made.starts.tokens)

    def sheet(rows: Sequence[int], cell_px: int) -> Image.Image:
        return completion_sheet(made, generator.tokenizer, generator.codec, truth, rows, cell_px, _REPORTED_DRAWS)

    write_png(out / "generated.png", sheet(choose_samples(chains, amounts.num_samples), amounts.cell_px))
    write_npz(out / "tokens.npz", completion_arrays(made))
    frames = {frame: metrics_record(of_frame, {}) for frame, of_frame in scores.items()}
    record = {"schema_version": SCHEMA_VERSION, **about.facts, "num_samples": len(chains), "frames": frames}
    write_metrics(out / "metrics.json", record)
    rows = choose_samples(chains, amounts.num_reported)
    strips = [(f"{len(rows)} of {len(chains)} pairs", sheet(rows, amounts.reported_cell_px))] if rows else []
    given = ", ".join(
        entry if isinstance(entry, str) else f"{len(parts)} parts of {name}"
        for entry in generator.sampling.given
        for name, parts in ({entry: ()} if isinstance(entry, str) else entry).items()
    ) or "nothing"  # fmt: skip
    lead = f"{', '.join(made.generated)} from {given}: {len(chains)} pairs of {about.origin}."
    report = Report("Generated", lead, out / "generated.png", None, scores, {}, strips)
    console = Console()
    for frame, of_frame in scores.items():
        print_scores(console, of_frame, f"{frame} of {len(chains)} pairs")
    _finish(out, report, amounts, about, console)


def _clear(out: Path) -> None:
    """An empty folder, but for what is not generate.py's: nothing of an earlier run stays beside this one's."""
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (out / name).is_file():
            (out / name).unlink()
    for tokens in (out / FOLDER).glob("*/tokens.npz"):
        shutil.rmtree(tokens.parent)


def _finish(out: Path, report: Report, amounts: Amounts, about: About, console: Console) -> None:
    """Writes report.html, if it is wanted, and lists the files."""
    if amounts.num_reported:
        write_report(out / "report.html", replace(report, settings=about.settings, command=about.command))
    for path in sorted(path for path in out.iterdir() if path.name in _FILES):
        console.print(str(path), highlight=False, soft_wrap=True)
