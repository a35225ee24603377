"""Captions of pictures by BLIP (Li et al. 2022, arXiv:2201.12086)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

from m3.core.devices import torch_device
from m3.core.reading import parse_json, read_file, shown
from m3.core.validation import check
from m3.core.weights import find_weights, fingerprint

REPOSITORY = "Salesforce/blip-image-captioning-base"
WEIGHTS = ("config.json", "model.safetensors")
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TEXT_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
"""One file of each of the two groups is enough; which one depends on the version of transformers that wrote it."""

OPTIONAL = (
    *IMAGE_PROCESSOR_FILES, *TEXT_TOKENIZER_FILES,
    "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
)  # fmt: skip
ADVICE = (
    f"Get {', '.join(WEIGHTS)} and, if they exist, {', '.join(OPTIONAL)} from "
    f"https://huggingface.co/{REPOSITORY} (BSD-3-Clause), put them into one folder and give it as "
    f"captioner.path=FOLDER; or give captioner.path={REPOSITORY} on a machine with network access. "
    "Pickled weights (pytorch_model.bin) are not read"
)


_MAX_CONFIG_BYTES, _MAX_SIZE = 2**24, 2**20
_MAX_SIZES = {
    "num_hidden_layers": 200, "num_attention_heads": 1024, "hidden_size": 2**14, "intermediate_size": 2**17,
    "projection_dim": 2**14, "encoder_hidden_size": 2**14, "image_text_hidden_size": 2**14, "image_size": 4096,
    "height": 4096, "width": 4096, "shortest_edge": 4096, "longest_edge": 4096, "max_position_embeddings": 2**16,
}  # fmt: skip
"""Numbers in the configuration of a captioner, by key and for other keys: far above those of any that there is."""


class BlipCaptioner:
    """A sentence for each picture, decoded greedily.

    Args:
        path: a folder written by `save_pretrained` of a BLIP model and its processor, or a Hugging Face repository.
        max_new_tokens: maximum length of a caption in tokens.
        batch_size: pictures per batch; the last batch is padded, because a caption may depend on the batch size.
        device: where to compute; "auto" is the GPU if there is one. GPUs compute in bfloat16 if they support it, else
            in float16; CPUs in float32.

    Raises FileNotFoundError, with where to get the files, or ValueError for files of another model.
    """

    name = "blip"
    needs_pictures = True

    def __init__(
        self, path: str = REPOSITORY, max_new_tokens: int = 30, batch_size: int = 8, device: str = "auto"
    ) -> None:
        check("captioner.max_new_tokens", max_new_tokens, int, low=1)
        check("captioner.batch_size", batch_size, int, low=1)
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.device = torch_device("captioner.device", device)
        folder = find_weights("captioner.path", path, WEIGHTS, OPTIONAL, ADVICE)
        for names in (IMAGE_PROCESSOR_FILES, TEXT_TOKENIZER_FILES):  # transformers does not report missing ones
            if not any((folder / name).is_file() for name in names):
                raise FileNotFoundError(f"captioner.path={path}: {folder} holds no {' and no '.join(names)}. {ADVICE}")
        files = [folder / name for name in sorted(WEIGHTS + OPTIONAL)]
        self.fingerprint = fingerprint(file for file in files if file.is_file())
        try:
            _check_sizes(folder)
            self._processor = BlipImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self._tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
            loaded: Any = BlipForConditionalGeneration.from_pretrained(
                folder,
                dtype=_dtype(self.device),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            model, report = loaded
        except Exception as error:  # transformers raises errors of many types for files of another kind
            raise ValueError(f"captioner.path={path}: not a BLIP captioner ({error}). {ADVICE}") from error
        if missing := sorted(report["missing_keys"]):  # transformers would use random ones
            raise ValueError(
                f"captioner.path={path}: model.safetensors lacks {missing[0]} of a BLIP captioner. {ADVICE}"
            )
        self._model = model.eval().to(self.device)

    def captions(self, action: str | None, num_frames: int, pictures: np.ndarray | None) -> list[str | None]:
        """See `Captioner.captions`. `action` is not read. Raises ValueError without pictures."""
        if pictures is None:
            raise ValueError("captioner=blip needs the pictures of the frames")
        captions = []
        for start in range(0, num_frames, self.batch_size):
            batch = pictures[start : start + self.batch_size]
            padded = np.zeros((self.batch_size, *pictures.shape[1:]), dtype=np.uint8)
            padded[: len(batch)] = batch
            captions += self._sentences(padded)[: len(batch)]
        return captions

    def _sentences(self, pictures: np.ndarray) -> list[str | None]:
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]  # (b, 3, side, side)
        ids = self._model.generate(
            pixels.to(self.device, self._model.dtype),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
        )  # (b, 1 + at most max_new_tokens); the first is the decoder's start token, which some tokenizers spell out
        text = self._model.config.text_config
        return [self._sentence(row[1:].tolist(), text.sep_token_id) for row in ids]

    def _sentence(self, ids: list[int], end: int) -> str | None:
        words = ids[: ids.index(end)] if end in ids else ids
        return self._tokenizer.decode(words, skip_special_tokens=True).strip() or None


def _check_sizes(folder: Path) -> None:
    """Raises ValueError naming a configuration with a size that no captioner has: it would be built without end."""
    for path in (folder / name for name in ("config.json", *IMAGE_PROCESSOR_FILES) if (folder / name).is_file()):
        level = [parse_json(read_file(path, _MAX_CONFIG_BYTES), str(path))]
        while level:
            entries = [entry for node in level for entry in (node.items() if isinstance(node, dict) else ())]
            for key, value in entries:
                high = _MAX_SIZES.get(key, _MAX_SIZE)
                if isinstance(value, int | float) and not -high <= value <= high:
                    raise ValueError(f"{path}: {key} is {shown(value)}, need at most {high:,}")
            level = [value for _, value in entries]


def _dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
