"""The data card of a shared data set: Markdown with the hub's front matter."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import DatasetCardData

from m3.core.terminal import printable
from m3.shards.manifest import CONTACT_SHEET_NAME, Manifest, token_members
from m3.shards.split import SPLITS

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MAX_ACTIONS = 40
_SCALARS = {"reference": "int64", "successor": "int64", "previous": "int64", "ssim": "float64",
            "pose_extent_px": "float64", "fps": "float64"}  # fmt: skip


def data_card(manifest: Manifest, license: str | None, repository: str | None, has_sheet: bool) -> str:
    """The content of README.md.

    Args:
        license: of the data, by its identifier on the hub; None if unspecified.
        repository: OWNER/NAME for the commands in the card; None for a local folder.
        has_sheet: whether `contact_sheet.png` lies beside it.
    """
    total = sum(manifest.num_pairs(split) for split in SPLITS)
    header = DatasetCardData(
        license=license,
        tags=["m3", "human-motion", "webdataset"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "n>10M")],
        pretty_name=(repository or "Pairs of frames").split("/")[-1],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": "validation" if split == "eval" else split, "path": f"{split}/*.tar"}
                    for split in SPLITS
                    if manifest.shards[split]
                ],
            }
        ],
    )
    tokenizer, settings = manifest.tokenizer, manifest.settings
    fingerprint = f", sha256 of its weights `{tokenizer['fingerprint']}`" if tokenizer.get("fingerprint") else ""
    source = printable(str(manifest.source["name"]))
    unused = len(manifest.rejected)
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {_text(header.pretty_name or '')}",
        f"{total:,} pairs of frames of people who move, as tokens: made by m3 (m3-motion) from its source `{source}`. "
        "A sample is a reference frame and its successor, and where the clip has one the frame before the reference.",
        *([f"![Random pairs with their skeletons, before and after the tokenizer]({CONTACT_SHEET_NAME})"]
          if has_sheet else []),
        _counts(manifest),
        "## What a sample holds",
        _modalities(manifest),
        f"Canvas: {manifest.canvas['mode']}, {manifest.canvas_size} px. Picture tokenizer: `{tokenizer['name']}`"
        f"{fingerprint}. Captions: `{manifest.captioner['name']}`. "
        f"{'Mirror images of each sample are the members `NAME.flip.npy`. ' if manifest.variants else ''}"
        "A sample may lack members: the previous frame at the start of its clip, joints where its clip has none. In "
        '`meta.json` frame −1, text "" and number 0.0 (SSIM: −1.0) mean unknown.',
        _actions(manifest.actions),
        "## Use",
        _use(manifest, repository),
        "`dataset.json` holds counts, a checksum of each shard, all settings, and each clip that was not used with the "
        f"reason ({unused} {'was' if unused == 1 else 'were'} not).",
        "## License and people",
        (f"The license is {license}. " if license else "No license is stated. ")
        + "Tokens can be decoded into pictures, so that what holds for the frames that they were made from, their "
        "license and the rights of the people in them, holds for the tokens.",
        f"Split: {_text(str(settings.get('split', {}).get('unit', 'as in the source')))}.",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(manifest: Manifest) -> str:
    rows = [
        f"| {split} | {manifest.num_clips[split]:,} | {manifest.num_pairs(split):,} | {len(manifest.shards[split])} | "
        f"{sum(shard.num_bytes or 0 for shard in manifest.shards[split]) / 1e6:,.1f} MB |"
        for split in SPLITS
    ]
    return "\n".join(["| split | clips | pairs | shards | size |", "|---|---|---|---|---|", *rows])


def _modalities(manifest: Manifest) -> str:
    rows = [
        f"| `{each.name}.npy` | uint16 {tuple(each.shape)} | {each.vocabulary} | 0 … {each.num_ids - 1:,} |"
        for each in manifest.modalities
    ]
    rows += ["| `captions.json` | list of texts | | |", "| `meta.json` | clip, frames, action, canvas … | | |"]
    return "\n".join(["| member | holds | vocabulary | ids |", "|---|---|---|---|", *rows])


def _actions(actions: Sequence[str]) -> str:
    if not actions:
        return ""
    more = f" and {len(actions) - _MAX_ACTIONS} more" if len(actions) > _MAX_ACTIONS else ""
    return f"Actions: {', '.join(_text(action) for action in actions[:_MAX_ACTIONS])}{more}."


def _use(manifest: Manifest, repository: str | None) -> str:
    place = repository or "OWNER/NAME"
    members = token_members([each.name for each in manifest.modalities], manifest.variants)
    scalars = "\n".join(f'    "{name}": Value("{kind}"),' for name, kind in _SCALARS.items())
    return f"""With m3, which checks every shard against its checksum:

```bash
pip install m3-motion    # or, in a checkout of m3: pip install .
hf download {place} --repo-type dataset --local-dir outputs/data/{place.split("/")[-1]}
m3-preprocess verify=outputs/data/{place.split("/")[-1]}
m3-train data.root=outputs/data/{place.split("/")[-1]}
```

With Hugging Face `datasets`, which has to be told the types because samples may lack members:

```python
from datasets import Features, List, Value, load_dataset

text, tokens = Value("string"), List(List(Value("uint16")))
meta = {{
    "clip": text,
    "action": text,
    "canvas": {{"mode": text, "size": Value("int64"), "window": List(Value("float64"))}},
{scalars}
}}
names = {list(members)!r}
members = {{f"{{name}}.npy": tokens for name in names}}
types = Features({{"__key__": text, "__url__": text, "captions.json": List(text), "meta.json": meta, **members}})
files = "hf://datasets/{place}/train/*.tar"
train = load_dataset("webdataset", data_files=files, split="train", features=types, streaming=True)
print(next(iter(train))["meta.json"])
```"""


def _text(words: str) -> str:
    """Words from a file without markup of their own."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>#|!" else char for char in printable(words)).replace("\n", " ")
