"""Data sets for sharing: the card, the code that it shows, and the upload, with a stand-in for the hub's client."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import DatasetCard
from support.preprocess_runs import config
from support.tiny_world import write_world

import preprocess
from m3.hub import __main__ as hub
from m3.hub import data_upload
from m3.hub.data_upload import upload_data, write_data_card
from m3.shards.manifest import Manifest


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data set with mirror images; beside it a token table and a file that is none of its own."""
    root = tmp_path_factory.mktemp("data")
    write_world(root / "world", 8)
    preprocess.run(config(root / "world", root / "out", "augment.flip=true"))
    (root / "out/.tables").mkdir(exist_ok=True)
    (root / "out/.tables/train.npy").write_bytes(b"cache")
    (root / "out/notes.txt").write_text("private")
    (root / "out/contact_sheet.png").write_bytes(b"a picture")
    return root / "out"


def test_the_card_has_counts_members_and_license(data: Path) -> None:
    manifest = Manifest.load(data)
    card = DatasetCard.load(write_data_card(data, "cc-by-4.0", "acme/walks"))
    assert card.data.license == "cc-by-4.0" and "human-motion" in card.data.tags and "# walks" in card.text
    files = {each["split"]: each["path"] for each in card.data.configs[0]["data_files"]}
    assert files == {"train": "train/*.tar", "validation": "eval/*.tar", "test": "test/*.tar"}
    for split, shards in manifest.shards.items():
        clips = {sample_clip for path in (data / split).glob("*.tar") for sample_clip in clips_of(path)}
        row = f"| {split} | {len(clips)} | {sum(shard.num_pairs for shard in shards)} | {len(shards)} |"
        assert row in card.text and all((data / shard.name).is_file() for shard in shards)
    assert "| `coords_prev.npy` | uint16 (3, 13) | joints | 0 … 8,191 |" in card.text
    assert "data.root=outputs/data/walks" in card.text and str(data.parent) not in card.content
    assert write_data_card(data, "cc-by-4.0", "acme/walks").read_text() == card.content
    without = DatasetCard.load(write_data_card(data))
    assert without.data.license is None and "No license is stated." in without.text


def clips_of(path: Path) -> set[str]:
    with tarfile.open(path) as tar:
        return {json.load(tar.extractfile(name))["clip"] for name in tar.getnames() if name.endswith("meta.json")}


def test_what_the_card_tells_readers_of_hugging_face_works(data: Path) -> None:
    card = write_data_card(data, repository="acme/walks").read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    space: dict[str, Any] = {}
    exec(code.replace("hf://datasets/acme/walks", str(data)), space)
    samples = list(space["train"])
    assert len(samples) == Manifest.load(data).num_pairs("train")
    with_flip = [sample for sample in samples if sample["coords.flip.npy"] is not None]
    assert len(with_flip) == len(samples) and len(samples[0]["coords.npy"][0]) == 13
    assert isinstance(space["train"], datasets.IterableDataset)


def test_names_from_the_data_are_no_markup(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "dataset.json").read_text())
    content["actions"] = ["<script>run</script>", "[a](b)\n# head\x1b[2J"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    text = write_data_card(tmp_path).read_text()
    assert "<script>" not in text and "\n# head" not in text and "\x1b" not in text and "\\<script\\>" in text


class Client:
    """In place of huggingface_hub's."""

    calls: list[tuple[str, dict[str, Any]]] = []
    endpoint = "https://hub.example"

    def create_repo(self, repository: str, **options: Any) -> str:
        if repository == "acme/closed":
            raise OSError("no route")
        self.calls.append(("create", {"repository": repository, **options}))
        return f"{self.endpoint}/datasets/{repository}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


def test_only_what_belongs_to_the_data_is_uploaded(data: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(data_upload, "HfApi", Client)
    Client.calls.clear()
    hub.main(["push-data", str(data), "acme/walks", "--license", "mit", "--private"])
    assert "https://hub.example/datasets/acme/walks" in capsys.readouterr().out
    (_, created), (_, uploaded) = Client.calls
    assert created == {"repository": "acme/walks", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert uploaded["repo_type"] == "dataset" and uploaded["folder_path"] == data
    sent = {
        path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()
        and path.relative_to(data).as_posix() in uploaded["allow_patterns"]
    }  # fmt: skip
    shards = {shard.name for shards in Manifest.load(data).shards.values() for shard in shards}
    assert shards < sent and sent - shards == {
        "dataset.json", "README.md", "contact_sheet.png", "text_tokenizer.json"}  # fmt: skip
    assert "*" not in "".join(uploaded["allow_patterns"])


def test_what_cannot_be_uploaded_is_one_line(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(data_upload, "HfApi", Client)
    for arguments, message in (
        ([str(tmp_path), "acme/walks"], "dataset.json: no such file"),
        ([str(data), "walks"], "walks: need OWNER/NAME"),
        ([str(data), "acme/closed"], "cannot be written at https://hub.example .*hf auth login"),
    ):
        with pytest.raises(SystemExit, match=message):
            hub.main(["push-data", *arguments])
    (tmp_path / "dataset.json").write_bytes((data / "dataset.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="no such shard"):
        upload_data(tmp_path, "acme/walks")
