"""Texts of varying length, generated token by token up to their [EOS], with a stand-in that spells given sentences."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support.oracle import Oracle

from m3.core.modalities import ModalityTable
from m3.core.types import PackedTokens
from m3.sampling.orders import ORDERS
from m3.sampling.sampler import generate
from m3.sampling.settings import DecodingConfig
from m3.tokens.text import END_ID, PAD_ID

LENGTH, NUM_IDS = 7, 20
TABLE = ModalityTable(("captions", "action"), [NUM_IDS, NUM_IDS], (LENGTH, 1), [1, 1], [1, 1], [1, 4], [1, 4])
CAPTIONS, ACTION = TABLE.columns("captions"), TABLE.columns("action")


class Speller(Oracle):
    """The action of a sample is the number of its sentence, whose tokens have logit 5; padding has logit 9."""

    def __init__(self, sentences: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.table, self.sentences = TABLE, sentences
        self.inputs: list[dict[int, list[int]]] = []

    def encode(self, inputs: PackedTokens) -> dict[int, int]:
        seen: dict[int, list[int]] = {}
        for b, k, position in zip(inputs.sample.tolist(), inputs.modality.tolist(), inputs.position.tolist()):
            if k == 0:
                seen.setdefault(b, []).append(position)
        self.inputs.append(seen)
        is_action = inputs.modality == 1
        return dict(zip(inputs.sample[is_action].tolist(), inputs.ids[is_action].tolist()))

    def decode(self, context: dict[int, int], targets: PackedTokens) -> torch.Tensor:
        self.queries.append((set(), self._places(targets)))
        sentence = [context.get(b, 0) for b in targets.sample.tolist()]
        return torch.stack([torch.tensor(sentence), targets.position], 1).float()

    def digit_logits(self, hidden: torch.Tensor, modality: int, num_ids: int | None = None) -> tuple[torch.Tensor, ...]:
        ids = [self.sentences[n][position] for n, position in hidden.long().tolist()]
        logits = torch.nn.functional.one_hot(torch.tensor(ids), NUM_IDS) * 5.0
        logits[:, PAD_ID] = 9.0
        return (logits[:, :num_ids],)

    def num_logits(self, modality: int, num_ids: int | None = None) -> int:
        return NUM_IDS


SENTENCES = [
    [4, 5, END_ID, 6, 6, 6, 6],
    [END_ID, 6, 6, 6, 6, 6, 6],
    [4, 5, 7, 8, END_ID, 6, 6],
    [4, 5, 7, 8, 9, 10, 11],
]
AR = DecodingConfig("captions", None, order="ar", temperature=0.0)


def spelled(numbers: Sequence[int], scheme: DecodingConfig = AR, **options) -> tuple[torch.Tensor, Speller]:
    """The captions (B, L) for the sentences of these numbers, and the model."""
    model, tokens = Speller(SENTENCES), torch.full((len(numbers), TABLE.num_tokens), 17)
    tokens[:, ACTION.start] = torch.tensor(numbers)
    is_known = torch.zeros(tokens.shape, dtype=torch.bool)
    is_known[:, ACTION] = True
    return generate(model, tokens, is_known, [scheme], 0, torch.arange(len(numbers)), **options)[:, CAPTIONS], model


def up_to_end(sentence: Sequence[int]) -> list[int]:
    content = [*sentence[: sentence.index(END_ID) + 1]] if END_ID in sentence else [*sentence]
    return content + [PAD_ID] * (LENGTH - len(content))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("interval", [1, 2, 3])
def test_a_text_ends_with_its_end_and_padding_follows(order: str, interval: int) -> None:
    scheme = DecodingConfig("captions", None, order=order, temperature=0.0, encoder_interval=interval)
    made, _ = spelled([0, 1, 2, 3], scheme)
    assert made.tolist() == [up_to_end(sentence) for sentence in SENTENCES]


def test_the_model_is_asked_no_further_than_the_end() -> None:
    _, model = spelled([0, 1, 2])
    asked = [[p for _, targets in model.queries for b, _, p in sorted(targets)].count(p) for p in range(LENGTH)]
    assert asked == [3, 2, 2, 1, 1, 0, 0]  # position 0 of all, 1 and 2 of sentences 0 and 2, then of sentence 2 alone
    assert len(model.queries) == len(model.inputs) == 5


def test_all_steps_tick_although_the_model_runs_no_more() -> None:
    ticks: list[int] = []
    _, model = spelled([1, 1], on_step=lambda: ticks.append(1))
    assert len(ticks) == LENGTH and len(model.queries) == 1


@pytest.mark.parametrize("interval", [1, 4])
def test_a_text_does_not_depend_on_its_batch(interval: int) -> None:
    scheme = DecodingConfig("captions", None, order="ar", encoder_interval=interval)  # drawn, at temperature 1
    whole, _ = spelled([0, 1, 2, 3], scheme)
    model = Speller(SENTENCES)
    for n in range(4):
        tokens = torch.tensor([[0] * LENGTH + [n]])
        alone = generate(model, tokens, torch.tensor([[False] * LENGTH + [True]]), [scheme], 0, torch.tensor([n]))
        assert alone[0, CAPTIONS].tolist() == whole[n].tolist()


def test_what_is_generated_next_sees_the_text_alone() -> None:
    model, tokens = Speller(SENTENCES), torch.full((2, TABLE.num_tokens), 17)
    tokens[:, 0] = torch.tensor([4, END_ID])
    is_known = torch.zeros(tokens.shape, dtype=torch.bool)
    is_known[:, 0] = True  # the sentence of the second sample is given, and empty
    schemes = [AR, DecodingConfig("action", 1)]
    made = generate(model, tokens, is_known, schemes, 0, torch.arange(2))
    assert made[:, CAPTIONS].tolist() == [up_to_end(SENTENCES[0]), up_to_end(SENTENCES[1])]
    assert model.inputs[-1] == {0: [0, 1, 2], 1: [0]}


def test_given_tokens_stay_also_after_an_end() -> None:
    model, tokens = Speller(SENTENCES), torch.full((1, TABLE.num_tokens), 17)
    is_known = torch.zeros(tokens.shape, dtype=torch.bool)
    tokens[0, 5], is_known[0, 5], tokens[0, ACTION], is_known[0, ACTION] = 12, True, 0, True
    made = generate(model, tokens, is_known, [AR], 0, torch.arange(1))
    assert made[0, CAPTIONS].tolist() == [4, 5, END_ID, PAD_ID, PAD_ID, 12, PAD_ID]
