"""Scores of generate.py in a model card: tables for people, and the model index for the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult

from m3.checkpoint.resume_check import BINDING
from m3.core.modalities import ModalityTable
from m3.core.reading import parse_json, read_file
from m3.vocabularies import metrics_of

_MAX_BYTES = 2**28

ACCEPTED = "metrics.json, forecast.json and inpainting.json of generate.py"


class _Unit(NamedTuple):
    """How a score is printed: value · factor with `digits` decimals, under a name with its unit."""

    factor: int
    digits: int
    name: str


def _units(table: ModalityTable) -> dict[str, _Unit]:
    """The metrics of a model that its card shows: those with a short label."""
    shown = [spec for spec in metrics_of(table).values() if spec.short is not None]
    return {spec.name: _Unit(spec.factor, spec.num_digits, spec.short_title) for spec in shown}


@dataclass(frozen=True)
class Subject:
    """The model of a card, which its scores must belong to.

    table: the model's modalities. data: identity of its training data. step: optimizer steps of its training.
    weights: fingerprint of the weights. num_parameters: number of weights.
    """

    table: ModalityTable
    data: Mapping[str, Any]
    step: int
    weights: str
    num_parameters: int

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """Differences between the model of a record of scores and this one. Raises KeyError if it names no model."""
        theirs = {"step": record["step"], "weights": record.get("weights", self.weights)}
        ours = {"step": self.step, "weights": self.weights}
        for key in BINDING:
            theirs[key], ours[key] = record.get("data", self.data).get(key, self.data[key]), self.data[key]
        return [f"{key} is {theirs[key]} there and {ours[key]} here" for key in ours if theirs[key] != ours[key]]


class Value(NamedTuple):
    """One score of the model.

    metric: its name in metrics.json. name: its name for people, with the unit. number: the score in that unit.
    args: parameters of the metric, such as the horizon.
    """

    metric: str
    name: str
    number: float
    args: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one task on one split of a data set.

    description: of the numbers in the table. table: rows of the table, the header first.
    """

    task: str
    dataset: str
    split: str
    description: str
    table: Sequence[Sequence[str]]
    values: Sequence[Value]

    def markdown(self) -> str:
        header, *rows = ["| " + " | ".join(row) + " |" for row in self.table]
        lines = [header, "|" + "---|" * len(self.table[0]), *rows]
        return f"### {self.task}\n\n{self.description}\n\n" + "\n".join(lines)

    def results(self) -> list[EvalResult]:
        """Entries of the hub's model index, which distinguishes tasks by their identifier."""
        return [
            EvalResult(
                task_type=_identifier(self.task),
                task_name=self.task,
                dataset_type=_identifier(self.dataset),
                dataset_name=self.dataset,
                dataset_split=self.split,
                metric_type=value.metric,
                metric_name=value.name,
                metric_value=value.number,
                metric_args=value.args or None,
            )
            for value in self.values
        ]


def read_evaluations(file: str | Path, subject: Subject) -> list[Evaluation]:
    """The scores in a file of generate.py.

    Raises:
        FileNotFoundError. ValueError naming the file if it holds no such scores, scores of another model, or scores of
        input files that are not part of a data set.
    """
    file = Path(file)
    record = parse_json(read_file(file, _MAX_BYTES), str(file), f"accepted are {ACCEPTED}")
    keys = {*record} if isinstance(record, dict) else set()
    schema = next((each for each in _SCHEMAS if each.keys <= keys and record["schema_version"] == each.version), None)
    if schema is None:
        version = f" of schema version {record['schema_version']}" if "schema_version" in keys else ""
        raise ValueError(f"{file}: no scores{version} that a card can show; accepted are {ACCEPTED}")
    try:
        if differing := subject.differences(record["model"] if "model" in keys else record):
            raise ValueError(f"the scores are not those of this model: {'; '.join(differing)}")
        evaluations = list(schema.read(record, _units(subject.table)))
        if not any(evaluation.values for evaluation in evaluations):
            raise ValueError("holds no score with a truth to compare with")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{file}: damaged, it lacks something ({type(error).__name__}: {error})") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return evaluations


def _rollout_evaluations(record: Mapping[str, Any], units: Mapping[str, _Unit]) -> Iterable[Evaluation]:
    dataset, split = _dataset(record)
    shown = {name: record["scores"][name]["horizons"] for name in units if name in record["scores"]}
    if not shown:
        raise ValueError(f"holds none of {', '.join(units)}")
    horizons = next(iter(shown.values()))
    header = ["frames ahead", *(f"+{each['horizon']}" for each in horizons)]
    rows = [[units[name].name, *(_cell(units[name], each) for each in shown[name])] for name in shown]
    values = [
        Value(name, f"{units[name].name}, {each['horizon']} ahead", number, {"horizon": each["horizon"]})
        for name in shown
        for each in shown[name]
        if (number := _number(units[name], each["model"])) is not None
    ]
    counts = ", ".join(f"{each['num_samples']:,}" for each in horizons)
    description = (
        f'Model / "nothing moves" (the reference, copied) on {record["num_samples"]:,} roll-outs of the {split} split '
        f"of {dataset}; with a truth at each horizon: {counts}."
    )
    yield Evaluation("Roll-outs of human motion", dataset, split, description, [header, *rows], values)


def _pair_evaluations(record: Mapping[str, Any], units: Mapping[str, _Unit]) -> Iterable[Evaluation]:
    dataset, split = _dataset(record)
    given = ", ".join(map(_named, record["sampling"]["given"])) or "nothing"
    for frame, result in record["frames"].items():
        shown = {name: result["scores"][name]["horizons"][0] for name in units if name in result["scores"]}
        rows = [[units[name].name, _cell(units[name], each)] for name, each in shown.items()]
        values = [
            Value(name, units[name].name, number, {})
            for name, each in shown.items()
            if (number := _number(units[name], each["model"])) is not None
        ]
        generated = ", ".join(record["sampling"]["generate"])
        description = (
            f"Model / the pair's other frame, copied, on {record['num_samples']:,} pairs of the {split} split of "
            f"{dataset}."
        )
        table = [[f"the {frame}", "model / other frame"], *rows]
        yield Evaluation(f"{generated} from {given}, the {frame}", dataset, split, description, table, values)


def _forecast_evaluations(record: Mapping[str, Any], units: Mapping[str, _Unit]) -> Iterable[Evaluation]:
    metric, unit = f"pck@{record['threshold']:g}", _Unit(1, 1, f"PCK@{record['threshold']:g}, %")
    steps = range(1, len(record["pck"]) + 1)
    pairs = [{"model": m, "nothing_moves": n} for m, n in zip(record["pck"], record["nothing_moves"], strict=True)]
    header = ["steps ahead", *(f"+{step}" for step in steps)]
    values = [
        Value(metric, f"{unit.name}, {step} ahead", number, {"horizon": step})
        for step, value in zip(steps, record["pck"])
        if (number := _number(unit, value)) is not None
    ]
    limit = record["settings"]["max_sequences"]
    description = (
        f'Model / "nothing moves" (the pose, copied) on {record["num_sequences"]:,} sequences'
        f"{'' if limit is None else ', evenly spaced,'} of {record['num_clips']:,} clips of Penn Action that are not "
        "for training, a step being a seventeenth of the clip."
    )
    table = [header, [unit.name, *(_cell(unit, pair) for pair in pairs)]]
    yield Evaluation("Forecasting of poses", "Penn Action", "test", description, table, values)


def _inpainting_evaluations(record: Mapping[str, Any], units: Mapping[str, _Unit]) -> Iterable[Evaluation]:
    dataset, split = _dataset(record)
    unit, errors = units["joint_error"], {name: guess["mean_error_px"] for name, guess in record["guesses"].items()}
    description = (
        f"{record['num_hidden']} of 13 joints hidden in {record['num_poses']:,} poses of {record['num_clips']:,} clips "
        f"of the {split} split of {dataset}: error over {record['num_scored_joints']:,} hidden joints."
    )
    table = [["", unit.name], *([name.replace("_", " "), _text(unit, error)] for name, error in errors.items())]
    number, args = _number(unit, errors["model"]), {"num_hidden": record["num_hidden"]}
    values = [] if number is None else [Value("joint_error", unit.name, number, args)]
    yield Evaluation("In-painting of poses", dataset, split, description, table, values)


class _Schema(NamedTuple):
    """A schema of the JSON files of generate.py.

    keys: keys that identify it. version: the supported schema_version. read: from a record to evaluations.
    """

    keys: set[str]
    version: int
    read: Callable[[Mapping[str, Any], Mapping[str, _Unit]], Iterable[Evaluation]]


_SCHEMAS = (
    _Schema({"schema_version", "rollout", "scores"}, 2, _rollout_evaluations),
    _Schema({"schema_version", "sampling", "frames"}, 2, _pair_evaluations),
    _Schema({"schema_version", "pck", "nothing_moves", "num_sequences"}, 1, _forecast_evaluations),
    _Schema({"schema_version", "guesses", "num_hidden"}, 1, _inpainting_evaluations),
)


def _dataset(record: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the data set (the last part of its path) and split. Raises ValueError for scores of input files."""
    data = record["data"]
    if data["root"] is None:
        files = ", ".join(record.get("input") or []) or "nothing"
        raise ValueError(f"scores of {files}, not of a data set: a card shows those of generate.py data.root=…")
    return Path(data["root"]).name or "data", data["split"]


def _cell(unit: _Unit, at: Mapping[str, float | None]) -> str:
    return " / ".join(_text(unit, at.get(series)) for series in ("model", "nothing_moves"))


def _text(unit: _Unit, value: float | None) -> str:
    return "–" if value is None else f"{value * unit.factor:.{unit.digits}f}"


def _number(unit: _Unit, value: float | None) -> float | None:
    return None if value is None else round(value * unit.factor, unit.digits + 2)


def _named(entry: str | Mapping[str, Sequence[Any]]) -> str:
    """Words for an entry of `sampling.given`: a modality, or the number of given parts of one."""
    if isinstance(entry, str):
        return entry
    return ", ".join(f"{len(parts)} parts of {name}" for name, parts in entry.items())


def _identifier(name: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")
