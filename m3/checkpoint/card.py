"""The model card of a shared model: Markdown with the hub's front matter."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import ModelCardData

from m3.checkpoint.evaluations import Evaluation, Subject

_TOKENIZERS = {
    "mini": "m3's own mini tokenizer, which is part of the package (`tokenizer=mini`)",
    "cosmos": "NVIDIA's Cosmos-0.1 DI16x16, from https://huggingface.co/nvidia/Cosmos-0.1-Tokenizer-DI16x16 "
    "(`tokenizer=cosmos`)",
    "none": "none: the model has poses only",
}


def model_card(subject: Subject, evaluations: Sequence[Evaluation], license: str | None, repository: str | None) -> str:
    """The content of README.md.

    Args:
        license: of the weights, by its identifier on the hub; None if unspecified.
        repository: OWNER/NAME for the commands in the card; None for a local folder.
    """
    table, data = subject.table, subject.data
    header = ModelCardData(
        library_name="m3",
        license=license,
        tags=["m3", "human-motion", "masked-modeling"],
        model_name=(repository or "m3").split("/")[-1] if evaluations else None,
        eval_results=[result for each in evaluations for result in each.results()] or None,
    )
    is_forecaster = "motion" in table.modalities
    learned = "where the joints of a pose will be, from it alone" if is_forecaster else (
        "any part of a (reference frame, successor frame) pair of a video from any other part"
    )  # fmt: skip
    modalities = "\n".join(f"| `{name}` | {length} |" for name, length in zip(table.modalities, table.max_seq_lens))
    fingerprint = f", sha256 of its weights `{data['tokenizer_fingerprint']}`" if data["tokenizer_fingerprint"] else ""
    parts = [
        f"---\n{header.to_yaml()}\n---",
        "# Human motion by m3",
        f"A masked encoder-decoder of {subject.num_parameters:,} parameters, trained for {subject.step:,} steps to "
        f"predict {learned}.",
        f"| modality | tokens |\n|---|---|\n{modalities}",
        f"Canvas: {data['canvas_size']} px. Picture tokenizer: "
        f"{_TOKENIZERS.get(data['tokenizer'], data['tokenizer'])}{fingerprint}. The model works with data of this "
        "canvas and these weights only; m3 checks both.",
        "## Use",
        _usage(repository or "FOLDER", data["tokenizer"], is_forecaster),
        "`config.json` holds the modality table, the settings of the model and of its training.",
        "## Scores",
        *([each.markdown() for each in evaluations] or ["None were given."]),
    ]
    return "\n\n".join(parts) + "\n"


def _usage(place: str, tokenizer: str, is_forecaster: bool) -> str:
    """place: a repository of the hub, or "FOLDER" as a placeholder for a local folder."""
    if is_forecaster:
        generate = f"python generate.py experiment=penn_forecast checkpoint={place} labels=DIR"
        train = f"python train.py experiment=penn_forecast init_from={place} data.root=DATA"
    else:
        generate = f"python generate.py checkpoint={place} data.root=DATA tokenizer={tokenizer}"
        train = f"python train.py init_from={place} data.root=DATA"
    return (
        f"```bash\n# scores; then: first weights of a training\n{generate}\n{train}\n```\n\n"
        f'```python\nfrom m3.checkpoint import LoadedModel\n\nloaded = LoadedModel.from_pretrained("{place}")\n```'
    )
