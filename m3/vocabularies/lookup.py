"""From the modalities of a table to their interpreters, and to decoded frames."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace

from m3.core.frames import Frames, TokenFrames, first_of, frame_modalities
from m3.core.modalities import RESERVED_VOCABULARIES, ModalityTable, Vocabulary
from m3.metrics.specs import METRICS, MetricSpec, accuracy_spec
from m3.vocabularies.base import DecodingContext, Interpreter


def interpreter_of(vocabulary: Vocabulary) -> Interpreter | None:
    """The INTERPRETER of `m3/vocabularies/NAME.py`, or None where there is no such module.

    The name may come from a checkpoint or a manifest: only words are looked up, so nothing outside this package can be
    imported.
    """
    if not vocabulary.name.isidentifier() or vocabulary.name in RESERVED_VOCABULARIES:
        return None
    module_name = f"{__package__}.{vocabulary.name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:  # a module that the interpreter needs
            raise
        return None
    if not isinstance(found := getattr(module, "INTERPRETER", None), Interpreter):
        raise ValueError(f"{module.__file__}: need an Interpreter under the name INTERPRETER")
    return found


def interpreters_of(table: ModalityTable) -> dict[str, Interpreter]:
    """Modality of a frame → its interpreter, in the order of the table, without those that have none."""
    found = {name: interpreter_of(_vocabulary(table, name)) for name in frame_modalities(table)}
    return {name: interpreter for name, interpreter in found.items() if interpreter is not None}


def without_interpreter(table: ModalityTable) -> dict[str, str]:
    """Modality of a frame without an interpreter → the consequence, as text for users."""
    names = [name for name in frame_modalities(table) if name not in interpreters_of(table)]
    vocabularies = {name: _vocabulary(table, name).name for name in names}
    return {
        name: f"neither decoded nor drawn, and scored by its token accuracy alone: vocabulary {vocabulary!r} has no "
        f"interpreter, m3/vocabularies/{vocabulary}.py (docs/extending.md)"
        for name, vocabulary in vocabularies.items()
    }


def metrics_of(table: ModalityTable) -> dict[str, MetricSpec]:
    """`METRICS`, and for each other modality of a frame the accuracy of its tokens and its interpreter's metrics."""
    specs = list(METRICS.values())
    known = interpreters_of(table)
    for name in frame_modalities(table):
        if name not in {spec.modality for spec in METRICS.values()}:
            accuracy = accuracy_spec(name, f"{name} tokens right", f"share of {name} tokens that are the truth's")
            own = known[name].metrics(name) if name in known else ()
            specs += [replace(spec, in_preview=True) for spec in (accuracy, *own)]
    metrics: dict[str, MetricSpec] = {}
    for spec in specs:
        if spec.name in metrics:  # two modalities of one vocabulary
            spec = replace(spec, name=f"{spec.modality}_{spec.name}", label=f"{spec.label}, {spec.modality}")
        metrics[spec.name] = spec
    return metrics


def decode(tokens: TokenFrames, interpreters: Mapping[str, Interpreter], context: DecodingContext) -> Frames:
    """The frames, decoded by the interpreters of their modalities."""
    values = {
        name: interpreter.decode(tokens.ids[name], tokens.is_known[name], tokens.is_present, context)
        for name, interpreter in interpreters.items()
        if name in tokens.ids
    }
    return Frames(values, tokens.is_present, tokens)


def _vocabulary(table: ModalityTable, name: str) -> Vocabulary:
    return table.vocabularies[table.index(first_of(table, name))]
