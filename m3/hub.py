"""Sharing a model in the Hugging Face manner: a folder with weights, `config.json` and a model card, and its upload.

python -m m3.hub outputs/train/NAME outputs/hub/NAME --scores outputs/generate/NAME/metrics.json --push OWNER/NAME
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from m3.checkpoint import BINDING, CONFIG, WEIGHTS, LoadedModel, load_model, write_file, write_pretrained

CARD = "README.md"

_TOKENIZERS = {
    "mini": "m3's own mini tokenizer, which is part of the package (`tokenizer=mini`)",
    "cosmos": "NVIDIA's Cosmos-0.1 DI16x16, from https://huggingface.co/nvidia/Cosmos-0.1-Tokenizer-DI16x16 "
    "(`tokenizer=cosmos`)",
    "none": "none: the model knows poses only",
}

_SHOWN = {
    "pck@0.05": (100, 1, "PCK@0.05, %"),
    "pck@0.1": (100, 1, "PCK@0.1, %"),
    "joint_error": (1, 1, "joint error, px"),
    "psnr": (1, 1, "PSNR, dB"),
    "ssim": (1, 3, "SSIM"),
}
"""Scores of a card: the factor, the digits after the point and the unit in which people read them."""


def save_pretrained(
    loaded: LoadedModel, folder: str | Path, scores: dict[str, Any] | None = None, license: str | None = None
) -> Path:
    """Writes `model.safetensors`, `config.json` and the model card `README.md`; the same model gives the same bytes.

    Args:
        loaded: from `from_pretrained` or `m3.checkpoint.load_model`.
        scores: content of a metrics.json that generate.py wrote for this model, for the card.
        license: of the weights, as the hub names licences: "apache-2.0", "cc-by-nc-4.0" ….
    Raises:
        ValueError for scores of another model.
    """
    folder = Path(folder)
    card = model_card(loaded, scores, license)  # raises before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    write_pretrained(folder, loaded.model, loaded.config, loaded.data, loaded.step)
    write_file(folder / CARD, card.encode())
    return folder


def from_pretrained(path: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """A model from a folder of `save_pretrained` or from hub:OWNER/NAME; raises what `load_model` raises."""
    return load_model(path, device)


def push_to_hub(folder: str | Path, repository: str, private: bool = False) -> str:
    """Uploads a folder of `save_pretrained` as one commit and returns the repository's url.

    The repository OWNER/NAME is made where it is missing. The token is that of `hf auth login`, or HF_TOKEN; the
    hub is huggingface.co, or HF_ENDPOINT.

    Raises FileNotFoundError for a folder without the files, ConnectionError where the hub cannot be reached or refuses.
    """
    files = [Path(folder) / name for name in (WEIGHTS, CONFIG, CARD)]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{', '.join(missing)} missing: make the folder with `python -m m3.hub RUN {folder}`")
    hub = HfApi()
    additions = [CommitOperationAdd(file.name, file) for file in files]
    try:
        made = hub.create_repo(repository, private=private, exist_ok=True)
        hub.create_commit(repository, additions, commit_message="Upload of an m3 model")
    except HFValidationError as error:
        raise ValueError(f"--push {repository}: need OWNER/NAME ({error})") from error
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"{repository} cannot be written at {hub.endpoint} ({type(error).__name__}: {reason}); log in with "
            f"`hf auth login` or set HF_TOKEN to a token that may write there. {folder} is complete: push it again"
        ) from error
    return str(made)


def model_card(loaded: LoadedModel, scores: dict[str, Any] | None, license: str | None) -> str:
    """Markdown with the hub's front matter. Raises ValueError for scores of another model."""
    header = ModelCardData(library_name="m3", license=license, tags=["m3", "human-motion", "masked-modeling"])
    table, data = loaded.table, loaded.data
    num_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    modalities = "\n".join(f"| `{name}` | {length} |" for name, length in zip(table.modalities, table.max_seq_lens))
    fingerprint = f", sha256 of its weights `{data['tokenizer_fingerprint']}`" if data["tokenizer_fingerprint"] else ""
    parts = [
        f"---\n{header.to_yaml()}\n---",
        "# Human motion by m3",
        f"A masked encoder-decoder of {num_parameters:,} parameters, trained for {loaded.step:,} steps to predict any "
        "part of a (reference frame, successor frame) pair of a video from any other part.",
        f"| modality | tokens |\n|---|---|\n{modalities}",
        f"Canvas: {data['canvas_size']} px. Picture tokenizer: "
        f"{_TOKENIZERS.get(data['tokenizer'], data['tokenizer'])}{fingerprint}. The model works with data of this "
        "canvas and these weights only; m3 checks both.",
        "## Use",
        "```bash\n"
        "# roll-outs and scores; then: first weights of a training\n"
        f"python generate.py checkpoint=hub:OWNER/NAME data.root=DATA tokenizer={data['tokenizer']}\n"
        "python train.py init_from=hub:OWNER/NAME data.root=DATA\n"
        "```",
        "`config.json` holds the modality table, the settings of the model and of its training.",
        "## Scores",
        _scores(loaded, scores) if scores else "None were given.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(loaded: LoadedModel, record: dict[str, Any]) -> str:
    theirs = [record.get("step"), *(record.get("data", {}).get(key) for key in BINDING)]
    ours = [loaded.step, *(loaded.data[key] for key in BINDING)]
    if theirs != ours:
        pairs = zip(("step", *BINDING), theirs, ours)
        differing = "; ".join(f"{key} is {there} there and {here} here" for key, there, here in pairs if there != here)
        raise ValueError(f"the scores are not those of this model: {differing}")
    shown = {name: record["scores"][name] for name in _SHOWN if name in record.get("scores", {})}
    if not shown:
        raise ValueError(f"the scores hold none of {', '.join(_SHOWN)}: give a metrics.json of roll-outs over a split")
    num_horizons = len(next(iter(shown.values()))["horizons"])
    header = "".join(f" +{k} |" for k in range(1, num_horizons + 1))
    rows = [f"| frames ahead |{header}", "|---|" + "---|" * num_horizons]
    for name, score in shown.items():
        factor, digits, words = _SHOWN[name]
        pairs = ([h[series] for series in ("model", "nothing_moves")] for h in score["horizons"])
        cells = (" / ".join("–" if v is None else f"{v * factor:.{digits}f}" for v in pair) for pair in pairs)
        rows.append(f"| {words} | {' | '.join(cells)} |")
    counts = ", ".join(str(h["num_samples"]) for h in shown[next(iter(shown))]["horizons"])
    says = (
        f'Model / "nothing moves" (the reference, copied) on {record["num_samples"]} roll-outs of the '
        f"{record['data']['split']} split; with a truth so many frames ahead: {counts}."
    )
    return says + "\n\n" + "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m m3.hub", description="Makes a folder for sharing from a model.")
    parser.add_argument("checkpoint", help="a run folder of train.py, a .ckpt file, or hub:OWNER/NAME")
    parser.add_argument("folder", type=Path, help="to write")
    parser.add_argument("--scores", type=Path, help="metrics.json that generate.py wrote for this model")
    parser.add_argument("--license", help="of the weights, as the hub names it: apache-2.0, cc-by-nc-4.0 …")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to this repository of the hub")
    parser.add_argument("--private", action="store_true", help="make the repository, if it is new, a private one")
    options = parser.parse_args(arguments)
    try:
        scores = None if options.scores is None else json.loads(options.scores.read_text(encoding="utf-8"))
        save_pretrained(load_model(options.checkpoint), options.folder, scores, options.license)
        print(f"{options.folder}: {WEIGHTS}, {CONFIG}, {CARD}")
        if options.push:
            print(push_to_hub(options.folder, options.push, options.private))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
