"""A stand-in for the model in tests of what generates with it: its interface, with logits known beforehand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from m3.core.frames import TokenFrames, no_tokens
from m3.core.modalities import COORDS_LENGTH, FSQ_LEVELS, NUM_JOINT_BINS, ModalityTable
from m3.core.types import PackedTokens
from m3.model.encoder_decoder import EncoderDecoder

NUM_PICTURE_TOKENS = 6
NAMES = ("tok_rgb", "coords", "tok_rgb_next", "coords_next")
LENGTHS = (NUM_PICTURE_TOKENS, COORDS_LENGTH, NUM_PICTURE_TOKENS, COORDS_LENGTH)


def small_table() -> ModalityTable:
    return ModalityTable(NAMES, [65536] * 4, LENGTHS, [1] * 4, [1] * 4, [8, 40], [8, 40])


class Oracle:
    """The model's interface with logits fixed by position, which remembers what it was asked.

    A factorized oracle predicts a picture token's six digits, a flat one its 64,000 ids (or `width` of them).
    """

    def __init__(self, is_factorized: bool = True, width: int = NUM_JOINT_BINS, scale: float = 3.0) -> None:
        self.table = small_table()
        self.queries: list[tuple[set, set]] = []
        generator = torch.Generator().manual_seed(1)
        picture = FSQ_LEVELS if is_factorized else (width,)
        self.logits = {
            k: [
                torch.randn(LENGTHS[k], size, generator=generator) * scale
                for size in (picture if name.startswith("tok") else (NUM_JOINT_BINS,))
            ]
            for k, name in enumerate(NAMES)
        }

    def encode(self, inputs: PackedTokens) -> PackedTokens:
        return inputs

    def decode(self, context: PackedTokens, targets: PackedTokens) -> torch.Tensor:
        self.queries.append((self._places(context), self._places(targets)))
        return torch.stack([targets.modality, targets.position], 1).float()

    def digit_logits(self, hidden: torch.Tensor, modality: int, num_ids: int | None = None) -> tuple[torch.Tensor, ...]:
        assert (hidden[:, 0] == modality).all()
        logits = [logits[hidden[:, 1].long()] for logits in self.logits[modality]]
        return tuple(logits) if len(logits) > 1 else (logits[0][:, :num_ids],)

    def num_logits(self, modality: int, num_ids: int | None = None) -> int:
        digits = self.logits[modality]
        return sum(each.shape[1] for each in digits) if num_ids is None or len(digits) > 1 else num_ids

    def ids_of(self, digits: tuple[torch.Tensor, ...], modality: int) -> torch.Tensor:
        if len(digits) == 1:
            return digits[0]
        return sum(digit * basis for digit, basis in zip(digits, (1, 8, 64, 512, 2560, 12800)))

    @staticmethod
    def _places(packed: PackedTokens) -> set[tuple[int, int, int]]:
        return set(zip(packed.sample.tolist(), packed.modality.tolist(), packed.position.tolist()))


def reference_only(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, S) whose reference frame is known."""
    table = small_table()
    tokens = torch.arange(batch_size)[:, None] * 3 + torch.arange(table.num_tokens) % 2
    is_known = torch.zeros(tokens.shape, dtype=torch.bool)
    is_known[:, table.columns("tok_rgb")] = True
    is_known[:, table.columns("coords")] = True
    return tokens, is_known


def given_references(ids: Mapping[str, np.ndarray], table: ModalityTable | None = None) -> TokenFrames:
    """(N, 2) frames for `roll_out`: whole references, modality → (N, L), and nothing of their successors."""
    found = no_tokens(table or small_table(), (len(next(iter(ids.values()))), 2))
    found.is_present[:] = True
    for name, each in ids.items():
        found.ids[name][:, 0], found.is_known[name][:, 0] = each, True
    return found


def real_model(**options) -> EncoderDecoder:
    """A small model of random weights, in float64."""
    torch.manual_seed(0)
    model = EncoderDecoder(small_table(), width=32, encoder_depth=2, decoder_depth=2, head_width=16, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.double().eval()
