"""The model card of a shared model: Markdown with the hub's front matter."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import ModelCardData

from m3.checkpoint.evaluations import Evaluation, Subject
from m3.core.modalities import PICTURE

_TOKENIZERS = {
    "mini": "m3's own mini tokenizer, which is part of the package (`tokenizer=mini`)",
    "cosmos": "NVIDIA's Cosmos-0.1 DI16x16, from https://huggingface.co/nvidia/Cosmos-0.1-Tokenizer-DI16x16 "
    "(`tokenizer=cosmos`)",
    "none": "none: the model has poses only",
}


def model_card(
    subject: Subject,
    evaluations: Sequence[Evaluation],
    license: str | None,
    repository: str | None,
    picture: str | None = None,
) -> str:
    """The content of README.md.

    Args:
        license: of the weights, by its identifier on the hub; None if unspecified.
        repository: OWNER/NAME for the commands in the card; None for a local folder.
        picture: name of a picture beside the card.
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
        *([f"![Roll-outs of the model beside the truth]({picture})"] if picture else []),
        f"A masked encoder-decoder of {subject.num_parameters:,} parameters, trained for {subject.step:,} steps to "
        f"predict {learned}. The recipe is that of [4M](https://arxiv.org/abs/2312.06647).",
        f"| modality | tokens |\n|---|---|\n{modalities}",
        f"Canvas: {data['canvas_size']} px. Picture tokenizer: "
        f"{_TOKENIZERS.get(data['tokenizer'], data['tokenizer'])}{fingerprint}. The model works with data of this "
        "canvas and these weights only; m3 checks both.",
        "## Use",
        _usage(repository or "FOLDER", data["tokenizer"], is_forecaster, PICTURE in table.vocabularies),
        "`config.json` holds the modality table, the settings of the model and of its training.",
        "## Scores",
        *([each.markdown() for each in evaluations] or ["None were given."]),
    ]
    return "\n\n".join(parts) + "\n"


def _usage(place: str, tokenizer: str, is_forecaster: bool, has_pictures: bool) -> str:
    """place: a repository of the hub, or "FOLDER" as a placeholder for a local folder."""
    lines = ["pip install m3-motion    # or, in a checkout of m3: pip install ."]
    if has_pictures:
        lines.append(f"m3-generate checkpoint={place} input=clip.mp4    # continues a video; writes report.html")
    if is_forecaster:
        lines.append(f"m3-generate experiment=penn_forecast checkpoint={place} labels=DIR    # scores")
        lines.append(f"m3-train experiment=penn_forecast init_from={place} data.root=DATA    # first weights")
    else:
        lines.append(f"m3-generate checkpoint={place} data.root=DATA tokenizer={tokenizer}    # scores on a data set")
        lines.append(f"m3-train init_from={place} data.root=DATA    # first weights of a training")
    code = [f'import m3.checkpoint\n\nmodel = m3.load("{place}")']
    if has_pictures:
        code.append(
            'made = model.continue_video("clip.mp4", frames=6)\nprint(made.verdict)\nmade.write("outputs/clip")'
        )
    code.append(f'# the network and its facts alone\nloaded = m3.checkpoint.LoadedModel.from_pretrained("{place}")')
    return "```bash\n" + "\n".join(lines) + "\n```\n\n```python\n" + "\n".join(code) + "\n```"
