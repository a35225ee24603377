"""Shares a data set: its card, and the upload of its shards."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from m3.checkpoint import CARD
from m3.core.files import write_text_atomic
from m3.core.weights import is_repository
from m3.hub.data_card import data_card
from m3.shards.manifest import CONTACT_SHEET_NAME, MANIFEST_NAME, TEXT_TOKENIZER_NAME, Manifest
from m3.shards.split import SPLITS


def write_data_card(root: Path, license: str | None = None, repository: str | None = None) -> Path:
    """Writes `root/README.md`; the same data set gives the same bytes.

    license: of the data, by its identifier on the hub. repository: OWNER/NAME of the future upload, for the card.
    Raises FileNotFoundError and ValueError as `Manifest.load`.
    """
    card = data_card(Manifest.load(root), license, repository, (root / CONTACT_SHEET_NAME).is_file())
    write_text_atomic(root / CARD, card)
    return root / CARD


def upload_data(root: Path, repository: str, private: bool = False) -> str:
    """Uploads a data set with its card as one commit; returns the url of the repository.

    Only what belongs to the data set goes along: the shards that the manifest lists, the manifest, the tokenizer of its
    captions, the contact sheet and the card; no token tables, and nothing else that lies in the folder. Repository,
    token and hub as for `m3.checkpoint.upload`.

    Raises FileNotFoundError for a missing shard, ValueError for an invalid name, ConnectionError if the hub cannot be
    reached or refuses.
    """
    if not is_repository(repository):
        raise ValueError(f"{repository}: need OWNER/NAME, a repository of the hub")
    manifest, hub = Manifest.load(root), HfApi()
    names = [shard.name for split in SPLITS for shard in manifest.shards[split]]
    for name in names:
        if not (root / name).is_file():
            raise FileNotFoundError(f"{root / name}: no such shard, but {MANIFEST_NAME} lists it")
    beside = [name for name in (TEXT_TOKENIZER_NAME, CONTACT_SHEET_NAME, CARD) if (root / name).is_file()]
    try:
        url = hub.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=root,
            allow_patterns=[*names, MANIFEST_NAME, *beside],
            commit_message="Upload of an m3 data set",
        )
    except HFValidationError as error:
        raise ValueError(f"{repository}: need OWNER/NAME, a repository of the hub ({error})") from error
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConnectionError(
            f"{repository} cannot be written at {hub.endpoint} ({type(error).__name__}: {reason}); log in with "
            "`hf auth login` or set HF_TOKEN to a token that may write there, then push again"
        ) from error
    return str(url)
