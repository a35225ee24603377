"""A tiny BLIP captioner with random weights and a vocabulary of a few words, saved as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
WORDS = "a man woman person is doing golf tennis swing ball on the grass in white red shirt playing ##s ##ing".split()


def write_blip(folder: Path, seed: int = 0, size: int = 32) -> Path:
    """As in the published model, [DEC] starts a sentence and is no special token of the tokenizer."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL[:5]}
    tokenizer = BertTokenizerFast(tokenizer_object=pieces, **names)
    config = BlipConfig(
        text_config=dict(
            vocab_size=len(vocabulary), hidden_size=32, encoder_hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, projection_dim=16,
            bos_token_id=vocabulary["[DEC]"], sep_token_id=vocabulary["[SEP]"], eos_token_id=vocabulary["[SEP]"],
            pad_token_id=vocabulary["[PAD]"], initializer_range=0.5,
        ),
        vision_config=dict(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=size,
            patch_size=8, projection_dim=16, initializer_range=0.5,
        ),
        projection_dim=16, image_text_hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(seed)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    image_processor = BlipImageProcessorPil(size={"height": size, "width": size})
    BlipProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder
