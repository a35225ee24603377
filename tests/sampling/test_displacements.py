"""The read-out of displacements against brute force on their distributions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from m3.core.modalities import DISPLACEMENT, NOT_SEEN, ModalityTable
from m3.model.encoder_decoder import EncoderDecoder
from m3.model.heads import DisplacementHead, build_head
from m3.sampling.sampler import generate
from m3.sampling.settings import DecodingConfig
from m3.sampling.token_sampling import propose_displacements
from m3.tokens.displacement import decode_displacement, position_to_displacement

ONE = torch.ones(4, dtype=torch.float64)


def scheme(**options) -> DecodingConfig:
    return DecodingConfig("motion_next", 1, **options)


def digit_logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(4, size, generator=generator) * 2 for size in (65, 65, 2))


def as_flat(logits: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The (R, 4,226) logits of a flat head with the same distribution."""
    x, y, unseen = (each.log_softmax(1) for each in logits)
    cells = (y[:, :, None] + x[:, None, :]).flatten(1) + unseen[:, :1]
    return torch.cat([cells, unseen[:, 1:]], 1)


def naive_median(weights: np.ndarray) -> float:
    """The displacement below which half of the probability lies, uniform within each cell of the grid."""
    fine = np.repeat(weights / weights.sum() / 10_000, 10_000)
    return float(
        position_to_displacement(torch.tensor(np.searchsorted(fine.cumsum(), 0.5) / 10_000, dtype=torch.float64))
    )


def test_the_median_is_finer_than_a_cell() -> None:
    logits = digit_logits()
    ids, moved = propose_displacements(logits, torch.rand(4, 4).double(), ONE, scheme(pick="median"))
    for row in range(4):
        for axis in range(2):
            weights = logits[axis][row].softmax(0).double().numpy()
            assert float(moved[row, axis]) == pytest.approx(naive_median(weights), abs=2e-4)
        is_seen = logits[2][row, 0] >= logits[2][row, 1]
        assert (ids[row] != NOT_SEEN) == is_seen
    seen = ids != NOT_SEEN
    middles = decode_displacement(ids)[0]
    assert seen.any() and (middles[seen] - moved[seen]).abs().max() > 1e-4


def test_flat_and_factorized_heads_read_out_the_same() -> None:
    logits = digit_logits(1)
    for pick in ("median", "mean"):
        one = propose_displacements(logits, torch.rand(4, 4).double(), ONE, scheme(pick=pick))
        other = propose_displacements((as_flat(logits),), torch.rand(4, 4).double(), ONE, scheme(pick=pick))
        assert torch.equal(one[0], other[0]) and torch.allclose(one[1], other[1], atol=1e-4)


def test_the_mean_weighs_displacements() -> None:
    logits = digit_logits(2)
    middles = position_to_displacement(torch.arange(65, dtype=torch.float64) + 0.5)
    _, moved = propose_displacements(logits, torch.rand(4, 4).double(), ONE, scheme(pick="mean"))
    assert torch.allclose(moved[:, 1], logits[1].softmax(1).double() @ middles, atol=1e-6)


def test_samples_follow_the_distribution_and_move_to_the_middles_of_their_cells() -> None:
    num = 20_000
    logits = tuple(each[:1].expand(num, -1) for each in digit_logits(3))
    uniform = torch.rand(num, 4, generator=torch.Generator().manual_seed(0)).double()
    ids, moved = propose_displacements(logits, uniform, torch.ones(num, dtype=torch.float64), scheme(pick="sample"))
    is_seen = ids != NOT_SEEN
    p_seen = float(logits[2][0].softmax(0)[0])
    assert float(is_seen.double().mean()) == pytest.approx(p_seen, abs=4 * (p_seen * (1 - p_seen) / num) ** 0.5)
    counts = torch.bincount(ids[is_seen] % 65, minlength=65) / is_seen.sum()
    assert (counts - logits[0][0].softmax(0)).abs().max() < 0.02
    assert torch.equal(moved[is_seen], decode_displacement(ids)[0][is_seen])
    assert (moved[~is_seen] == moved[~is_seen][0]).all()  # the median, where the joint is not seen


def test_a_joint_that_is_not_seen_teaches_no_cells() -> None:
    torch.manual_seed(0)
    head = build_head(DISPLACEMENT, 16, "factorized", "table")
    assert isinstance(head, DisplacementHead)
    torch.nn.init.normal_(head.weight)
    ids = torch.tensor([NOT_SEEN, 7 + 65 * 20, NOT_SEEN])
    digits = head.digits_of(ids)
    assert [digit.tolist() for digit in digits] == [[0, 7, 0], [0, 20, 0], [1, 0, 1]]
    assert torch.equal(head.ids_of(digits), ids)
    assert torch.equal(head.ids_of((torch.tensor([5]), torch.tensor([6]), torch.tensor([1]))), torch.tensor([NOT_SEEN]))
    assert [None if part is None else part.tolist() for part in head.is_predicted(ids)] == [
        [False, True, False], [False, True, False], None,
    ]  # fmt: skip


def test_a_copied_model_reads_out_as_the_model_does() -> None:
    """Training evaluates a copy, whose vocabularies are equal to, but not the objects of, those of `m3.core`."""
    torch.manual_seed(0)
    table = ModalityTable(
        ("coords", "motion_next"), (8192, 4226), (39, 13), (1, 0), (0, 1), (39, 39), (13, 13)
    )  # fmt: skip
    model = EncoderDecoder(table, 32, 1, 1, 16, head="factorized", joints="relative").eval()
    torch.nn.init.normal_(model.head_of(1).weight)
    tokens = torch.randint(1000, 2000, (2, 52))
    tokens[:, 26:39] = 1
    is_known = (torch.arange(52) < 39).expand(2, -1)
    made = []
    for each in (model, copy.deepcopy(model)):
        moved = torch.zeros(2, 13, 2, dtype=torch.float64)
        ids = generate(each, tokens, is_known, [scheme(pick="median")], 0, torch.arange(2), displacement=moved)
        made.append((ids, moved))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1]) and made[0][1].any()
