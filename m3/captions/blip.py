"""Captions that BLIP (Li et al. 2022, arXiv:2201.12086) sees in the pictures."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import BertTokenizerFast, BlipForConditionalGeneration, BlipImageProcessorPil

from m3.core.pretrained import find_weights, fingerprint
from m3.core.validation import check, torch_device

REPOSITORY = "Salesforce/blip-image-captioning-base"
WEIGHTS = ("config.json", "model.safetensors")
PICTURE_SETTINGS = ("preprocessor_config.json", "processor_config.json")
WORDS = ("tokenizer.json", "vocab.txt")
"""One of these and one of the picture settings is enough; which depends on the transformers that wrote the folder."""

OPTIONAL = (*PICTURE_SETTINGS, *WORDS, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
ADVICE = (
    f"Get {', '.join(WEIGHTS)} and, as far as they exist, {', '.join(OPTIONAL)} from "
    f"https://huggingface.co/{REPOSITORY} (BSD-3-Clause), put them into one folder and give it as "
    f"captioner.path=FOLDER; or give captioner.path={REPOSITORY} on a machine that may download them. "
    "Pickled weights (pytorch_model.bin) are not read"
)


class BlipCaptioner:
    """A sentence for each picture, decoded greedily.

    Args:
        path: a folder that `save_pretrained` of a BLIP model and its processor wrote, or a Hugging Face repository.
        max_new_tokens: a longer sentence is cut off.
        batch_size: pictures at a time; a last, smaller batch is filled up, as a caption may depend on the size.
        device: where to compute; "auto" is the GPU if there is one. bfloat16 on GPUs that have it, else float16;
            float32 on CPU.

    Raises FileNotFoundError, saying where the files come from, or ValueError for files of something else.
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
        for names in (PICTURE_SETTINGS, WORDS):  # transformers would go on without words
            if not any((folder / name).is_file() for name in names):
                raise FileNotFoundError(f"captioner.path={path}: {folder} holds no {' and no '.join(names)}. {ADVICE}")
        files = [folder / name for name in sorted(WEIGHTS + OPTIONAL)]
        self.fingerprint = fingerprint(file for file in files if file.is_file())
        try:
            self._processor = BlipImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self._tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
            model, report = BlipForConditionalGeneration.from_pretrained(
                folder,
                dtype=_dtype(self.device),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"captioner.path={path}: not a BLIP captioner ({error}). {ADVICE}") from error
        if missing := sorted(report["missing_keys"]):  # transformers would caption with random ones
            raise ValueError(
                f"captioner.path={path}: model.safetensors lacks {missing[0]} of a BLIP captioner. {ADVICE}"
            )
        self._model = model.eval().to(self.device)

    def captions(self, action: str | None, num_frames: int, pictures: np.ndarray) -> list[str | None]:
        """See `Captioner.captions`; `pictures` (num_frames, H, W, 3) uint8 are needed, `action` is not read."""
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


def _dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
